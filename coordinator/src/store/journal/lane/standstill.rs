//! Standstill: no lane writes anything, because all of it waits for locks, or takes too long.

use std::time::{Duration, Instant};

use super::super::super::{BatchError, in_full};
use super::{Error, Lane, going_on};

/// Time without any row that was written, while some wait, after which it is asked why.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Between two questions of a lane.
const ASK_PAUSE: Duration = Duration::from_secs(1);

impl Lane {
    /// A batch has met a lock, or has taken too long. If nothing else was written for a while, a batch of nothing tells whether
    /// that is a row's, or holds up everything: it needs the same tables, and the fence.
    pub(super) async fn look_for_standstill(&mut self) -> Result<(), Error> {
        let is_asked = self.asked_at.is_some_and(|at| at.elapsed() < ASK_PAUSE);
        if is_asked || !self.queue.is_at_a_standstill(STANDSTILL) {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let asked = writer.write(&[]).await;
        self.asked_at = Some(Instant::now());
        let Err(error) = asked else {
            self.queue.note_standstill(None);
            return Ok(());
        };
        let error = going_on(error)?;
        let said = in_full(&error);
        self.tell_standstill(&said);
        if !matches!(error, BatchError::LockTimeout(_) | BatchError::TimedOut(_)) {
            self.disconnect();
        }
        Ok(())
    }

    /// A batch is there, and what proves that does not come.
    pub(super) fn note_standstill(&self, said: &str) {
        if self.queue.is_at_a_standstill(STANDSTILL) {
            self.tell_standstill(said);
        }
    }

    fn tell_standstill(&self, said: &str) {
        if self.queue.note_standstill(Some(said.to_owned())) {
            let rows = self.queue.backlog();
            tracing::warn!(
                error = said,
                rows,
                "the journal stands still: no row can be written; it is tried again"
            );
        }
    }
}
