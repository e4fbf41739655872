//! The answer to "why is it waiting?": what an open transaction waits for, and since when.

use crate::branch::{Attempts, Branch};
use crate::decision::{Operation, Phase};
use crate::definition::Drive;
use crate::input::Obstacle;
use crate::time::Timestamp;
use crate::transaction::Transaction;

/// Cause for which a transaction has come no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause<'a> {
    /// Its start, or that of the branch.
    Time,
    /// The decision of its parent.
    Parent,
    /// The initiator's Commit or Rollback.
    Initiator,
    /// Locks: the transaction that stands in the way, where one is known.
    Lock(Option<&'a Obstacle>),
    /// A call that is due and not sent: it has no place yet, or nobody has the transaction in memory.
    Turn(Operation),
    /// The answer of a call.
    Answer(Operation),
    /// The next attempt of a call that failed.
    Retry(Operation),
}

/// Thing that a transaction waits for.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// The cause.
    pub cause: Cause<'a>,
    /// The branch that it is about; `None` where it is the transaction itself.
    pub branch: Option<&'a Branch>,
    /// Since when.
    pub since: Timestamp,
    /// When something happens by itself: the start, the next attempt, the next request for the locks, or the deadline.
    pub until: Option<Timestamp>,
    /// Number of branches that wait for something other than a branch.
    pub branches: usize,
}

impl Waiting<'_> {
    /// Orders causes by how much they tell: a call before what only time or other transactions hold back, and what
    /// has waited longest first.
    fn rank(&self) -> (u8, Timestamp) {
        let rank = match self.cause {
            Cause::Answer(_) | Cause::Retry(_) => 0,
            Cause::Turn(_) => 1,
            Cause::Lock(_) => 2,
            Cause::Time | Cause::Parent | Cause::Initiator => 3,
        };
        (rank, self.since)
    }
}

impl Transaction {
    /// Returns what the transaction waits for; `None` if it has ended, or is about to go on.
    #[must_use]
    pub fn waiting(&self, now: Timestamp) -> Option<Waiting<'_>> {
        let own =
            |cause, since, until| Some(Waiting { cause, branch: None, since, until, branches: 0 });
        let began = self.started_at.unwrap_or(self.identity.created_at);
        match self.phase {
            Phase::Ended { .. } => return None,
            Phase::Scheduled => return own(Cause::Time, began, Some(self.starts_at())),
            Phase::InDoubt { at } => return own(Cause::Parent, at, None),
            Phase::Active if !self.locks.are_granted() => {
                return own(Cause::Lock(self.obstacle()), began, self.locks.retry_at());
            }
            Phase::Active | Phase::Decided { .. } => {}
        }
        let of_branches = (0..self.branches.len()).filter_map(|at| self.branch_waiting(at, now));
        let of_branches: Vec<_> = of_branches.collect();
        let branches = of_branches.len();
        if let Some(first) = of_branches.into_iter().min_by_key(Waiting::rank) {
            return Some(Waiting { branches, ..first });
        }
        let is_open = self.phase == Phase::Active && !self.commit_asked;
        if is_open && self.identity.drive() == Some(Drive::Interactive) {
            let votes = self.branches.iter().filter_map(|branch| branch.progress.voted_at);
            let since = votes.max().unwrap_or(began);
            return own(Cause::Initiator, since, Some(self.deadline()));
        }
        None
    }

    /// Returns what a branch waits for, if that is no other branch.
    fn branch_waiting(&self, index: usize, now: Timestamp) -> Option<Waiting<'_>> {
        let branch = &self.branches[index];
        let operation = self.owes(index)?;
        let &Attempts { count, first_at, .. } = match operation {
            Operation::Prepare => &branch.progress.prepare_attempts,
            Operation::PhaseTwo(_) => &branch.progress.phase_two_attempts,
        };
        let waiting = |cause, since, until| {
            Some(Waiting { cause, branch: Some(branch), since, until, branches: 1 })
        };
        if branch.in_flight.is_some() {
            let since = if count > 0 { first_at } else { now };
            return waiting(Cause::Answer(operation), since, None);
        }
        if count > 0 {
            let cause = match branch.retry_at {
                Some(_) => Cause::Retry(operation),
                None => Cause::Turn(operation),
            };
            return waiting(cause, first_at, branch.retry_at);
        }
        match operation {
            Operation::Prepare => {
                let ready_at = self.ready_at(index)?;
                if ready_at > now {
                    let last = self.phase.decided_at().unwrap_or(self.identity.created_at);
                    return waiting(Cause::Time, last, Some(ready_at));
                }
                if self.phase == Phase::Active && !branch.has_its_locks() {
                    let since = branch.progress.locks_asked_at.unwrap_or(ready_at);
                    let until = branch.locks.retry_at();
                    return waiting(Cause::Lock(branch.obstacle()), since, until);
                }
                waiting(Cause::Turn(operation), ready_at, branch.retry_at)
            }
            Operation::PhaseTwo(_) if self.is_released(index, operation, now) => {
                let since = self.phase.decided_at().unwrap_or(now);
                waiting(Cause::Turn(operation), since, branch.retry_at)
            }
            Operation::PhaseTwo(_) => None,
        }
    }
}
