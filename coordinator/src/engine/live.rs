//! A transaction in memory, with the calls and callers that wait for it.

mod leaving;

use std::collections::VecDeque;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use unanimo_core::{
    Branch, Call, Digests, LockRequest, ParticipantName, Phase, Timestamp, Transaction, TxId,
    Version,
};

use super::admission::Permit;
use super::clock::Anchor;
use super::failing::Failing;
use super::message::{Failure, Reply};
use super::unread::Unread;
use super::waiting::{kind, next_kind};
use super::{Error, Until, View};
use crate::store::Life;

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

/// A caller that waits.
#[derive(Debug)]
struct Waiter {
    /// The state that it waits for.
    until: Until,
    /// The refusal of its request, which tells something of the transaction as well.
    refusal: Option<Error>,
    reply: Reply,
}

/// Waiters among which nobody looks for those who went away.
const WAITERS_FEW: usize = 16;

/// A live transaction.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) tx: Transaction,
    /// Its place in the admission count, with the bytes that it holds.
    permit: Permit,
    /// This stay in memory, as its writes and their results name it.
    pub(super) life: Life,
    /// The last version that is durable.
    durable: Version,
    /// The last version that something waits for.
    awaited: Version,
    /// Work that waits until a version is durable, in order.
    held: VecDeque<(Version, Held)>,
    waiters: Vec<Waiter>,
    /// Waiters that were left the last time that those who went away were taken out.
    waiters_left: usize,
    watchers: Option<watch::Sender<Watching>>,
    /// Another incarnation began it, or lost it, and no call was answered here yet: its calls are part of a
    /// backlog.
    pub(super) is_adopted: bool,
    /// Branches whose last call has failed.
    failing: Failing,
    /// Prepares under way. A decision makes them pointless.
    prepares: Vec<AbortHandle>,
    /// Its time, which no step of the system's clock moves.
    pub(super) clock: Anchor,
    /// It starts so long after its begin, and not at a time of day: it has been in memory since.
    pub(super) starts_after: bool,
    /// Moment before which it does not start, where it was to start so long after its begin and the machine slept.
    pub(super) starts_late: Option<Instant>,
    /// When it is to be looked at, as the timers have it.
    pub(super) wake_at: Option<Instant>,
    /// The time of day at which it starts, as the timers have it.
    pub(super) starts_at: Option<Timestamp>,
    /// Until when it sleeps, if its row is to say so.
    pub(super) asleep_until: Option<Timestamp>,
    /// Until when it is to sleep, because nobody answers whom it waits for; the next transition says so.
    pub(super) parks_until: Option<Timestamp>,
    /// The last transition has said so, and nothing was sent since.
    pub(super) parked_until: Option<Timestamp>,
    /// It is noted for whom it waits.
    pub(super) noted: bool,
    /// When it was last written, but for a note that it sleeps, or brought to memory.
    pub(super) changed_at: Instant,
    /// When a child in doubt is to leave memory.
    pub(super) doubted_until: Option<Instant>,
    /// It is a child that has been in doubt for long: only its parent's decision wakes it.
    pub(super) rests_in_doubt: bool,
    /// It came to its end here, and not before it was brought to memory.
    pub(super) ends_here: bool,
    /// It has ended, and no more is known of it than that: its details are gone since then.
    pub(super) stripped_at: Option<Timestamp>,
    /// It stays in memory until then: somebody who asked for it is about to look at it.
    pub(super) stays_until: Option<Instant>,
    /// Outputs for which there was no room.
    pub(super) unread: Unread,
}

impl Live {
    /// A transaction of which everything up to `durable` is stored.
    pub(super) fn new(
        tx: Transaction,
        clock: Anchor,
        mut permit: Permit,
        durable: Version,
    ) -> Self {
        permit.resize(tx.held_bytes());
        Self {
            tx,
            clock,
            permit,
            life: Life::begin(),
            durable,
            awaited: durable,
            held: VecDeque::new(),
            waiters: Vec::new(),
            waiters_left: 0,
            watchers: None,
            is_adopted: false,
            failing: Failing::default(),
            prepares: Vec::new(),
            starts_after: false,
            starts_late: None,
            wake_at: None,
            starts_at: None,
            asleep_until: None,
            parks_until: None,
            parked_until: None,
            noted: false,
            changed_at: Instant::now(),
            doubted_until: None,
            rests_in_doubt: false,
            stays_until: None,
            unread: Unread::default(),
            ends_here: false,
            stripped_at: None,
        }
    }

    /// Returns when it is to be looked at for this time: no earlier than it starts, where it is late with many others.
    pub(super) fn moment_of(&self, time: Timestamp) -> Instant {
        let late = self.starts_late.filter(|_| self.tx.phase() == Phase::Scheduled);
        let moment = self.clock.moment_of(time);
        late.map_or(moment, |late| late.max(moment))
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
        if !self.is_stored() {
            self.permit.stored(self.tx.phase() != Phase::Scheduled);
        }
        self.durable = self.durable.max(version);
        self.count_as_it_is_stored();
    }

    /// Its row is as it was at this version. What is told and sent from now on waits until it is written again,
    /// in another life. If it was stored before, it begins nothing.
    pub(super) fn went_back(&mut self, to: Version) {
        self.life = Life::begin();
        let first = if self.is_stored() { Version::default().next() } else { to };
        self.durable = to.max(first);
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

    /// Counts the bytes that it holds now.
    pub(super) fn count_bytes(&mut self) {
        self.permit.resize(self.tx.held_bytes());
    }

    /// Counts a branch that has joined it: its place at its participant, and its bytes.
    pub(super) fn join(&mut self, branch: Permit) {
        self.permit.absorb(branch);
        self.count_bytes();
    }

    /// Tells whether it is a child that has voted, and waits for its parent's decision.
    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(self.tx.phase(), Phase::InDoubt { .. })
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.tx.phase(), Phase::Ended { .. })
    }

    /// Returns what may be told of it at once; see [`Message::Peek`](super::message::Message).
    pub(super) fn peek(&self, request: Option<&Digests>) -> Option<(TxId, Option<Box<View>>)> {
        let view = self.is_durable().then(|| self.view());
        let own = request.is_none_or(|request| request.matches(self.tx.identity().digest));
        let seen = self.is_stored() && (own || view.is_some());
        seen.then(|| (self.tx.tx_id(), view))
    }

    pub(super) fn view(&self) -> Box<View> {
        let (is_asleep, stripped) = (self.asleep_until.is_some(), self.stripped_at.is_some());
        Box::new(View { tx: self.tx.clone(), revision: self.durable, stripped, is_asleep })
    }

    /// Has a caller wait for a state.
    pub(super) fn wait(&mut self, until: Until, reply: Reply) {
        self.add_waiter(Waiter { until, refusal: None, reply });
    }

    /// Refuses a caller's request as soon as everything that the refusal may rest on is durable
    /// (promise S3).
    pub(super) fn refuse(&mut self, refusal: Error, reply: Reply) {
        self.add_waiter(Waiter { until: Until::Durable, refusal: Some(refusal), reply });
    }

    fn add_waiter(&mut self, waiter: Waiter) {
        // While nothing happens to the transaction, nobody else takes out those who went away.
        if self.waiters.len() >= WAITERS_FEW.max(2 * self.waiters_left) {
            self.waiters.retain(|waiter| !waiter.reply.is_closed());
            self.waiters_left = self.waiters.len();
        }
        self.waiters.push(waiter);
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
        let (tx, is_asleep) = (&self.tx, self.asleep_until.is_some());
        let over = |waiter: &mut Waiter| {
            let sleeps = is_asleep && waiter.until == Until::ChildVoted;
            sleeps || waiter.until.is_reached(tx) || waiter.reply.is_closed()
        };
        let answered: Vec<_> = self.waiters.extract_if(.., over).collect();
        for Waiter { refusal, reply, .. } in answered {
            // Whoever went away needs no answer.
            let _ = reply.send(match refusal {
                None => Ok(self.view()),
                Some(refusal) => Err(refusal.into()),
            });
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
        for waiter in self.waiters.drain(..) {
            let _ = waiter.reply.send(Err(failure()));
        }
    }

    /// Gives its place to others as long as it waits for nothing but calls that move nothing, and takes it back
    /// otherwise.
    pub(super) fn set_aside(&mut self, aside: bool) {
        if aside {
            self.permit.set_aside();
        } else {
            self.permit.take_back();
        }
    }

    /// Has it hold its places in participants' shares. One whose branches have ended has its place back, and so has one that has
    /// voted while the votes of others are awaited; `waited_for` tells of whom it waits for while it is set aside.
    pub(super) fn hold_shares(
        &mut self,
        waited_for: &[ParticipantName],
        failing: &[ParticipantName],
    ) {
        let (tx, aside) = (&self.tx, self.permit.is_aside());
        let decided = tx.phase().decision().is_some();
        let awaits_votes = !decided && tx.branches().iter().any(Branch::is_called);
        let holds = |participant: &ParticipantName| {
            let own = |branch: &&Branch| branch.spec.participant == *participant;
            let mut own = tx.branches().iter().filter(own).peekable();
            let has_voted = |branch: &Branch| branch.progress.vote.is_some() && !branch.is_called();
            let is_free = match decided {
                true => own.all(|branch| branch.progress.ended_at.is_some()),
                false => awaits_votes && own.peek().is_some() && own.all(has_voted),
            };
            !is_free && (!aside || waited_for.contains(participant))
        };
        // One that answers has its share of the places, whatever becomes of others.
        self.permit.hold(holds, |participant| failing.contains(participant));
    }

    pub(super) fn is_aside(&self) -> bool {
        self.permit.is_aside()
    }

    /// A call of a branch that was awaited has ended: with an answer, or with a failure, at this endpoint if
    /// one was called.
    pub(super) fn call_ended(&mut self, call: Call, failed: bool, endpoint: Option<u64>) {
        if failed {
            self.failing.failed(call, endpoint, Instant::now());
        } else {
            self.failing.answered(call.number);
            self.is_adopted = false;
        }
    }

    /// Notes whether the end of an awaited call has moved its branch: it has a vote, or has ended, or is not
    /// asked for the same any more.
    pub(super) fn note_progress(&mut self, call: Call) {
        let Some(branch) = self.tx.branch(call.number) else { return };
        let kind = kind(call.operation);
        match branch.is_called() && next_kind(branch) == kind {
            true => self.failing.unmoved(call.number, kind, Instant::now()),
            false => self.failing.moved(call.number),
        }
    }

    /// Branches whose last call has failed.
    pub(super) fn failing(&self) -> &Failing {
        &self.failing
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
