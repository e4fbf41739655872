//! Transactions that leave memory because nobody answers whom they wait for.
//!
//! A decided transaction leaves once its alarm is raised, nothing of it is under way, and all that it waits for are
//! calls to participants whose breakers are open. So many of each participant stay as find out whether it is back, and
//! the [scan](super::super::sleepers) brings others in their place, the oldest first, as they end.
//!
//! None leaves that was written of late, where a standby may be promoted that lacks that: of what is in memory the
//! decision is written again then, and of what is not it would be lost.
//!
//! First it is noted for whom it waits, then its row says that it sleeps, and then it leaves. A crash after the note leaves
//! an open transaction like others, and one after the row a sleeper that the scan finds by the note. Nothing is sent
//! between the row and the end of this stay: a call that is lets it stay.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Input, ParticipantName, Phase, Timestamp, TxId};

use super::super::live::Live;
use super::super::message::Message;
use super::super::waiting::{WaitingCall, next_kind};
use super::Service;
use super::went_back::MAY_MISS;
use crate::store::{self, Life, Wait};

/// Between two looks for what may leave.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Transactions that leave at once.
const CHUNK: usize = 1_024;

/// Part of the places for transactions of participants that fail: the rest of these are out of memory.
const KEPT_PART: usize = 4;

/// Most transactions of one participant that stay: some tell whether it is back, and then the scan brings others.
const KEPT_MAX: usize = 100;

/// Shortest sleep, and the time over which sleeps are spread.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Longest sleep. Its end is for what nobody has found otherwise.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Time after the end of the sleep at which whoever looks for what is due finds it, should its waits be lost.
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Looks at calls that wait, in one look for what may leave. More are looked at in the next one.
const LOOKS_MAX: usize = 4 * CHUNK;

/// Longest time for which calls of those that have left are still among those that wait.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Milliseconds for which a write may be missing where a standby is promoted.
static MAY_MISS_MS: AtomicU64 = AtomicU64::new(MAY_MISS.as_secs() * 1_000);

fn may_miss() -> Duration {
    Duration::from_millis(MAY_MISS_MS.load(Ordering::Relaxed))
}

/// Has transactions leave sooner, where a test promotes no standby.
#[cfg(feature = "failpoints")]
pub(in crate::engine) fn set_may_miss(may_miss: Duration) {
    let ms = u64::try_from(may_miss.as_millis()).unwrap_or(u64::MAX);
    MAY_MISS_MS.store(ms, Ordering::Relaxed);
}

/// Tells whether a promoted standby has what was written so long ago, if any is ever promoted.
fn is_everywhere(generation: Option<u64>, unchanged: Duration, may_miss: Duration) -> bool {
    generation.is_none() || unchanged >= may_miss
}

/// Returns how many transactions stay in memory of each of so many participants that fail.
pub(in crate::engine) fn kept(transactions_max: usize, participants: usize) -> usize {
    (transactions_max / KEPT_PART / participants.max(1)).clamp(1, KEPT_MAX)
}

/// A transaction that may leave memory.
#[derive(Debug)]
pub(in crate::engine) struct Absence {
    tx_id: TxId,
    /// Its stay in memory.
    life: Life,
    /// Those that it waits for.
    participants: BTreeSet<ParticipantName>,
    /// When it is tried, whatever is known of them.
    due_at: Timestamp,
}

/// The looks for what may leave.
#[derive(Debug)]
pub(in crate::engine) struct Parking {
    look_at: Instant,
    /// Notes of the last look are being written.
    notes: bool,
    /// Calls of transactions that have left since the last sweep, about.
    pub(super) left: usize,
    sweep_at: Instant,
    /// Transactions that stay or have ended, and for whom it is noted that they wait.
    forgotten: Vec<TxId>,
}

impl Parking {
    pub(in crate::engine) fn new() -> Self {
        let (now, forgotten) = (Instant::now(), Vec::new());
        Self { look_at: now, notes: false, left: 0, sweep_at: now, forgotten }
    }

    /// Has the waits of this one deleted, which mean nothing.
    pub(super) fn forget(&mut self, tx_id: TxId) {
        self.forgotten.push(tx_id);
    }
}

impl Service {
    /// Notes for whom those transactions wait that may leave memory.
    pub(super) fn park(&mut self) {
        let now = Instant::now();
        if self.parking.notes || now < self.parking.look_at {
            return;
        }
        self.parking.look_at = now + LOOK_INTERVAL;
        let transactions = self.leaving();
        let idle = transactions.is_empty() && self.parking.forgotten.is_empty();
        let Some(inbox) = self.own.upgrade().filter(|_| !idle) else { return };
        self.parking.notes = true;
        let forgotten = std::mem::take(&mut self.parking.forgotten);
        let named = |absence: &Absence| {
            let (tx_id, due_at) = (absence.tx_id, absence.due_at);
            let names = absence.participants.iter().cloned();
            names.map(move |participant| Wait { tx_id, participant, due_at }).collect::<Vec<_>>()
        };
        let waits: Vec<Wait> = transactions.iter().flat_map(named).collect();
        let (store, me) = (Arc::clone(&self.store), self.me);
        tokio::spawn(async move {
            // In this order: what was to be forgotten may be noted anew.
            if !forgotten.is_empty()
                && let Err(error) = store.waits().forget(me, forgotten).await
            {
                let error = store::in_full(&error);
                tracing::debug!(error, "failed to forget whom transactions waited for");
            }
            let noted = match waits.is_empty() {
                true => Ok(()),
                false => store.waits().note(me, waits).await,
            };
            if let Err(error) = &noted {
                let error = store::in_full(error);
                tracing::warn!(
                    error,
                    "failed to note whom transactions wait for; they stay in memory"
                );
            }
            // The engine may have ended.
            let _ = inbox.send(Message::Parked { transactions, noted: noted.is_ok() });
        });
    }

    fn leaving(&mut self) -> Vec<Absence> {
        let (now, live) = (Instant::now(), &self.live);
        let parking = &mut self.parking;
        let many = parking.left * 8 >= self.waiting.len().max(1);
        if parking.left > 0 && (many || now >= parking.sweep_at) {
            let wanted = |waiting: &WaitingCall| {
                live.get(&waiting.tx_id).is_some_and(|live| waiting.is_awaited(live))
            };
            self.waiting.sweep(wanted);
            (parking.left, parking.sweep_at) = (0, now + SWEEP_INTERVAL);
        }
        let transactions_max = self.options.bounds.transactions_max;
        let kept = |participants| kept(transactions_max, participants);
        let may_leave = |waiting: &WaitingCall| {
            live.get(&waiting.tx_id).is_some_and(|live| live.tx.is_stalled())
        };
        let surplus = self.waiting.surplus(kept, LOOKS_MAX, may_leave);
        let (now, mut seen) = (self.clock.of_stored().now(), HashSet::new());
        let absences =
            surplus.into_iter().filter(|tx_id| seen.insert(*tx_id)).filter_map(|tx_id| {
                let live = self.live.get(&tx_id)?;
                let participants = self.absent(live)?;
                let due_at = due_at(tx_id, live.tx.phase().decided_at().unwrap_or(now), now);
                Some(Absence { tx_id, life: live.life, participants, due_at })
            });
        absences.take(CHUNK).collect()
    }

    /// Returns the participants that a transaction waits for, if it waits for nothing else and need not be in memory
    /// meanwhile. A child and its parent look for each other there.
    fn absent(&self, live: &Live) -> Option<BTreeSet<ParticipantName>> {
        let (tx, policy) = (&live.tx, &self.options.policy);
        let decided = matches!(tx.phase(), Phase::Decided { .. }) && tx.is_stalled();
        let alone = tx.identity().parent.is_none() && tx.wake_at(policy).is_none();
        if !decided || !alone || !live.may_be_parked() {
            return None;
        }
        let unchanged = live.changed_at.elapsed();
        if !is_everywhere(self.store.generation(), unchanged, may_miss()) {
            return None;
        }
        let mut participants = BTreeSet::new();
        for branch in tx.branches().iter().filter(|branch| branch.is_called()) {
            let name = &branch.spec.participant;
            let entry = self.caller.find(name).filter(|entry| !entry.is_own())?;
            let fails = entry.breaker(next_kind(branch)).is_open();
            if !fails || !self.waiting.has_call(live, branch.number) {
                return None;
            }
            participants.insert(name.clone());
        }
        (!participants.is_empty()).then_some(participants)
    }

    /// Has the rows of these transactions say that they sleep, unless anything has happened to them meanwhile.
    pub(super) fn noted(&mut self, transactions: Vec<Absence>, noted: bool) {
        self.parking.notes = false;
        if !noted {
            return;
        }
        if transactions.len() >= CHUNK {
            self.parking.look_at = Instant::now();
        }
        for Absence { tx_id, life, participants, due_at } in transactions {
            let live = self.live.get(&tx_id).filter(|live| live.life == life);
            let stays = live.and_then(|live| self.absent(live));
            if stays.is_none_or(|now| !now.is_subset(&participants)) {
                self.parking.forget(tx_id);
                continue;
            }
            if let Some(live) = self.live.get_mut(&tx_id) {
                live.parks_until = Some(due_at.after(MONTH));
                live.noted = true;
            }
            let _ = self.apply(tx_id, Input::Rewrite);
        }
    }
}

/// Returns when a transaction is tried that sleeps now: it has slept as long again then as it has waited.
fn due_at(tx_id: TxId, decided_at: Timestamp, now: Timestamp) -> Timestamp {
    let pause = decided_at.until(now).clamp(HOUR, DAY);
    let spread = u64::try_from(tx_id.0.as_u128() % HOUR.as_millis()).unwrap_or(0);
    now.after(pause + Duration::from_millis(spread))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn participants_that_fail_share_a_part_of_the_places() {
        assert_eq!((kept(64, 0), kept(64, 1), kept(64, 4)), (16, 16, 4));
        assert_eq!((kept(64, 100), kept(1, 1)), (1, 1), "one finds out that it is back");
        assert_eq!((kept(1_000_000, 1), kept(1_000, 5)), (100, 50));
    }

    #[test]
    fn a_sleep_is_as_long_again_as_the_wait() {
        let (id, now) = (|n| TxId(Uuid::from_u128(n)), Timestamp(1_000_000_000_000));
        let sleep = |id, waited: Duration| {
            let decided_at = Timestamp(now.0 - u64::try_from(waited.as_millis()).expect("short"));
            now.until(due_at(id, decided_at, now))
        };
        assert_eq!(sleep(id(0), Duration::from_secs(60)), HOUR);
        assert_eq!(sleep(id(0), 5 * HOUR), 5 * HOUR);
        assert_eq!(sleep(id(0), 100 * DAY), DAY);
        assert_eq!(sleep(id(7_199_999), HOUR), 2 * HOUR - Duration::from_millis(1), "spread");
        let backwards = now.until(due_at(id(0), now.after(DAY), now));
        assert_eq!(backwards, HOUR, "the clock was set back");
    }

    #[test]
    fn s1_none_leaves_whose_decision_a_promoted_standby_may_lack() {
        let second = Duration::from_secs(1);
        assert!(!is_everywhere(Some(0), MAY_MISS - second, MAY_MISS), "it is lost");
        assert!(is_everywhere(Some(0), MAY_MISS, MAY_MISS));
        assert!(is_everywhere(None, Duration::ZERO, MAY_MISS), "none is promoted");
        assert_eq!(may_miss(), MAY_MISS);
    }
}
