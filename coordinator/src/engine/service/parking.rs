//! Transactions that leave memory because nobody answers whom they wait for.
//!
//! A decided transaction leaves once its alarm is raised, nothing of it is under way, and all that it waits for are
//! calls to participants whose breakers are open. So many of each participant stay as find out whether it is back, and
//! the [scan](super::super::sleepers) brings others in their place, the oldest first, as they end.
//!
//! First it is noted for whom it waits, then its row says that it sleeps, and then it leaves. A crash after the note leaves
//! an open transaction like others, and one after the row a sleeper that the scan finds by the note. Nothing is sent
//! between the row and the end of this stay: a call that is lets it stay.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{BranchNumber, Input, ParticipantName, Phase, Timestamp, TxId};

use super::super::live::Live;
use super::super::message::Message;
use super::super::sleepers::AHEAD;
use super::super::waiting::next_kind;
use super::Service;
use crate::store::{self, Life};

/// Between two looks for what may leave.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Transactions that leave at once.
const CHUNK: usize = 1_024;

/// Part of the places for transactions of participants that fail: the rest of these are out of memory.
const KEPT_PART: usize = 4;

/// Most transactions of one participant that stay.
const KEPT_MAX: usize = 1_000;

/// Shortest sleep, and the time over which sleeps are spread.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Longest sleep. Its end is for what nobody has found otherwise.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
}

/// The looks for what may leave.
#[derive(Debug)]
pub(in crate::engine) struct Parking {
    look_at: Instant,
    /// Notes of the last look are being written.
    notes: bool,
}

impl Parking {
    pub(in crate::engine) fn new() -> Self {
        Self { look_at: Instant::now(), notes: false }
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
        let Some(inbox) = self.own.upgrade().filter(|_| !transactions.is_empty()) else { return };
        self.parking.notes = true;
        let named = |absence: &Absence| {
            let tx_id = absence.tx_id;
            absence.participants.iter().map(move |name| (tx_id, name.clone())).collect::<Vec<_>>()
        };
        let waits = transactions.iter().flat_map(named).collect();
        let (store, me) = (Arc::clone(&self.store), self.me);
        tokio::spawn(async move {
            let noted = store.waits().note(me, waits).await;
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
        let live = &self.live;
        self.waiting
            .sweep(|waiting| live.get(&waiting.tx_id).is_some_and(|live| waiting.is_awaited(live)));
        let transactions_max = self.options.bounds.transactions_max;
        let surplus = self.waiting.surplus(|participants| kept(transactions_max, participants));
        if surplus.is_empty() {
            return Vec::new();
        }
        let (waiting, mut seen) = (self.waiting.calls(), HashSet::new());
        let absences =
            surplus.into_iter().filter(|tx_id| seen.insert(*tx_id)).filter_map(|tx_id| {
                let live = self.live.get(&tx_id)?;
                let participants = self.absent(live, &waiting)?;
                Some(Absence { tx_id, life: live.life, participants })
            });
        absences.take(CHUNK).collect()
    }

    /// Returns the participants that a transaction waits for, if it waits for nothing else and need not be in memory
    /// meanwhile. A child and its parent look for each other there.
    fn absent(
        &self,
        live: &Live,
        waiting: &HashSet<(TxId, BranchNumber)>,
    ) -> Option<BTreeSet<ParticipantName>> {
        let (tx, policy) = (&live.tx, &self.options.policy);
        let decided = matches!(tx.phase(), Phase::Decided { .. }) && tx.is_stalled();
        let alone = tx.identity().parent.is_none() && tx.wake_at(policy).is_none();
        if !decided || !alone || !live.may_be_parked() {
            return None;
        }
        let mut participants = BTreeSet::new();
        for branch in tx.branches().iter().filter(|branch| branch.is_called()) {
            let name = &branch.spec.participant;
            let entry = self.caller.find(name).filter(|entry| !entry.is_own())?;
            let fails = entry.breaker(next_kind(branch)).is_open();
            if !fails || !waiting.contains(&(tx.tx_id(), branch.number)) {
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
        let waiting = self.waiting.calls();
        for Absence { tx_id, life, participants } in transactions {
            let Some(live) = self.live.get(&tx_id).filter(|live| live.life == life) else {
                continue;
            };
            if self.absent(live, &waiting).is_none_or(|now| !now.is_subset(&participants)) {
                continue;
            }
            let now = self.clock.of_stored().now();
            let until = sleeps_until(tx_id, live.tx.phase().decided_at().unwrap_or(now), now);
            if let Some(live) = self.live.get_mut(&tx_id) {
                live.parks_until = Some(until);
            }
            let _ = self.apply(tx_id, Input::Rewrite);
        }
    }
}

/// Returns until when a transaction sleeps: as long again as it has waited. The scan brings it back up to [`AHEAD`]
/// before.
fn sleeps_until(tx_id: TxId, decided_at: Timestamp, now: Timestamp) -> Timestamp {
    let pause = decided_at.until(now).clamp(HOUR, DAY);
    let spread = u64::try_from(tx_id.0.as_u128() % HOUR.as_millis()).unwrap_or(0);
    now.after(AHEAD + pause + Duration::from_millis(spread))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn participants_that_fail_share_a_part_of_the_places() {
        assert_eq!((kept(64, 0), kept(64, 1), kept(64, 4)), (16, 16, 4));
        assert_eq!((kept(64, 100), kept(1, 1)), (1, 1), "one finds out that it is back");
        assert_eq!((kept(1_000_000, 1), kept(10_000, 5)), (1_000, 500));
    }

    #[test]
    fn a_sleep_is_as_long_again_as_the_wait_and_never_brought_back_at_once() {
        let (id, now) = (|n| TxId(Uuid::from_u128(n)), Timestamp(1_000_000_000_000));
        let sleep = |id, waited: Duration| {
            let decided_at = Timestamp(now.0 - u64::try_from(waited.as_millis()).expect("short"));
            now.until(sleeps_until(id, decided_at, now)) - AHEAD
        };
        assert_eq!(sleep(id(0), Duration::from_secs(60)), HOUR);
        assert_eq!(sleep(id(0), 5 * HOUR), 5 * HOUR);
        assert_eq!(sleep(id(0), 100 * DAY), DAY);
        assert_eq!(sleep(id(7_199_999), HOUR), 2 * HOUR - Duration::from_millis(1), "spread");
        let backwards = now.until(sleeps_until(id(0), now.after(DAY), now));
        assert_eq!(backwards, AHEAD + HOUR, "the clock was set back");
    }
}
