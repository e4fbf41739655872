//! The loop that owns all live transactions.

mod begin;
mod calls;
pub(super) mod locks;
mod log;
mod sleep;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use unanimo_core::{
    Effects, Gid, Incarnation, Input, Origin, Record, Timestamp, Transaction, TxId,
};
use uuid::Uuid;

use self::locks::LockWaits;
use super::admission::Admission;
use super::live::{Held, Live};
use super::message::{CallEnd, Failure, Message, Reply};
use super::timers::Timers;
use super::{Error, Options, Until};
use crate::cluster::lease::Lease;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::participants::caller::Caller;
use crate::store::journal::{self, Completion};
use crate::store::{Key, Store};

/// Longest sleep of the loop: the time of day may be set while it sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Messages taken before the journal's results are looked at again.
const MESSAGES_PER_TURN: usize = 256;

/// The loop.
#[derive(Debug)]
pub struct Service {
    pub(super) me: Incarnation,
    pub(super) cluster_id: Arc<str>,
    pub(super) options: Arc<Options>,
    pub(super) env: Arc<dyn Env>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lease: Lease,
    pub(super) journal: journal::Handle,
    /// For locks. Everything else is written by the journal.
    pub(super) store: Arc<dyn Store>,
    pub(super) lock_slots: Arc<Semaphore>,
    pub(super) lock_waits: LockWaits,
    pub(super) caller: Caller,
    pub(super) admission: Arc<Admission>,
    /// Asks for a scan of what this incarnation owns and does not know.
    pub(super) adoption_wanted: Arc<Notify>,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    /// For calls to report their end to. Weak: the loop ends when every handle is gone.
    pub(super) own: mpsc::WeakUnboundedSender<Message>,
    pub(super) completions: mpsc::UnboundedReceiver<Vec<Completion>>,
    pub(super) live: HashMap<TxId, Live>,
    pub(super) by_gid: HashMap<Gid, TxId>,
    pub(super) timers: Timers,
    /// Transactions in memory whose rows say that they sleep, by the time until which they do.
    pub(super) asleep: Timers,
    /// When those are looked at next.
    pub(super) look_at_sleepers: tokio::time::Instant,
    pub(super) writes: u64,
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
                        self.lease.held().await;
                        completions.into_iter().for_each(|completion| self.completed(completion));
                    }
                    None => return,
                },
                received = self.inbox.recv_many(&mut messages, MESSAGES_PER_TURN) => {
                    if received == 0 {
                        return;
                    }
                    self.lease.held().await;
                    messages.drain(..).for_each(|message| self.take(message));
                }
                () = tokio::time::sleep(sleep) => {}
            }
            // Without its lease an incarnation decides nothing, and sends nothing.
            self.lease.held().await;
            self.tick();
            self.let_sleepers_go();
        }
    }

    fn until_next_timer(&self) -> Duration {
        match self.timers.next() {
            Some(at) => self.env.now().until(at).min(SLEEP_MAX),
            None => SLEEP_MAX,
        }
    }

    fn tick(&mut self) {
        let now = self.env.now();
        while let Some(tx_id) = self.timers.due(now) {
            if let Err(error) = self.apply(tx_id, Input::Tick, now) {
                // A tick is never rejected; were it, the timer must not come back for ever.
                tracing::error!(%tx_id, ?error, "the state machine rejected a timer's tick");
                if let Some(live) = self.live.get_mut(&tx_id) {
                    self.timers.set(tx_id, &mut live.wake_at, None);
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Begin { definition, permit, until, reply } => {
                self.begin(*definition, permit, until, reply);
            }
            Message::Attach { gid, digests, until, reply } => match self.by_gid.get(&gid) {
                Some(&tx_id) => self.attach(tx_id, &digests, until, reply),
                None => fail(reply, Failure::NotLive),
            },
            Message::Tombstone { gid, permit, until, reply } => {
                self.rollback_unseen(gid, permit, until, reply);
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
                if let Some(record) = adopt {
                    self.insert(*record);
                }
                match self.find(&key) {
                    Some(tx_id) => self.input(tx_id, input, until, reply),
                    None => fail(reply, Failure::NotLive),
                }
            }
            Message::CallEnded { tx_id, number, attempt, end } => {
                let input = match end {
                    CallEnd::Prepare(answer) => Input::PrepareAnswered { number, attempt, answer },
                    CallEnd::PhaseTwo(operation, answer) => {
                        Input::PhaseTwoAnswered { number, operation, attempt, answer }
                    }
                };
                // It may have left memory: ended by an operator, or lost.
                let _ = self.apply(tx_id, input, self.env.now());
            }
            Message::LocksTaken { tx_id, request, answer } => {
                self.locks_taken(tx_id, request, answer);
            }
            Message::Adopt { records, done } => {
                self.metrics.adopted(records.len());
                records.into_iter().for_each(|record| self.adopt(record));
                let _ = done.send(());
            }
            Message::NotLive { mut transactions, reply } => {
                transactions.retain(|(tx_id, _)| !self.live.contains_key(tx_id));
                let _ = reply.send(transactions);
            }
            Message::Watch { key, reply } => {
                let live = self.find(&key).and_then(|tx_id| self.live.get_mut(&tx_id));
                // What is not durable is not shown: a watcher begins at the next moment that is.
                let receiver = live.filter(|live| live.is_durable()).map(Live::watch);
                let _ = reply.send(receiver);
            }
            Message::AtWork { reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.count_at_work());
            }
            Message::EndWatches => {
                self.live.values_mut().for_each(|live| live.end_watches(Error::Stopped));
            }
            Message::Returned(names) => self.returned(&names),
        }
    }

    fn find(&self, key: &Key) -> Option<TxId> {
        match key {
            Key::Tx(tx_id) => self.live.contains_key(tx_id).then_some(*tx_id),
            Key::Gid(gid) => self.by_gid.get(gid).copied(),
        }
    }

    /// Applies an input from outside, and answers when what the caller waits for has come.
    fn input(&mut self, tx_id: TxId, input: Input, until: Until, reply: Reply) {
        match self.apply(tx_id, input, self.env.now()) {
            Ok(()) => self.wait(tx_id, until, reply),
            Err(failure) => {
                fail(reply, failure);
                self.leave_if_done(tx_id);
            }
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

    /// Applies an input, and carries out its effects.
    fn apply(&mut self, tx_id: TxId, input: Input, now: Timestamp) -> Result<(), Failure> {
        let live = self.live.get_mut(&tx_id).ok_or(Failure::NotLive)?;
        let was_decided = live.tx.phase().decision().is_some();
        let effects = live
            .tx
            .apply(input, now, &self.options.policy)
            .map_err(|rejection| Failure::Error(rejection.into()))?;
        if !was_decided && live.tx.phase().decision().is_some() {
            live.stop_prepares();
            let identity = live.tx.identity();
            let took = identity.created_at.until(now);
            if let Some(mode) = identity.mode() {
                self.metrics.decided(mode, live.tx.outcome(), took);
            }
            tracing::debug!(
                %tx_id, gid = %identity.gid, outcome = ?live.tx.outcome(), "the transaction is decided"
            );
        }
        self.carry_out(tx_id, effects);
        Ok(())
    }

    /// Hands the transition to the journal, and holds the rest until it is durable.
    fn carry_out(&mut self, tx_id: TxId, effects: Effects) {
        let Effects { transition, calls, locks } = effects;
        if let Some(mut transition) = transition {
            self.log_events(&transition);
            self.note_a_sleep(&mut transition);
            if let Some(live) = self.live.get_mut(&tx_id) {
                live.handed_over(transition.version, transition.awaited);
            }
            self.writes += 1;
            // Unlike any other write's: no two incarnations have one number.
            let write_id = Uuid::from_u64_pair(self.me.0.cast_unsigned(), self.writes);
            self.journal.submit(transition, write_id);
        }
        if let Some(live) = self.live.get_mut(&tx_id) {
            live.hold(calls, locks);
        }
        self.release(tx_id);
    }

    /// Sends the calls, asks for the locks, and gives the answers that wait for no write any more.
    fn release(&mut self, tx_id: TxId) {
        let Some(live) = self.live.get_mut(&tx_id) else { return };
        let released = live.released();
        live.answer();
        let wake_at = live.tx.wake_at(&self.options.policy);
        self.timers.set(tx_id, &mut live.wake_at, wake_at);
        for work in released {
            match work {
                Held::Call(call) => self.call(tx_id, call),
                Held::Locks(request) => self.take_locks(tx_id, request),
            }
        }
        self.leave_if_done(tx_id);
    }

    fn leave_if_done(&mut self, tx_id: TxId) {
        let now = self.env.now();
        if !self.live.get(&tx_id).is_some_and(|live| live.may_leave(now)) {
            return;
        }
        let Some(live) = self.remove(tx_id) else { return };
        if live.has_ended() {
            tracing::debug!(%tx_id, "the transaction has ended");
            self.wake_lock_waits(&live.tx);
        } else {
            tracing::debug!(%tx_id, "the transaction sleeps until its time comes near");
        }
    }

    fn remove(&mut self, tx_id: TxId) -> Option<Live> {
        let mut live = self.live.remove(&tx_id)?;
        self.timers.set(tx_id, &mut live.wake_at, None);
        self.asleep.set(tx_id, &mut live.asleep_until, None);
        self.lock_waits.forget(tx_id);
        live.stop_prepares();
        let gid = &live.tx.identity().gid;
        if self.by_gid.get(gid) == Some(&tx_id) {
            self.by_gid.remove(gid);
        }
        Some(live)
    }

    fn completed(&mut self, completion: Completion) {
        match completion {
            Completion::Durable(tx_id, version) => {
                crash_point!("engine-before-release");
                if let Some(live) = self.live.get_mut(&tx_id) {
                    if live.tx.identity().origin == Origin::Tombstone && !live.is_stored() {
                        self.metrics.rolled_back_unseen();
                    }
                    live.became_durable(version);
                    self.release(tx_id);
                }
            }
            Completion::GidHeld(tx_id, holder) => {
                // Whoever waits looks at the holder: it may be another request's.
                if let Some(mut live) = self.remove(tx_id) {
                    live.dismiss(|| Failure::Elsewhere(holder.clone()));
                }
            }
            Completion::Lost(tx_id) => {
                let Some(mut live) = self.remove(tx_id) else { return };
                tracing::warn!(
                    %tx_id,
                    gid = %live.tx.identity().gid,
                    "the stored transaction was changed by another writer; it is read again"
                );
                live.dismiss(|| Failure::NotLive);
                live.end_watches(Error::Moving);
                self.adoption_wanted.notify_one();
            }
            Completion::Refused(tx_id, error) => {
                self.metrics.write_refused();
                if let Some(mut live) = self.remove(tx_id) {
                    live.dismiss(|| Error::Refused(error.clone()).into());
                    live.end_watches(Error::Refused(error));
                }
            }
        }
    }

    fn insert(&mut self, record: Record) {
        let tx_id = record.identity.tx_id;
        if self.live.contains_key(&tx_id) {
            return;
        }
        let version = record.version;
        let tx = Transaction::restore(record);
        let permit = self.admission.admit_always(1, tx.held_bytes());
        self.by_gid.insert(tx.identity().gid.clone(), tx_id);
        self.live.insert(tx_id, Live::new(tx, permit, version));
    }

    fn adopt(&mut self, record: Record) {
        let tx_id = record.identity.tx_id;
        if self.live.contains_key(&tx_id) {
            return;
        }
        tracing::debug!(%tx_id, gid = %record.identity.gid, "adopting the transaction");
        self.insert(record);
        let now = self.env.now();
        self.keep_for_a_while(tx_id, now);
        // Never rejected: it is the first input after a restore.
        let _ = self.apply(tx_id, Input::Recovered { by: self.me }, now);
    }

    fn returned(&mut self, names: &[unanimo_core::ParticipantName]) {
        let waiting: Vec<_> = self
            .live
            .iter()
            .flat_map(|(tx_id, live)| {
                let there = live.tx.branches().iter();
                there
                    .filter(|branch| names.contains(&branch.spec.participant))
                    .map(|branch| (*tx_id, branch.number))
            })
            .collect();
        let now = self.env.now();
        for (tx_id, branch) in waiting {
            // A branch without a waiting call stays as it is.
            let input = Input::Retry { number: Some(branch), operator: None };
            let _ = self.apply(tx_id, input, now);
        }
    }
}

fn fail(reply: Reply, failure: Failure) {
    // Whoever went away needs no answer.
    let _ = reply.send(Err(failure));
}
