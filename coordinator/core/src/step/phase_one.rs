//! Phase one: what Prepares answer.

use super::{Change, Step};
use crate::branch::{Branch, Refusal, Vote, clip};
use crate::decision::{AbortCause, Decision, Operation, Phase};
use crate::definition::Mode;
use crate::effects::EventKind;
use crate::ids::{BranchNumber, NAME_BYTES_MAX, check_alphabet};
use crate::input::PrepareAnswer;
use crate::payload::Payload;
use crate::policy::RulesVersion;

impl Step<'_> {
    pub(super) fn prepare_answered(&mut self, index: usize, attempt: u32, answer: PrepareAnswer) {
        if self.tx.owes(index) != Some(Operation::Prepare) {
            return;
        }
        let must_succeed = self.tx.graph.is_after_pivot(index);
        let branch = &self.tx.branches[index];
        let current = branch.awaits(crate::Operation::Prepare, attempt);
        match answer {
            PrepareAnswer::Prepared(output) => match self.too_large_to_go_on(index, &output) {
                Some(error) => self.output_too_large(index, error, current),
                None => {
                    self.take_output(index, output);
                    self.voted(index, Vote::Prepared, current);
                }
            },
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
            PrepareAnswer::Asleep { until } => self.asleep(index, until),
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
        self.clear_alarms(index);
        if self.tx.phase == Phase::Active && self.lacks_an_output(index) {
            let number = BranchNumber::from_index(index);
            self.decide(Decision::Abort(AbortCause::OutputDropped(number)));
        } else if self.tx.phase == Phase::Active {
            self.evaluate();
        } else {
            self.conclude(index, Decision::Commit);
            self.end_if_all_ended();
            self.clear_stall();
        }
        let since = self.tx.written_at.until(now);
        if self.tx.graph.is_ordered() && since > self.policy.vote_noted_after {
            self.changed(Change::Noted);
        }
    }

    /// Tells whether the branch's output was dropped, and another branch needs it: that one could never
    /// be done. Once the pivot was sent nothing but its answer decides.
    fn lacks_an_output(&self, index: usize) -> bool {
        let branch = &self.tx.branches[index];
        let wanted = |other: &Branch| {
            let mut inputs = other.spec.step.inputs.iter();
            inputs.any(|input| input.branch_id == branch.spec.branch_id)
        };
        let dropped =
            branch.progress.vote == Some(Vote::Prepared) && branch.progress.output_dropped;
        dropped && !self.tx.is_pivot_sent() && self.tx.branches.iter().any(wanted)
    }

    /// Tells whether the output of the pivot, or of a step after it, has no room though another step reads it.
    /// Nothing can be undone for that any more, and without it the other step could never be done.
    fn too_large_to_go_on(&self, index: usize, output: &Payload) -> Option<String> {
        let (size, room) = (output.data.len(), self.tx.room_for_output(index, self.policy));
        (size > room && self.tx.output_share(index, self.policy).is_some()).then(|| {
            format!(
                "OUTPUT_TOO_LARGE: its output has {size} bytes, and another step reads it: at most {room}"
            )
        })
    }

    fn output_too_large(&mut self, index: usize, error: String, current: bool) {
        self.raise(index, EventKind::OutputTooLarge, &error);
        if current {
            self.failed(index, error);
        }
    }

    /// A step after the pivot was refused. That is no vote: there is only forward.
    fn refused_after_commit(&mut self, index: usize, refusal: &Refusal, current: bool) {
        let Refusal { reason, message } = refusal;
        let error = clip(format!("REFUSED after COMMIT: {reason}: {message}"));
        self.raise(index, EventKind::RefusedAfterCommit, &error);
        if current {
            self.failed(index, error);
        }
    }

    /// Raises an alarm of a branch, if it is not raised.
    fn raise(&mut self, index: usize, kind: EventKind, detail: &str) {
        let by_branch = self.goes_by(RulesVersion::SECOND);
        let progress = &mut self.tx.branches[index].progress;
        let raised = match kind {
            _ if !by_branch => &mut self.tx.stalled,
            EventKind::OutputTooLarge => &mut progress.output_too_large,
            _ => &mut progress.refused_after_commit,
        };
        if !std::mem::replace(raised, true) {
            self.event(kind, Some(BranchNumber::from_index(index)), detail.to_owned());
            self.changed(Change::Awaited);
        }
    }

    /// The branch has voted or ended: its alarms are over, and the next one will be heard.
    pub(super) fn clear_alarms(&mut self, index: usize) {
        let progress = &mut self.branch(index).progress;
        (progress.refused_after_commit, progress.output_too_large) = (false, false);
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

    pub(super) fn take_output(&mut self, index: usize, output: Payload) {
        let output = output.without_bad_media_type();
        // A prepared transaction's output could not be told again after a crash.
        let untellable = self.tx.branches[index].spec.mode == Mode::TwoPhaseCommit;
        if output.is_empty() || (untellable && output.data.is_empty()) {
            return;
        }
        let size = output.data.len();
        let over = size > self.tx.room_for_output(index, self.policy);
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
