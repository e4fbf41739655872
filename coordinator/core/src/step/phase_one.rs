//! Phase one: branches are enlisted and vote, until something decides.

use std::sync::Arc;

use super::{Change, Step};
use crate::branch::{Branch, Enlistment, PhaseTwo, Progress, Refusal, Vote, clip};
use crate::decision::{AbortCause, Decision, Phase};
use crate::definition::{BranchRequest, BranchSpec, Drive, Mode, Violation, too_large};
use crate::effects::EventKind;
use crate::ids::{BranchId, BranchNumber, Incarnation, NAME_BYTES_MAX, check_alphabet};
use crate::input::{PrepareAnswer, Rejection};
use crate::payload::Payload;

impl Step<'_> {
    pub(super) fn begun(&mut self, specs: Vec<BranchSpec>) {
        for spec in specs {
            self.add(spec, Enlistment::Coordinator);
        }
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
            return if *known.spec == spec && known.enlistment == enlistment {
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
        if spec.mode != of_transaction {
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
        self.add(spec, enlistment);
        self.changed(Change::Awaited);
        Ok(())
    }

    /// The branch becomes durable, and is called only then (promise S6).
    fn add(&mut self, spec: BranchSpec, enlistment: Enlistment) {
        let index = self.tx.branches.len();
        let number = BranchNumber::from_index(index);
        let branch = Branch::new(number, Arc::new(spec), enlistment, Progress::default());
        self.tx.branches.push(branch);
        if enlistment == Enlistment::Coordinator {
            self.call(index);
        }
    }

    pub(super) fn commit_asked(
        &mut self,
        listed: &[(BranchId, Option<Vote>)],
    ) -> Result<(), Rejection> {
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

    pub(super) fn rollback_asked(&mut self) {
        if self.tx.phase == Phase::Active {
            self.decide(Decision::Abort(AbortCause::Rollback));
        }
    }

    pub(super) fn deadline_passed(&mut self) {
        self.decide(Decision::Abort(AbortCause::Deadline));
    }

    pub(super) fn prepare_answered(&mut self, index: usize, attempt: u32, answer: PrepareAnswer) {
        let branch = &self.tx.branches[index];
        let late = self.tx.phase != Phase::Active || branch.progress.vote.is_some();
        if late || branch.enlistment == Enlistment::Initiator {
            return;
        }
        let current = branch.awaits(crate::Operation::Prepare, attempt);
        match answer {
            PrepareAnswer::Prepared(output) => {
                self.take_output(index, output);
                self.voted(index, Vote::Prepared, current);
            }
            PrepareAnswer::ReadOnly if branch.spec.mode == Mode::TwoPhaseCommit => {
                self.voted(index, Vote::ReadOnly, current);
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
                let error =
                    "the participant answered READ_ONLY, which is no vote in TCC".to_owned();
                self.failed(index, error, None);
            }
            PrepareAnswer::Working { retry_after } => {
                let pause = (!retry_after.is_zero()).then_some(retry_after);
                self.failed(index, "the participant answered WORKING".to_owned(), pause);
            }
            PrepareAnswer::Failed(error) => self.failed(index, error, None),
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
        self.evaluate();
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
        let wanted = self.tx.identity.drive() == Some(Drive::Declarative) || self.tx.commit_asked;
        if wanted && self.tx.branches.iter().all(|b| b.progress.vote.is_some_and(Vote::is_yes)) {
            self.decide(Decision::Commit);
        }
    }

    /// Makes the decision: the only place that does.
    fn decide(&mut self, decision: Decision) {
        debug_assert_eq!(self.tx.phase, Phase::Active);
        let now = self.now;
        self.tx.phase = Phase::Decided { decision, at: now };
        self.changed(Change::Awaited);
        for index in 0..self.tx.branches.len() {
            let branch = self.branch(index);
            let cut_off = branch.in_flight.take().is_some();
            branch.retry_at = None;
            branch.progress.unanswered |= cut_off;
            if is_owed(branch, decision) {
                branch.progress.phase_two = PhaseTwo::Owed;
                self.call(index);
            } else {
                branch.progress.phase_two = PhaseTwo::NotOwed;
                branch.progress.ended_at = Some(now);
            }
        }
        self.end_if_all_ended();
    }

    pub(super) fn recovered(&mut self, by: Incarnation) {
        if matches!(self.tx.phase, Phase::Ended { .. }) {
            return;
        }
        self.event(EventKind::Adopted, None, format!("by incarnation {by}"));
        if self.tx.phase == Phase::Active && self.now >= self.tx.identity.deadline {
            self.mark_unanswered();
            return self.deadline_passed();
        }
        self.mark_unanswered();
        for index in 0..self.tx.branches.len() {
            let branch = &self.tx.branches[index];
            let votes = self.tx.phase == Phase::Active
                && branch.enlistment == Enlistment::Coordinator
                && branch.progress.vote.is_none();
            if votes || branch.is_owed() {
                self.call(index);
            }
        }
        // Votes may have been noted by a transition that came before the decision's.
        if self.tx.phase == Phase::Active {
            self.evaluate();
        }
    }

    /// Whatever the earlier incarnation had under way is unanswered.
    fn mark_unanswered(&mut self) {
        if self.tx.phase == Phase::Active {
            for branch in &mut self.tx.branches {
                branch.progress.unanswered |= branch.progress.vote.is_none();
            }
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
    match (vote, decision) {
        (Some(Vote::Prepared), _) | (None, Decision::Abort(_)) => true,
        (Some(Vote::ReadOnly | Vote::Refused), Decision::Commit) => false,
        (Some(Vote::ReadOnly | Vote::Refused), Decision::Abort(_)) => {
            unanswered || branch.enlistment == Enlistment::Initiator
        }
        (None, Decision::Commit) => unreachable!("COMMIT is decided on yes votes only"),
    }
}
