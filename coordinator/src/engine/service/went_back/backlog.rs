//! Ends that have left memory, and are written again after a promotion though nobody asks for them.

use std::collections::VecDeque;

use unanimo_core::TxId;

use super::Service;

/// Ends that are written again at once: those of one batch, of which live transactions need the most.
pub(super) const AT_ONCE_MAX: usize = 64;

/// The ends that are left, and those under way.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// In the order in which they are written.
    left: VecDeque<TxId>,
    under_way: Vec<TxId>,
}

impl Service {
    /// Notes all ends that a promoted server may lack. The latest come first: it is the most likely to lack those.
    pub(super) fn look_at_ends(&mut self) {
        let known = &self.went_back;
        let left: VecDeque<TxId> =
            known.ends.latest_first().filter(|id| known.may_lack(*id)).collect();
        if !left.is_empty() {
            tracing::info!(ends = left.len(), "what has ended lately is written again");
        }
        self.went_back.backlog.left = left;
    }

    /// Has the next of them written, as far as there is room. The end of each wakes the loop.
    pub(in crate::engine::service) fn write_ends_again(&mut self) {
        let (live, held) = (&self.live, &self.went_back.held);
        let waits = |tx_id: &TxId| live.contains_key(tx_id) && !held.contains_key(tx_id);
        self.went_back.backlog.under_way.retain(waits);
        while self.went_back.backlog.under_way.len() < AT_ONCE_MAX {
            let Some(tx_id) = self.went_back.backlog.left.pop_front() else { return };
            // It may have been asked for since.
            if !self.went_back.may_lack(tx_id) {
                continue;
            }
            let Some(end) = self.went_back.ends.get(tx_id) else { continue };
            let gid = end.record.identity.gid.clone();
            self.recall_instead(&gid);
            if self.live.contains_key(&tx_id) {
                self.went_back.backlog.under_way.push(tx_id);
            }
        }
    }
}
