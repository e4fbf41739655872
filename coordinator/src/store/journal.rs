//! The group-committing journal: transitions of many transactions in one database commit.
//!
//! Whoever has a transition hands it over with [`Handle::submit`] and goes on; the next batch gathers
//! while the last one is being flushed. Its result is a [`Completion`], in order for
//! each transaction. No caller holds a database future, so none can cancel one.
//!
//! Three lanes, each with a connection of its own, share one queue. The fast lane writes large batches. What it meets locked,
//! or cannot write in time, it leaves to the slow lane, whose batches begin with one row, double with each success and are
//! halved at a lock. What meets something by itself goes alone, in the third lane: so no lane waits for a row again and
//! again, and one row delays only itself.

mod lane;
mod queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use unanimo_core::{Incarnation, Transition, TxId, Version};
use uuid::Uuid;

use self::lane::Lane;
use self::queue::{Line, Queue};
use super::{Earlier, GidHolder, Life, Store};

/// Transactions in one batch. At this size the flush costs a few microseconds a row; larger ones
/// only make the next batch wait.
pub const BATCH_ROWS_MAX: usize = 1024;

/// Bytes in one batch: payloads dominate, and a server takes messages of up to 1 GB.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Result of a transition that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The transaction.
    pub tx_id: TxId,
    /// The life whose transition it was. After a result that is not [`Ended::Durable`] nothing that this
    /// life hands over is written, until [`Handle::forget`].
    pub life: Life,
    /// Fate of the transition.
    pub ended: Ended,
    /// [Generation](Store::generation) of the server that said so. One that was promoted since may lack it.
    pub generation: Option<u64>,
    /// The flush that made it durable; `None` if nothing did.
    pub flush: Option<Flush>,
}

/// A flush of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Its number in this incarnation.
    pub number: u64,
    /// Transactions of the batch.
    pub rows: usize,
    /// When it began.
    pub started: Instant,
    /// Time that it took.
    pub took: Duration,
}

/// Fate of a transition that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Durable up to and including this version.
    Durable(Version),
    /// The transaction was not begun: its gid belongs to another one. Nothing of it is stored.
    GidHeld(GidHolder),
    /// The row is not as it was left. Nothing that was handed over for it since is stored.
    Lost,
    /// The row is as it was at an earlier time. Nothing that was handed over for it since is stored: another life
    /// of it is to be written [again](Handle::submit_again).
    WentBack(Earlier),
    /// The database refuses the row. Nothing that was handed over for it since is stored.
    Refused(String),
}

/// Cause of the journal's end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The incarnation may not write any more.
    #[error("incarnation {0} is fenced")]
    Fenced(Incarnation),
    /// The database is in another place than the one that was opened.
    #[error("{0}")]
    Elsewhere(String),
    /// The last batch is indeterminate, and only a restart can tell.
    #[error("{0}")]
    Fatal(String),
}

/// Extent of what is known of an incarnation's writes. Their identifiers grow in the order in which they were handed
/// over, which is not the order in which they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Of each write before this one it is known whether it was made, and what was made can be seen,
    pub until: Uuid,
    /// but for these.
    pub open: Vec<Uuid>,
}

/// Observer of the journal's work.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// A batch is durable.
    fn flushed(&self, rows: usize, took: Duration);
    /// The database is answering, or is not.
    fn connected(&self, connected: bool);
}

/// Handle to hand transitions over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: Arc<Queue>,
}

impl Handle {
    /// Takes a transition of a life. It is folded into what waits for the same transaction. The queue
    /// holds at most one waiting write a live transaction, and those are counted at admission.
    ///
    /// A life of which a write was not made has lost its row: what it still hands over, before it hears
    /// of that, is dropped. By then the row may have the very version that such a write begins with.
    pub fn submit(&self, transition: Transition, write_id: Uuid, life: Life) {
        let base = Version(transition.version.0 - 1);
        self.queue.submit(transition, write_id, life, (base, None));
    }

    /// Takes the first transition of a life whose row is as it was at an earlier time: it makes up for everything
    /// since.
    pub fn submit_again(&self, transition: Transition, write_id: Uuid, life: Life, from: &Earlier) {
        let (owner, base) = from.row.unzip();
        self.queue.submit(transition, write_id, life, (base.unwrap_or_default(), owner));
    }

    /// Forgets a life that has lost its row: it hands nothing over any more.
    pub fn forget(&self, tx_id: TxId, life: Life) {
        self.queue.forget(tx_id, life);
    }

    /// Returns up to where it is known of each write what became of it, but for those, at most so many, that are open for
    /// longer than this. `None` before the first write.
    #[must_use]
    pub fn reach(&self, patience: Duration, open_max: usize) -> Option<Reach> {
        self.queue.reach(patience, open_max)
    }

    /// Counts the transactions that have something to be written.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.queue.backlog()
    }

    /// Returns why nothing of the last batch is written, in words that fit after "failed to"; nothing if
    /// it is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.queue.trouble()
    }

    /// Ends the journal once everything that was handed over is completed.
    pub fn close(&self) {
        self.queue.close();
    }
}

/// The journal itself: to be run.
#[derive(Debug)]
pub struct Service {
    lanes: [Lane; 3],
}

/// Makes a journal of this incarnation, and the stream of its transitions' results.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the journal keeps them")]
pub fn journal(
    store: Arc<dyn Store>,
    me: Incarnation,
    observer: Arc<dyn Observer>,
) -> (Handle, Service, mpsc::UnboundedReceiver<Vec<Completion>>) {
    let queue = Arc::new(Queue::default());
    // Bounded by the queue: a transaction has one result for each write.
    let (completed, results) = mpsc::unbounded_channel();
    let lane = |line| {
        let (store, queue) = (Arc::clone(&store), Arc::clone(&queue));
        Lane::new(store, queue, me, line, completed.clone(), Arc::clone(&observer))
    };
    let service = Service { lanes: [Line::Fast, Line::Slow, Line::Alone].map(lane) };
    (Handle { queue }, service, results)
}

impl Service {
    /// Runs until the journal is closed and drained, or must end.
    ///
    /// # Errors
    /// The incarnation is fenced, or the process must restart.
    pub async fn run(self) -> Result<(), Error> {
        let [fast, slow, alone] = self.lanes.map(Lane::run);
        tokio::try_join!(fast, slow, alone).map(|_| ())
    }
}
