//! Transactions that are to be written again, and whose gids others have in the database.
//!
//! A gid that was purged can be used again. A failover that loses the deletion of the first transaction, and the row of the
//! second one, leaves the second without its gid, though its participants and its client know it. The purge deletes the
//! first one once more; until then the second one stays in memory, and nothing more of it is told or sent.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::TxId;

use super::Service;
use crate::alarm::DATABASE_WENT_BACK;
use crate::store::GidHolder;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(10);

/// The transactions, with the time of the next attempt.
pub(super) type Held = HashMap<TxId, Instant>;

impl Service {
    /// Keeps a transaction in memory that was stored before, and whose gid another one has. What it goes through meanwhile
    /// is written with the next attempt.
    pub(in crate::engine::service) fn keep_without_gid(&mut self, tx_id: TxId, holder: &GidHolder) {
        let Some(live) = self.live.get(&tx_id) else { return };
        let before = self.went_back.held.insert(tx_id, Instant::now() + PAUSE);
        if before.is_none() {
            tracing::error!(
                alarm = DATABASE_WENT_BACK,
                %tx_id,
                gid = %live.tx.identity().gid,
                holder = %holder.tx_id,
                outcome = ?live.tx.outcome(),
                "the database has lost a transaction, and an earlier one has its gid there; nothing more is done with it until \
                 the purge has deleted that one"
            );
        }
    }

    /// Makes the attempts that are due.
    pub(in crate::engine::service) fn write_held_again(&mut self) {
        if self.went_back.held.is_empty() {
            return;
        }
        let live = &self.live;
        self.went_back.held.retain(|id, _| live.get(id).is_some_and(|live| !live.is_durable()));
        let now = Instant::now();
        let due = self.went_back.held.iter_mut().filter(|(_, at)| **at <= now);
        let due: Vec<TxId> = due
            .map(|(tx_id, at)| {
                *at = now + PAUSE;
                *tx_id
            })
            .collect();
        for tx_id in due {
            // It finds no row, and so all of it is written.
            let version = self.live.get(&tx_id).map(|live| live.tx.version());
            self.write_there(tx_id, version.unwrap_or_default());
        }
    }
}
