//! Transactions that come to memory from the store.

use unanimo_core::{Input, Phase, Record, Timestamp, Transaction, TxId};

use super::super::admission::{held_at, shares};
use super::super::live::Live;
use super::super::message::ClaimedOne;
use super::Service;

impl Service {
    pub(super) fn insert(&mut self, record: Record) {
        let tx_id = record.identity.tx_id;
        if self.live.contains_key(&tx_id) {
            return;
        }
        let version = record.version;
        let clock = self.clock.of_stored().not_before(latest(&record));
        let tx = Transaction::restore(record);
        let held = tx.branches().iter().map(|branch| held_at(&branch.spec));
        let shares = shares(self.caller.directory(), held);
        let permit = self.admission.admit_always(1, tx.held_bytes(), shares);
        self.by_gid.insert(tx.identity().gid.clone(), tx_id);
        let mut live = Live::new(tx, clock, permit, version);
        live.counts(self.admission.opened());
        live.is_adopted = true;
        self.traces.begin(live.tx.identity(), true);
        self.live.insert(tx_id, live);
    }

    /// Brings one to memory that was claimed for an input, which is applied next.
    pub(super) fn insert_claimed(&mut self, claimed: ClaimedOne) {
        let ClaimedOne { record, generation } = claimed;
        let (tx_id, version) = (record.identity.tx_id, record.version);
        let is_new = !self.live.contains_key(&tx_id);
        self.insert(record);
        if is_new && self.was_replaced(generation) {
            self.write_there(tx_id, version);
        }
    }

    /// Has everything wait for the write that comes next, if the claim may be lost with the server that made it.
    fn await_next(&mut self, tx_id: TxId, generation: Option<u64>) {
        if self.was_replaced(generation)
            && let Some(live) = self.live.get_mut(&tx_id)
        {
            live.handed_over(live.tx.version().next(), true);
        }
    }

    pub(super) fn adopt(&mut self, record: Record, generation: Option<u64>, woken: bool) {
        let tx_id = record.identity.tx_id;
        if self.live.contains_key(&tx_id) {
            return;
        }
        let Some(record) = self.end_again(record) else { return };
        tracing::debug!(%tx_id, gid = %record.identity.gid, "adopting the transaction");
        self.insert(record);
        if woken && let Some(live) = self.live.get_mut(&tx_id) {
            live.was_woken();
        }
        self.keep_for_a_while(tx_id);
        self.await_next(tx_id, generation);
        // Never rejected: it is the first input after a restore.
        let _ = self.apply(tx_id, Input::Recovered { by: self.me });
    }
}

/// Returns the latest time at which something happened, as it is stored: by the clock of whoever wrote it.
fn latest(record: &Record) -> Timestamp {
    let Record { identity, state, .. } = record;
    let phase = match state.phase {
        Phase::Scheduled | Phase::Active => None,
        Phase::InDoubt { at } | Phase::Decided { at, .. } | Phase::Ended { at, .. } => Some(at),
    };
    let branches = state.branches.iter().flat_map(|branch| [branch.voted_at, branch.ended_at]);
    let times = branches.chain([state.started_at, phase]).flatten();
    times.fold(identity.created_at, Timestamp::max)
}
