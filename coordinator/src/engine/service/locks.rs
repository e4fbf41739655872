//! Requests for locks, each in a task of its own, and transactions that wait for one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use unanimo_core::{
    Branch, BranchNumber, Gid, Incarnation, Input, Lock, LockAnswer, LockMode, LockName,
    LockRequest, Phase, Transaction, TxId,
};

use super::super::live::Live;
use super::super::message::Message;
use super::Service;
use crate::cluster::lease::Lease;
use crate::store::{self, LockTake, LockTaken, Store};

/// Requests for locks that the store is asked at once. Fewer than it has connections, because those for
/// one lock wait for each other there, and reads and adoption need connections as well.
pub(in crate::engine) const TAKES_MAX: usize = 4;

/// Waiting transactions that are looked at, oldest first, by one that asks again: enough to find one that goes
/// before it.
const LOOKS_MAX: usize = 8;

/// Transactions that are woken at once, if all of them can share the lock that was given back. The others are
/// woken by the end of these, or come again by themselves.
const WAKES_MAX: usize = 64;

impl Service {
    /// Asks the store for locks, from a task that reports the end whatever happens.
    pub(super) fn take_locks(&mut self, tx_id: TxId, request: LockRequest) {
        let (Some(live), Some(inbox)) = (self.live.get(&tx_id), self.own.upgrade()) else { return };
        let identity = live.tx.identity();
        let locks = match request.number {
            Some(number) => live.tx.branch(number).map(|branch| &*branch.spec.step.locks),
            None => Some(&*identity.locks),
        };
        let take = LockTake {
            tx_id,
            family: family(&live.tx),
            locks: locks.unwrap_or_default().iter().map(|l| (l.name.clone(), l.mode)).collect(),
        };
        // Only the store knows whether an older one waits for what this one holds, and whether a request without an
        // answer was granted.
        let obstacle = match request.number {
            Some(number) => live.tx.branch(number).and_then(Branch::obstacle),
            None => live.tx.obstacle(),
        };
        let asks_again = obstacle.is_some() && !live.tx.may_hold_locks();
        if asks_again && let Some(answer) = self.behind_an_older_one(&take) {
            // The engine may have ended.
            let _ = inbox.send(Message::LocksTaken { tx_id, request, answer });
            return;
        }
        let report = Report { inbox, tx_id, request, answer: None };
        let taker = Taker {
            store: Arc::clone(&self.store),
            me: self.me,
            lease: self.lease.clone(),
            slots: Arc::clone(&self.lock_slots),
        };
        tokio::spawn(taker.take(take, report));
    }

    /// Answers a request that comes again and stands behind an older one in this memory, which waits for
    /// the same lock: the store would say no. Of a thousand that wait for one lock only the first ones ask it.
    fn behind_an_older_one(&self, take: &LockTake) -> Option<LockAnswer> {
        let conflicts = |(name, mode): &(LockName, LockMode)| {
            let older = self.lock_waits.older_than(name, take.family);
            let mut older = older.filter_map(|waiter| self.live.get(&waiter.tx_id));
            let stands_before = |live: &Live| {
                let alone = *mode == LockMode::Exclusive || takes_alone(&live.tx, name);
                live.tx.phase() == Phase::Active && alone
            };
            let first = older.find(|live| stands_before(live))?;
            Some((name.clone(), first.tx.identity().gid.clone()))
        };
        let (lock, first) = take.locks.iter().find_map(conflicts)?;
        let known = self.lock_waits.holder(&lock);
        let known = known.filter(|holder| !self.is_of_family(&holder.gid, take.family));
        let behind = Holder { gid: first, waits: true };
        let Holder { gid: holder, waits } = known.unwrap_or(behind);
        Some(LockAnswer::Held { lock, holder, older: true, waits, blocks_older: false })
    }

    /// Tells whether a transaction is of this family, as far as memory tells: its own locks stand in nobody's way there.
    fn is_of_family(&self, gid: &Gid, family: TxId) -> bool {
        let live = self.by_gid.get(gid).and_then(|tx_id| self.live.get(tx_id));
        live.is_some_and(|live| self::family(&live.tx) == family)
    }

    /// Applies the answer of the store.
    pub(super) fn locks_taken(&mut self, tx_id: TxId, request: LockRequest, answer: LockAnswer) {
        let LockRequest { number, attempt } = request;
        let mut in_the_way = None;
        if let LockAnswer::Held { lock, holder, waits, older, .. } = &answer
            && let Some(live) = self.live.get(&tx_id)
        {
            let gid = &live.tx.identity().gid;
            tracing::debug!(%tx_id, %gid, %lock, %holder, attempt, "a lock is waited for");
            let waiter = Waiter { family: family(&live.tx), tx_id, number };
            let holder = Holder { gid: holder.clone(), waits: *waits };
            let is_known = self.lock_waits.holder(lock).as_ref() == Some(&holder);
            let is_news = !*older && (attempt == 1 || !is_known);
            in_the_way = is_news.then(|| holder.gid.clone());
            self.lock_waits.add(lock.clone(), holder, waiter);
        }
        // It may have left memory.
        let _ = self.apply(tx_id, Input::LocksAnswered { number, attempt, answer });
        if let Some(younger) = in_the_way {
            self.have_ask_again(&younger);
        }
    }

    /// Has a transaction that waits for locks, and its top, ask again at once: an older one has begun to wait for what it
    /// holds. Others, and those on other nodes, learn it when they ask again by themselves.
    fn have_ask_again(&mut self, younger: &Gid) {
        let Some(live) = self.by_gid.get(younger).and_then(|tx_id| self.live.get(tx_id)) else {
            return;
        };
        for tx_id in BTreeSet::from([live.tx.identity().tx_id, family(&live.tx)]) {
            for number in self.lock_waits.owners(tx_id) {
                let _ = self.apply(tx_id, Input::Retry { number, operator: None });
            }
        }
    }

    /// Has those ask again that wait for the locks of a transaction that has ended. Others that hold or
    /// wait for them may be on other nodes: whoever waits asks again by itself as well.
    pub(super) fn wake_lock_waits(&mut self, ended: &Transaction) {
        if !ended.takes_locks() || self.lock_waits.is_empty() {
            return;
        }
        for lock in names(ended) {
            self.wake_next(&lock);
        }
    }

    /// Has the oldest one ask that waits for a lock, and those behind it as long as they can share it. Nobody else
    /// could have it before them, and would only keep the store busy.
    fn wake_next(&mut self, lock: &LockName) {
        let mut woken = false;
        for _ in 0..WAKES_MAX {
            let Some(waiter) = self.lock_waits.oldest(lock) else { return };
            let Waiter { tx_id, number, .. } = waiter;
            let live = self.live.get(&tx_id).filter(|live| live.tx.phase() == Phase::Active);
            let wants_it_alone = live.is_some_and(|live| takes_alone(&live.tx, lock));
            if wants_it_alone && woken {
                return;
            }
            self.lock_waits.take(lock, waiter);
            if live.is_none() {
                continue;
            }
            woken = true;
            let _ = self.apply(tx_id, Input::Retry { number, operator: None });
            if wants_it_alone {
                return;
            }
        }
    }
}

/// Returns the transaction at the top of a transaction's family. Its age decides.
fn family(tx: &Transaction) -> TxId {
    let identity = tx.identity();
    identity.parent.map_or(identity.tx_id, |parent| parent.root)
}

/// Tells whether a transaction, or a branch of it, wants a lock for itself alone.
fn takes_alone(tx: &Transaction, name: &LockName) -> bool {
    let of_branches = tx.branches().iter().flat_map(|branch| &branch.spec.step.locks);
    let mut all = tx.identity().locks.iter().chain(of_branches);
    all.any(|lock| lock.name == *name && lock.mode == LockMode::Exclusive)
}

/// Returns the names of all locks that a transaction and its branches take.
fn names(tx: &Transaction) -> BTreeSet<LockName> {
    let of_branches = tx.branches().iter().flat_map(|branch| &branch.spec.step.locks);
    let name = |lock: &Lock| lock.name.clone();
    tx.identity().locks.iter().chain(of_branches).map(name).collect()
}

/// Everything that a request for locks needs.
struct Taker {
    store: Arc<dyn Store>,
    me: Incarnation,
    lease: Lease,
    slots: Arc<Semaphore>,
}

impl Taker {
    async fn take(self, take: LockTake, mut report: Report) {
        let Ok(_slot) = self.slots.acquire().await else { return };
        if !self.lease.is_held() {
            let error = "the coordinator's lease has run out";
            report.answer = Some(LockAnswer::Failed(error.to_owned()));
            return;
        }
        let answer = match self.store.locks().take(self.me, &take).await {
            Ok(LockTaken::Granted) => LockAnswer::Granted,
            Ok(LockTaken::Held { lock, holder, older, waits, blocks_older }) => {
                LockAnswer::Held { lock, holder, older, waits, blocks_older }
            }
            // It was decided meanwhile.
            Err(error @ store::Error::NotOpen(_)) => LockAnswer::Failed(error.to_string()),
            Err(error) => {
                let error = store::in_full(&error);
                tracing::warn!(tx_id = %take.tx_id, error, "failed to take locks; it is repeated");
                LockAnswer::Failed(error)
            }
        };
        crash_point!("locks-taken");
        report.answer = Some(answer);
    }
}

/// Reports the end of a request: its answer, or that there is none if its task ends without one.
struct Report {
    inbox: mpsc::UnboundedSender<Message>,
    tx_id: TxId,
    request: LockRequest,
    answer: Option<LockAnswer>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let lost = || LockAnswer::Failed("the request's task ended without a result".to_owned());
        let answer = self.answer.take().unwrap_or_else(lost);
        let (tx_id, request) = (self.tx_id, self.request);
        // The engine may have ended.
        let _ = self.inbox.send(Message::LocksTaken { tx_id, request, answer });
    }
}

/// Owner of a request that waits, in the order in which the store grants: the family whose top began first goes
/// first, however late its child began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiter {
    family: TxId,
    tx_id: TxId,
    /// The branch; `None` for the transaction itself.
    number: Option<BranchNumber>,
}

/// Transaction that stood in the way of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    gid: Gid,
    /// It does not hold the lock, and waits for it.
    waits: bool,
}

/// Transactions in memory that wait for locks. A hint: whoever waits asks again after a pause.
#[derive(Debug, Default)]
pub(in crate::engine) struct LockWaits {
    by_lock: BTreeMap<LockName, BTreeSet<Waiter>>,
    /// Who stood in the way of the last one that asked the store.
    holders: BTreeMap<LockName, Holder>,
    by_waiter: BTreeMap<TxId, BTreeSet<(LockName, Waiter)>>,
}

impl LockWaits {
    fn is_empty(&self) -> bool {
        self.by_lock.is_empty()
    }

    /// Those of families that are older than this one, oldest first, as many as are looked at.
    fn older_than(&self, lock: &LockName, family: TxId) -> impl Iterator<Item = &Waiter> {
        let waiters = self.by_lock.get(lock).into_iter().flatten();
        waiters.take_while(move |waiter| waiter.family < family).take(LOOKS_MAX)
    }

    fn holder(&self, lock: &LockName) -> Option<Holder> {
        self.holders.get(lock).cloned()
    }

    /// Returns what of a transaction waits: branches, and itself.
    fn owners(&self, tx_id: TxId) -> BTreeSet<Option<BranchNumber>> {
        let all = self.by_waiter.get(&tx_id).into_iter().flatten();
        let waits = all.filter(|(lock, waiter)| {
            self.by_lock.get(lock).is_some_and(|waiters| waiters.contains(waiter))
        });
        waits.map(|(_, waiter)| waiter.number).collect()
    }

    fn add(&mut self, lock: LockName, holder: Holder, waiter: Waiter) {
        self.holders.insert(lock.clone(), holder);
        self.by_waiter.entry(waiter.tx_id).or_default().insert((lock.clone(), waiter));
        self.by_lock.entry(lock).or_default().insert(waiter);
    }

    /// Returns the one that goes first: identifiers grow with time.
    fn oldest(&self, lock: &LockName) -> Option<Waiter> {
        self.by_lock.get(lock)?.first().copied()
    }

    /// Takes one out: it asks the store.
    fn take(&mut self, lock: &LockName, waiter: Waiter) {
        let Some(waiters) = self.by_lock.get_mut(lock) else { return };
        waiters.remove(&waiter);
        if waiters.is_empty() {
            self.by_lock.remove(lock);
            self.holders.remove(lock);
        }
    }

    /// Forgets a transaction that leaves memory.
    pub(super) fn forget(&mut self, tx_id: TxId) {
        for (lock, waiter) in self.by_waiter.remove(&tx_id).unwrap_or_default() {
            self.take(&lock, waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn tx(n: u128) -> TxId {
        TxId(Uuid::from_u128(n))
    }

    fn alone(n: u128) -> Waiter {
        Waiter { family: tx(n), tx_id: tx(n), number: None }
    }

    fn name() -> LockName {
        LockName::new("account:42").expect("a name")
    }

    fn holder() -> Holder {
        Holder { gid: Gid::new("holder").expect("an identifier"), waits: false }
    }

    #[test]
    fn the_oldest_are_woken_and_those_that_left_are_forgotten() {
        let lock = name();
        let mut waits = LockWaits::default();
        for n in [5, 3, 9, 1] {
            waits.add(lock.clone(), holder(), alone(n));
        }
        let older =
            |n| waits.older_than(&lock, tx(n)).map(|waiter| waiter.tx_id).collect::<Vec<_>>();
        assert_eq!((older(5), older(1)), (vec![tx(1), tx(3)], vec![]));
        assert_eq!(waits.holder(&lock), Some(holder()));
        let of_branch = Waiter { number: Some(BranchNumber::from_index(0)), ..alone(3) };
        waits.add(lock.clone(), holder(), of_branch);
        waits.forget(tx(1));
        for oldest in [alone(3), of_branch, alone(5)] {
            assert_eq!(waits.oldest(&lock), Some(oldest));
            waits.take(&lock, oldest);
        }
        waits.forget(tx(9));
        assert!(waits.is_empty());
        assert_eq!(waits.oldest(&lock), None);
    }

    /// The store grants by family: whoever is woken before a child of an older one would be told to wait for it, and
    /// nobody would have the lock.
    #[test]
    fn a_child_goes_before_those_that_began_after_its_top() {
        let lock = name();
        let child = Waiter { family: tx(10), tx_id: tx(50), number: None };
        let mut waits = LockWaits::default();
        for waiter in [alone(40), child, alone(60)] {
            waits.add(lock.clone(), holder(), waiter);
        }
        let older = |family| waits.older_than(&lock, tx(family)).copied().collect::<Vec<_>>();
        assert_eq!((older(10), older(40)), (vec![], vec![child]));
        for oldest in [child, alone(40), alone(60)] {
            assert_eq!(waits.oldest(&lock), Some(oldest));
            waits.take(&lock, oldest);
        }
    }
}
