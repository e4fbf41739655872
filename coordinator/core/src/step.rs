//! The transition table: what each input does to a transaction, in each phase.
//!
//! | input            | active                              | decided                  | ended   |
//! |------------------|-------------------------------------|--------------------------|---------|
//! | Enlist, new      | durable, then Prepare               | rejected                 | rejected|
//! | Enlist, known    | nothing more                        | nothing more             | same    |
//! | CommitAsked      | COMMIT, ABORT, or wait for votes    | nothing: it is decided   | same    |
//! | RollbackAsked    | ABORT                               | nothing: it is decided   | same    |
//! | PrepareAnswered  | vote, or try again                  | nothing: too late        | same    |
//! | PhaseTwoAnswered | nothing: none was sent              | end, or try again        | nothing |
//! | Tick             | deadline: ABORT; what is due        | stalled; what is due     | nothing |
//! | Recovered        | Prepare again what has no vote      | what is owed, again      | nothing |
//! | Retry            | what waits goes out now             | what waits goes out now  | nothing |
//! | Resolve, new     | rejected                            | the branch ends          | rejected|
//! | Resolve, again   | rejected                            | nothing more             | same    |
//! | Forget           | rejected                            | rejected                 | cleared |
//!
//! COMMIT that waits for votes is durable before it is answered; another list is then rejected. A
//! Forget that comes again changes nothing.
//!
//! A transaction begins in one of two ways: a request makes an active one, and a rollback of a gid that
//! was never seen makes a tombstone, which is ended from the start. The tombstone takes the same
//! inputs by the same table.
//!
//! The first input that decides wins; whoever comes later hears what won (promise S4). One table
//! serves live running, recovery and replay: [`Transaction::apply`] is the only way to change a
//! transaction.

mod operator;
mod phase_one;
mod phase_two;

use std::sync::Arc;

use crate::branch::{Branch, InFlight};
use crate::decision::{Operation, Phase};
use crate::definition::Definition;
use crate::digest::Digest;
use crate::effects::{Call, Effects, Event, EventKind, Transition};
use crate::ids::{BranchNumber, Gid, TxId, Version};
use crate::input::{Input, Rejection};
use crate::policy::Policy;
use crate::time::Timestamp;
use crate::transaction::{Identity, Origin, Transaction};

impl Transaction {
    /// A new transaction, and its first effects. The definition must have no
    /// [violations](Definition::violations).
    #[must_use]
    pub fn begin(
        tx_id: TxId,
        definition: Definition,
        now: Timestamp,
        policy: &Policy,
    ) -> (Self, Effects) {
        let timeout = definition.timeout.unwrap_or(policy.limits.timeout_default);
        let digest = definition.digest();
        let identity = Identity {
            tx_id,
            gid: definition.gid,
            origin: Origin::Request { mode: definition.mode, drive: definition.drive },
            digest,
            created_at: now,
            deadline: now.after(timeout),
            metadata: definition.metadata,
            trace: definition.trace,
            initiator: definition.initiator,
        };
        let mut transaction = Self::unwritten(identity);
        let mut step = Step::new(&mut transaction, now, policy);
        step.begun(definition.branches);
        let effects = step.into_effects();
        (transaction, effects)
    }

    /// A tombstone, and its effects: the initiator asks for ABORT of a gid that was never seen. It is
    /// aborted and ended at once, has no branches, and answers every request that comes later under
    /// the gid. If the gid turns out to belong to another transaction, that one is to be rolled back
    /// instead.
    #[must_use]
    pub fn tombstone(
        tx_id: TxId,
        gid: Gid,
        initiator: String,
        now: Timestamp,
        policy: &Policy,
    ) -> (Self, Effects) {
        let identity = Identity {
            tx_id,
            gid,
            origin: Origin::Tombstone,
            digest: Digest::TOMBSTONE,
            created_at: now,
            deadline: now,
            metadata: Default::default(),
            trace: Default::default(),
            initiator,
        };
        let mut transaction = Self::unwritten(identity);
        let mut step = Step::new(&mut transaction, now, policy);
        step.rollback_asked();
        let effects = step.into_effects();
        (transaction, effects)
    }

    /// A transaction to which nothing has happened.
    fn unwritten(identity: Identity) -> Self {
        Self {
            identity: Arc::new(identity),
            version: Version::default(),
            phase: Phase::Active,
            branches: Vec::new(),
            stalled: false,
            known_heuristic: crate::Heuristic::None,
            forgotten: false,
            commit_asked: false,
            unwritten_branches: 0,
            unwritten_outputs: Vec::new(),
        }
    }

    /// Takes an input. Total: an input that does not fit is a [`Rejection`], and changes nothing.
    ///
    /// # Errors
    /// The input does not fit.
    pub fn apply(
        &mut self,
        input: Input,
        now: Timestamp,
        policy: &Policy,
    ) -> Result<Effects, Rejection> {
        let mut step = Step::new(self, now, policy);
        match input {
            Input::Enlist { branch, enlistment } => step.enlist(branch, enlistment)?,
            Input::CommitAsked { listed } => step.commit_asked(&listed)?,
            Input::RollbackAsked => step.rollback_asked(),
            Input::PrepareAnswered { number, attempt, answer } => {
                step.prepare_answered(step.known(number)?, attempt, answer);
            }
            Input::PhaseTwoAnswered { number, operation, attempt, answer } => {
                step.phase_two_answered(step.known(number)?, operation, attempt, answer);
            }
            Input::Tick => step.tick(),
            Input::Recovered { by } => step.recovered(by),
            Input::Retry { number, operator } => {
                let index = number.map(|number| step.known(number)).transpose()?;
                step.retry(index, operator);
            }
            Input::Resolve { number, kind, operator, note } => {
                step.resolve(step.known(number)?, kind, operator, note)?;
            }
            Input::Forget { operator, note } => step.forget(&operator, &note)?,
        }
        Ok(step.into_effects())
    }
}

/// Urgency of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// Good to have after a crash; nothing waits for it.
    Noted,
    /// Calls and answers wait for it.
    Awaited,
}

/// One input while it is applied to one transaction.
struct Step<'a> {
    tx: &'a mut Transaction,
    now: Timestamp,
    policy: &'a Policy,
    change: Option<Change>,
    calls: Vec<Call>,
    events: Vec<Event>,
}

impl<'a> Step<'a> {
    fn new(tx: &'a mut Transaction, now: Timestamp, policy: &'a Policy) -> Self {
        Self { tx, now, policy, change: None, calls: Vec::new(), events: Vec::new() }
    }

    /// Turns what changed into a transition.
    fn into_effects(self) -> Effects {
        let Self { tx, change, calls, events, .. } = self;
        let Some(change) = change else {
            debug_assert!(events.is_empty(), "an event without a change would be lost");
            return Effects { transition: None, calls };
        };
        let begins = (tx.version == Version::default()).then(|| Arc::clone(&tx.identity));
        tx.version = tx.version.next();
        let enlisted = tx.branches[tx.unwritten_branches..]
            .iter()
            .map(|branch| (branch.number, branch.enlistment, Arc::clone(&branch.spec)))
            .collect();
        tx.unwritten_branches = tx.branches.len();
        let outputs = std::mem::take(&mut tx.unwritten_outputs)
            .into_iter()
            .filter_map(|number| Some((number, tx.branches[number.index()].output.clone()?)))
            .collect();
        let transition = Transition {
            tx_id: tx.identity.tx_id,
            version: tx.version,
            begins,
            state: tx.state(),
            enlisted,
            outputs,
            events,
            awaited: change == Change::Awaited,
        };
        Effects { transition: Some(transition), calls }
    }

    fn changed(&mut self, change: Change) {
        self.change = self.change.max(Some(change));
    }

    fn event(&mut self, kind: EventKind, number: Option<BranchNumber>, detail: String) {
        self.events.push(Event { at: self.now, kind, number, detail });
        self.changed(Change::Noted);
    }

    /// The index of a branch that exists.
    fn known(&self, number: BranchNumber) -> Result<usize, Rejection> {
        let index = number.index();
        if index < self.tx.branches.len() {
            Ok(index)
        } else {
            Err(Rejection::UnknownBranch(number))
        }
    }

    fn branch(&mut self, index: usize) -> &mut Branch {
        &mut self.tx.branches[index]
    }

    /// Sends the branch what it is owed in this phase.
    fn call(&mut self, index: usize) {
        let operation = match self.tx.phase.decision() {
            None => Operation::Prepare,
            Some(decision) => Operation::PhaseTwo(decision.operation()),
        };
        let now = self.now;
        let branch = self.branch(index);
        let attempts = match operation {
            Operation::Prepare => &mut branch.progress.prepare_attempts,
            Operation::PhaseTwo(_) => &mut branch.progress.phase_two_attempts,
        };
        let attempt = attempts.sent(now);
        branch.in_flight = Some(InFlight { operation, attempt });
        branch.retry_at = None;
        let number = branch.number;
        self.calls.push(Call { number, operation, attempt });
    }

    /// Time has passed.
    fn tick(&mut self) {
        match self.tx.phase {
            Phase::Active if self.now >= self.tx.identity.deadline => self.deadline_passed(),
            Phase::Decided { at, .. } if self.now >= at.after(self.policy.stalled_after) => {
                self.stalled();
            }
            Phase::Active | Phase::Decided { .. } | Phase::Ended { .. } => {}
        }
        for index in 0..self.tx.branches.len() {
            if self.tx.branches[index].retry_at.is_some_and(|due| due <= self.now) {
                self.call(index);
            }
        }
    }

    /// Sends the calls that wait for their next attempt.
    fn retry(&mut self, only: Option<usize>, operator: Option<String>) {
        if matches!(self.tx.phase, Phase::Ended { .. }) {
            return;
        }
        if let Some(operator) = operator {
            let number = only.map(BranchNumber::from_index);
            self.event(EventKind::Retried, number, format!("by {operator}"));
            self.changed(Change::Awaited);
        }
        for index in 0..self.tx.branches.len() {
            let wanted = only.is_none_or(|only| only == index);
            if wanted && self.tx.branches[index].retry_at.is_some() {
                self.call(index);
            }
        }
    }

    /// The attempt is over and told nothing: when to send the next one.
    fn failed(&mut self, index: usize, error: String, pause: Option<std::time::Duration>) {
        let (tx_id, now, policy) = (self.tx.identity.tx_id, self.now, self.policy);
        let phase_one = self.tx.phase == Phase::Active;
        let branch = self.branch(index);
        let (attempts, backoff) = if phase_one {
            branch.progress.unanswered = true;
            (&mut branch.progress.prepare_attempts, policy.prepare_backoff)
        } else {
            (&mut branch.progress.phase_two_attempts, policy.phase_two_backoff)
        };
        attempts.failed(error);
        let count = attempts.count;
        let pause = match pause {
            Some(asked) => asked.min(policy.retry_after_max),
            None => backoff.pause(tx_id, branch.number, count),
        };
        branch.retry_at = Some(now.after(pause.max(backoff.base)));
        branch.in_flight = None;
        // Each failure is worth a note, and a participant that is down for a day is not worth a
        // write for each: the count is noted whenever it has doubled.
        if count.is_power_of_two() {
            self.changed(Change::Noted);
        }
    }
}
