//! Store of tests whose audit is in memory, and does what a database may do: hang, lose an answer, go back.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use unanimo_core::Incarnation;

use crate::store::{
    self, Audit, AuditEnds, AuditLink, AuditRange, AuditRow, BatchWriter, Endpoints, Error, Feed,
    Incarnations, Locks, PostgresOptions, Purge, Store, Transactions, Waits, Webhooks,
};

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    store: Arc<dyn Store>,
    of: Arc<Of>,
    pub(crate) me: Incarnation,
    _folder: Arc<tempfile::TempDir>,
}

#[derive(Debug)]
struct Of {
    chain: Mutex<Chain>,
    hangs: watch::Sender<bool>,
    /// Number of the next answers to writes that are lost.
    lost: AtomicU32,
    /// Those writes are not done, either.
    undone: AtomicU32,
    /// Most entries that each read of a part asked for.
    limits: Mutex<Vec<u32>>,
    /// Number of the last entry that another incarnation purges before the next read of a part.
    purges: Mutex<Option<u64>>,
}

#[derive(Debug)]
struct Chain {
    rows: Vec<AuditRow>,
    ends: AuditEnds,
}

impl Kept {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("c.db").display());
        let store = store::open(&url, &PostgresOptions::default()).await.expect("a store");
        let lease = Duration::from_secs(60);
        let me = store.incarnations().create("one", 0, lease).await.expect("a store");
        let me = me.expect("nobody else is created");
        let none = AuditLink { number: 0, hash: vec![0; 32] };
        let ends = AuditEnds { purged: none.clone(), last: none };
        let chain = Mutex::new(Chain { rows: Vec::new(), ends });
        let (hangs, _) = watch::channel(false);
        let of = Of {
            chain,
            hangs,
            lost: AtomicU32::new(0),
            undone: AtomicU32::new(0),
            limits: Mutex::default(),
            purges: Mutex::default(),
        };
        Self { store, of: Arc::new(of), me, _folder: Arc::new(folder) }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.clone())
    }

    /// Has each request for the audit wait, or lets them go on.
    pub(crate) fn hang(&self, hangs: bool) {
        self.of.hangs.send_replace(hangs);
    }

    /// Loses the answers to the next writes, of which those at the end are not done.
    pub(crate) fn lose(&self, answers: u32, undone: u32) {
        self.of.lost.store(answers, Ordering::SeqCst);
        self.of.undone.store(undone, Ordering::SeqCst);
    }

    /// Goes back to where this entry was the last one.
    pub(crate) fn go_back(&self, number: u64) {
        let mut chain = self.chain();
        chain.rows.retain(|row| row.link.number <= number);
        chain.ends.last = chain.rows.last().expect("an entry").link.clone();
    }

    /// Has another incarnation purge entries up to this one before the next read of a part.
    pub(crate) fn purge_at_next_read(&self, number: u64) {
        *self.of.purges.lock().unwrap_or_else(PoisonError::into_inner) = Some(number);
    }

    fn purge(&self) {
        let purged = self.of.purges.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut chain = self.chain();
        let row = chain.rows.iter().find(|row| Some(row.link.number) == purged).cloned();
        if let Some(row) = row {
            chain.rows.retain(|other| other.link.number > row.link.number);
            chain.ends.purged = row.link;
        }
    }

    /// Returns all entries.
    pub(crate) fn rows(&self) -> Vec<AuditRow> {
        self.chain().rows.clone()
    }

    /// Takes how many entries each read of a part asked for.
    pub(crate) fn limits(&self) -> Vec<u32> {
        std::mem::take(&mut *self.of.limits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.of.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answers(&self) {
        let _ = self.of.hangs.subscribe().wait_for(|hangs| !hangs).await;
    }
}

fn take(of: &AtomicU32) -> Option<u32> {
    of.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).ok()
}

#[async_trait]
impl Audit for Kept {
    async fn ends(&self) -> Result<AuditEnds, Error> {
        self.answers().await;
        Ok(self.chain().ends.clone())
    }

    async fn append(
        &self,
        _: Incarnation,
        follows: AuditLink,
        entries: Vec<AuditRow>,
        purged: Option<AuditLink>,
    ) -> Result<bool, Error> {
        self.answers().await;
        let lost = take(&self.of.lost);
        let is_undone = lost.is_some_and(|left| left <= self.of.undone.load(Ordering::SeqCst));
        let mut chain = self.chain();
        let is_further = |link: &AuditLink| link.number > chain.ends.purged.number;
        let is_next = chain.ends.last == follows && purged.as_ref().is_none_or(is_further);
        if is_next && !is_undone {
            chain.ends.last = entries.last().map_or(follows, |row| row.link.clone());
            chain.rows.extend(entries);
            if let Some(purged) = purged {
                chain.rows.retain(|row| row.link.number > purged.number);
                chain.ends.purged = purged;
            }
        }
        match lost {
            Some(_) => Err(Error::Url("the answer was lost".to_owned())),
            None => Ok(is_next),
        }
    }

    async fn page(&self, range: AuditRange, limit: u32) -> Result<Vec<AuditRow>, Error> {
        self.answers().await;
        self.of.limits.lock().unwrap_or_else(PoisonError::into_inner).push(limit);
        self.purge();
        let chain = self.chain();
        let AuditRange::After(number) = range else { return Ok(Vec::new()) };
        let rows = chain.rows.iter().filter(|row| row.link.number > number);
        Ok(rows.take(limit as usize).cloned().collect())
    }
}

#[async_trait]
impl Store for Kept {
    fn cluster_id(&self) -> &str {
        self.store.cluster_id()
    }
    fn incarnations(&self) -> &dyn Incarnations {
        self.store.incarnations()
    }
    fn transactions(&self) -> &dyn Transactions {
        self.store.transactions()
    }
    fn waits(&self) -> &dyn Waits {
        self.store.waits()
    }
    fn locks(&self) -> &dyn Locks {
        self.store.locks()
    }
    fn endpoints(&self) -> &dyn Endpoints {
        self.store.endpoints()
    }
    fn audit(&self) -> &dyn Audit {
        self
    }
    fn feed(&self) -> &dyn Feed {
        self.store.feed()
    }
    fn webhooks(&self) -> &dyn Webhooks {
        self.store.webhooks()
    }
    fn purge(&self) -> &dyn Purge {
        self.store.purge()
    }
    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        self.store.batch_writer(me).await
    }
    async fn close(&self) {
        self.store.close().await;
    }
}
