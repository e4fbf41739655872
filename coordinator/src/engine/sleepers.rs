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

use tokio::time::Instant;
use unanimo_core::{ParticipantName, TxId};

use crate::participants::load::Load;
use crate::store::{self, Asleep};

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

/// Between two counts of many transactions that wait for one participant.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// Between two turns of some others while a participant fails: those in memory may be what it cannot deal with.
const TURN_INTERVAL: Duration = Duration::from_secs(30);

/// Transactions that have a turn then: about as many as are tried meanwhile.
const TURN: usize = 8;

/// Waits that are few enough to be counted whenever nothing else is to be done.
const FEW: usize = 1_000;

/// A participant that transactions out of memory wait for.
#[derive(Debug)]
struct WaitedFor {
    /// Its name is not forgotten meanwhile.
    load: Arc<Load>,
    /// The last transaction that was brought back: those after it have their turn, and then all again. So none that
    /// fails by itself is in the way of others.
    last: Option<TxId>,
    counted_at: Option<Instant>,
    /// When others have a turn though the participant fails.
    turn_at: Instant,
}

/// The scan. It ends with the process.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Handle,
    waited_for: BTreeMap<ParticipantName, WaitedFor>,
    /// When those that are due are looked for next.
    try_at: Instant,
}

impl Service {
    /// Makes the scan of this engine.
    pub(crate) fn new(engine: Handle) -> Self {
        Self { engine, waited_for: BTreeMap::new(), try_at: Instant::now() }
    }

    /// Scans for as long as the process lives.
    pub(crate) async fn run(mut self) {
        loop {
            // What waits for a standby would wait for it at the server after it was given up here.
            self.engine.shared.lease.held().await;
            let named = self.look_for_names().await;
            // Whatever has failed, those are known that are in memory.
            self.engine.shared.knows_waits.store(true, Ordering::Relaxed);
            told(named.map(|()| false));
            let back = self.bring_back().await;
            let more = told(self.scan().await) || back;
            tokio::time::sleep(if more { CHUNK_PAUSE } else { SCAN_INTERVAL }).await;
        }
    }

    /// Looks for the participants that are waited for, and counts for whom it is time.
    async fn look_for_names(&mut self) -> Result<(), store::Error> {
        let (shared, now) = (&self.engine.shared, Instant::now());
        let names = shared.store.waits().names().await?;
        let mut former = std::mem::take(&mut self.waited_for);
        for name in names {
            let known = former.remove(&name).unwrap_or_else(|| WaitedFor {
                load: shared.directory.load_of(&name),
                last: None,
                counted_at: None,
                turn_at: now + TURN_INTERVAL,
            });
            self.waited_for.insert(name, known);
        }
        former.values().for_each(|gone| gone.load.set_parked(0));
        for (name, known) in &mut self.waited_for {
            let few = known.load.parked() < FEW;
            let pause = if few { SCAN_INTERVAL } else { COUNT_INTERVAL };
            if known.counted_at.is_none_or(|at| now.saturating_duration_since(at) >= pause) {
                known.load.set_parked(shared.store.waits().count(name).await?);
                known.counted_at = Some(now);
            }
        }
        Ok(())
    }

    /// Brings a chunk for each participant to memory whose others have ended, and tells whether there may be more.
    async fn bring_back(&mut self) -> bool {
        // What earlier incarnations had in memory comes first, and counts.
        if !self.engine.shared.has_adopted.load(Ordering::Relaxed) {
            return false;
        }
        let now = Instant::now();
        let tries = now >= self.try_at;
        if tries {
            self.try_at = now + SCAN_INTERVAL;
        }
        let failing = self.engine.shared.directory.failing();
        let participants = self.waited_for.len().max(failing);
        let (mut more, mut failed) = (false, None);
        for (name, known) in &mut self.waited_for {
            let brought = bring_back_for(&self.engine, name, known, participants, tries).await;
            match brought {
                Ok(others) => more |= others,
                // Others have their turn all the same.
                Err(error) => failed = Some(error),
            }
        }
        told(failed.map_or(Ok(more), Err))
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

/// Brings a chunk for a participant to memory, and tells whether there may be more.
async fn bring_back_for(
    engine: &Handle,
    name: &ParticipantName,
    known: &mut WaitedFor,
    participants: usize,
    tries: bool,
) -> Result<bool, store::Error> {
    let mut room = engine.room_for(name, participants).min(CHUNK);
    let (mut brought, now) = (0, Instant::now());
    let room_to_try = if tries { engine.room_to_try(name, participants) } else { 0 };
    if room == 0 && room_to_try > 0 && now >= known.turn_at && engine.knows(name) {
        known.turn_at = now + TURN_INTERVAL;
        room = room_to_try.min(TURN);
    }
    if room > 0 {
        let mut woken = engine.wake_for(name, Asleep::After(known.last), room).await?;
        if woken.last.is_none() && known.last.is_some() {
            woken = engine.wake_for(name, Asleep::After(None), room).await?;
        }
        (known.last, brought) = (woken.last, woken.count);
    }
    if room_to_try > 0 && brought == 0 {
        let due = Asleep::Due(engine.shared.clock.of_stored().now());
        brought += engine.wake_for(name, due, room_to_try.min(CHUNK)).await?.count;
    }
    if brought > 0 {
        tracing::debug!(participant = %name, brought, "transactions that wait were brought to memory");
    }
    // One that is to find out whether the participant is back has time for it.
    Ok(brought >= room && room > 1 && room_to_try == 0)
}

/// Tells whether there may be more; not soon, where the database does not answer.
fn told(more: Result<bool, store::Error>) -> bool {
    more.unwrap_or_else(|error| {
        let error = store::in_full(&error);
        tracing::warn!(error, "failed to look for what is to come to memory; it is repeated");
        false
    })
}
