//! Taking over what fenced incarnations left, and what this one lost sight of.
//!
//! Fencing commits alone; adoption follows in later statements, so it sees everything that the
//! fenced one ever wrote. It goes in chunks and comes back to what was locked: a scan that found
//! nothing is repeated as long as the process lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use unanimo_core::Incarnation;

use crate::coordinator::Status;
use crate::engine;
use crate::store::{self, Claim, Store};

/// Transactions in one claim. A claim holds its rows' locks for its own time only.
const CHUNK: u32 = 256;

/// Between scans when nothing is known to be missing.
const RESCAN_INTERVAL: Duration = Duration::from_secs(5);

/// Adopts.
#[derive(Debug)]
pub struct Service {
    store: Arc<dyn Store>,
    me: Incarnation,
    engine: engine::Handle,
}

impl Service {
    /// An adopter for this engine.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, me: Incarnation, engine: engine::Handle) -> Self {
        Self { store, me, engine }
    }

    /// Adopts everything that there is to adopt now.
    ///
    /// # Errors
    /// The store failed; the next scan goes on from there.
    pub async fn adopt_all(&self) -> Result<usize, store::Error> {
        let mut adopted = 0;
        loop {
            let _turn = self.engine.taking_over().await;
            let records = self.store.transactions().claim(self.me, Claim::OfFenced(CHUNK)).await?;
            if records.is_empty() {
                break;
            }
            crash_point!("adoption-after-claim");
            adopted += records.len();
            self.engine.adopt(records).await;
        }
        // Claims whose answer was lost, and rows that somebody else had changed: this incarnation
        // owns them and does not know it.
        let owned = self.store.transactions().open_of(self.me).await?;
        for (tx_id, version) in self.engine.not_live(owned).await {
            let _turn = self.engine.taking_over().await;
            // Somebody may have brought it meanwhile.
            if self.engine.not_live(vec![(tx_id, version)]).await.is_empty() {
                continue;
            }
            let records = self
                .store
                .transactions()
                .claim(self.me, Claim::One(tx_id, self.me, version))
                .await?;
            adopted += records.len();
            self.engine.adopt(records).await;
        }
        Ok(adopted)
    }

    /// Scans for as long as the process lives, and whenever it is wanted.
    pub(crate) async fn run(self, wanted: Arc<Notify>, status: Arc<Status>) {
        loop {
            match self.adopt_all().await {
                Ok(adopted) => {
                    status.adopted();
                    if adopted > 0 {
                        tracing::info!(adopted, "adopted transactions");
                    }
                }
                Err(error) => tracing::warn!(%error, "adoption has to wait"),
            }
            tokio::select! {
                () = tokio::time::sleep(RESCAN_INTERVAL) => {}
                () = wanted.notified() => {}
            }
        }
    }
}
