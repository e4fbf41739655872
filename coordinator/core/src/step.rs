//! The transition table: what each input does to a transaction, in each phase.
//!
//! | input            | active                              | decided                  | ended   |
//! |------------------|-------------------------------------|--------------------------|---------|
//! | Enlist, new      | durable, then Prepare when due      | rejected                 | rejected|
//! | Enlist, known    | nothing more                        | nothing more             | same    |
//! | CommitAsked      | COMMIT, ABORT, or wait for votes    | nothing: it is decided   | same    |
//! | RollbackAsked    | ABORT; pivot sent: wait for it      | nothing: it is decided   | same    |
//! | PrepareAnswered  | vote, or try again                  | a step after the pivot   | nothing |
//! | PhaseTwoAnswered | nothing: none was sent              | end, or try again        | nothing |
//! | LocksAnswered    | granted, wait, or ABORT             | nothing: too late        | same    |
//! | ParentDecided    | ABORT of a child                    | nothing: it is decided   | same    |
//! | Tick             | deadline: ABORT; what is due        | stalled; what is due     | nothing |
//! | Rewrite          | written again                       | written again            | nothing |
//! | Recovered        | what is due, again                  | what is due, again       | nothing |
//! | Retry            | what waits goes out now             | what waits goes out now  | nothing |
//! | Resolve, new     | rejected                            | the branch ends          | rejected|
//! | Resolve, again   | rejected                            | nothing more             | same    |
//! | Forget           | rejected                            | rejected                 | cleared |
//!
//! Two more phases come before the decision. A transaction that is *scheduled* waits for its time: a
//! Tick starts it, and ABORT ends it, to whom nothing was ever sent. A child that is *in doubt* has all
//! of its votes: only its parent's decision moves it.
//!
//! After each input the [scheduler](crate::schedule) says what is to be sent now. Nothing else sends.
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

mod attempts;
mod deciding;
mod effects;
mod enlisting;
mod locks;
mod operator;
mod phase_one;
mod phase_two;
mod recovery;

use crate::branch::{Branch, InFlight, clip};
use crate::decision::{AbortCause, Decision, Operation, Phase};
use crate::definition::{Definition, Start};
use crate::digest::Digest;
use crate::effects::{Call, Effects, Event, EventKind, LockRequest};
use crate::history;
use crate::ids::{BranchNumber, Gid, TxId};
use crate::input::{Input, Rejection};
use crate::policy::{Policy, RulesVersion};
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
        let digest = definition.digest();
        Self::begin_as(tx_id, (definition, digest), now, policy)
    }

    /// The same of a definition whose digest is known already: hashes are not made twice.
    #[must_use]
    pub fn begin_as(
        tx_id: TxId,
        (definition, digest): (Definition, Digest),
        now: Timestamp,
        policy: &Policy,
    ) -> (Self, Effects) {
        let timeout = definition.timeout.unwrap_or(policy.limits.timeout_default);
        let start_at = match definition.start {
            Start::AtOnce => None,
            Start::At(at) => Some(at),
            Start::After(delay) => Some(now.after(delay)),
        };
        let start_at = start_at.filter(|at| *at > now);
        let identity = Identity {
            tx_id,
            gid: definition.gid,
            origin: Origin::Request { mode: definition.mode, drive: definition.drive },
            digest,
            created_at: now,
            deadline: start_at.unwrap_or(now).after(timeout),
            start_at,
            locks: definition.locks,
            parent: definition.parent,
            metadata: definition.metadata,
            trace: definition.trace,
            initiator: definition.initiator,
        };
        let mut transaction = Self::unwritten(identity);
        transaction.rules = policy.rules;
        let branches = definition.branches;
        let recorded = history::Input::begin(&transaction, &branches, policy);
        let mut step = Step::new(&mut transaction, now, policy);
        step.recorded = recorded;
        step.begun(branches);
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
            start_at: None,
            locks: Vec::new(),
            parent: None,
            metadata: Default::default(),
            trace: Default::default(),
            initiator,
        };
        let mut transaction = Self::unwritten(identity);
        let mut step = Step::new(&mut transaction, now, policy);
        step.decide(Decision::Abort(AbortCause::Rollback));
        let effects = step.into_effects();
        (transaction, effects)
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
        self.take(input, now, policy, false)
    }

    /// Takes an input from a record. A version that asked less of it took it once, so that it is taken again.
    ///
    /// # Errors
    /// The input does not fit.
    pub(crate) fn apply_recorded(
        &mut self,
        input: Input,
        now: Timestamp,
        policy: &Policy,
    ) -> Result<Effects, Rejection> {
        self.take(input, now, policy, true)
    }

    fn take(
        &mut self,
        input: Input,
        now: Timestamp,
        policy: &Policy,
        is_replayed: bool,
    ) -> Result<Effects, Rejection> {
        self.rules = policy.rules;
        let recorded = history::Input::of(&input, self, policy);
        let mut step = Step::new(self, now, policy);
        (step.recorded, step.is_replayed) = (recorded, is_replayed);
        match input {
            Input::Enlist { branch, enlistment } => step.enlist(branch, enlistment)?,
            Input::CommitAsked { listed } => step.commit_asked(&listed)?,
            Input::RollbackAsked => step.rollback_asked()?,
            Input::ParentDecided { operation } => step.parent_decided(operation)?,
            Input::PrepareAnswered { number, attempt, answer } => {
                step.prepare_answered(step.known(number)?, attempt, answer);
            }
            Input::PhaseTwoAnswered { number, operation, attempt, answer } => {
                step.phase_two_answered(step.known(number)?, operation, attempt, answer);
            }
            Input::LocksAnswered { number, attempt, answer } => {
                let index = number.map(|number| step.known(number)).transpose()?;
                step.locks_answered(index, attempt, answer);
            }
            Input::Tick => step.tick(),
            Input::Rewrite => step.rewrite(),
            Input::Recovered { by } => step.recovered(by),
            Input::Retry { number, operator } => {
                let index = number.map(|number| step.known(number)).transpose()?;
                step.retry(index, operator);
            }
            Input::Resolve { number, kind, output, operator, note } => {
                let word = operator::Word { kind, output, operator, note };
                step.resolve(step.known(number)?, word)?;
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
    locks: Vec<LockRequest>,
    events: Vec<Event>,
    /// The input, if it is recorded.
    recorded: Option<history::Input>,
    /// The input comes from a record.
    is_replayed: bool,
    /// The input itself changes nothing.
    is_idle: bool,
}

impl<'a> Step<'a> {
    fn new(tx: &'a mut Transaction, now: Timestamp, policy: &'a Policy) -> Self {
        let (calls, locks, events) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            tx,
            now,
            policy,
            change: None,
            calls,
            locks,
            events,
            recorded: None,
            is_replayed: false,
            is_idle: false,
        }
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

    /// Has the branch called.
    fn call(&mut self, index: usize, operation: Operation) {
        let now = self.now;
        let branch = self.branch(index);
        if branch.spec.step.pivot && !branch.progress.released {
            branch.progress.released = true;
            self.changed(Change::Awaited);
        }
        // Its compensation gets the same inputs, also if a crash comes in between and nobody asks again
        // for the votes that brought them.
        let branch = self.branch(index);
        if operation == Operation::Prepare
            && !branch.spec.step.inputs.is_empty()
            && !branch.inputs_kept
        {
            branch.inputs_kept = true;
            self.changed(Change::Awaited);
        }
        let branch = self.branch(index);
        let attempts = match operation {
            Operation::Prepare => {
                branch.asked_at.get_or_insert(now);
                &mut branch.progress.prepare_attempts
            }
            Operation::PhaseTwo(_) => &mut branch.progress.phase_two_attempts,
        };
        let attempt = attempts.sent(now);
        branch.in_flight = Some(InFlight { operation, attempt });
        branch.retry_at = None;
        branch.is_asleep = false;
        let number = branch.number;
        // Its row says that nothing was sent.
        if self.tx.quiet {
            self.changed(Change::Awaited);
        }
        self.calls.push(Call { number, operation, attempt });
    }

    fn goes_by(&self, rules: RulesVersion) -> bool {
        self.policy.rules >= rules
    }

    fn rewrite(&mut self) {
        if !matches!(self.tx.phase, Phase::Ended { .. }) {
            self.changed(Change::Noted);
        }
    }

    /// Time has passed.
    fn tick(&mut self) {
        let now = self.now;
        let stalls = self.tx.stalls_at(self.policy).is_some_and(|at| at <= now);
        match self.tx.phase {
            Phase::Scheduled if now >= self.tx.starts_at() => self.start(),
            Phase::Active if self.tx.has_deadline() => {
                if now >= self.tx.deadline() {
                    self.deadline_passed();
                } else {
                    self.give_up();
                }
            }
            Phase::Active if stalls => self.pivot_unanswered(),
            Phase::Decided { .. } if stalls => self.stalled(),
            _ => {}
        }
    }

    /// Sends the calls that wait for their next attempt.
    fn retry(&mut self, only: Option<usize>, operator: Option<String>) {
        if matches!(self.tx.phase, Phase::Ended { .. }) {
            return;
        }
        if let Some(operator) = operator {
            let number = only.map(BranchNumber::from_index);
            self.event(EventKind::Retried, number, clip(format!("by {operator}")));
            self.changed(Change::Awaited);
        }
        let now = self.now;
        let waits = |index: usize| self.tx.branches[index].waits();
        self.is_idle = only.is_some_and(|index| self.change.is_none() && !waits(index));
        for index in 0..self.tx.branches.len() {
            if only.is_none_or(|only| only == index) {
                let branch = self.branch(index);
                branch.retry_at = None;
                branch.locks.hurry(now);
            }
        }
        if only.is_none() {
            self.tx.locks.hurry(now);
        }
    }
}
