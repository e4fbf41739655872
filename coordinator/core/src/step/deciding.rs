//! The decision: by votes, deadlines, retry policies, initiators and parents.

use super::{Change, Step};
use crate::branch::{Branch, Enlistment, PhaseTwo, Progress, Vote, clip};
use crate::decision::{AbortCause, Decision, Phase, PhaseTwoOperation};
use crate::definition::{Compensation, Drive, Mode, Violation};
use crate::effects::EventKind;
use crate::ids::{BranchId, BranchNumber};
use crate::input::Rejection;

impl Step<'_> {
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

    pub(super) fn take_listed_vote(&mut self, index: usize, vote: Vote) {
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
        // Whoever waited for a lock until now is told who had it.
        let obstacles = self.tx.branches.iter().filter_map(Branch::obstacle);
        if let Some(obstacle) = self.tx.obstacle().into_iter().chain(obstacles).next() {
            self.tx.abort_detail = Some(clip(obstacle.to_string()));
        }
        self.decide(Decision::Abort(AbortCause::Deadline));
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

    /// Decides if the votes allow or demand it (promise S2).
    pub(super) fn evaluate(&mut self) {
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
        // A branch that its initiator calls may have voted before they were had.
        let locked = self.tx.locks.are_granted();
        if wanted && locked && self.tx.branches.iter().all(is_yes) {
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
            // An operator has ended it: that was the decision.
            if branch.progress.ended_at.is_some() {
                continue;
            }
            if decision != Decision::Commit && self.tx.was_surely_never_sent(index, self.now) {
                self.branch(index).progress.unanswered = false;
            }
            // After COMMIT the steps behind the pivot are still to be done.
            if decision != Decision::Commit || !self.tx.graph.is_after_pivot(index) {
                self.conclude(index, decision);
            }
        }
        self.end_if_all_ended();
    }

    /// Writes down what the decision owes to a branch that has voted, or never will.
    pub(super) fn conclude(&mut self, index: usize, decision: Decision) {
        let now = self.now;
        let branch = self.branch(index);
        if is_owed(branch, decision) {
            branch.progress.phase_two = PhaseTwo::Owed;
        } else {
            branch.progress.phase_two = PhaseTwo::NotOwed;
            branch.progress.ended_at = Some(now);
        }
    }
}

/// Tells whether phase two is owed. A branch that voted and ended by itself is owed a Cancel only
/// if some other attempt of its Prepare may still take effect; one that its initiator called may
/// have been called more often than its vote tells.
pub(super) fn is_owed(branch: &Branch, decision: Decision) -> bool {
    let Progress { vote, unanswered, .. } = branch.progress;
    let of_saga = branch.spec.mode == Mode::Saga;
    match decision {
        // A step is done by its yes.
        Decision::Commit => vote == Some(Vote::Prepared) && !of_saga,
        // Nobody knows whether a call of it is still under way: its participant is to refuse that.
        Decision::Abort(_) if branch.progress.refused_by_word => true,
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
