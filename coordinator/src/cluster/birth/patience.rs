//! Patience with whoever holds what a start needs.

use std::time::Duration;

use tokio::time::Instant;

use crate::store;

/// Longest time for which a start waits for somebody else's locks. The last batch of a process that was
/// killed holds its own until the server has made it durable or has noticed the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Patience with one thing.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// Waits a moment, if the error says that somebody else holds something, and if it has not done so
    /// for too long. Otherwise the error is returned.
    pub(crate) async fn wait(
        &mut self,
        error: store::Error,
        told: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(), store::Error> {
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
}
