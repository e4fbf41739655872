//! Adoption: this incarnation makes transactions its own, and brings them to memory.
//!
//! They are those that fenced incarnations left, and those of its own that it lost sight of: claims
//! whose answer was lost, and rows that somebody else had changed. Fencing commits alone; adoption
//! follows in later statements, so it sees everything that the fenced one ever wrote. A scan goes in
//! chunks, leaves what is locked to the next scan, and is repeated as long as the process lives.
//!
//! One claim is made at a time, and what it brought is in memory before the next look whether a
//! transaction is. Two claims of one transaction at once would both be of this incarnation: the first
//! one's life would go on with a version that the second has written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{MutexGuard, Notify, oneshot};
use unanimo_core::{Incarnation, ParticipantName, Record, Timestamp, TxId, Version};

use super::message::{ClaimedOne, Message};
use super::{Error, Handle};
use crate::store::{self, Asleep, Claim, Claimed, Unreadable};

/// Transactions in one claim. A claim holds its rows' locks for its own time only.
const CHUNK: u32 = 256;

/// Transactions of which the claim may fail before a scan gives up.
const FAILURES_MAX: usize = 16;

/// Scans in a row in which the claim of a transaction fails until it is set aside. Fewer may be a passing state of
/// the database.
const CLAIMS_UNTIL_ASIDE: u32 = 3;

/// Between scans when nothing is known to be missing.
const RESCAN_INTERVAL: Duration = Duration::from_secs(5);

/// The scans. They end with the process.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Handle,
    wanted: Arc<Notify>,
}

impl Service {
    /// Makes an adopter for this engine. `wanted` asks for a scan before its time.
    pub(crate) fn new(engine: Handle, wanted: Arc<Notify>) -> Self {
        Self { engine, wanted }
    }

    /// Scans for as long as the process lives, and whenever it is wanted.
    pub(crate) async fn run(self) {
        loop {
            // A claim that waits for a standby would wait for it at the server after it was given up here.
            self.engine.shared.lease.held().await;
            match self.engine.adopt_all().await {
                Ok(adopted) => {
                    self.engine.shared.has_adopted.store(true, Ordering::Relaxed);
                    if adopted > 0 {
                        tracing::info!(adopted, "adopted transactions");
                    }
                }
                Err(error) => {
                    let error = store::in_full(&error);
                    tracing::warn!(
                        error,
                        "failed to adopt transactions; the next scan tries again"
                    );
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RESCAN_INTERVAL) => {}
                () = self.wanted.notified() => {}
            }
        }
    }
}

/// Transactions that were woken for a participant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Woken {
    pub(super) count: usize,
    /// The last of them.
    pub(super) last: Option<TxId>,
}

/// The turn to claim.
pub(super) struct Turn<'a>(#[expect(dead_code, reason = "held until dropped")] MutexGuard<'a, ()>);

impl Handle {
    /// Tells whether everything that earlier incarnations left was adopted once, and it is known for whom those wait
    /// that sleep.
    pub(crate) fn has_adopted(&self) -> bool {
        let shared = &self.shared;
        shared.has_adopted.load(Ordering::Relaxed) && shared.knows_waits.load(Ordering::Relaxed)
    }

    /// Adopts everything that there is to adopt now.
    async fn adopt_all(&self) -> Result<usize, store::Error> {
        let mut adopted = 0;
        loop {
            // What a chunk has made this incarnation's own before it failed is found one by one.
            let failed = self.adopt_fenced(&mut adopted).await.err();
            let singly = self.adopt_own().await?;
            adopted += singly;
            match failed {
                None => return Ok(adopted),
                Some(error) if !error.is_of_rows() || singly == 0 => return Err(error),
                Some(_) => {}
            }
        }
    }

    /// Adopts what fenced incarnations left, chunk by chunk.
    async fn adopt_fenced(&self, adopted: &mut usize) -> Result<(), store::Error> {
        let (store, me) = (&self.shared.store, self.shared.me);
        loop {
            let _turn = self.turn_to_claim().await;
            let generation = store.generation();
            let claimed = store.transactions().claim(me, Claim::OfFenced(CHUNK)).await?;
            if claimed == Claimed::default() {
                return Ok(());
            }
            crash_point!("adoption-after-claim");
            self.set_aside(&claimed.unreadable).await;
            *adopted += claimed.records.len();
            self.bring_to_memory(claimed.records, generation).await;
        }
    }

    /// Adopts what is this incarnation's own and not in memory, one by one: each that fails harms itself alone.
    async fn adopt_own(&self) -> Result<usize, store::Error> {
        let (store, me) = (&self.shared.store, self.shared.me);
        let owned = store.transactions().open_of(me).await?;
        let (mut adopted, mut failures) = (0, Vec::new());
        for (tx_id, version) in self.not_live(owned).await {
            let turn = self.turn_to_claim().await;
            match self.claim(&turn, tx_id, me, version).await {
                Ok(Some(ClaimedOne { record, generation })) => {
                    adopted += 1;
                    self.bring_to_memory(vec![record], generation).await;
                }
                Ok(None) | Err(store::Error::Unreadable(_)) => {}
                Err(error) if error.is_of_rows() => self.set_aside_failed(tx_id, &error).await,
                Err(error) => {
                    failures.push((tx_id, error));
                    if failures.len() >= FAILURES_MAX {
                        break;
                    }
                }
            }
        }
        self.judge(failures).await?;
        Ok(adopted)
    }

    /// Judges failed claims. Where many fail, or the database does not answer at all, it is the database. Else it
    /// is the rows; one that fails again and again is set aside.
    async fn judge(&self, mut failures: Vec<(TxId, store::Error)>) -> Result<(), store::Error> {
        let failed: Vec<TxId> = failures.iter().map(|(tx_id, _)| *tx_id).collect();
        let mut claims = self.shared.failed_claims.lock().await;
        claims.retain(|tx_id, _| failed.contains(tx_id));
        if failures.len() >= FAILURES_MAX
            && let Some((_, last)) = failures.pop()
        {
            return Err(last);
        }
        if failures.is_empty() {
            return Ok(());
        }
        self.shared.store.transactions().open_of(self.shared.me).await?;
        for (tx_id, error) in failures {
            let count = claims.entry(tx_id).or_default();
            *count += 1;
            let problem = store::in_full(&error);
            tracing::warn!(%tx_id, error = problem, "failed to adopt a transaction; the next scan tries again");
            if *count >= CLAIMS_UNTIL_ASIDE {
                claims.remove(&tx_id);
                self.set_aside_failed(tx_id, &error).await;
            }
        }
        Ok(())
    }

    /// Sets a transaction aside of which nothing but an error is known.
    async fn set_aside_failed(&self, tx_id: TxId, error: &store::Error) {
        let (gid, problem) = (String::new(), store::in_full(error));
        self.set_aside(&[Unreadable { tx_id, gid, problem }]).await;
    }

    /// Brings transactions to memory that sleep until this time or shorter, and counts them.
    pub(super) async fn adopt_due(
        &self,
        until: Timestamp,
        limit: usize,
    ) -> Result<usize, store::Error> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let _turn = self.turn_to_claim().await;
        let generation = self.shared.store.generation();
        let claim = Claim::Due { until, limit };
        let claimed = self.shared.store.transactions().claim(self.shared.me, claim).await?;
        self.set_aside(&claimed.unreadable).await;
        let count = claimed.records.len() + claimed.unreadable.len();
        if !claimed.records.is_empty() {
            crash_point!("adoption-after-claim");
            self.bring_to_memory(claimed.records, generation).await;
        }
        Ok(count)
    }

    /// Brings transactions to memory that sleep and wait for this participant, at most so many.
    pub(super) async fn wake_for(
        &self,
        participant: &ParticipantName,
        mut asleep: Asleep,
        limit: usize,
    ) -> Result<Woken, store::Error> {
        let (waits, me) = (self.shared.store.waits(), self.shared.me);
        loop {
            let _turn = self.turn_to_claim().await;
            let found = waits.of(me, participant, asleep, CHUNK).await?;
            let Some(last) = found.last().copied() else { return Ok(Woken::default()) };
            let named = found.into_iter().map(|tx_id| (tx_id, Version::default())).collect();
            let absent = self.not_live(named).await.into_iter().map(|(tx_id, _)| tx_id);
            let chosen: Vec<TxId> = absent.take(limit).collect();
            let Some(chosen_last) = chosen.last().copied() else {
                // They are about to leave memory, or are followed.
                match &mut asleep {
                    Asleep::After(after) => *after = Some(last),
                    Asleep::Due(_) => return Ok(Woken::default()),
                }
                continue;
            };
            let generation = self.shared.store.generation();
            let woken = waits.wake(me, chosen).await?;
            self.set_aside(&woken.unreadable).await;
            let count = woken.records.len() + woken.unreadable.len();
            if !woken.records.is_empty() {
                crash_point!("adoption-after-claim");
                self.bring_back(woken.records, generation, true).await;
            }
            return Ok(Woken { count, last: Some(chosen_last) });
        }
    }

    /// Adopts one transaction, unless it is in memory here by then, or was changed meanwhile.
    pub(super) async fn adopt_one(
        &self,
        tx_id: TxId,
        owner: Incarnation,
        version: Version,
    ) -> Result<(), Error> {
        let this = self.clone();
        // In a task of its own: what is claimed must reach the engine, whoever goes away.
        let adopting = tokio::spawn(async move {
            let turn = this.turn_to_claim().await;
            if let Some(claimed) = this.claim(&turn, tx_id, owner, version).await? {
                this.bring_to_memory(vec![claimed.record], claimed.generation).await;
            }
            Ok::<(), Error>(())
        });
        adopting.await.unwrap_or(Err(Error::Stopped))
    }

    /// Waits for the turn to claim. It ends when what was claimed is in memory, or when the message
    /// that brings it there has been sent.
    pub(super) async fn turn_to_claim(&self) -> Turn<'_> {
        Turn(self.shared.claiming.lock().await)
    }

    /// Makes a transaction this incarnation's own, if it is not in memory here after all.
    pub(super) async fn claim(
        &self,
        _turn: &Turn<'_>,
        tx_id: TxId,
        owner: Incarnation,
        version: Version,
    ) -> Result<Option<ClaimedOne>, store::Error> {
        if self.not_live(vec![(tx_id, version)]).await.is_empty() {
            return Ok(None);
        }
        let generation = self.shared.store.generation();
        let claim = Claim::One(tx_id, owner, version);
        let mut claimed = self.shared.store.transactions().claim(self.shared.me, claim).await?;
        self.set_aside(&claimed.unreadable).await;
        match claimed.unreadable.pop() {
            Some(unreadable) => Err(store::Error::Unreadable(Box::new(unreadable))),
            None => Ok(claimed.records.pop().map(|record| ClaimedOne { record, generation })),
        }
    }

    /// Brings transactions to memory that this incarnation has durably made its own.
    async fn bring_to_memory(&self, records: Vec<Record>, generation: Option<u64>) {
        self.bring_back(records, generation, false).await;
    }

    /// The same; `woken` of those that have waited for a participant.
    async fn bring_back(&self, records: Vec<Record>, generation: Option<u64>, woken: bool) {
        let (done, brought) = oneshot::channel();
        if self.send(Message::Adopt { records, generation, woken, done }).is_ok() {
            // The engine may end meanwhile.
            let _ = brought.await;
        }
    }

    /// Returns those of `transactions` that are not in memory.
    pub(crate) async fn not_live(
        &self,
        transactions: Vec<(TxId, Version)>,
    ) -> Vec<(TxId, Version)> {
        let (reply, receiver) = oneshot::channel();
        match self.send(Message::NotLive { transactions, reply }) {
            Ok(()) => receiver.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}
