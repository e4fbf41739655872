//! Transactions that come to memory from the store.

use unanimo_core::{Input, Record, Transaction};

use super::super::admission::{held_at, shares};
use super::super::live::Live;
use super::Service;

impl Service {
    pub(super) fn insert(&mut self, record: Record) {
        let tx_id = record.identity.tx_id;
        if self.live.contains_key(&tx_id) {
            return;
        }
        let version = record.version;
        let clock = self.clock.anchor();
        let tx = Transaction::restore(record);
        let held = tx.branches().iter().map(|branch| held_at(&branch.spec));
        let shares = shares(self.caller.directory(), held);
        let permit = self.admission.admit_always(1, tx.held_bytes(), shares);
        self.by_gid.insert(tx.identity().gid.clone(), tx_id);
        let mut live = Live::new(tx, clock, permit, version);
        live.is_adopted = true;
        self.live.insert(tx_id, live);
    }

    pub(super) fn adopt(&mut self, record: Record) {
        let tx_id = record.identity.tx_id;
        if self.live.contains_key(&tx_id) {
            return;
        }
        let Some(record) = self.end_again(record) else { return };
        tracing::debug!(%tx_id, gid = %record.identity.gid, "adopting the transaction");
        self.insert(record);
        self.keep_for_a_while(tx_id);
        // Never rejected: it is the first input after a restore.
        let _ = self.apply(tx_id, Input::Recovered { by: self.me });
    }
}
