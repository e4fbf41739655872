//! Quotas: how much each identity, and each namespace, may have open at once.
//!
//! Counts what is open for the identity that began it, and for that one's namespace, from before its first write until its
//! end is durable, wherever it is. What is in memory is counted here. What sleeps is counted by its rows, which say whose it is, now and then;
//! what has just fallen asleep is counted here until such a count has seen it. So one that wakes may count twice for a moment,
//! and none is ever left out.
//!
//! After a start nothing new is let in for whoever has a quota until earlier incarnations' transactions are in memory, and
//! those that sleep are counted. What has begun is never refused: children, adoption and the calls that end a transaction
//! only add to the count.

mod over;
mod service;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use unanimo_core::TxId;
use uuid::Uuid;

pub(super) use self::over::named;
use self::over::namespace_of;
pub use self::over::{OverQuota, Owner};
pub(crate) use self::service::Service;
use super::{Error, Handle};
use crate::identity::{Quota, Quotas};
use crate::store::{self, AsleepOf};

/// Amounts that one identity, or one namespace, has open.
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

/// Amounts that are open, of each of several.
#[derive(Debug, Default)]
struct Sums {
    /// In memory, and what has just fallen asleep.
    here: HashMap<Arc<str>, Held>,
    /// Asleep, by the last count.
    asleep: HashMap<String, Held>,
}

impl Sums {
    fn of(&self, name: &str) -> Held {
        let here = self.here.get(name).copied().unwrap_or_default();
        here.and(self.asleep.get(name).copied().unwrap_or_default())
    }

    /// Returns the one copy of a name.
    fn kept(&self, name: &str) -> Arc<str> {
        let known = self.here.get_key_value(name).map(|(name, _)| Arc::clone(name));
        known.unwrap_or_else(|| name.into())
    }

    fn add(&mut self, name: &Arc<str>, more: Held) {
        let held = self.here.entry(Arc::clone(name)).or_default();
        *held = held.and(more);
    }

    fn resize(&mut self, name: &str, from: usize, to: usize) {
        if let Some(held) = self.here.get_mut(name) {
            held.bytes = held.bytes.saturating_sub(from).saturating_add(to);
        }
    }

    fn give_back(&mut self, name: &str, bytes: usize) {
        let Some(held) = self.here.get_mut(name) else { return };
        held.transactions = held.transactions.saturating_sub(1);
        held.bytes = held.bytes.saturating_sub(bytes);
        if held.transactions == 0 {
            self.here.remove(name);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// By an identity's full name.
    identities: Sums,
    /// By a namespace's name.
    namespaces: Sums,
    /// Holdings of those that have fallen asleep since that began.
    falling: Vec<Holding>,
    /// Counts are made: somebody has a quota.
    counts: bool,
}

impl State {
    /// Keeps the amounts that sleep, by identity: those of each namespace are their sums.
    fn set_asleep(&mut self, asleep: HashMap<String, Held>) {
        let mut of_namespaces: HashMap<String, Held> = HashMap::new();
        for (identity, held) in &asleep {
            if let Some(namespace) = namespace_of(identity) {
                let sum = of_namespaces.entry(namespace.to_owned()).or_default();
                *sum = sum.and(*held);
            }
        }
        (self.identities.asleep, self.namespaces.asleep) = (asleep, of_namespaces);
    }

    /// Checks whether an identity may have so much more open, by its own quota and by its namespace's.
    fn check(&self, quotas: &Quotas, identity: &str, more: Held) -> Result<(), OverQuota> {
        let owner = || Owner::Identity(identity.to_owned());
        check(owner, self.identities.of(identity), quotas.of(identity), more)?;
        let Some(namespace) = namespace_of(identity) else { return Ok(()) };
        let owner = || Owner::Namespace(namespace.to_owned());
        check(owner, self.namespaces.of(namespace), quotas.of_namespace(), more)
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

/// Part of one transaction in the counts of its identity and its namespace; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Holding {
    counts: Arc<Counts>,
    identity: Arc<str>,
    namespace: Option<Arc<str>>,
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

    /// Returns the most bytes that this identity may have open, and the quota that says so; `None` without a bound.
    pub(super) fn bytes_max(&self, identity: &str) -> Option<(usize, &'static str)> {
        let own = (self.quotas.of(identity).bytes, over::OPEN_BYTES);
        let namespace = namespace_of(identity).map(|_| self.quotas.of_namespace().bytes);
        let shared = namespace.map(|bytes| (bytes, over::OPEN_BYTES_PER_NAMESPACE));
        [Some(own), shared].into_iter().flatten().filter(|(bytes, _)| *bytes > 0).min()
    }

    /// Tells whether this identity, or its namespace, has a quota.
    fn bounds(&self, identity: &str) -> bool {
        let shared = namespace_of(identity).is_some() && self.quotas.of_namespace().is_any();
        shared || self.quotas.of(identity).is_any()
    }

    /// Counts a new transaction of this identity.
    ///
    /// # Errors
    /// It or its namespace has as much open as it may have, or nobody knows yet.
    pub(super) fn admit(self: &Arc<Self>, identity: &str, bytes: usize) -> Result<Holding, Error> {
        if self.bounds(identity) && !*self.known.borrow() {
            return Err(Error::NotCounted(identity.to_owned()));
        }
        let mut state = self.lock();
        // Both are looked at before either has it.
        state.check(&self.quotas, identity, Held { transactions: 1, bytes })?;
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
        let more = Held { transactions: 1, bytes };
        let namespace = namespace_of(identity).map(|name| state.namespaces.kept(name));
        let identity = state.identities.kept(identity);
        state.identities.add(&identity, more);
        if let Some(namespace) = &namespace {
            state.namespaces.add(namespace, more);
        }
        Holding { counts: Arc::clone(self), identity, namespace, bytes }
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
            Ok(asleep) => state.set_asleep(asleep),
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
            state.set_asleep(HashMap::new());
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

/// Checks whether one that has so much open may have so much more.
fn check(
    owner: impl FnOnce() -> Owner,
    open: Held,
    quota: Quota,
    more: Held,
) -> Result<(), OverQuota> {
    let with = open.and(more);
    let Quota { transactions, bytes } = quota;
    if more.transactions > 0 && transactions > 0 && with.transactions > transactions {
        let (of, open, max) = (owner(), open.transactions, transactions);
        return Err(OverQuota::Transactions { of, open, max });
    }
    if more.bytes > 0 && bytes > 0 && with.bytes > bytes {
        let (of, open, more, max) = (owner(), open.bytes, more.bytes, bytes);
        return Err(OverQuota::Bytes { of, open, more, max });
    }
    Ok(())
}

impl Holding {
    /// Counts as many bytes as are held by now.
    pub(super) fn resize(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        let mut state = self.counts.lock();
        state.identities.resize(&self.identity, self.bytes, bytes);
        if let Some(namespace) = &self.namespace {
            state.namespaces.resize(namespace, self.bytes, bytes);
        }
        drop(state);
        self.bytes = bytes;
    }

    /// Tells whether the identity and its namespace may hold so many bytes more.
    pub(super) fn may_grow(&self, bytes: usize) -> Result<(), OverQuota> {
        let more = Held { transactions: 0, bytes };
        self.counts.lock().check(&self.counts.quotas, &self.identity, more)
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
        state.identities.give_back(&self.identity, self.bytes);
        if let Some(namespace) = &self.namespace {
            state.namespaces.give_back(namespace, self.bytes);
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
