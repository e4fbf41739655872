//! Phase one: branches are enlisted and vote, until something decides.

use std::sync::Arc;
use std::time::Duration;

use super::{Change, Step};
use crate::branch::{Branch, Enlistment, PhaseTwo, Progress, Refusal, Vote, clip};
use crate::decision::{AbortCause, Decision, Operation, Phase, PhaseTwoOperation};
use crate::definition::rules::step::{self as rules, Around};
use crate::definition::{
    BranchRequest, BranchSpec, Compensation, Drive, Mode, StepSpec, Violation, too_large,
};
use crate::effects::EventKind;
use crate::graph::Graph;
use crate::ids::{BranchId, BranchNumber, Incarnation, NAME_BYTES_MAX, check_alphabet};
use crate::input::{PrepareAnswer, Rejection};
use crate::payload::Payload;
use crate::policy::spread;
use crate::time::millis;
use crate::transaction::{Identity, Transaction};

impl Step<'_> {
    pub(super) fn begun(&mut self, specs: Vec<BranchSpec>) {
        // The definition has no violations: there is an order.
        self.tx.graph = Arc::new(Graph::of(specs.iter()).unwrap_or_default());
        for spec in specs {
            self.add(spec, Enlistment::Coordinator);
        }
        self.changed(Change::Awaited);
    }

    /// The transaction's time has come. Nothing is sent before that is durable.
    pub(super) fn start(&mut self) {
        self.tx.phase = Phase::Active;
        self.tx.started_at = Some(self.now);
        self.event(EventKind::Started, None, String::new());
        self.changed(Change::Awaited);
    }

    pub(super) fn enlist(
        &mut self,
        branch: BranchRequest,
        enlistment: Enlistment,
    ) -> Result<(), Rejection> {
        // A tombstone takes no branch.
        let of_transaction = self.tx.identity.mode().ok_or(Rejection::Closed)?;
        let spec = branch.in_mode(of_transaction);
        if let Some(known) = self.tx.branch_by_id(&spec.branch_id) {
            return if known.spec.is_same(&spec) && known.enlistment == enlistment {
                Ok(())
            } else {
                Err(Rejection::BranchReused(spec.branch_id))
            };
        }
        if self.tx.identity.drive() == Some(Drive::Declarative) {
            return Err(Rejection::NotInteractive);
        }
        if self.tx.phase != Phase::Active || self.tx.commit_asked {
            return Err(Rejection::Closed);
        }
        if spec.mode != of_transaction && of_transaction != Mode::Saga {
            return Err(Rejection::OtherMode(of_transaction));
        }
        let limits = &self.policy.limits;
        if self.tx.branches.len() >= limits.branches_max {
            let rule = format!("would be one more than {} of a transaction", limits.branches_max);
            return Err(Violation::new("branch", rule).into());
        }
        let payload = spec.payload.data.len();
        let total =
            payload + self.tx.branches.iter().map(|b| b.spec.payload.data.len()).sum::<usize>();
        let over = (spec.payload.bad_media_type("branch.payload"))
            .or_else(|| too_large("branch.payload", payload, limits.payload_bytes_max))
            .or_else(|| too_large("payloads of all branches", total, limits.payloads_bytes_max));
        if let Some(violation) = over {
            return Err(violation.into());
        }
        self.order(&spec, enlistment, of_transaction)?;
        self.add(spec, enlistment);
        self.changed(Change::Awaited);
        Ok(())
    }

    /// Puts a new branch into the order of the others, if it breaks no rule.
    fn order(
        &mut self,
        spec: &BranchSpec,
        enlistment: Enlistment,
        of_transaction: Mode,
    ) -> Result<(), Rejection> {
        let first = |violations: Vec<Violation>| match violations.into_iter().next() {
            Some(violation) => Err(Rejection::from(violation)),
            None => Ok(()),
        };
        if of_transaction != Mode::Saga {
            return first(rules::only_in_sagas("branch", &spec.step));
        }
        if enlistment == Enlistment::Initiator {
            // The coordinator sends it nothing before the decision.
            let depends_on = spec.step.depends_on.clone();
            let compensation = spec.step.compensation;
            let ordered = StepSpec { depends_on, compensation, ..StepSpec::default() };
            if ordered != spec.step {
                let rule = "must only say depends_on and compensation of a branch that its initiator calls";
                return Err(Violation::new("branch", rule).into());
            }
        }
        let known = self.tx.branches.iter().map(|branch| &*branch.spec);
        let branches: Vec<&BranchSpec> = known.chain([spec]).collect();
        let index = branches.len() - 1;
        // A new branch closes no circle: none of the others names it.
        let graph = Graph::of(branches.iter().copied()).unwrap_or_default();
        let Identity { created_at, deadline, .. } = *self.tx.identity;
        let around = Around {
            branches: &branches,
            graph: &graph,
            no_pivot: Some("the initiator of an interactive saga decides"),
            timeout: created_at.until(deadline),
            limits: &self.policy.limits,
        };
        first(rules::violations("branch", index, around))?;
        self.tx.graph = Arc::new(graph);
        Ok(())
    }

    /// The branch becomes durable, and is called only then (promise S6).
    fn add(&mut self, spec: BranchSpec, enlistment: Enlistment) {
        let number = BranchNumber::from_index(self.tx.branches.len());
        let branch = Branch::new(number, Arc::new(spec), enlistment, Progress::default());
        self.tx.branches.push(branch);
    }

    pub(super) fn commit_asked(
        &mut self,
        listed: &[(BranchId, Option<Vote>)],
    ) -> Result<(), Rejection> {
        if matches!(self.tx.phase, Phase::InDoubt { .. }) {
            return Err(Rejection::ParentDecides);
        }
        if self.tx.identity.drive() == Some(Drive::Declarative) {
            return Err(Rejection::NotInteractive);
        }
        let listed = self.resolve_listed(listed)?;
        if self.tx.phase != Phase::Active {
            return Ok(());
        }
        if self.tx.commit_asked {
            return self.same_list(&listed);
        }
        for (index, slot) in listed.iter().enumerate() {
            let branch = &self.tx.branches[index];
            let number = branch.number;
            match (slot, branch.enlistment) {
                (None, _) => {
                    self.decide(Decision::Abort(AbortCause::Unlisted(number)));
                    return Ok(());
                }
                (Some(None), Enlistment::Initiator) => {
                    self.decide(Decision::Abort(AbortCause::NoVote(number)));
                    return Ok(());
                }
                (Some(Some(vote)), Enlistment::Initiator) => self.take_listed_vote(index, *vote),
                (Some(_), Enlistment::Coordinator) => {}
            }
        }
        self.tx.commit_asked = true;
        self.evaluate();
        if self.tx.phase == Phase::Active {
            self.tx.branches.iter_mut().for_each(|branch| branch.progress.listed = true);
            self.changed(Change::Awaited);
        }
        Ok(())
    }

    /// Tells whether the list is the one that waits: that one names every branch, and has the votes
    /// of those that the initiator called itself.
    fn same_list(&self, listed: &[Option<Option<Vote>>]) -> Result<(), Rejection> {
        let same = |(slot, branch): (&Option<Option<Vote>>, &Branch)| match branch.enlistment {
            Enlistment::Coordinator => slot.is_some(),
            Enlistment::Initiator => *slot == Some(branch.progress.vote),
        };
        if listed.iter().zip(&self.tx.branches).all(same) {
            Ok(())
        } else {
            Err(Rejection::CommitReused)
        }
    }

    /// Returns the initiator's entry for each branch, by index: `None` where the list has none.
    fn resolve_listed(
        &self,
        listed: &[(BranchId, Option<Vote>)],
    ) -> Result<Vec<Option<Option<Vote>>>, Rejection> {
        let mut slots = vec![None; self.tx.branches.len()];
        for (position, (id, vote)) in listed.iter().enumerate() {
            let field = |name: &str| format!("branches[{position}].{name}");
            let Some(branch) = self.tx.branch_by_id(id) else {
                return Err(Rejection::no_branch(field("branch_id"), id));
            };
            if slots[branch.number.index()].replace(*vote).is_some() {
                let rule = format!("must be unique, {id} came before");
                return Err(Violation::new(field("branch_id"), rule).into());
            }
            let read_only = *vote == Some(Vote::ReadOnly);
            let own_word = branch.enlistment == Enlistment::Initiator;
            if read_only && own_word && branch.spec.mode == Mode::Tcc {
                let rule = "must not be READ_ONLY: TCC has no such vote";
                return Err(Violation::new(field("vote"), rule).into());
            }
        }
        Ok(slots)
    }

    fn take_listed_vote(&mut self, index: usize, vote: Vote) {
        let now = self.now;
        let progress = &mut self.branch(index).progress;
        progress.vote = Some(vote);
        progress.voted_at = Some(now);
    }

    pub(super) fn rollback_asked(&mut self) -> Result<(), Rejection> {
        match self.tx.phase {
            Phase::InDoubt { .. } => return Err(Rejection::ParentDecides),
            // The pivot's answer decides, whoever asks for what.
            Phase::Active if self.tx.is_pivot_sent() => {}
            Phase::Scheduled | Phase::Active => {
                self.decide(Decision::Abort(AbortCause::Rollback));
            }
            Phase::Decided { .. } | Phase::Ended { .. } => {}
        }
        Ok(())
    }

    /// The parent of a child has decided, and its decision is the child's.
    pub(super) fn parent_decided(&mut self, operation: PhaseTwoOperation) -> Result<(), Rejection> {
        if self.tx.identity.parent.is_none() {
            return Err(Rejection::NoParent);
        }
        match (self.tx.phase, operation) {
            (Phase::InDoubt { .. }, PhaseTwoOperation::Commit) => self.decide(Decision::Commit),
            // COMMIT without all votes: the parent was told of none.
            (Phase::Scheduled | Phase::Active, PhaseTwoOperation::Commit) => {
                return Err(Rejection::NotVoted);
            }
            (phase, PhaseTwoOperation::Cancel) if phase.is_open() => {
                self.decide(Decision::Abort(AbortCause::Parent));
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn deadline_passed(&mut self) {
        self.decide(Decision::Abort(AbortCause::Deadline));
    }

    pub(super) fn prepare_answered(&mut self, index: usize, attempt: u32, answer: PrepareAnswer) {
        if self.tx.owes(index) != Some(Operation::Prepare) {
            return;
        }
        let must_succeed = self.tx.graph.is_after_pivot(index);
        let branch = &self.tx.branches[index];
        let current = branch.awaits(crate::Operation::Prepare, attempt);
        match answer {
            PrepareAnswer::Prepared(output) => {
                self.take_output(index, output);
                self.voted(index, Vote::Prepared, current);
            }
            PrepareAnswer::ReadOnly if branch.spec.mode == Mode::TwoPhaseCommit => {
                self.voted(index, Vote::ReadOnly, current);
            }
            PrepareAnswer::Refused(refusal) if must_succeed => {
                self.refused_after_commit(index, &refusal, current);
            }
            PrepareAnswer::Refused(refusal) => {
                let Refusal { reason, message } = refusal;
                let refusal = Refusal { reason: known_reason(reason), message: clip(message) };
                self.branch(index).progress.refusal = Some(refusal);
                self.voted(index, Vote::Refused, current);
            }
            // An attempt that was given up before ended now: its end is known already.
            _ if !current => {}
            PrepareAnswer::ReadOnly => {
                let mode = branch.spec.mode.name();
                let error =
                    format!("the participant answered READ_ONLY, which is no vote in mode {mode}");
                self.failed(index, error);
            }
            PrepareAnswer::Working { retry_after } => {
                self.working(index, retry_after);
            }
            PrepareAnswer::Failed(error) => self.failed(index, error),
        }
    }

    fn voted(&mut self, index: usize, vote: Vote, current: bool) {
        let now = self.now;
        let branch = self.branch(index);
        // The vote of an attempt that was given up: the one under way has not answered.
        branch.progress.unanswered |= !current && branch.in_flight.is_some();
        branch.progress.vote = Some(vote);
        branch.progress.voted_at = Some(now);
        branch.in_flight = None;
        branch.retry_at = None;
        if self.tx.phase == Phase::Active {
            self.evaluate();
        } else {
            self.conclude(index, Decision::Commit);
            self.end_if_all_ended();
        }
        let since = self.tx.written_at.until(now);
        if self.tx.graph.is_ordered() && since > self.policy.vote_noted_after {
            self.changed(Change::Noted);
        }
    }

    /// A step after the pivot was refused. That is no vote: there is only forward.
    fn refused_after_commit(&mut self, index: usize, refusal: &Refusal, current: bool) {
        let Refusal { reason, message } = refusal;
        let error = clip(format!("REFUSED after COMMIT: {reason}: {message}"));
        if !self.tx.stalled {
            self.tx.stalled = true;
            let number = BranchNumber::from_index(index);
            self.event(EventKind::RefusedAfterCommit, Some(number), error.clone());
            self.changed(Change::Awaited);
        }
        if current {
            self.failed(index, error);
        }
    }

    /// The pivot is out, and the deadline long past: a person has to know.
    pub(super) fn pivot_unanswered(&mut self) {
        if !self.tx.stalled {
            self.tx.stalled = true;
            let pivot = self.tx.graph.pivot().map(BranchNumber::from_index);
            let detail = "only its answer decides; it is sent again".to_owned();
            self.event(EventKind::PivotUnanswered, pivot, detail);
        }
    }

    /// Decides ABORT if some branch was tried for longer than its policy allows.
    pub(super) fn give_up(&mut self) {
        let out_of_time =
            |index: &usize| self.tx.gives_up_at(*index).is_some_and(|at| at <= self.now);
        if let Some(index) = (0..self.tx.branches.len()).find(out_of_time) {
            self.gave_up(index);
        }
    }

    pub(super) fn gave_up(&mut self, index: usize) {
        let number = BranchNumber::from_index(index);
        let attempts = &self.tx.branches[index].progress.prepare_attempts;
        let last = attempts.last_error.as_deref().unwrap_or("no answer yet");
        self.tx.abort_detail = Some(clip(format!("{} attempt(s); last: {last}", attempts.count)));
        self.decide(Decision::Abort(AbortCause::GaveUp(number)));
    }

    fn take_output(&mut self, index: usize, output: Payload) {
        let output = output.without_bad_media_type();
        // A prepared transaction's output could not be told again after a crash.
        let untellable = self.tx.branches[index].spec.mode == Mode::TwoPhaseCommit;
        if output.is_empty() || (untellable && output.data.is_empty()) {
            return;
        }
        let size = output.data.len();
        let limits = &self.policy.limits;
        let held: usize =
            self.tx.branches.iter().filter_map(|b| b.output.as_ref()).map(|o| o.data.len()).sum();
        let over = size > limits.output_bytes_max || held + size > limits.outputs_bytes_max;
        let number = BranchNumber::from_index(index);
        if over || untellable {
            self.branch(index).progress.output_dropped = true;
            let detail = if untellable {
                "two-phase commit has no outputs".to_owned()
            } else {
                format!("{size} bytes are over the limit")
            };
            self.event(EventKind::OutputDropped, Some(number), detail);
        } else {
            self.branch(index).output = Some(output);
            self.tx.unwritten_outputs.push(number);
        }
    }

    /// Decides if the votes allow or demand it (promise S2).
    fn evaluate(&mut self) {
        let refused = |b: &&Branch| b.progress.vote == Some(Vote::Refused);
        if let Some(branch) = self.tx.branches.iter().find(refused) {
            let number = branch.number;
            return self.decide(Decision::Abort(AbortCause::Refused(number)));
        }
        let is_yes = |branch: &Branch| branch.progress.vote.is_some_and(Vote::is_yes);
        if let Some(pivot) = self.tx.graph.pivot() {
            // Everything that does not come after it voted yes before it was sent.
            if is_yes(&self.tx.branches[pivot]) {
                self.decide(Decision::Commit);
            }
            return;
        }
        let wanted = self.tx.identity.drive() == Some(Drive::Declarative) || self.tx.commit_asked;
        if wanted && self.tx.branches.iter().all(is_yes) {
            if self.tx.identity.parent.is_some() {
                self.tx.phase = Phase::InDoubt { at: self.now };
                self.event(EventKind::InDoubt, None, String::new());
                self.changed(Change::Awaited);
            } else {
                self.decide(Decision::Commit);
            }
        }
    }

    /// Makes the decision: the only place that does.
    pub(super) fn decide(&mut self, decision: Decision) {
        debug_assert!(self.tx.phase.is_open());
        self.tx.phase = Phase::Decided { decision, at: self.now };
        // The alarm of a pivot that did not answer is cleared, and the next one will be heard.
        self.tx.stalled = false;
        self.changed(Change::Awaited);
        for index in 0..self.tx.branches.len() {
            let branch = self.branch(index);
            let cut_off = branch.in_flight.take().is_some();
            branch.retry_at = None;
            branch.progress.unanswered |= cut_off;
            // After COMMIT the steps behind the pivot are still to be done.
            if decision != Decision::Commit || !self.tx.graph.is_after_pivot(index) {
                self.conclude(index, decision);
            }
        }
        self.end_if_all_ended();
    }

    /// Settles what the decision owes to a branch that has voted, or never will.
    fn conclude(&mut self, index: usize, decision: Decision) {
        let now = self.now;
        let branch = self.branch(index);
        if is_owed(branch, decision) {
            branch.progress.phase_two = PhaseTwo::Owed;
        } else {
            branch.progress.phase_two = PhaseTwo::NotOwed;
            branch.progress.ended_at = Some(now);
        }
    }

    pub(super) fn recovered(&mut self, by: Incarnation) {
        if matches!(self.tx.phase, Phase::Ended { .. }) {
            return;
        }
        self.event(EventKind::Adopted, None, format!("by incarnation {by}"));
        match self.tx.phase {
            Phase::Scheduled => self.spread_a_late_start(),
            Phase::Active => {
                self.mark_unanswered();
                if self.tx.has_deadline() && self.now >= self.tx.deadline() {
                    self.deadline_passed();
                } else {
                    // Votes may have been noted by a transition that came before the decision's.
                    self.evaluate();
                }
            }
            Phase::InDoubt { .. } | Phase::Decided { .. } | Phase::Ended { .. } => {}
        }
    }

    /// After a long stop many are late: each starts at a time of its own.
    fn spread_a_late_start(&mut self) {
        let late = self.tx.starts_at().until(self.now);
        let within = millis(late.min(self.policy.late_starts_spread));
        let first = BranchNumber::from_index(0);
        let pause = spread(self.tx.identity.tx_id, first, 0) % (within + 1);
        self.tx.not_before = self.now.after(Duration::from_millis(pause));
    }

    /// Whatever the earlier incarnation may have sent is unanswered. Steps are sent as soon as those
    /// before them have voted, and no vote is awaited: so the record does not tell which were sent. Only
    /// the pivot's sending is in it, and nothing behind it is sent before COMMIT.
    fn mark_unanswered(&mut self) {
        let Transaction { branches, graph, .. } = &mut *self.tx;
        for (index, branch) in branches.iter_mut().enumerate() {
            let sent = graph.may_be_undone(index) || branch.progress.released;
            branch.progress.unanswered |= sent && branch.progress.vote.is_none();
        }
    }
}

/// Reason that stands for one that programs cannot read.
const REFUSED: &str = "REFUSED";

/// Returns the reason of a refusal, or [`REFUSED`] if it is longer than a name or has other
/// characters.
fn known_reason(reason: String) -> String {
    match check_alphabet(&reason, NAME_BYTES_MAX) {
        Ok(()) => reason,
        Err(_) => REFUSED.to_owned(),
    }
}

/// Tells whether phase two is owed. A branch that voted and ended by itself is owed a Cancel only
/// if some other attempt of its Prepare may still take effect; one that its initiator called may
/// have been called more often than its vote tells.
fn is_owed(branch: &Branch, decision: Decision) -> bool {
    let Progress { vote, unanswered, .. } = branch.progress;
    let of_saga = branch.spec.mode == Mode::Saga;
    match decision {
        // A step is done by its yes.
        Decision::Commit => vote == Some(Vote::Prepared) && !of_saga,
        // There is nothing that could undo it.
        Decision::Abort(_)
            if of_saga && branch.spec.step.compensation != Compensation::Compensate =>
        {
            false
        }
        Decision::Abort(_) => {
            vote == Some(Vote::Prepared) || unanswered || branch.enlistment == Enlistment::Initiator
        }
    }
}
