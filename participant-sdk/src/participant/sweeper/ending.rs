//! Prepared transactions are ended as the coordinator decided.

use std::collections::{HashMap, HashSet};
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
    /// They come last, so that one of them keeps no other one waiting.
    branches: HashSet<(Uuid, BranchName)>,
}

impl Slow {
    /// Begins a sweep.
    pub(super) fn begin(&mut self) {
        self.is_mute = false;
    }

    pub(super) fn put_last(&self, prepared: &mut [Doubt]) {
        prepared.sort_by_key(|doubt| self.branches.contains(&key(doubt)));
    }

    /// Notes that a branch was not ended, after this time.
    fn failed(&mut self, doubt: &Doubt, after: Duration) {
        if after < MUTE_AFTER {
            return;
        }
        self.is_mute = true;
        if self.branches.len() >= SLOW_MAX {
            self.branches.clear();
        }
        self.branches.insert(key(doubt));
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
        if self.slow.is_mute {
            return self.not_ended(doubt);
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
