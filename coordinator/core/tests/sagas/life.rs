//! The coordinator's side: the transaction in memory, its journal, and the wire. A crash loses what
//! is not written, and with it whatever was not released.

use std::collections::{BTreeMap, VecDeque};

use unanimo_core::{
    BranchSpec, Decision, Effects, Incarnation, Input, Lock, LockRequest, Operation, Phase,
    PhaseTwoOperation, Policy, Timestamp, Transaction, Transition, TxId,
};

use crate::common::Durable;
use crate::participants::{Participants, Prepare};
use crate::plan::{Order, Plan, Shape};

/// A call that left the coordinator.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) life: i64,
    pub(crate) operation: Operation,
    pub(crate) attempt: u32,
    pub(crate) prepare: Prepare,
}

/// Something that waits until the journal has written so much.
#[derive(Clone, Copy, Debug)]
struct Held<T> {
    needs: u64,
    what: T,
}

/// The journal of one transaction.
pub(crate) struct Journal {
    pub(crate) durable: Durable,
    pub(crate) unwritten: VecDeque<Transition>,
    /// Version of the last transition that is awaited.
    awaited: u64,
}

pub(crate) struct Life {
    pub(crate) plan: Plan,
    pub(crate) began: Timestamp,
    pub(crate) specs: Vec<BranchSpec>,
    pub(crate) order: Order,
    pub(crate) tx: Transaction,
    pub(crate) journal: Journal,
    pub(crate) participants: Participants,
    calls: Vec<Held<unanimo_core::Call>>,
    lock_calls: Vec<Held<LockRequest>>,
    pub(crate) wire: Vec<Packet>,
    pub(crate) lock_wire: Vec<(i64, LockRequest)>,
    /// Owners of locks that the store holds for this transaction.
    pub(crate) locked: Vec<Option<usize>>,
    /// When locks were asked for the first time, by owner: ever, and in this life.
    pub(crate) asked: Asked,
    pub(crate) asked_in_life: Asked,
    /// Since when branches wait, and the version in which that is stored.
    pub(crate) waits: BTreeMap<Option<usize>, (Timestamp, u64)>,
    /// Locks under which something was sent.
    pub(crate) used: Vec<Lock>,
    pub(crate) now: Timestamp,
    pub(crate) policy: Policy,
    pub(crate) life: i64,
    /// Version in which this life has claimed it. A claim takes away what the row says of a sleep.
    pub(crate) claimed: u64,
    /// The parent's decision.
    pub(crate) parent: Option<PhaseTwoOperation>,
    pub(crate) rollback_asked: bool,
    pub(crate) commit_asked: bool,
    /// The decision that was durable once.
    pub(crate) decided: Option<Decision>,
    pub(crate) ended: bool,
    pub(crate) in_doubt: bool,
    pub(crate) pivot_sent: bool,
}

/// Times of requests for locks, by their owners.
pub(crate) type Asked = BTreeMap<Option<usize>, Timestamp>;

impl Life {
    /// Begins the saga of a plan: the `age`th of several.
    pub(crate) fn begin(plan: Plan, age: u128, began: Timestamp) -> Self {
        let policy = Policy::default();
        let (definition, specs, order) = plan.definition(&format!("g{age}"));
        let id = TxId(uuid::Uuid::from_u128(99 + age));
        let (tx, effects) = Transaction::begin(id, definition, began, &policy);
        let participants = Participants::new(&specs, order.clone(), plan.skew_ms);
        let first = effects.transition.clone().expect("a begin is written");
        // The gid's first write is acknowledged before anything else happens.
        let durable = Durable::begun(&effects);
        let journal =
            Journal { durable, unwritten: VecDeque::new(), awaited: number(first.version) };
        let mut life = Self {
            plan,
            began,
            specs,
            order,
            tx,
            journal,
            participants,
            calls: Vec::new(),
            lock_calls: Vec::new(),
            wire: Vec::new(),
            lock_wire: Vec::new(),
            locked: Vec::new(),
            asked: Asked::new(),
            asked_in_life: Asked::new(),
            waits: BTreeMap::new(),
            used: Vec::new(),
            now: began,
            policy,
            life: 1,
            claimed: 0,
            parent: None,
            rollback_asked: false,
            commit_asked: false,
            decided: None,
            ended: false,
            in_doubt: false,
            pivot_sent: false,
        };
        life.hold(&effects);
        life.release();
        life.check();
        life
    }

    pub(crate) fn durable_phase(&self) -> Phase {
        self.journal.durable.0.state.phase
    }

    /// Applies an input; tells whether it was accepted.
    pub(crate) fn apply(&mut self, input: Input) -> bool {
        let phase = self.tx.phase();
        let before = may_be_rejected(&input).then(|| self.tx.record());
        let ticked = input == Input::Tick;
        let accepted = match self.tx.apply(input, self.now, &self.policy) {
            Ok(effects) => {
                self.check_transition(&effects, phase);
                if let Some(transition) = effects.transition.clone() {
                    self.journal.push(transition);
                }
                self.hold(&effects);
                if !self.plan.slow_journal {
                    self.journal_writes_what_is_awaited();
                }
                true
            }
            Err(_) => {
                let after = Some(self.tx.record());
                assert_eq!(before, after, "a rejected input changed something");
                false
            }
        };
        self.check();
        if ticked && let Some(wake) = self.tx.wake_at(&self.policy) {
            assert!(wake > self.now, "a Tick at {:?} leaves {wake:?} due", self.now);
        }
        accepted
    }

    fn check_transition(&self, effects: &Effects, before: Phase) {
        let after = self.tx.phase();
        let awaited = effects.transition.as_ref().is_some_and(|transition| transition.awaited);
        assert!(before == after || awaited, "S3: {before:?} became {after:?} and nobody waits");
        let ended = |phase: Phase| phase.ended_at().is_some();
        if ended(after) && !ended(before) {
            let releases = effects.transition.as_ref().is_some_and(|t| t.releases_locks);
            assert_eq!(releases, self.tx.takes_locks(), "locks are given back at the end");
        }
    }

    fn hold(&mut self, effects: &Effects) {
        let needs = self.journal.awaited;
        self.calls.extend(effects.calls.iter().map(|call| Held { needs, what: *call }));
        self.lock_calls.extend(effects.locks.iter().map(|lock| Held { needs, what: *lock }));
        for request in effects.locks.iter().filter(|request| request.attempt == 1) {
            let owner = request.number.map(|number| number.index());
            self.asked.entry(owner).or_insert(self.now);
            self.asked_in_life.insert(owner, self.now);
        }
    }

    /// Returns the locks of an owner: a branch, or the transaction itself.
    pub(crate) fn locks_of(&self, owner: Option<usize>) -> &[Lock] {
        match owner {
            Some(at) => &self.specs[at].step.locks,
            None => &self.tx.identity().locks,
        }
    }

    fn journal_writes_what_is_awaited(&mut self) {
        let awaited = self.journal.awaited;
        self.journal.write_while(|version| version <= awaited);
        self.release();
    }

    /// The journal writes some of what it holds; what waited for that leaves.
    pub(crate) fn write(&mut self, count: usize) {
        self.journal.write(count);
        if self.journal.unwritten.is_empty() {
            let stored = &self.journal.durable.0;
            assert_eq!(stored.state.phase, self.tx.phase(), "a phase that is not written");
        }
        self.release();
        self.check_durable();
    }

    fn release(&mut self) {
        let written = number(self.journal.durable.0.version);
        let (now_calls, later) = split(std::mem::take(&mut self.calls), written);
        self.calls = later;
        for call in now_calls {
            let branch = self.tx.branch(call.number).expect("a call of a known branch");
            if branch.awaits(call.operation, call.attempt) {
                self.send(call);
            }
        }
        let (now_locks, later) = split(std::mem::take(&mut self.lock_calls), written);
        self.lock_calls = later;
        let life = self.life;
        self.lock_wire.extend(now_locks.into_iter().map(|request| (life, request)));
    }

    fn send(&mut self, call: unanimo_core::Call) {
        let branch = self.tx.branch(call.number).expect("a call of a known branch");
        let named = |(name, output): (unanimo_core::InputName, _)| (name.to_string(), output);
        let prepare = Prepare {
            at: call.number.index(),
            prepare_until: self.tx.prepare_until(branch, &self.policy),
            must_succeed: self.tx.must_succeed(branch),
            inputs: self.tx.inputs_of(branch).into_iter().map(named).collect(),
        };
        let Operation::Prepare = call.operation else {
            self.check_phase_two_sent(prepare.at, call.operation);
            self.put_on_the_wire(call, prepare);
            return;
        };
        self.check_prepare_sent(&prepare);
        let used = [self.locks_of(None), self.locks_of(Some(prepare.at))].concat();
        self.used.extend(used);
        self.put_on_the_wire(call, prepare);
    }

    fn put_on_the_wire(&mut self, call: unanimo_core::Call, prepare: Prepare) {
        let (operation, attempt, life) = (call.operation, call.attempt, self.life);
        self.wire.push(Packet { life, operation, attempt, prepare });
    }

    /// The process dies and another one adopts the transaction. Of what the journal had not written
    /// some may be durable all the same, and calls that it released may have been sent.
    pub(crate) fn crash(&mut self, written: usize, sent: bool, down_ms: u64) {
        self.check_sleep();
        self.journal.write(written);
        if sent {
            self.release();
        }
        self.check_durable();
        self.calls.clear();
        self.lock_calls.clear();
        self.asked_in_life.clear();
        let durable = number(self.journal.durable.0.version);
        self.waits.retain(|_, (_, version)| *version <= durable);
        self.journal.unwritten.clear();
        self.now = self.now.after(std::time::Duration::from_millis(down_ms));
        // What sleeps is not adopted before its time, unless somebody asks for it.
        let wake = self.journal.durable.0.state.wake_at;
        if let Some(wake) = wake.filter(|_| down_ms.is_multiple_of(2)) {
            self.now = self.now.max(wake);
        }
        self.tx = self.journal.durable.recover();
        self.claimed = number(self.journal.durable.0.version);
        self.journal.awaited = self.claimed;
        self.life += 1;
        self.apply(Input::Recovered { by: Incarnation(self.life) });
    }

    /// Calls that the transaction waits for, by their place on the wire.
    pub(crate) fn awaited_packets(&self) -> Vec<usize> {
        let awaited = |packet: &Packet| {
            let branch = &self.tx.branches()[packet.prepare.at];
            packet.life == self.life && branch.awaits(packet.operation, packet.attempt)
        };
        (0..self.wire.len()).filter(|at| awaited(&self.wire[*at])).collect()
    }

    pub(crate) fn awaited_locks(&self) -> Vec<usize> {
        let current = |at: &usize| self.lock_wire[*at].0 == self.life;
        let mut last: Vec<usize> = Vec::new();
        for at in (0..self.lock_wire.len()).filter(current) {
            last.retain(|other| self.lock_wire[*other].1.number != self.lock_wire[at].1.number);
            last.push(at);
        }
        last
    }

    /// Tells whether a call of this branch is under way: on the wire, or held for the journal.
    pub(crate) fn is_under_way(&self, at: usize, operation: Operation) -> bool {
        let branch = &self.tx.branches()[at];
        let held = self.calls.iter().map(|held| held.what);
        let held = held.filter(|call| call.number.index() == at).map(|c| (c.operation, c.attempt));
        let of_life = self.wire.iter().filter(|packet| packet.life == self.life);
        let sent = of_life.filter(|p| p.prepare.at == at).map(|p| (p.operation, p.attempt));
        held.chain(sent).any(|(op, attempt)| op == operation && branch.awaits(op, attempt))
    }

    pub(crate) fn lock_is_under_way(&self, owner: Option<usize>) -> bool {
        let of = |request: LockRequest| request.number.map(|number| number.index()) == owner;
        self.lock_calls.iter().any(|held| of(held.what))
            || self.lock_wire.iter().any(|(life, request)| *life == self.life && of(*request))
    }

    pub(crate) fn is_child(&self) -> bool {
        self.plan.shape == Shape::Child
    }

    pub(crate) fn committed(&self) -> bool {
        self.durable_phase().decision() == Some(Decision::Commit)
    }
}

impl Journal {
    fn push(&mut self, transition: Transition) {
        if transition.awaited {
            self.awaited = number(transition.version);
        }
        self.unwritten.push_back(transition);
    }

    fn write(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let Some(mut first) = self.unwritten.pop_front() else { return };
        for _ in 1..count {
            let Some(next) = self.unwritten.pop_front() else { break };
            first.fold(next);
        }
        self.durable.write_transition(first);
    }

    fn write_while(&mut self, wanted: impl Fn(u64) -> bool) {
        let count = self.unwritten.iter().take_while(|t| wanted(number(t.version))).count();
        self.write(count);
    }
}

/// Tells whether a rule can stand against the input. What happened by itself always fits.
fn may_be_rejected(input: &Input) -> bool {
    !matches!(
        input,
        Input::PrepareAnswered { .. }
            | Input::PhaseTwoAnswered { .. }
            | Input::LocksAnswered { .. }
            | Input::Recovered { .. }
            | Input::Tick
    )
}

pub(crate) fn number(version: unanimo_core::Version) -> u64 {
    u64::try_from(version.0).expect("versions count from 1")
}

fn split<T>(held: Vec<Held<T>>, written: u64) -> (Vec<T>, Vec<Held<T>>) {
    let (now, later): (Vec<_>, Vec<_>) = held.into_iter().partition(|held| held.needs <= written);
    (now.into_iter().map(|held| held.what).collect(), later)
}
