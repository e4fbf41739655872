//! The scheduler: what is to be sent now, and when the next thing is due, in any mode.
//!
//! [`Transaction::owes`] says which operation a branch is owed, and [`Transaction::is_released`]
//! whether its time has come. A branch that is owed something and not released waits: for the branches
//! that it depends on, for its delay, for its locks; or, on ABORT, for those that depend on it.

use std::borrow::Cow;
use std::time::Duration;

use crate::branch::{Branch, Enlistment, Locks, Vote};
use crate::decision::{Decision, Operation, Phase, PhaseTwoOperation};
use crate::definition::Compensation;
use crate::policy::{Policy, RulesVersion};
use crate::time::Timestamp;
use crate::transaction::Transaction;

/// Time for which a step is waited for after a crash, though its patience has passed meanwhile: longer than a call to a
/// participant that works.
const ASKED_AGAIN: Duration = Duration::from_secs(10);

impl Transaction {
    /// Returns the branches that are to be called now.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<(usize, Operation)> {
        let is_due = |(index, branch): (usize, &Branch)| {
            let idle = branch.in_flight.is_none() && branch.retry_at.is_none_or(|at| at <= now);
            let operation = self.owes(index).filter(|_| idle)?;
            self.is_released(index, operation, now).then_some((index, operation))
        };
        self.branches.iter().enumerate().filter_map(is_due).collect()
    }

    /// Returns the owners of locks that are to be asked for now: branches, or the transaction itself.
    pub(crate) fn due_locks(&self, now: Timestamp) -> Vec<Option<usize>> {
        if self.phase != Phase::Active {
            return Vec::new();
        }
        let own = self.locks.is_due(now).then_some(None);
        let is_due = |(index, branch): (usize, &Branch)| {
            let wanted = branch.locks.is_due(now) && self.owes(index).is_some();
            (wanted && self.is_ready(index, now)).then_some(Some(index))
        };
        let of_branches = self.branches.iter().enumerate().filter_map(is_due);
        own.into_iter().chain(of_branches.filter(|_| self.locks.are_granted())).collect()
    }

    /// Returns the operation that the branch is owed in this phase, whether or not its time has come.
    pub(crate) fn owes(&self, index: usize) -> Option<Operation> {
        let branch = &self.branches[index];
        let votes = branch.enlistment == Enlistment::Coordinator && branch.progress.vote.is_none();
        match self.phase {
            Phase::Active => votes.then_some(Operation::Prepare),
            Phase::Decided { decision, .. } if branch.is_owed() => {
                Some(Operation::PhaseTwo(decision.operation()))
            }
            Phase::Decided { decision: Decision::Commit, .. } => {
                (votes && branch.progress.ended_at.is_none()).then_some(Operation::Prepare)
            }
            Phase::Scheduled
            | Phase::InDoubt { .. }
            | Phase::Decided { .. }
            | Phase::Ended { .. } => None,
        }
    }

    /// Tells whether the operation that the branch is owed may be sent.
    pub(crate) fn is_released(&self, index: usize, operation: Operation, now: Timestamp) -> bool {
        match operation {
            Operation::Prepare => {
                // Whatever is sent after the decision had its locks before.
                let locked = self.locks.are_granted() && self.branches[index].locks.are_granted();
                let had_them =
                    self.phase != Phase::Active || self.branches[index].progress.released;
                (locked || had_them) && self.is_ready(index, now)
            }
            Operation::PhaseTwo(PhaseTwoOperation::Commit) => true,
            // In reverse order: whatever depends on it has ended, or has no effect by an operator's word.
            Operation::PhaseTwo(PhaseTwoOperation::Cancel) => self.graph.below(index).all(|at| {
                let progress = &self.branches[at].progress;
                progress.ended_at.is_some() || progress.refused_by_word
            }),
        }
    }

    /// Tells whether nothing but locks stands before the branch's Prepare.
    fn is_ready(&self, index: usize, now: Timestamp) -> bool {
        self.ready_at(index).is_some_and(|at| at <= now)
    }

    /// Returns the time from which the branch's Prepare may be sent; `None` while a branch that it
    /// depends on has not voted yes.
    pub(crate) fn ready_at(&self, index: usize) -> Option<Timestamp> {
        let mut last = self.started_at.unwrap_or(self.identity.created_at);
        for before in self.waited_for(index).iter() {
            let progress = &self.branches[*before].progress;
            if !progress.vote.is_some_and(Vote::is_yes) {
                return None;
            }
            last = last.max(progress.voted_at.unwrap_or(last));
        }
        // An operator's word for the pivot may come long after the votes before it.
        let decided_at = self.phase.decided_at().filter(|_| self.graph.is_after_pivot(index));
        last = last.max(decided_at.unwrap_or(last));
        if self.rules >= RulesVersion::SECOND {
            let by_word = (0..self.branches.len())
                .filter(|at| self.graph.depends(index, *at) && self.is_ended_by_word(*at));
            let last_word = by_word.filter_map(|at| self.branches[at].progress.ended_at).max();
            last = last.max(last_word.unwrap_or(last));
        }
        let step = &self.branches[index].spec.step;
        let delayed = step.delay.map_or(last, |delay| last.after(delay));
        Some(step.start_at.map_or(delayed, |at| at.max(delayed)))
    }

    /// Returns the earliest times at which branches can be sent, or can have been, if those before them vote at once.
    pub(crate) fn earliest_sendings(&self) -> Vec<Timestamp> {
        let start = self.started_at.unwrap_or(self.identity.created_at);
        let mut earliest = vec![start; self.branches.len()];
        for index in self.graph.in_order(self.branches.len()) {
            let before = self.waited_for(index);
            let voted = |at: &usize| self.branches[*at].progress.voted_at.unwrap_or(earliest[*at]);
            let last = before.iter().map(voted).max().unwrap_or(start).max(start);
            let step = &self.branches[index].spec.step;
            let delayed = step.delay.map_or(last, |delay| last.after(delay));
            earliest[index] = step.start_at.map_or(delayed, |at| at.max(delayed));
        }
        earliest
    }

    /// Tells whether a step that is kept on ABORT was surely never sent, whatever a crash has lost: then its
    /// effect is not shown as one that stays. Only that hangs on it, so that the time of day may tell.
    pub(crate) fn was_surely_never_sent(&self, index: usize, now: Timestamp) -> bool {
        let is_unsent = |at: usize| {
            let branch = &self.branches[at];
            let step = &branch.spec.step;
            // A sending with inputs is awaited: it would be counted.
            let counts = !step.inputs.is_empty();
            let start = self.started_at.unwrap_or(self.identity.created_at);
            let earliest = step.delay.map_or(start, |delay| start.after(delay));
            let not_due = earliest.max(step.start_at.unwrap_or(earliest)) > now;
            branch.was_never_called() && branch.progress.vote.is_none() && (counts || not_due)
        };
        let refused = |at: usize| self.branches[at].progress.vote == Some(Vote::Refused);
        let branch = &self.branches[index];
        branch.spec.step.compensation == Compensation::Kept
            && branch.enlistment == Enlistment::Coordinator
            && branch.was_never_called()
            && branch.progress.vote.is_none()
            && (is_unsent(index)
                // What a participant has refused it refused before a crash, too.
                || (0..self.branches.len())
                    .filter(|at| self.graph.depends(index, *at))
                    .any(|at| is_unsent(at) || refused(at)))
    }

    /// Returns the branches whose votes the branch waits for. A branch that its initiator calls, or
    /// that an operator ended by word, is passed over: whatever stands before it is waited for in its
    /// place.
    fn waited_for(&self, index: usize) -> Cow<'_, [usize]> {
        let before = self.graph.before(index);
        let votes = |at: &usize| {
            let by_coordinator = self.branches[*at].enlistment == Enlistment::Coordinator;
            by_coordinator && !self.is_ended_by_word(*at)
        };
        if before.iter().all(votes) {
            return Cow::Borrowed(before);
        }
        let all = (0..self.branches.len()).filter(|at| self.graph.depends(index, *at));
        Cow::Owned(all.filter(votes).collect())
    }

    /// Tells whether an operator's word has ended a branch that had not voted.
    fn is_ended_by_word(&self, index: usize) -> bool {
        let progress = &self.branches[index].progress;
        progress.ended_at.is_some() && progress.vote.is_none()
    }

    /// When ABORT is decided if nothing else was. It counts from the start, so that a late one moves
    /// it.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        let late = match (self.identity.start_at, self.started_at) {
            (Some(planned), Some(started)) => planned.until(started),
            _ => Duration::ZERO,
        };
        self.identity.deadline.after(late)
    }

    /// Tells whether the deadline can still decide: not in a child that has voted, nor once the
    /// pivot is under way.
    #[must_use]
    pub fn has_deadline(&self) -> bool {
        self.phase == Phase::Active && !self.is_pivot_sent()
    }

    /// Tells whether the pivot's Prepare was released: from then on only its answer decides.
    pub(crate) fn is_pivot_sent(&self) -> bool {
        self.graph.pivot().is_some_and(|pivot| self.branches[pivot].progress.released)
    }

    /// A Prepare of this branch that starts later than this must be refused by its participant. The
    /// pivot and what comes after it have no such time: they are sent for as long as it takes.
    #[must_use]
    pub fn prepare_until(&self, branch: &Branch, policy: &Policy) -> Option<Timestamp> {
        let index = branch.number.index();
        self.graph.may_be_undone(index).then(|| self.deadline().after(policy.clock_skew))
    }

    /// Tells whether the branch's Prepare may only succeed: the saga is past its pivot.
    #[must_use]
    pub fn must_succeed(&self, branch: &Branch) -> bool {
        self.graph.is_after_pivot(branch.number.index())
    }

    /// When [`crate::Input::Tick`] is due next; `None` if nothing waits for time.
    #[must_use]
    pub fn wake_at(&self, policy: &Policy) -> Option<Timestamp> {
        let own = match self.phase {
            Phase::Scheduled => return Some(self.starts_at()),
            Phase::Active if self.has_deadline() => Some(self.deadline()),
            Phase::Active | Phase::Decided { .. } if !self.stalled => self.stalls_at(policy),
            Phase::Active | Phase::InDoubt { .. } | Phase::Decided { .. } => None,
            Phase::Ended { .. } => return None,
        };
        let of_branches = (0..self.branches.len()).filter_map(|index| self.branch_wakes_at(index));
        // After the decision no locks are taken any more.
        let locks = self.locks.retry_at().filter(|_| self.phase == Phase::Active);
        of_branches.chain(locks).chain(own).min()
    }

    /// Tells whether its alarm is raised: something holds it up for long.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// When a transaction that only its participants hold up is stalled: so long after the deadline,
    /// where the pivot is waited for; after the decision; or after the time from which a step behind
    /// the pivot was to be sent.
    pub(crate) fn stalls_at(&self, policy: &Policy) -> Option<Timestamp> {
        let since = match self.phase {
            Phase::Active if !self.has_deadline() => self.deadline(),
            Phase::Decided { at, .. } => {
                let due = |index| match self.owes(index)? {
                    Operation::Prepare => Some(self.ready_at(index)?.max(at)),
                    Operation::PhaseTwo(_) => Some(at),
                };
                (0..self.branches.len()).filter_map(due).min().unwrap_or(at)
            }
            _ => return None,
        };
        Some(since.after(policy.stalled_after))
    }

    /// When a transaction that waits for its time starts.
    pub(crate) fn starts_at(&self) -> Timestamp {
        let planned = self.identity.start_at.unwrap_or(self.identity.created_at);
        planned.max(self.not_before)
    }

    /// When the branch is to be looked at: its next attempt, the end of its patience, or its start.
    fn branch_wakes_at(&self, index: usize) -> Option<Timestamp> {
        let branch = &self.branches[index];
        let starts = || match branch.locks {
            _ if self.owes(index) != Some(Operation::Prepare) => None,
            Locks::Asked { .. } => None,
            Locks::Waiting { retry_at, .. } => Some(retry_at),
            Locks::Granted | Locks::Wanted => {
                // Whatever is sent after the decision had its locks before.
                let locked = self.locks.are_granted() || self.phase != Phase::Active;
                self.ready_at(index).filter(|_| locked)
            }
        };
        let next = match branch.in_flight {
            Some(_) => None,
            // One that is late after a stop has its turn, and cannot go before it has its locks.
            None if self.waits_for_locks(index) => starts(),
            None => branch.retry_at.or_else(starts),
        };
        next.into_iter().chain(self.gives_up_at(index)).min()
    }

    /// Tells whether the branch's Prepare is owed, and its locks, or the transaction's, are not had.
    fn waits_for_locks(&self, index: usize) -> bool {
        let branch = &self.branches[index];
        let locked = self.locks.are_granted() && branch.locks.are_granted();
        let owed = self.phase == Phase::Active && self.owes(index) == Some(Operation::Prepare);
        owed && !locked && !branch.progress.released
    }

    /// When the branch's Prepare is given up, if its policy says so.
    pub(crate) fn gives_up_at(&self, index: usize) -> Option<Timestamp> {
        let branch = &self.branches[index];
        let patience = branch.spec.step.retry?.give_up_after?;
        let waits = self.phase == Phase::Active && branch.progress.vote.is_none();
        let tried = branch.progress.prepare_attempts.count > 0;
        let at = branch.progress.prepare_attempts.first_at.after(patience);
        if self.rules < RulesVersion::THIRD {
            return (waits && tried).then_some(at);
        }
        // A participant is not to blame for a time in which nobody asked it.
        let asked = branch.asked_at.filter(|_| waits)?;
        Some(at.max(asked.after(patience.min(ASKED_AGAIN))))
    }

    /// Returns the time before which nothing happens by itself, where only time is waited for.
    pub(crate) fn quiet_until(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Scheduled => self.identity.start_at,
            Phase::Active if self.has_deadline() && !self.has_work() => {
                let starts =
                    (0..self.branches.len()).filter_map(|index| self.ready_at_if_owed(index));
                starts.min().map(|at| at.min(self.deadline()))
            }
            // Steps behind the pivot that wait for their time, and nothing else.
            Phase::Decided { decision: Decision::Commit, .. } if !self.has_work() => {
                let owed = |branch: &Branch| branch.is_owed();
                if self.branches.iter().any(owed) {
                    return None;
                }
                (0..self.branches.len()).filter_map(|index| self.ready_at_if_owed(index)).min()
            }
            _ => None,
        }
    }

    fn ready_at_if_owed(&self, index: usize) -> Option<Timestamp> {
        self.owes(index)?;
        let branch = &self.branches[index];
        match branch.retry_at.filter(|_| branch.is_asleep) {
            Some(at) => self.gives_up_at(index).into_iter().chain([at]).min(),
            None => self.ready_at(index),
        }
    }

    /// Tells whether anything but time is waited for.
    fn has_work(&self) -> bool {
        // After the decision no locks are taken any more.
        let takes = |locks: Locks| self.phase == Phase::Active && !locks.is_idle();
        takes(self.locks)
            || self.branches.iter().any(|branch| {
                let comes_again = branch.retry_at.is_some() && !branch.is_asleep;
                branch.in_flight.is_some() || comes_again || takes(branch.locks)
            })
    }
}
