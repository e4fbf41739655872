//! Branches of one transaction whose calls fail, for as long as none of them is answered; and branches whose
//! calls move nothing, answered or not: WORKING, or a no to what may only succeed.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{BranchNumber, Call};

use super::waiting::kind;
use crate::participants::breaker::Past;
use crate::participants::directory::CallKind;

/// Failures in a row after which a branch counts as failing by itself, whatever its participant does for others:
/// a transaction that waits for nothing else is set aside. Fewer are an outage of some seconds.
const FAILURES_BY_ITSELF: u32 = 8;

/// Time for which the calls of a branch move nothing after which it is waited for no longer in a place that
/// others need. Much shorter than what participants take whose work is long, and longer than a busy moment.
const LONG: Duration = Duration::from_secs(5);

/// The branches. There are few, in few transactions.
#[derive(Debug, Default)]
pub(super) struct Failing {
    branches: Vec<FailingBranch>,
    unmoved: Vec<UnmovedBranch>,
}

#[derive(Debug)]
struct UnmovedBranch {
    number: BranchNumber,
    /// Kind of its calls.
    kind: CallKind,
    /// When the first of them ended that has moved nothing.
    since: Instant,
}

#[derive(Debug)]
struct FailingBranch {
    number: BranchNumber,
    /// Kind of its calls.
    kind: CallKind,
    /// Time of the first failure.
    since: Instant,
    failures: u32,
    /// The endpoint that the last call failed at.
    endpoint: Option<u64>,
}

impl Failing {
    /// A call has failed.
    pub(super) fn failed(&mut self, call: Call, endpoint: Option<u64>, now: Instant) {
        let (number, kind) = (call.number, kind(call.operation));
        let known = self.branches.iter_mut().find(|branch| branch.number == number);
        match known.filter(|branch| branch.kind == kind) {
            Some(branch) => {
                branch.failures = branch.failures.saturating_add(1);
                branch.endpoint = endpoint;
            }
            None => {
                self.answered(number);
                self.branches.push(FailingBranch {
                    number,
                    kind,
                    since: now,
                    failures: 1,
                    endpoint,
                });
            }
        }
    }

    /// The branch has waited for its participant out of memory, and nobody knows what its calls came to. Until one is
    /// answered a failure is its own, if the participant has answered others meanwhile.
    pub(super) fn woken(&mut self, number: BranchNumber, kind: CallKind, now: Instant) {
        self.answered(number);
        let (failures, endpoint) = (0, None);
        self.branches.push(FailingBranch { number, kind, since: now, failures, endpoint });
    }

    /// A call of the branch has moved nothing.
    pub(super) fn unmoved(&mut self, number: BranchNumber, kind: CallKind, now: Instant) {
        if !self.unmoved.iter().any(|branch| branch.number == number && branch.kind == kind) {
            self.moved(number);
            self.unmoved.push(UnmovedBranch { number, kind, since: now });
        }
    }

    /// The branch has gone on: with a vote, or with its end.
    pub(super) fn moved(&mut self, number: BranchNumber) {
        self.unmoved.retain(|branch| branch.number != number);
    }

    /// Tells whether calls of this kind have moved nothing for long, or will not have by the next one.
    pub(super) fn waits_long(&self, number: BranchNumber, kind: CallKind, next: Instant) -> bool {
        let mut unmoved = self.unmoved.iter();
        let unmoved = unmoved.find(|branch| branch.number == number && branch.kind == kind);
        unmoved.is_some_and(|branch| next.saturating_duration_since(branch.since) >= LONG)
    }

    /// A call of the branch was answered.
    pub(super) fn answered(&mut self, number: BranchNumber) {
        self.branches.retain(|branch| branch.number != number);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.branches.is_empty() && self.unmoved.is_empty()
    }

    fn of(&self, number: BranchNumber) -> Option<&FailingBranch> {
        self.branches.iter().find(|branch| branch.number == number)
    }

    /// Returns the past of the branch's calls of this kind.
    pub(super) fn past(&self, number: BranchNumber, kind: CallKind) -> Past {
        let failing = self.of(number).filter(|branch| branch.kind == kind);
        failing.map_or(Past::Good, |branch| Past::Failing { since: branch.since })
    }

    /// Tells whether the branch fails whenever it is called.
    pub(super) fn is_by_itself(&self, number: BranchNumber) -> bool {
        self.of(number).is_some_and(|branch| branch.failures >= FAILURES_BY_ITSELF)
    }

    /// Tells whether the branch was woken, and not called since.
    pub(super) fn is_untried(&self, number: BranchNumber) -> bool {
        self.of(number).is_some_and(|branch| branch.failures == 0)
    }

    /// Returns the endpoint that the branch's last call failed at.
    pub(super) fn endpoint(&self, number: BranchNumber) -> Option<u64> {
        self.of(number).and_then(|branch| branch.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use unanimo_core::{Operation, PhaseTwoOperation};

    use super::*;

    #[test]
    fn a_branch_fails_until_it_is_answered() {
        let number = BranchNumber::from_index(0);
        let prepare = Call { number, operation: Operation::Prepare, attempt: 1 };
        let cancel =
            Call { number, operation: Operation::PhaseTwo(PhaseTwoOperation::Cancel), attempt: 1 };
        let (mut failing, start) = (Failing::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        for n in 0..8 {
            assert!(!failing.is_by_itself(number), "after {n}");
            failing.failed(prepare, Some(n), at(n));
        }
        assert!(failing.is_by_itself(number));
        assert_eq!(failing.past(number, CallKind::Prepare), Past::Failing { since: start });
        assert_eq!(
            failing.past(number, CallKind::PhaseTwo),
            Past::Good,
            "it was not called so yet"
        );
        assert_eq!(failing.endpoint(number), Some(7), "it is avoided by either");
        failing.failed(cancel, None, at(9));
        assert_eq!(failing.past(number, CallKind::PhaseTwo), Past::Failing { since: at(9) });
        assert!(!failing.is_by_itself(number));
        failing.answered(number);
        assert!(failing.is_empty());
    }

    #[test]
    fn one_that_was_woken_has_a_past_and_no_failures() {
        let number = BranchNumber::from_index(0);
        let (mut failing, start) = (Failing::default(), Instant::now());
        failing.woken(number, CallKind::PhaseTwo, start);
        assert!(failing.is_untried(number));
        assert_eq!(failing.past(number, CallKind::PhaseTwo), Past::Failing { since: start });
        let commit =
            Call { number, operation: Operation::PhaseTwo(PhaseTwoOperation::Commit), attempt: 1 };
        for n in 0..8 {
            assert!(!failing.is_by_itself(number), "after {n}");
            failing.failed(commit, None, start + Duration::from_secs(n));
        }
        assert!(failing.is_by_itself(number) && !failing.is_untried(number));
        failing.answered(number);
        assert!(failing.is_empty());
    }

    #[test]
    fn what_moves_nothing_waits_long() {
        let number = BranchNumber::from_index(0);
        let (mut failing, start) = (Failing::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let kind = CallKind::PhaseTwo;
        assert!(!failing.waits_long(number, kind, at(100)), "nothing is known of it");
        failing.unmoved(number, kind, at(0));
        failing.unmoved(number, kind, at(3));
        assert!(
            !failing.waits_long(number, kind, at(4)) && failing.waits_long(number, kind, at(5))
        );
        assert!(!failing.waits_long(number, CallKind::Prepare, at(100)));
        // An error and an answer in turn move nothing either.
        failing.answered(number);
        assert!(failing.waits_long(number, kind, at(5)) && !failing.is_empty());
        failing.unmoved(number, CallKind::Prepare, at(6));
        assert!(!failing.waits_long(number, kind, at(100)), "it is asked for something else");
        failing.moved(number);
        assert!(failing.is_empty());
    }
}
