//! A transaction in memory, with the calls and callers that wait for it.

use std::collections::VecDeque;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use unanimo_core::{
    BranchNumber, Call, Digests, LockRequest, Phase, Timestamp, Transaction, TxId, Version,
};

use super::admission::Permit;
use super::message::{Failure, Reply};
use super::{Error, Until, View};

/// The state of a transaction that is followed, or the reason for which no more comes.
pub(super) type Watching = Result<Box<View>, Error>;

/// Work that waits until a version is durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    /// A call to a participant.
    Call(Call),
    /// A request for locks.
    Locks(LockRequest),
}

/// A live transaction.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) tx: Transaction,
    /// Its places in the admission count.
    pub(super) permits: Vec<Permit>,
    /// The last version that is durable.
    durable: Version,
    /// The last version that something waits for.
    awaited: Version,
    /// Work that waits until a version is durable, in order.
    held: VecDeque<(Version, Held)>,
    waiters: Vec<(Until, Reply)>,
    watchers: Option<watch::Sender<Watching>>,
    /// Another incarnation began it, or lost it: its calls are part of a backlog.
    pub(super) is_adopted: bool,
    /// Endpoints that branches' last attempts failed at.
    failed_at: Vec<(BranchNumber, u64)>,
    /// Prepares under way. A decision makes them pointless.
    prepares: Vec<AbortHandle>,
    /// When it is to be looked at, as the timers have it.
    pub(super) wake_at: Option<Timestamp>,
    /// Until when it sleeps, if its row is to say so.
    pub(super) asleep_until: Option<Timestamp>,
    /// It stays in memory until then: somebody who asked for it is about to look at it.
    pub(super) stays_until: Timestamp,
}

impl Live {
    /// A transaction of which everything up to `durable` is stored.
    pub(super) fn new(tx: Transaction, permit: Permit, durable: Version) -> Self {
        Self {
            tx,
            permits: vec![permit],
            durable,
            awaited: durable,
            held: VecDeque::new(),
            waiters: Vec::new(),
            watchers: None,
            is_adopted: false,
            failed_at: Vec::new(),
            prepares: Vec::new(),
            wake_at: None,
            asleep_until: None,
            stays_until: Timestamp::default(),
        }
    }

    /// A transition was handed to the journal.
    pub(super) fn handed_over(&mut self, version: Version, awaited: bool) {
        if awaited {
            self.awaited = version;
        }
    }

    /// Keeps work until everything that was awaited so far is durable (promises S3, S6).
    pub(super) fn hold(&mut self, calls: Vec<Call>, locks: Vec<LockRequest>) {
        let locks = locks.into_iter().map(Held::Locks);
        let work = locks.chain(calls.into_iter().map(Held::Call));
        self.held.extend(work.map(|work| (self.awaited, work)));
    }

    /// The journal has made a version durable.
    pub(super) fn became_durable(&mut self, version: Version) {
        self.durable = self.durable.max(version);
    }

    /// Returns the work that may go out now, and is still wanted.
    pub(super) fn released(&mut self) -> Vec<Held> {
        let mut released = Vec::new();
        while let Some((version, work)) = self.held.front().copied()
            && version <= self.durable
        {
            self.held.pop_front();
            let wanted = match work {
                Held::Call(call) => {
                    let branch = self.tx.branch(call.number);
                    branch.is_some_and(|branch| branch.awaits(call.operation, call.attempt))
                }
                Held::Locks(_) => self.tx.phase() == Phase::Active,
            };
            if wanted {
                released.push(work);
            }
        }
        released
    }

    /// Tells whether it is stored. Before that its gid may turn out to belong to another one.
    pub(super) fn is_stored(&self) -> bool {
        self.durable > Version::default()
    }

    /// Everything that anybody may hear of is durable.
    pub(super) fn is_durable(&self) -> bool {
        self.awaited <= self.durable
    }

    /// Tells whether it has ended or sleeps, all of that is durable, and no caller waits.
    pub(super) fn may_leave(&self, now: Timestamp) -> bool {
        let complete = self.durable == self.tx.version() && self.waiters.is_empty();
        complete && (self.has_ended() || self.sleeps(now))
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.tx.phase(), Phase::Ended { .. })
    }

    /// Tells whether nothing but time is waited for, nobody follows it, and its row says so.
    fn sleeps(&self, now: Timestamp) -> bool {
        let followed = self.watchers.as_ref().is_some_and(|w| w.receiver_count() > 0);
        self.asleep_until.is_some()
            && self.asleep_until == self.tx.sleeps_until()
            && now >= self.stays_until
            && self.held.is_empty()
            && !followed
    }

    /// Returns what may be told of it at once; see [`Message::Peek`](super::message::Message).
    pub(super) fn peek(&self, request: Option<&Digests>) -> Option<(TxId, Option<Box<View>>)> {
        let view = self.is_durable().then(|| self.view());
        let own = request.is_none_or(|request| request.matches(self.tx.identity().digest));
        let seen = self.is_stored() && (own || view.is_some());
        seen.then(|| (self.tx.tx_id(), view))
    }

    pub(super) fn view(&self) -> Box<View> {
        Box::new(View { tx: self.tx.clone(), revision: self.durable, stripped: false })
    }

    pub(super) fn wait(&mut self, until: Until, reply: Reply) {
        self.waiters.push((until, reply));
    }

    pub(super) fn watch(&mut self) -> watch::Receiver<Watching> {
        match &self.watchers {
            Some(watchers) => watchers.subscribe(),
            None => {
                let view = self.view();
                self.watchers.insert(watch::channel(Ok(view)).0).subscribe()
            }
        }
    }

    /// Ends the streams of those who follow the transaction. They are told why: a sender that is
    /// dropped without a word would look like the transaction's end.
    pub(super) fn end_watches(&mut self, reason: Error) {
        if let Some(watchers) = self.watchers.take() {
            watchers.send_modify(|state| *state = Err(reason));
        }
    }

    /// Answers every caller whose wait is over. Nothing is told that is not durable.
    pub(super) fn answer(&mut self) {
        if !self.is_durable() {
            return;
        }
        let tx = &self.tx;
        let over = |(until, reply): &mut (Until, Reply)| until.is_reached(tx) || reply.is_closed();
        let answered: Vec<_> = self.waiters.extract_if(.., over).collect();
        for (_, reply) in answered {
            // Whoever went away needs no answer.
            let _ = reply.send(Ok(self.view()));
        }
        // Without a later version there is nothing that would still be true after a crash.
        let is_news = |watchers: &&watch::Sender<Watching>| {
            watchers.borrow().as_ref().is_ok_and(|seen| seen.revision < self.durable)
        };
        if let Some(watchers) = self.watchers.as_ref().filter(is_news) {
            watchers.send_modify(|state| *state = Ok(self.view()));
        }
    }

    /// Answers every waiting caller with a failure.
    pub(super) fn dismiss(&mut self, failure: impl Fn() -> Failure) {
        for (_, reply) in self.waiters.drain(..) {
            let _ = reply.send(Err(failure()));
        }
    }

    /// Gives its places to others: nobody that it waits for can be reached.
    pub(super) fn set_aside(&mut self) {
        self.permits.iter_mut().for_each(Permit::set_aside);
    }

    /// Notes where the last attempt of a branch failed.
    pub(super) fn note_failure(&mut self, number: BranchNumber, endpoint: Option<u64>) {
        self.failed_at.retain(|(of, _)| *of != number);
        self.failed_at.extend(endpoint.map(|endpoint| (number, endpoint)));
    }

    /// Returns the endpoint that the branch's last attempt failed at.
    pub(super) fn failed_at(&self, number: BranchNumber) -> Vec<u64> {
        let failed = self.failed_at.iter().filter(|(of, _)| *of == number);
        failed.map(|(_, endpoint)| *endpoint).collect()
    }

    pub(super) fn started_prepare(&mut self, task: AbortHandle) {
        self.prepares.retain(|task| !task.is_finished());
        self.prepares.push(task);
    }

    /// Ends Prepares that a decision has overtaken, sent or waiting for a slot: their slots are
    /// wanted by others.
    pub(super) fn stop_prepares(&mut self) {
        for task in self.prepares.drain(..) {
            task.abort();
        }
    }
}
