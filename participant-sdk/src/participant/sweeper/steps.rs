//! Rows of steps of sagas. A step is done by its yes: it is sent nothing if its saga commits, so that its
//! row is in doubt until the sweeper hears of it.
//!
//! - COMMIT for it, its saga ended or not: the row becomes `committed`.
//! - ABORT for it: its compensation is the coordinator's to send, in its turn.
//! - Not decided: it is asked about again later and later, for a saga may take days.

use unanimo_proto::v1::{BranchVerdict, Verdict};

use super::alarms::Why;
use super::pass::Pass;
use crate::doubt::{BranchName, Doubt, RowChange, RowKey};
use crate::resource::{Fault, Resource};

/// Steps whose rows are to be changed.
#[derive(Debug, Default)]
pub(super) struct Steps {
    committed: Vec<RowKey>,
    kept: Vec<RowKey>,
}

impl Steps {
    /// Takes the coordinator's word about a step. `Some` says why nothing can be done, ever.
    pub(super) fn told(&mut self, doubt: &Doubt, result: &BranchVerdict) -> Option<Why> {
        let BranchName::Id(branch_id) = &doubt.branch else { return None };
        let key = (doubt.tx_id, branch_id.clone());
        match result.verdict() {
            Verdict::Commit => self.committed.push(key),
            Verdict::Cancel if result.ended => return Some(Why::Ended),
            Verdict::Running | Verdict::Cancel | Verdict::Unspecified => self.kept.push(key),
            Verdict::NeverSeen => return Some(Why::NeverSeen),
            Verdict::Purged => return Some(Why::PurgedStep),
            Verdict::Heuristic => return Some(Why::Heuristic),
        }
        None
    }
}

impl<R: Resource> Pass<R> {
    /// Changes the rows of a batch as the coordinator has said.
    pub(super) async fn change(&self, name: &str, steps: Steps) -> Result<(), Fault> {
        let resource = &self.service.inner.resource;
        for (keys, change) in
            [(steps.committed, RowChange::CommitSteps), (steps.kept, RowChange::KeepSteps)]
        {
            if !keys.is_empty() {
                self.service.queried(resource.change_rows(name, &keys, change)).await?;
            }
        }
        Ok(())
    }
}
