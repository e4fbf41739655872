//! Rows of steps of sagas. A step is done by its yes: it is sent nothing if its saga commits, so that its
//! row is in doubt until the sweeper hears of it.
//!
//! - COMMIT for it, its saga ended or not: the row becomes `committed`.
//! - ABORT for it: its compensation is the coordinator's to send, in its turn. It is asked about in each sweep: one
//!   that does not come, or is not done, raises an alarm.
//! - Not decided: it is asked about again later and later, for a saga may take days.
//!
//! Of a step that is asked about in each sweep the row is marked from time to time, whatever is told of it: neighbours in
//! the database take one that nobody has changed for hours for nobody's.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_proto::v1::{BranchVerdict, Verdict};

use super::alarms::{Alarms, Why};
use super::pass::{NOT_ENDED_MIN, Pass, UNANSWERED_MIN};
use crate::doubt::{BranchName, Doubt, RowChange, RowKey, STEP_PAUSE_MAX};
use crate::resource::{Fault, Resource};

/// Steps whose rows are to be changed.
#[derive(Debug, Default)]
pub(super) struct Steps {
    committed: Vec<RowKey>,
    kept: Vec<RowKey>,
    /// Those that have not been changed for long, of the others.
    marked: Vec<RowKey>,
}

/// Word of the coordinator about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing is owed to it.
    Fine,
    /// It is to be compensated.
    Owed,
    /// Nothing can be done, ever.
    Wrong(Why),
}

impl Steps {
    /// Notes that a step is asked about, whatever comes of it.
    pub(super) fn asked(&mut self, doubt: &Doubt, grace: Duration) {
        let BranchName::Id(branch_id) = &doubt.branch else { return };
        // Its row then is as old as the longest pause, and must not be younger than the grace for long.
        if doubt.is_step && doubt.age >= STEP_PAUSE_MAX + STEP_PAUSE_MAX.max(grace) {
            self.marked.push((doubt.tx_id, branch_id.clone()));
        }
    }

    /// Takes the coordinator's word about a step.
    pub(super) fn told(&mut self, doubt: &Doubt, result: &BranchVerdict) -> Word {
        let BranchName::Id(branch_id) = &doubt.branch else { return Word::Fine };
        let key = (doubt.tx_id, branch_id.clone());
        match result.verdict() {
            Verdict::Commit => self.committed.push(key),
            Verdict::Cancel if result.ended => return Word::Wrong(Why::Ended),
            Verdict::Cancel => return Word::Owed,
            Verdict::Running | Verdict::Unspecified => self.kept.push(key),
            Verdict::NeverSeen => return Word::Wrong(Why::NeverSeen),
            Verdict::Purged => return Word::Wrong(Why::PurgedStep),
            Verdict::Heuristic => return Word::Wrong(Why::Heuristic),
        }
        Word::Fine
    }
}

impl<R: Resource> Pass<R> {
    /// Does with a step as the coordinator says, and tells what is wrong with it.
    pub(super) fn act_on_step(
        &self,
        steps: &mut Steps,
        doubt: &Doubt,
        result: &BranchVerdict,
        alarms: &mut Alarms,
    ) {
        match steps.told(doubt, result) {
            Word::Fine => alarms.clear_step(doubt),
            Word::Owed => self.alarm_if_it_waits(alarms, doubt, Why::NotEnded),
            Word::Wrong(why) => self.alarm(alarms, doubt, why),
        }
    }

    /// Raises the alarm of a step that has waited for too long.
    pub(super) fn alarm_if_it_waits(&self, alarms: &mut Alarms, doubt: &Doubt, why: Why) {
        let at_least = if why == Why::NotEnded { NOT_ENDED_MIN } else { UNANSWERED_MIN };
        if alarms.waits(doubt, Instant::now()) >= self.sweep.alarm_age(at_least) {
            self.alarm(alarms, doubt, why);
        } else {
            alarms.clear(doubt);
        }
    }

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
        if !steps.marked.is_empty() {
            let marking = resource.change_rows(name, &steps.marked, RowChange::MarkSteps);
            // Somebody may be at one of them. The next sweep marks them all.
            let _ = self.service.queried(marking).await.inspect_err(|fault| {
                tracing::debug!(participant = name, error = %fault, "failed to mark rows of steps");
            });
        }
        Ok(())
    }
}
