//! Quotas: how much each identity may have open at once.
//!
//! Counts what is open for the identity that began it, from before its first write until its end is durable, wherever it
//! is. What is in memory is counted here. What sleeps is counted by its rows, which say whose it is, now and then;
//! what has just fallen asleep is counted here until such a count has seen it. So one that wakes may count twice for a moment,
//! and none is ever left out.
//!
//! After a start nothing new is let in for an identity with a quota until earlier incarnations' transactions are in memory, and
//! those that sleep are counted. What has begun is never refused: children, adoption and the calls that end a transaction
//! only add to the count.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use unanimo_core::TxId;
use unanimo_core::ids::NAMESPACE_END;
use uuid::Uuid;

use super::{Error, Handle};
use crate::alarm::QUOTAS_NOT_COUNTED;
use crate::identity::{Quota, Quotas};
use crate::store::{self, AsleepOf};

/// Between two counts of what sleeps.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The same while nothing new is let in, or what woke counts twice.
const FIRST_INTERVAL: Duration = Duration::from_millis(50);

/// Part of the time that the counts may take: with a million that sleep one takes a while.
const COUNT_PART: u32 = 20;

/// Time without a count after which somebody has to look.
const UNCOUNTED_MAX: Duration = Duration::from_secs(60);

/// An identity would have more open than it may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// Transactions.
    #[error("{open} transactions of {} are open, and the quota is {max}", named(.identity))]
    Transactions {
        /// Its name; empty without one.
        identity: String,
        /// Those that are open.
        open: usize,
        /// The quota.
        max: usize,
    },
    /// Bytes of their payloads, outputs, metadata and texts.
    #[error("open transactions of {} hold {open} bytes, and with {more} more they would hold more than the quota of {max}", named(.identity))]
    Bytes {
        /// Its name; empty without one.
        identity: String,
        /// Those that are held.
        open: usize,
        /// Those of the request.
        more: usize,
        /// The quota.
        max: usize,
    },
}

impl OverQuota {
    /// Returns the name of the quota, as the file of identities has it.
    pub(crate) fn quota(&self) -> &'static str {
        match self {
            Self::Transactions { .. } => "open-transactions",
            Self::Bytes { .. } => "open-bytes",
        }
    }

    /// Returns what is open, and the quota.
    pub(crate) fn numbers(&self) -> (usize, usize) {
        match *self {
            Self::Transactions { open, max, .. } | Self::Bytes { open, max, .. } => (open, max),
        }
    }

    /// Returns the name of the metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Transactions { .. } => "quota_transactions",
            Self::Bytes { .. } => "quota_bytes",
        }
    }
}

impl From<OverQuota> for Error {
    fn from(over: OverQuota) -> Self {
        Self::OverQuota(Box::new(over))
    }
}

/// Returns words for an identity, by the name that it has in its namespace.
pub(super) fn named(identity: &str) -> String {
    match identity.rsplit_once(NAMESPACE_END).map_or(identity, |(_, local)| local) {
        "" => "callers without an identity".to_owned(),
        name => format!("identity {name}"),
    }
}

/// Amounts that one identity has open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    transactions: usize,
    bytes: usize,
}

impl Held {
    fn and(self, other: Self) -> Self {
        Self {
            transactions: self.transactions.saturating_add(other.transactions),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// In memory, and what has just fallen asleep.
    here: HashMap<Arc<str>, Held>,
    /// Asleep, by the last count.
    asleep: HashMap<String, Held>,
    /// Holdings of those that have fallen asleep since that began.
    falling: Vec<Holding>,
    /// Counts are made: somebody has a quota.
    counts: bool,
}

impl State {
    fn of(&self, identity: &str) -> Held {
        let here = self.here.get(identity).copied().unwrap_or_default();
        here.and(self.asleep.get(identity).copied().unwrap_or_default())
    }
}

/// The counts of what is open.
#[derive(Debug)]
pub(super) struct Counts {
    quotas: Quotas,
    state: Mutex<State>,
    /// Tells whether it is known what is open.
    known: watch::Sender<bool>,
    /// Something woke: it counts twice until its row is counted anew.
    woke: Notify,
}

/// Part of one transaction in the count of its identity; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Holding {
    counts: Arc<Counts>,
    identity: Arc<str>,
    bytes: usize,
}

impl Counts {
    pub(super) fn new(quotas: Quotas) -> Arc<Self> {
        let (known, woke) = (watch::Sender::new(false), Notify::new());
        Arc::new(Self { quotas, state: Mutex::default(), known, woke })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the most bytes that this identity may have open; zero is no bound.
    pub(super) fn bytes_max(&self, identity: &str) -> usize {
        self.quotas.of(identity).bytes
    }

    /// Counts a new transaction of this identity.
    ///
    /// # Errors
    /// It has as much open as it may have, or nobody knows yet.
    pub(super) fn admit(self: &Arc<Self>, identity: &str, bytes: usize) -> Result<Holding, Error> {
        let quota = self.quotas.of(identity);
        if quota.is_any() && !*self.known.borrow() {
            return Err(Error::NotCounted(identity.to_owned()));
        }
        let mut state = self.lock();
        check(identity, state.of(identity), quota, Held { transactions: 1, bytes })?;
        Ok(self.add(&mut state, identity, bytes))
    }

    /// Counts a transaction that must not be refused.
    pub(super) fn admit_always(self: &Arc<Self>, identity: &str, bytes: usize) -> Holding {
        self.add(&mut self.lock(), identity, bytes)
    }

    /// Counts one that has come to memory, or is awake there again: what sleeps is to be counted anew.
    pub(super) fn awake(self: &Arc<Self>, identity: &str, bytes: usize) -> Holding {
        self.woke.notify_one();
        self.admit_always(identity, bytes)
    }

    fn add(self: &Arc<Self>, state: &mut State, identity: &str, bytes: usize) -> Holding {
        let known = state.here.get_key_value(identity).map(|(name, _)| Arc::clone(name));
        let identity = known.unwrap_or_else(|| identity.into());
        let held = state.here.entry(Arc::clone(&identity)).or_default();
        *held = held.and(Held { transactions: 1, bytes });
        Holding { counts: Arc::clone(self), identity, bytes }
    }

    /// Counts what sleeps.
    async fn count(&self, store: &dyn store::Store) -> Result<(), store::Error> {
        let fallen = {
            let mut state = self.lock();
            state.counts = true;
            std::mem::take(&mut state.falling)
        };
        // The rows of all these say that they sleep.
        let counted = asleep(store).await;
        let mut state = self.lock();
        match counted {
            Ok(asleep) => state.asleep = asleep,
            Err(error) => {
                state.falling.extend(fallen);
                return Err(error);
            }
        }
        drop(state);
        drop(fallen);
        Ok(())
    }

    /// Forgets what was counted: nobody has a quota.
    fn stop(&self) {
        let former = {
            let mut state = self.lock();
            state.counts = false;
            state.asleep = HashMap::new();
            std::mem::take(&mut state.falling)
        };
        drop(former);
        self.known.send_replace(false);
    }
}

/// Counts what sleeps, page by page. One that wakes meanwhile is in memory, and one that falls asleep is kept until the
/// next count, so that none is left out.
async fn asleep(store: &dyn store::Store) -> Result<HashMap<String, Held>, store::Error> {
    let (mut counted, mut after) = (HashMap::new(), TxId(Uuid::nil()));
    loop {
        let page = store.transactions().asleep(after).await?;
        for (initiator, held) in page.counted.into_iter().map(of_row) {
            let sum: &mut Held = counted.entry(initiator).or_default();
            *sum = sum.and(held);
        }
        match page.last {
            Some(last) => after = last,
            None => return Ok(counted),
        }
    }
}

fn of_row(row: AsleepOf) -> (String, Held) {
    let number = |number: i64| usize::try_from(number).unwrap_or(0);
    (row.initiator, Held { transactions: number(row.transactions), bytes: number(row.bytes) })
}

/// Checks whether an identity that has so much open may have so much more.
fn check(identity: &str, open: Held, quota: Quota, more: Held) -> Result<(), OverQuota> {
    let (named, with) = (|| identity.to_owned(), open.and(more));
    let Quota { transactions, bytes } = quota;
    if more.transactions > 0 && transactions > 0 && with.transactions > transactions {
        let (identity, open, max) = (named(), open.transactions, transactions);
        return Err(OverQuota::Transactions { identity, open, max });
    }
    if more.bytes > 0 && bytes > 0 && with.bytes > bytes {
        let (identity, open, more, max) = (named(), open.bytes, more.bytes, bytes);
        return Err(OverQuota::Bytes { identity, open, more, max });
    }
    Ok(())
}

impl Holding {
    /// Counts as many bytes as are held by now.
    pub(super) fn resize(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        if let Some(held) = self.counts.lock().here.get_mut(&self.identity) {
            held.bytes = held.bytes.saturating_sub(self.bytes).saturating_add(bytes);
        }
        self.bytes = bytes;
    }

    /// Tells whether the identity may hold so many bytes more.
    pub(super) fn may_grow(&self, bytes: usize) -> Result<(), OverQuota> {
        let quota = self.counts.quotas.of(&self.identity);
        let open = self.counts.lock().of(&self.identity);
        check(&self.identity, open, quota, Held { transactions: 0, bytes })
    }

    /// Its row says that it sleeps: from the next count on it is counted by that.
    pub(super) fn sleeps(self) {
        let counts = Arc::clone(&self.counts);
        let mut state = counts.lock();
        if state.counts {
            return state.falling.push(self);
        }
        drop(state);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut state = self.counts.lock();
        let Some(held) = state.here.get_mut(&self.identity) else { return };
        held.transactions = held.transactions.saturating_sub(1);
        held.bytes = held.bytes.saturating_sub(self.bytes);
        if held.transactions == 0 {
            state.here.remove(&self.identity);
        }
    }
}

/// The counts of what sleeps. They end with the process.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Handle,
}

impl Service {
    /// Makes the counts of this engine.
    pub(crate) fn new(engine: Handle) -> Self {
        Self { engine }
    }

    /// Counts for as long as the process lives.
    pub(crate) async fn run(self) {
        let counts = Arc::clone(self.engine.quotas());
        let mut uncounted = Uncounted::default();
        loop {
            let (begun, is_any) = (Instant::now(), counts.quotas.is_any());
            if !is_any {
                counts.stop();
                uncounted = Uncounted::default();
            } else if self.engine.shared.has_adopted.load(Ordering::Relaxed) {
                match counts.count(&*self.engine.shared.store).await {
                    Ok(()) => {
                        counts.known.send_replace(true);
                        uncounted = Uncounted::default();
                    }
                    Err(error) => uncounted.failed(&store::in_full(&error), begun),
                }
            }
            self.engine.shared.metrics.quotas_not_counted(uncounted.is_told);
            let waits = is_any && !*counts.known.borrow();
            let (pause, interval) = (begun.elapsed() * COUNT_PART, COUNT_INTERVAL);
            tokio::time::sleep(pause.max(FIRST_INTERVAL)).await;
            if !waits {
                let rest = interval.saturating_sub(begun.elapsed());
                let _ = tokio::time::timeout(rest, counts.woke.notified()).await;
            }
        }
    }
}

/// Counts that have failed in a row.
#[derive(Debug, Default)]
struct Uncounted {
    since: Option<Instant>,
    is_told: bool,
}

impl Uncounted {
    /// A count that began then has failed. The alarm is told once.
    fn failed(&mut self, error: &str, begun: Instant) {
        let since = *self.since.get_or_insert(begun);
        if since.elapsed() < UNCOUNTED_MAX {
            tracing::warn!(error, "failed to count what sleeps; it is repeated");
        } else if !std::mem::replace(&mut self.is_told, true) {
            tracing::error!(
                alarm = QUOTAS_NOT_COUNTED,
                error,
                failing_for = ?since.elapsed(),
                "what sleeps cannot be counted: identities with a quota are bounded by an old count, or by none let in"
            );
        }
    }
}

impl Handle {
    /// Waits until it is known what is open, for as long as a caller has time.
    pub(super) async fn counted(&self, by: Instant) {
        let mut known = self.quotas().known.subscribe();
        // Whoever is too late hears that.
        let _ = tokio::time::timeout_at(by, known.wait_for(|known| *known)).await;
    }
}
