//! The loop that owns all live transactions.

mod adopt;
pub(super) mod alarms;
mod begin;
mod calls;
mod completed;
pub(super) mod ends;
mod leaving;
pub(super) mod locks;
mod log;
pub(super) mod parking;
pub(super) mod patience;
mod rest;
pub(super) mod sleep;
pub(super) mod survey;
mod time;
pub(super) mod traces;
pub(super) mod went_back;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use unanimo_core::{
    BranchNumber, Effects, Gid, Incarnation, Input, ParticipantName, Phase, Timestamp, TxId,
};
use uuid::Uuid;

use self::alarms::Alarms;
use self::ends::Ends;
use self::locks::LockWaits;
use self::parking::Parking;
use self::traces::Traces;
use super::admission::Admission;
use super::clock::{Anchor, Clock};
use super::live::{Held, Live};
use super::message::{Failure, Message, Reply};
use super::timers::Timers;
use super::unread::{AllUnread, Unread};
use super::waiting::Waiting;
use super::{Error, Options, Until, on_stripped};
use crate::cluster::lease::Lease;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::participants::caller::Caller;
use crate::store::journal::{self, Completion};
use crate::store::{Key, Store};

/// Messages taken before the journal's results are looked at again.
const MESSAGES_PER_TURN: usize = 256;

/// The loop.
#[derive(Debug)]
pub struct Service {
    pub(super) me: Incarnation,
    pub(super) cluster_id: Arc<str>,
    pub(super) options: Arc<Options>,
    pub(super) env: Arc<dyn Env>,
    pub(super) clock: Arc<Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lease: Lease,
    pub(super) journal: journal::Handle,
    /// For locks. Everything else is written by the journal.
    pub(super) store: Arc<dyn Store>,
    pub(super) lock_slots: Arc<Semaphore>,
    pub(super) lock_waits: LockWaits,
    pub(super) caller: Caller,
    /// Calls that are sent, or wait for a slot. They end with the loop: nothing is sent by a coordinator that
    /// has stopped.
    pub(super) calls: JoinSet<()>,
    /// Calls that wait for their participants.
    pub(super) waiting: Waiting,
    /// Branches whose participants came back, and whose next attempts need not wait.
    pub(super) retries: VecDeque<(TxId, BranchNumber)>,
    /// Participants that fail, as far as is seen.
    pub(super) failing: BTreeSet<ParticipantName>,
    pub(super) alarms: Alarms,
    pub(super) admission: Arc<Admission>,
    /// Asks for a scan of what this incarnation owns and does not know.
    pub(super) adoption_wanted: Arc<Notify>,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    /// Messages that came while the lease was not held.
    pub(super) rested: Vec<Message>,
    /// For calls to report their end to. Weak: the loop ends when every handle is gone.
    pub(super) own: mpsc::WeakUnboundedSender<Message>,
    pub(super) completions: mpsc::UnboundedReceiver<Vec<Completion>>,
    pub(super) live: HashMap<TxId, Live>,
    pub(super) by_gid: HashMap<Gid, TxId>,
    pub(super) timers: Timers<Instant>,
    pub(super) suspended: std::time::Duration,
    /// Transactions that wait for the time of day at which they start.
    pub(super) starts: Timers<Timestamp>,
    /// Transactions in memory whose rows say that they sleep, by their time.
    pub(super) asleep: Timers<Timestamp>,
    pub(super) look_at_sleepers: Instant,
    /// Children in doubt, by the time at which they leave memory.
    pub(super) doubts: Timers<Instant>,
    pub(super) parking: Parking,
    /// Branches whose outputs found no room.
    pub(super) unread: AllUnread,
    pub(super) writes: u64,
    pub(super) ends: Ends,
    pub(super) went_back: went_back::Known,
    pub(super) told_timeouts: patience::Told,
    pub(super) traces: Traces,
}

impl Service {
    /// Runs until the journal ends, or every handle is gone.
    pub async fn run(mut self) {
        let mut messages = Vec::with_capacity(MESSAGES_PER_TURN);
        loop {
            let sleep = self.until_next_timer();
            tokio::select! {
                completions = self.completions.recv() => match completions {
                    Some(completions) => {
                        self.rest().await;
                        self.after_promotion();
                        completions.into_iter().for_each(|completion| self.completed(completion));
                    }
                    None => return,
                },
                received = self.inbox.recv_many(&mut messages, MESSAGES_PER_TURN) => {
                    if received == 0 {
                        return;
                    }
                    self.rest().await;
                    self.after_promotion();
                    messages.drain(..).for_each(|message| self.take(message));
                }
                () = tokio::time::sleep(sleep) => {}
            }
            // How each ended it has reported itself.
            while self.calls.try_join_next().is_some() {}
            self.rest().await;
            self.after_promotion();
            self.take_rested();
            self.tick();
            self.send_waiting();
            self.repeat_alarms();
            self.ask_for_unread();
            self.ends.tell_the_rest();
            self.let_sleepers_go();
            self.park();
            self.write_ends_again();
            self.write_held_again();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Begin { request, permit, until, reply } => {
                self.begin(*request, permit, until, reply);
            }
            Message::Attach { gid, digests, until, reply } => match self.find(&Key::Gid(gid)) {
                Some(tx_id) => self.attach(tx_id, &digests, until, reply),
                None => fail(reply, Failure::NotLive),
            },
            Message::Tombstone { gid, initiator, permit, until, reply } => {
                self.rollback_unseen((gid, initiator), permit, until, reply);
            }
            Message::Observe { key, until, reply } => match self.find(&key) {
                Some(tx_id) => self.wait(tx_id, until, reply),
                None => fail(reply, Failure::NotLive),
            },
            Message::Peek { key, request, reply } => {
                let live = self.find(&key).and_then(|tx_id| self.live.get(&tx_id));
                let _ = reply.send(live.and_then(|live| live.peek(request.as_deref())));
            }
            Message::Enlist { tx_id, branch, enlistment, permit, reply } => {
                self.enlist(tx_id, Input::Enlist { branch, enlistment }, permit, reply);
            }
            Message::Input { key, input, adopt, until, reply } => {
                if let Some(claimed) = adopt {
                    self.insert_claimed(*claimed);
                }
                match self.find(&key) {
                    Some(tx_id) => self.input(tx_id, input, until, reply),
                    None => fail(reply, Failure::NotLive),
                }
            }
            Message::CallEnded { tx_id, call, end, failed_at } => {
                self.call_ended(tx_id, call, end, failed_at);
            }
            Message::Database { tx_id, number, database_id } => {
                if let Some(live) = self.live.get_mut(&tx_id) {
                    live.tx.note_database(number, database_id);
                }
            }
            Message::LocksTaken { tx_id, request, answer } => {
                self.locks_taken(tx_id, request, answer);
            }
            Message::Adopt { records, generation, woken, done } => {
                self.metrics.adopted(records.len());
                records.into_iter().for_each(|record| self.adopt(record, generation, woken));
                let _ = done.send(());
            }
            Message::NotLive { transactions, reply } => {
                let _ = reply.send(self.not_live(transactions));
            }
            Message::Recall { key, reply } => drop(reply.send(self.recall_missing(&key))),
            Message::Sleeps { tx_id, reply } => drop(reply.send(self.sleeps_in_store(tx_id))),
            Message::Parked { transactions, noted } => self.noted(transactions, noted),
            Message::Watch { key, reply } => {
                let live = self.find(&key).and_then(|tx_id| self.live.get_mut(&tx_id));
                // What is not durable is not shown: a watcher begins at the next moment that is.
                let receiver = live.filter(|live| live.is_durable()).map(Live::watch);
                let _ = reply.send(receiver);
            }
            Message::AtWork { reply } => drop(reply.send(self.count_at_work())),
            Message::Survey { of, reply } => {
                let _ = reply.send(self.survey(of.as_ref()));
            }
            Message::EndWatches => {
                self.live.values_mut().for_each(|live| live.end_watches(Error::Stopped));
            }
            Message::Returned(names) => self.end_pauses(&names),
        }
    }

    /// Finds a transaction in memory, or that is brought back there because its row may be lost.
    fn find(&mut self, key: &Key) -> Option<TxId> {
        self.recall(key);
        match key {
            Key::Tx(tx_id) => self.live.contains_key(tx_id).then_some(*tx_id),
            Key::Gid(gid) => self.by_gid.get(gid).copied(),
        }
    }

    /// Applies an input from outside, and answers when what the caller waits for has come.
    fn input(&mut self, tx_id: TxId, input: Input, until: Until, reply: Reply) {
        let by_operator = matches!(input, Input::Retry { operator: Some(_), .. });
        match self.apply(tx_id, input) {
            Ok(()) => {
                if by_operator {
                    self.send_waiting_of(tx_id);
                }
                self.wait(tx_id, until, reply);
            }
            Err(failure) => self.refuse(tx_id, failure, reply),
        }
    }

    /// Refuses a request. What the transaction was refused by may be on its way to the disk: then the
    /// refusal waits for it, as any other answer.
    fn refuse(&mut self, tx_id: TxId, failure: Failure, reply: Reply) {
        match (failure, self.live.get_mut(&tx_id)) {
            (Failure::Error(error), Some(live)) => {
                live.refuse(error, reply);
                live.answer();
                self.leave_if_done(tx_id);
            }
            (failure, _) => fail(reply, failure),
        }
    }

    fn wait(&mut self, tx_id: TxId, until: Until, reply: Reply) {
        let Some(live) = self.live.get_mut(&tx_id) else {
            return fail(reply, Failure::NotLive);
        };
        live.wait(until, reply);
        live.answer();
        self.leave_if_done(tx_id);
    }

    /// Applies an input by the transaction's own clock, which it gets when it starts.
    pub(super) fn apply(&mut self, tx_id: TxId, input: Input) -> Result<(), Failure> {
        let live = self.live.get(&tx_id).ok_or(Failure::NotLive)?;
        let clock = match live.tx.phase() {
            Phase::Scheduled => self.clock_of_scheduled(live),
            _ => live.clock,
        };
        self.apply_at(tx_id, input, clock)
    }

    fn apply_at(&mut self, tx_id: TxId, input: Input, clock: Anchor) -> Result<(), Failure> {
        let live = self.live.get_mut(&tx_id).ok_or(Failure::NotLive)?;
        if live.stripped_at.is_some() {
            return on_stripped(&input).map_err(Failure::Error);
        }
        live.clock = clock;
        let now = clock.now();
        let (was_decided, had_ended) = (live.tx.phase().decision().is_some(), live.has_ended());
        let effects = live
            .tx
            .apply(input, now, &self.options.policy)
            .map_err(|rejection| Failure::Error(rejection.into()))?;
        if !was_decided && live.tx.phase().decision().is_some() {
            live.stop_prepares();
            live.unread = Unread::default();
            if !live.is_aside() {
                live.hold_shares(&[], &[]);
            }
            // One that is not stored may turn out to be another one's gid.
            if live.is_stored() {
                ends::count_decision(&self.metrics, &live.tx);
            }
            let identity = live.tx.identity();
            tracing::debug!(
                %tx_id, gid = %identity.gid, outcome = ?live.tx.outcome(), "the transaction is decided"
            );
        }
        live.count_bytes();
        live.ends_here |= !had_ended && live.has_ended();
        self.carry_out(tx_id, effects);
        Ok(())
    }

    /// Hands the transition to the journal, and holds the rest until it is durable.
    fn carry_out(&mut self, tx_id: TxId, effects: Effects) {
        let Effects { transition, calls, locks } = effects;
        if let Some(mut transition) = transition {
            self.log_events(&transition);
            self.note_a_sleep(&mut transition);
            let write_id = self.write_id();
            if let Some(live) = self.live.get_mut(&tx_id) {
                live.handed_over(transition.version, transition.awaited);
                self.journal.submit(transition, write_id, live.life);
            }
        }
        if let Some(live) = self.live.get_mut(&tx_id) {
            live.hold(calls, locks);
        }
        self.release(tx_id);
    }

    /// Makes the id of a write, unlike any other write's of this database: no two incarnations that it knows have one number.
    fn write_id(&mut self) -> Uuid {
        self.writes += 1;
        Uuid::from_u64_pair(self.me.0.cast_unsigned(), self.writes)
    }

    /// Sends the calls, asks for the locks, and gives the answers that wait for no write any more.
    fn release(&mut self, tx_id: TxId) {
        let Some(live) = self.live.get_mut(&tx_id) else { return };
        let released = live.released();
        live.answer();
        let wake_at = live.tx.wake_at(&self.options.policy);
        let at_a_time = live.tx.phase() == Phase::Scheduled && !live.starts_after;
        // One that is late has been given a later time than that.
        let starts_at = wake_at.filter(|_| at_a_time).max(live.starts_at.filter(|_| at_a_time));
        self.starts.set(tx_id, &mut live.starts_at, starts_at);
        let moment = wake_at.filter(|_| !at_a_time).map(|at| live.moment_of(at));
        self.timers.set(tx_id, &mut live.wake_at, moment);
        for work in released {
            match work {
                Held::Call(call) if self.lacks_room(tx_id, call) => {}
                Held::Call(call) => self.call(tx_id, call),
                Held::Locks(request) => self.take_locks(tx_id, request),
            }
        }
        self.leave_if_done(tx_id);
    }
}

fn fail(reply: Reply, failure: Failure) {
    // Whoever went away needs no answer.
    let _ = reply.send(Err(failure));
}
