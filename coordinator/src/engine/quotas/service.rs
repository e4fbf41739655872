//! The counts of what sleeps, again and again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::super::Handle;
use crate::alarm::QUOTAS_NOT_COUNTED;
use crate::store;

/// Between two counts of what sleeps.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The same while nothing new is let in, or what woke counts twice.
const FIRST_INTERVAL: Duration = Duration::from_millis(50);

/// Part of the time that the counts may take: with a million that sleep one takes a while.
const COUNT_PART: u32 = 20;

/// Time without a count after which somebody has to look.
const UNCOUNTED_MAX: Duration = Duration::from_secs(60);

/// The counts of what sleeps. They end with the process.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Handle,
}

impl Service {
    /// Makes the counts of this engine.
    pub(crate) fn new(engine: Handle) -> Self {
        Self { engine }
    }

    /// Counts for as long as the process lives.
    pub(crate) async fn run(self) {
        let counts = Arc::clone(self.engine.quotas());
        let mut uncounted = Uncounted::default();
        loop {
            let (begun, is_any) = (Instant::now(), counts.quotas.is_any());
            if !is_any {
                counts.stop();
                uncounted = Uncounted::default();
            } else if self.engine.shared.has_adopted.load(Ordering::Relaxed) {
                match counts.count(&*self.engine.shared.store).await {
                    Ok(()) => {
                        counts.known.send_replace(true);
                        uncounted = Uncounted::default();
                    }
                    Err(error) => uncounted.failed(&store::in_full(&error), begun),
                }
            }
            self.engine.shared.metrics.quotas_not_counted(uncounted.is_told);
            let waits = is_any && !*counts.known.borrow();
            let (pause, interval) = (begun.elapsed() * COUNT_PART, COUNT_INTERVAL);
            tokio::time::sleep(pause.max(FIRST_INTERVAL)).await;
            if !waits {
                let rest = interval.saturating_sub(begun.elapsed());
                let _ = tokio::time::timeout(rest, counts.woke.notified()).await;
            }
        }
    }
}

/// Counts that have failed in a row.
#[derive(Debug, Default)]
struct Uncounted {
    since: Option<Instant>,
    is_told: bool,
}

impl Uncounted {
    /// A count that began then has failed. The alarm is told once.
    fn failed(&mut self, error: &str, begun: Instant) {
        let since = *self.since.get_or_insert(begun);
        if since.elapsed() < UNCOUNTED_MAX {
            tracing::warn!(error, "failed to count what sleeps; it is repeated");
        } else if !std::mem::replace(&mut self.is_told, true) {
            tracing::error!(
                alarm = QUOTAS_NOT_COUNTED,
                error,
                failing_for = ?since.elapsed(),
                "what sleeps cannot be counted: identities with a quota are bounded by an old count, or by none let in"
            );
        }
    }
}
