//! Transactions that sleep: what starts tomorrow need not be in memory today.
//!
//! A child in doubt sleeps, too, if its parent does not decide soon: it waits for nothing but the decision, and
//! that finds it by its gid.
//!
//! So does one that waits for nothing but participants that fail: see [`parking`](super::parking).
//!
//! A look at one that sleeps is answered from its row. It comes to memory for whoever waits for it, follows
//! it or changes it.
//!
//! The row of one that may leave memory says until when it sleeps. Whatever stays, or is back, has a row
//! that says nothing of it. So the [scan](super::super::sleepers) for what is due finds only what is not
//! in memory.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Input, Phase, Timestamp, Transition, TxId, Version};

use super::super::sleepers::AHEAD;
use super::Service;

/// Shortest time ahead for which a transaction leaves memory. Longer than the scan looks ahead, so that
/// what has just left is not brought back at once, and what stays has its row rewritten before it is due.
const SLEEP_MIN: Duration = AHEAD.saturating_add(Duration::from_secs(5 * 60));

/// Interval between two looks at transactions that sleep in memory: for somebody who followed or waited,
/// and has gone meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Time for which a transaction that was brought to memory stays there: whoever asked for it looks for it
/// in a moment.
const STAY: Duration = Duration::from_secs(5);

/// Time for which a child in doubt stays in memory: most parents decide sooner.
const DOUBT: Duration = Duration::from_secs(10);

/// Time until which a child in doubt sleeps, as its row has it: the end of the year 9999. No scan brings it back.
pub(in crate::engine) const UNTIL_DECIDED: Timestamp = Timestamp(253_402_300_799_999);

impl Service {
    /// Notes whether the row says that the transaction sleeps: only one that leaves memory does.
    pub(super) fn note_a_sleep(&mut self, transition: &mut Transition) {
        let tx_id = transition.tx_id;
        let Some(live) = self.live.get_mut(&tx_id) else { return };
        // Its times are of this clock.
        let now = live.clock.now();
        let in_doubt = matches!(transition.state.phase, Phase::InDoubt { .. });
        live.parked_until = live.parks_until.take();
        if live.parked_until.is_none() {
            live.changed_at = Instant::now();
        }
        let until = match in_doubt {
            true => live.rests_in_doubt.then_some(UNTIL_DECIDED),
            false => live
                .parked_until
                .or_else(|| transition.state.wake_at.filter(|until| now.until(*until) > SLEEP_MIN)),
        };
        transition.state.wake_at = until;
        transition.sleeper = until.map(|_| live.as_sleeper());
        if until.is_none() {
            live.counts(self.admission.opened());
        }
        self.asleep.set(tx_id, &mut live.asleep_until, until);
        let doubted = (in_doubt && until.is_none()).then(|| Instant::now() + DOUBT);
        self.doubts.set(tx_id, &mut live.doubted_until, doubted);
    }

    /// Returns those of these transactions that are not in memory.
    pub(super) fn not_live(&self, mut transactions: Vec<(TxId, Version)>) -> Vec<(TxId, Version)> {
        transactions.retain(|(tx_id, _)| !self.live.contains_key(tx_id));
        transactions
    }

    /// Tells whether nothing more is known of a transaction than its row, which says that it sleeps. Nothing sleeps
    /// that has ended here: the row of such a one is of an earlier time.
    pub(super) fn sleeps_in_store(&self, tx_id: TxId) -> bool {
        !self.live.contains_key(&tx_id) && !self.went_back.remembers(tx_id)
    }

    /// Counts the transactions that wait for something other than time.
    pub(super) fn count_at_work(&self) -> usize {
        self.live.values().filter(|live| !live.waits_for_time()).count()
    }

    /// Keeps a transaction in memory that was brought there, though it sleeps.
    pub(super) fn keep_for_a_while(&mut self, tx_id: TxId) {
        if let Some(live) = self.live.get_mut(&tx_id) {
            live.stays_until = Some(Instant::now() + STAY);
        }
    }

    /// Lets go of transactions that sleep and that nobody looks at any more.
    pub(super) fn let_sleepers_go(&mut self) {
        let instant = Instant::now();
        if instant < self.look_at_sleepers {
            return;
        }
        self.look_at_sleepers = instant + LOOK_INTERVAL;
        let now = self.clock.of_stored().now();
        // It was followed for so long that its time is near: it stays, and its row is to say so.
        while let Some(tx_id) = self.asleep.due(now.after(SLEEP_MIN)) {
            let _ = self.apply(tx_id, Input::Rewrite);
            if let Some(live) = self.live.get_mut(&tx_id) {
                self.asleep.set(tx_id, &mut live.asleep_until, None);
            }
        }
        while let Some(tx_id) = self.doubts.due(instant) {
            if let Some(live) = self.live.get_mut(&tx_id) {
                live.rests_in_doubt = true;
                self.doubts.set(tx_id, &mut live.doubted_until, None);
            }
            let _ = self.apply(tx_id, Input::Rewrite);
        }
        for tx_id in self.asleep.all() {
            self.leave_if_done(tx_id);
        }
    }
}
