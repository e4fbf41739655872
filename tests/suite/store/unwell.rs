//! Store whose batches end as a test wants it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use unanimo_coordinator::store::{
    Audit, BatchError, BatchWriter, Endpoints, Error, Feed, Incarnations, Locks, Purge, Store,
    Transactions, Waits, Webhooks, Write, Written,
};
use unanimo_core::Incarnation;

/// End of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As the store has it.
    Well,
    /// Its answer is lost, and it is not written.
    Lost,
    /// Its answer is lost, and it is written.
    WrittenAndLost,
    /// It takes too long, and is not written. It is told at once.
    TimedOut,
    /// The same, and it is told after [`TAKES_LONG`].
    TakesLong,
    /// A lock is not had in time.
    Locked,
    /// The server takes no more.
    TooMuch,
    /// A page is damaged.
    Damaged,
    /// The server fails, and no row is to blame.
    Failed,
}

/// Time that a batch takes which takes too long.
pub(crate) const TAKES_LONG: Duration = Duration::from_secs(2);

/// Chooses the end of a batch, whose number counts from 0.
type Plan = dyn Fn(u32, &[Write]) -> End + Send + Sync;

/// The store.
pub(crate) struct Unwell {
    store: Arc<dyn Store>,
    plan: Arc<Plan>,
    count: Arc<AtomicU32>,
    opened: AtomicU32,
    opened_max: AtomicU32,
}

impl Unwell {
    pub(crate) fn new(
        store: &Arc<dyn Store>,
        plan: impl Fn(u32, &[Write]) -> End + Send + Sync + 'static,
    ) -> Arc<Self> {
        let count = Arc::default();
        let (opened, opened_max) = (AtomicU32::new(0), AtomicU32::new(u32::MAX));
        Arc::new(Self { store: Arc::clone(store), plan: Arc::new(plan), count, opened, opened_max })
    }

    /// Counts the connections that were opened.
    pub(crate) fn opened(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Lets so many be opened in all.
    pub(crate) fn allow(&self, connections: u32) {
        self.opened_max.store(connections, Ordering::Relaxed);
    }

    /// Counts the batches.
    pub(crate) fn batches(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unwell").finish_non_exhaustive()
    }
}

struct Writer {
    writer: Box<dyn BatchWriter>,
    plan: Arc<Plan>,
    count: Arc<AtomicU32>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

fn too_much() -> BatchError {
    BatchError::TooMuch("it is too much".into())
}

fn timed_out() -> BatchError {
    BatchError::TimedOut("it took too long".into())
}

fn lost() -> BatchError {
    BatchError::Indeterminate("the answer was lost".into())
}

#[async_trait]
impl BatchWriter for Writer {
    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        match (self.plan)(self.count.fetch_add(1, Ordering::Relaxed), batch) {
            End::Well => self.writer.write(batch).await,
            End::Lost => Err(lost()),
            End::WrittenAndLost => {
                self.writer.write(batch).await?;
                Err(lost())
            }
            End::TimedOut => Err(timed_out()),
            End::TakesLong => {
                tokio::time::sleep(TAKES_LONG).await;
                Err(timed_out())
            }
            End::Locked => Err(BatchError::LockTimeout("it is locked".into())),
            End::Failed => Err(BatchError::Failed("out of memory".into())),
            End::TooMuch => Err(too_much()),
            End::Damaged => Err(BatchError::Damaged("a page is damaged".into())),
        }
    }

    async fn can_read(&mut self, write: &Write) -> Result<bool, BatchError> {
        self.writer.can_read(write).await
    }

    /// Ends as an empty batch would.
    async fn write_own(&mut self) -> Result<(), BatchError> {
        match (self.plan)(self.count.load(Ordering::Relaxed), &[]) {
            End::Well => self.writer.write_own().await,
            End::TooMuch => Err(too_much()),
            _ => Err(lost()),
        }
    }
}

#[async_trait]
impl Store for Unwell {
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
        self.store.audit()
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
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        if number >= self.opened_max.load(Ordering::Relaxed) {
            self.opened.fetch_sub(1, Ordering::Relaxed);
            let cause = std::io::Error::other("no connection is left");
            return Err(Error::Database { doing: "connect", source: sqlx::Error::Io(cause) });
        }
        let writer = self.store.batch_writer(me).await?;
        let (plan, count) = (Arc::clone(&self.plan), Arc::clone(&self.count));
        Ok(Box::new(Writer { writer, plan, count }))
    }
    async fn close(&self) {
        self.store.close().await;
    }
}
