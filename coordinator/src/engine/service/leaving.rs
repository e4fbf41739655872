//! Transactions that leave memory.

use unanimo_core::TxId;

use super::super::live::Live;
use super::Service;

impl Service {
    /// Lets go of a transaction that has ended or sleeps, once that is durable and nobody waits for it.
    pub(super) fn leave_if_done(&mut self, tx_id: TxId) {
        let Some(live) = self.live.get(&tx_id).filter(|live| live.may_leave()) else { return };
        if live.ends_here && live.has_ended() {
            self.traces.ended(&live.tx);
        }
        let Some(live) = self.remove(tx_id) else { return };
        if live.has_ended() {
            if live.ends_here {
                self.ends.log(&live.tx, &self.traces);
                self.went_back.ended(&live.tx);
            } else {
                self.went_back.rewritten(&live.tx);
            }
            self.wake_lock_waits(&live.tx);
            if live.noted {
                self.parking.forget(tx_id);
            }
        } else {
            let parked = live.parked_until.is_some();
            if parked {
                self.parking.left += live.tx.branches().len();
            }
            tracing::debug!(%tx_id, parked, "the transaction sleeps, and leaves memory");
        }
    }

    /// Takes a transaction out of memory, with whatever waits for it.
    pub(super) fn remove(&mut self, tx_id: TxId) -> Option<Live> {
        let mut live = self.live.remove(&tx_id)?;
        self.timers.set(tx_id, &mut live.wake_at, None);
        self.starts.set(tx_id, &mut live.starts_at, None);
        self.asleep.set(tx_id, &mut live.asleep_until, None);
        self.doubts.set(tx_id, &mut live.doubted_until, None);
        self.lock_waits.forget(tx_id);
        self.traces.forget(tx_id);
        live.stop_prepares();
        let gid = &live.tx.identity().gid;
        if self.by_gid.get(gid) == Some(&tx_id) {
            self.by_gid.remove(gid);
        }
        Some(live)
    }
}
