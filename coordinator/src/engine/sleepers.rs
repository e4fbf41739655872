//! The scan for transactions whose time comes near.
//!
//! A sleeper is in the store only, and costs no memory, however much of it there is. The scan brings
//! to memory what is due within [`AHEAD`], the soonest first, in chunks with pauses between them. It
//! takes no more than half of the places for what is not due yet, and never more than there are:
//! what finds none starts late. It goes by the [time of day](super::clock) that no clock which is wrong for a
//! moment moves.

use std::time::Duration;

use crate::store;

use super::Handle;

/// Time ahead of their start at which transactions are brought to memory.
pub(crate) const AHEAD: Duration = Duration::from_secs(60 * 60);

/// Time ahead at which they may take every place that is free.
const SOON: Duration = Duration::from_secs(60);

/// Transactions in one claim: what they hold, up to 3 MiB each, is in memory before it is counted.
const CHUNK: usize = 64;

/// Between two chunks, so that other work finds the database free.
const CHUNK_PAUSE: Duration = Duration::from_millis(20);

/// Between two scans while nothing is due.
const SCAN_INTERVAL: Duration = Duration::from_secs(2);

/// The scan. It ends with the process.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Handle,
}

impl Service {
    /// Makes the scan of this engine.
    pub(crate) fn new(engine: Handle) -> Self {
        Self { engine }
    }

    /// Scans for as long as the process lives.
    pub(crate) async fn run(self) {
        loop {
            let more = match self.scan().await {
                Ok(more) => more,
                Err(error) => {
                    let error = store::in_full(&error);
                    tracing::warn!(error, "failed to look for what is due; it is repeated");
                    false
                }
            };
            tokio::time::sleep(if more { CHUNK_PAUSE } else { SCAN_INTERVAL }).await;
        }
    }

    /// Brings a chunk to memory, and tells whether there may be more.
    async fn scan(&self) -> Result<bool, store::Error> {
        let now = self.engine.shared.clock.of_stored().now();
        let (ahead, soon) = (self.engine.free_places(2), self.engine.free_places(1));
        let (until, places) = if ahead > 0 { (AHEAD, ahead) } else { (SOON, soon) };
        let limit = places.min(CHUNK);
        if limit == 0 {
            return Ok(false);
        }
        let brought = self.engine.adopt_due(now.after(until), limit).await?;
        if brought > 0 {
            tracing::debug!(brought, "transactions whose time comes near were brought to memory");
        }
        Ok(brought >= limit)
    }
}
