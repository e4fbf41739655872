//! Patience with whoever holds what a start needs.

use std::time::Duration;

use tokio::time::Instant;

use crate::store;

/// Longest time for which a start waits for somebody else's locks. The last batch of a process that was
/// killed holds its own until the server has made it durable or has noticed the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause between two tries while there is no space.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Pause between two log lines about that.
const FULL_LOG_PAUSE: Duration = Duration::from_secs(60);

/// Patience with one thing.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    since: Option<Instant>,
    /// When it was last told that there is no space.
    told_full: Option<Instant>,
}

impl Patience {
    /// Waits a moment, if the error says that somebody else holds something, and if it has not done so
    /// for too long; and if it says that there is no space, however long that lasts. Otherwise the error is
    /// returned.
    pub(crate) async fn wait(
        &mut self,
        error: store::Error,
        told: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(), store::Error> {
        if error.is_full() {
            self.wait_for_space(&error, told).await;
            return Ok(());
        }
        if !error.is_busy() {
            return Err(error);
        }
        let full = store::in_full(&error);
        match self.since {
            Some(since) if since.elapsed() >= PATIENCE => return Err(error),
            Some(_) => {}
            None => {
                self.since = Some(Instant::now());
                tracing::warn!(
                    error = full,
                    patience = ?PATIENCE,
                    "somebody else holds what the start needs, such as the last batch of an earlier \
                     process; the start waits"
                );
                told(format!("it waits for the database: failed to {full}"));
            }
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// Waits a moment. Ending would help nobody: the next process would find the disk as full.
    async fn wait_for_space(
        &mut self,
        error: &store::Error,
        told: &(dyn Fn(String) + Send + Sync),
    ) {
        let full = store::in_full(error);
        if self.told_full.is_none_or(|at| at.elapsed() >= FULL_LOG_PAUSE) {
            self.told_full = Some(Instant::now());
            tracing::warn!(
                error = full,
                "the database has no space for writes; the start waits until there is some"
            );
            told(format!("it waits for space in its database: failed to {full}"));
        }
        tokio::time::sleep(FULL_PAUSE).await;
    }
}
