//! Prepared transactions are ended as the coordinator decided.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_proto::v1::{BranchVerdict, Mode};
use uuid::Uuid;

use super::super::service::{Caller, slot};
use super::alarms::Why;
use super::pass::Pass;
use crate::doubt::{BranchName, Doubt};
use crate::resource::{PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource};
use crate::wire::{self, Parts};

/// Time after which a failure to end a branch says that its database ends none.
const MUTE_AFTER: Duration = Duration::from_secs(5);

/// Slow branches that are remembered.
const SLOW_MAX: usize = 1_000;

/// Prepared transactions that the database did not end in time. Each further one would take as long again, and the
/// figures and the purge would wait for all of them.
#[derive(Debug, Default)]
pub(super) struct Slow {
    /// The database has ended none in time: none is tried again in this sweep.
    is_mute: bool,
    /// One that was slow before was slow again: no other one of these is tried in this sweep.
    are_mute: bool,
    /// Those that were slow, and how many had been by then. They come last, the latest at the end, so that none of them
    /// keeps another one waiting.
    branches: HashMap<(Uuid, BranchName), u64>,
    failures: u64,
}

impl Slow {
    /// Begins a sweep.
    pub(super) fn begin(&mut self) {
        (self.is_mute, self.are_mute) = (false, false);
    }

    /// Tells whether a branch is not tried in this sweep.
    fn spares(&self, doubt: &Doubt) -> bool {
        self.is_mute || (self.are_mute && self.branches.contains_key(&key(doubt)))
    }

    pub(super) fn put_last(&self, prepared: &mut [Doubt]) {
        prepared.sort_by_key(|doubt| self.branches.get(&key(doubt)).copied().unwrap_or(0));
    }

    /// Notes that a branch was not ended, after this time.
    fn failed(&mut self, doubt: &Doubt, after: Duration) {
        if after < MUTE_AFTER {
            return;
        }
        if self.branches.len() >= SLOW_MAX {
            self.branches.clear();
        }
        self.failures += 1;
        match self.branches.insert(key(doubt), self.failures) {
            Some(_) => self.are_mute = true,
            None => self.is_mute = true,
        }
    }
}

fn key(doubt: &Doubt) -> (Uuid, BranchName) {
    (doubt.tx_id, doubt.branch.clone())
}

impl<R: Resource> Pass<R> {
    /// Ends a prepared transaction in the way of the operation that never came.
    pub(super) async fn end(
        &mut self,
        doubt: &Doubt,
        operation: PhaseTwoOperation,
        call: RawCall,
    ) -> Option<Why> {
        if self.slow.spares(doubt) {
            let was_slow = self.slow.branches.contains_key(&key(doubt));
            return was_slow.then_some(Why::Refused).or_else(|| self.not_ended(doubt));
        }
        let begun = Instant::now();
        let branch = call.branch().clone();
        let (tx_id, gid, branch_id) = (branch.tx_id, branch.gid, branch.branch_id);
        let slot = slot(&self.service.phase_two_slots).await?;
        match self.service.phase_two_call(slot, operation, call, Caller::default()).await {
            Ok(PhaseTwoAnswer::Done) => {
                tracing::info!(%tx_id, gid, branch_id, ?operation, "ended a branch in doubt");
            }
            // Another session is at it.
            Ok(PhaseTwoAnswer::Working(_)) => return self.not_ended(doubt),
            // The task has told why. The next sweep tries again.
            Err(_) => {
                self.slow.failed(doubt, begun.elapsed());
                return Some(Why::Refused);
            }
            Ok(PhaseTwoAnswer::Heuristic(kind, note)) => tracing::error!(
                alarm = "in_doubt_ended",
                %tx_id, gid, branch_id, ?operation, ?kind, note,
                "a branch in doubt had ended against the decision"
            ),
        }
        None
    }
}

/// The prepared transaction's branch in full; `None` if the coordinator speaks of another one.
pub(super) fn named(doubt: &Doubt, result: BranchVerdict) -> Option<RawCall> {
    let parts = Parts {
        context: result.context,
        action: result.action,
        payload: None,
        inputs: HashMap::new(),
        metadata: HashMap::new(),
        attempt: 1,
        prepare_until: result.prepare_until,
    };
    let call = wire::call(parts).ok()?;
    let branch = call.branch();
    let same = call.mode == Mode::TwoPhaseCommit
        && branch.tx_id == doubt.tx_id
        && branch.cluster_id == doubt.cluster_id
        && doubt.branch == BranchName::Number(u16::try_from(branch.number).ok()?);
    same.then_some(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(number: u16) -> Doubt {
        Doubt {
            cluster_id: "c".to_owned(),
            tx_id: Uuid::from_u128(1),
            branch: BranchName::Number(number),
            age: Duration::ZERO,
            is_step: false,
            is_ahead: false,
        }
    }

    #[test]
    fn a_slow_branch_keeps_no_other_one_waiting() {
        let (mut slow, mut all) = (Slow::default(), [1, 2, 3, 4].map(doubt));
        let order =
            |all: &[Doubt]| all.iter().map(|doubt| doubt.branch.clone()).collect::<Vec<_>>();
        let numbers = |numbers: [u16; 4]| numbers.map(BranchName::Number).to_vec();
        // Whether the database is at fault, or the branch, is not known of the first one.
        for number in [1, 2] {
            slow.begin();
            slow.failed(&doubt(number), MUTE_AFTER);
            assert!([1, 2, 3, 4].iter().all(|other| slow.spares(&doubt(*other))));
        }
        slow.begin();
        slow.put_last(&mut all);
        assert_eq!(order(&all), numbers([3, 4, 1, 2]));
        // Its second failure says that it is the branch: the others are tried.
        slow.failed(&doubt(1), MUTE_AFTER);
        assert_eq!(
            [1, 2, 3, 4].map(|other| slow.spares(&doubt(other))),
            [true, true, false, false]
        );
        slow.begin();
        slow.put_last(&mut all);
        assert_eq!(order(&all), numbers([3, 4, 2, 1]), "they take turns");
        slow.failed(&doubt(3), MUTE_AFTER / 2);
        assert!(!slow.spares(&doubt(1)), "a quick failure is another matter");
    }
}
