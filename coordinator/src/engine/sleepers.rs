//! The scan for transactions whose time comes near.
//!
//! A sleeper is in the store only, and costs no memory, however much of it there is. The scan brings
//! to memory what is due within [`AHEAD`], the soonest first, in chunks with pauses between them. It
//! takes no more than half of the places for what is not due yet, and never more than there are:
//! what finds none starts late. Besides it brings back what waits for participants: see [`parking`](super::service::parking).
//! That needs no news of a participant's return: those in memory end, and others come in their place.
//! It goes by the [time of day](super::clock) that no clock which is wrong for a
//! moment moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use unanimo_core::ParticipantName;

use crate::participants::load::Load;
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
    /// Participants that transactions out of memory wait for. Their names are not forgotten meanwhile.
    waited_for: BTreeMap<ParticipantName, Arc<Load>>,
}

impl Service {
    /// Makes the scan of this engine.
    pub(crate) fn new(engine: Handle) -> Self {
        Self { engine, waited_for: BTreeMap::new() }
    }

    /// Scans for as long as the process lives.
    pub(crate) async fn run(mut self) {
        loop {
            let back = told(self.bring_back().await);
            let more = told(self.scan().await) || back;
            tokio::time::sleep(if more { CHUNK_PAUSE } else { SCAN_INTERVAL }).await;
        }
    }

    /// Brings a chunk for each participant to memory whose others have ended, and tells whether there may be more.
    async fn bring_back(&mut self) -> Result<bool, store::Error> {
        let shared = &self.engine.shared;
        let waited_for = shared.store.waits().all().await?;
        let loads = waited_for.iter().map(|(name, count)| {
            let load = shared.directory.load_of(name);
            load.set_parked(*count);
            (name.clone(), load)
        });
        let former = std::mem::replace(&mut self.waited_for, loads.collect());
        let gone = former.iter().filter(|(name, _)| !self.waited_for.contains_key(*name));
        gone.for_each(|(_, load)| load.set_parked(0));
        shared.knows_waits.store(true, Ordering::Relaxed);
        // What earlier incarnations had in memory comes first, and counts.
        if !shared.has_adopted.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut more = false;
        for name in self.waited_for.keys() {
            let room = self.engine.room_for(name, self.waited_for.len()).min(CHUNK);
            if room == 0 {
                continue;
            }
            let brought = self.engine.wake_for(name, room).await?;
            if brought > 0 {
                tracing::debug!(participant = %name, brought, "transactions that wait were brought to memory");
            }
            // One that is to find out whether the participant is back has time for it.
            more |= brought >= room && room > 1;
        }
        Ok(more)
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

/// Tells whether there may be more; not soon, where the database does not answer.
fn told(more: Result<bool, store::Error>) -> bool {
    more.unwrap_or_else(|error| {
        let error = store::in_full(&error);
        tracing::warn!(error, "failed to look for what is to come to memory; it is repeated");
        false
    })
}
