//! Results of writes.

use std::sync::Arc;

use unanimo_core::{Origin, TxId, Version};

use super::super::Error;
use super::super::message::Failure;
use super::{Service, ends};
use crate::store::journal::{Completion, Ended};
use crate::store::{self, Key};

impl Service {
    /// Takes the result of a write.
    pub(super) fn completed(&mut self, completion: Completion) {
        let Completion { tx_id, life, ended, generation, flush } = completion;
        let is_own = self.live.get(&tx_id).is_some_and(|live| live.life == life);
        match ended {
            // Of a life that is over: the transaction may be back by then, and not so far.
            _ if !is_own => {}
            Ended::Durable(version) if self.was_replaced(generation) => {
                return self.write_there(tx_id, version);
            }
            Ended::Durable(version) => {
                self.traces.flushed(tx_id, flush);
                return self.became_durable(tx_id, version);
            }
            // Its own row is none of another one: an end without its branches, which the database has.
            Ended::GidHeld(holder)
                if holder.tx_id != tx_id
                    && self.live.get(&tx_id).is_some_and(|live| live.is_stored()) =>
            {
                self.keep_without_gid(tx_id, &holder);
            }
            Ended::GidHeld(holder) => {
                // Whoever waits looks at the holder: it may be another request's.
                if let Some(mut live) = self.remove(tx_id) {
                    live.dismiss(|| Failure::Elsewhere(holder.clone()));
                }
            }
            Ended::WentBack(earlier) => self.write_again(tx_id, &earlier),
            Ended::Lost => {
                let Some(mut live) = self.remove(tx_id) else { return };
                tracing::warn!(
                    %tx_id,
                    gid = %live.tx.identity().gid,
                    "the stored transaction was changed by another writer; it is read again"
                );
                live.dismiss(|| Failure::NotLive);
                live.end_watches(Error::Moving);
                self.adoption_wanted.notify_one();
            }
            Ended::Refused(error) => {
                self.metrics.write_refused();
                if let Some(mut live) = self.remove(tx_id) {
                    live.dismiss(|| Error::Refused(error.clone()).into());
                    live.end_watches(Error::Refused(error));
                    self.look_at_refused(tx_id);
                }
            }
        }
        // Nothing of that life is in memory any more: it hands nothing over.
        self.journal.forget(tx_id, life);
    }

    /// Sets a transaction aside whose write was refused, if it cannot be read: nobody can take it up, and the looks at
    /// what is set aside tell a person. One that can be read is adopted by the next scan.
    fn look_at_refused(&self, tx_id: TxId) {
        let (store, me) = (Arc::clone(&self.store), self.me);
        tokio::spawn(async move {
            let transactions = store.transactions();
            let done = match transactions.find(&Key::Tx(tx_id)).await {
                Err(error) if error.is_of_rows() => {
                    transactions.set_aside(me, &[tx_id], true).await
                }
                found => found.map(drop),
            };
            if let Err(error) = done {
                let error = store::in_full(&error);
                tracing::warn!(%tx_id, error, "failed to look at a transaction whose write was refused");
            }
        });
    }

    fn became_durable(&mut self, tx_id: TxId, version: Version) {
        crash_point!("engine-before-release");
        let Some(live) = self.live.get_mut(&tx_id) else { return };
        if !live.is_stored() {
            // Only now is it new: its gid might have been another one's.
            match live.tx.identity().origin {
                Origin::Request { mode, .. } => self.metrics.begun(mode),
                Origin::Tombstone => self.metrics.rolled_back_unseen(),
            }
            ends::count_decision(&self.metrics, &live.tx);
        }
        live.became_durable(version);
        self.release(tx_id);
    }
}
