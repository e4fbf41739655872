//! The writer of the audit.
//!
//! Entries that it wrote last are remembered until the database has said that they are there, and for some time after that.
//! If an answer was lost, the same entries are sent again before any others, with the same hashes, so none is there
//! twice; and entries that a failover has lost are written again as they were.

mod adding;
mod end;
#[cfg(test)]
pub(crate) mod kept;
mod purge;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use unanimo_core::Incarnation;

use self::end::End;
use super::denials::Denials;
use super::entry::{Entry, Kind};
use crate::env::Env;
use crate::metrics::Metrics;
use crate::store::{self, AuditLink, Store, in_full};

/// Most acts at once. Each waits for its entries.
pub(crate) const ACTS_MAX: u32 = 256;

/// Most entries that wait to be written without an act that waits for them. Files change once a second at most.
const WAITING_MAX: usize = 1024;

/// Most of these in one write.
const BATCH_MAX: usize = 256;

/// Pause between two looks at what waits.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time for which a stop waits for acts that are under way.
const LAST_ACTS: Duration = Duration::from_secs(1);

/// Failure to write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritten {
    /// It is not written.
    #[error("{}", in_full(.0))]
    No(store::Error),
    /// Nobody knows; it will be, before any other entry.
    #[error("{}", in_full(.0))]
    Later(store::Error),
    /// It is not written, because the call's time was over before its turn came, or when it was written.
    #[error("write the audit within the time of the call")]
    Late,
}

/// Writer of the audit. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Trail(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    env: Arc<dyn Env>,
    metrics: Arc<Metrics>,
    me: Incarnation,
    /// The end of the chain, as this writer has left it. Whoever writes holds it: so entries are in one order.
    end: tokio::sync::Mutex<End>,
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// Places of acts.
    acts: Arc<Semaphore>,
    /// Held by the task that writes what waits.
    running: tokio::sync::Mutex<()>,
    is_stopping: AtomicBool,
    stop: Notify,
    /// The chain was found to be another one than was written.
    is_tampered: AtomicBool,
    /// Number of the entry of a time to come of which the log has told.
    told_ahead: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    denials: Denials,
    entries: VecDeque<Entry>,
    /// Entries that are written only if the chain has others.
    besides: Vec<Entry>,
    /// Something is to be written again.
    is_open: bool,
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trail").field(&self.0.me).finish()
    }
}

impl Trail {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        env: Arc<dyn Env>,
        metrics: Arc<Metrics>,
        me: Incarnation,
    ) -> Self {
        let acts = Arc::new(Semaphore::new(ACTS_MAX as usize));
        let (end, waiting, wake, running) = Default::default();
        let (is_stopping, stop, is_tampered, told_ahead) = Default::default();
        Self(Arc::new(Shared {
            store,
            env,
            metrics,
            me,
            end,
            waiting,
            wake,
            acts,
            running,
            is_stopping,
            stop,
            is_tampered,
            told_ahead,
        }))
    }

    /// Takes the place of an act, for as long as it is under way; `None` if there are as many as may be.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.acts).try_acquire_owned().ok()
    }

    /// Enters an act, and returns the entry's number once it is durable. If it turns out later that it is, though this
    /// has failed, `otherwise` is entered as its outcome.
    ///
    /// # Errors
    /// It was not entered, or nobody knows; or its turn does not come by this time.
    pub(crate) async fn ask(
        &self,
        asked: Entry,
        otherwise: Entry,
        by: Instant,
    ) -> Result<u64, Unwritten> {
        let Ok(mut end) = tokio::time::timeout_at(by, self.0.end.lock()).await else {
            self.0.metrics.audit_failed();
            return Err(Unwritten::Late);
        };
        self.add(&mut end, &[asked], None, Some(otherwise)).await
    }

    /// Enters the outcome of an act. If that fails, it is entered later.
    ///
    /// # Errors
    /// It was not entered yet, or nobody knows.
    pub(crate) async fn answer(&self, answered: Entry) -> Result<(), store::Error> {
        let mut end = self.0.end.lock().await;
        match self.add(&mut end, std::slice::from_ref(&answered), None, None).await {
            Ok(_) | Err(Unwritten::Late) => Ok(()),
            Err(Unwritten::No(error)) => {
                self.later(answered);
                Err(error)
            }
            Err(Unwritten::Later(error)) => Err(error),
        }
    }

    /// Notes a denied call. It is written later, and delays nobody.
    pub(crate) fn denied(&self, entry: Entry) {
        if self.waiting().denials.note(entry, Instant::now()) {
            self.0.wake.notify_one();
        }
    }

    /// Notes an entry that is to be written as soon as it can be.
    pub(crate) fn later(&self, entry: Entry) {
        let mut waiting = self.waiting();
        if waiting.entries.len() >= WAITING_MAX {
            self.0.metrics.audit_failed();
            tracing::error!(reason = entry.reason, "an entry of the audit is lost: too many wait");
            return;
        }
        waiting.entries.push_back(entry);
        self.0.wake.notify_one();
    }

    /// Notes an entry that is to be written if the chain has others.
    pub(crate) fn besides(&self, entry: Entry) {
        self.waiting().besides.push(entry);
        self.0.wake.notify_one();
    }

    /// Writes what waits, until the stop.
    pub(crate) async fn run(self) {
        let _running = self.0.running.lock().await;
        while !self.0.is_stopping.load(Ordering::SeqCst) {
            if self.is_idle() {
                self.0.wake.notified().await;
            } else {
                let _ = tokio::time::timeout(LOOK_INTERVAL, self.0.wake.notified()).await;
            }
            if self.flush(false).await.is_err() {
                let _ = tokio::time::timeout(LOOK_INTERVAL, self.0.stop.notified()).await;
            }
        }
    }

    /// Lets acts that are under way end, and allows no more; then ends the task that writes what waits. It does not
    /// wait for long: what is left goes on, or is written by [`Self::finish`].
    pub(crate) async fn stop(&self) {
        let all = self.0.acts.acquire_many(ACTS_MAX);
        match tokio::time::timeout(LAST_ACTS, all).await {
            Ok(Ok(all)) => all.forget(),
            _ => self.0.acts.close(),
        }
        self.0.is_stopping.store(true, Ordering::SeqCst);
        self.0.wake.notify_one();
        self.0.stop.notify_one();
        let _ = tokio::time::timeout(LAST_ACTS, self.0.running.lock()).await;
    }

    /// Writes all that waits, and what was counted; and what the database has lost by now.
    pub(crate) async fn finish(&self) {
        self.0.end.lock().await.doubt();
        let _ = self.flush(true).await;
    }

    /// Writes what waits until nothing does; with denied calls that are not due yet, if all are to be written.
    async fn flush(&self, all: bool) -> Result<(), ()> {
        loop {
            let mut end = self.0.end.lock().await;
            let last = match self.whole(&mut end).await {
                Ok(last) => last,
                Err(error) => {
                    self.tell_failed(&Unwritten::No(error));
                    return Err(());
                }
            };
            // From here to where the end remembers them nothing waits, so nothing is lost if this is dropped.
            let entries = self.take(&last, all);
            if entries.is_empty() {
                return Ok(());
            }
            match self.add(&mut end, &entries, None, None).await {
                Ok(_) => {}
                Err(Unwritten::Later(_)) => return Err(()),
                Err(Unwritten::No(_) | Unwritten::Late) => {
                    self.put_back(entries);
                    return Err(());
                }
            }
        }
    }

    /// Takes what is to be written next.
    fn take(&self, last: &AuditLink, all: bool) -> Vec<Entry> {
        let mut waiting = self.waiting();
        let besides = std::mem::take(&mut waiting.besides);
        if last.number > 0 {
            waiting.entries.extend(besides);
        }
        if waiting.entries.is_empty() {
            let now = Instant::now();
            return match all {
                true => waiting.denials.all(now),
                false => waiting.denials.due(now),
            };
        }
        let take = waiting.entries.len().min(BATCH_MAX);
        waiting.entries.drain(..take).collect()
    }

    fn put_back(&self, entries: Vec<Entry>) {
        let (denied, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.kind == Kind::Denied);
        let mut waiting = self.waiting();
        waiting.denials.put_back(denied, Instant::now());
        others.into_iter().rev().for_each(|entry| waiting.entries.push_front(entry));
    }

    fn is_idle(&self) -> bool {
        let waiting = self.waiting();
        waiting.entries.is_empty()
            && waiting.denials.is_empty()
            && waiting.besides.is_empty()
            && !waiting.is_open
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
