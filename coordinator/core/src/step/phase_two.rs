//! Phase two: the decision is sent to each branch until it has ended.

use super::{Change, Step};
use crate::branch::{HeuristicKind, PhaseTwo, clip};
use crate::decision::{Operation, Phase, PhaseTwoOperation};
use crate::effects::EventKind;
use crate::input::PhaseTwoAnswer;
use crate::policy::RulesVersion;

impl Step<'_> {
    pub(super) fn phase_two_answered(
        &mut self,
        index: usize,
        operation: PhaseTwoOperation,
        attempt: u32,
        answer: PhaseTwoAnswer,
    ) {
        let Phase::Decided { decision, .. } = self.tx.phase else {
            return;
        };
        let branch = &self.tx.branches[index];
        if operation != decision.operation() || !branch.is_owed() {
            return;
        }
        let current = branch.awaits(Operation::PhaseTwo(operation), attempt);
        match answer {
            PhaseTwoAnswer::Done => self.end_branch(index, PhaseTwo::Done),
            PhaseTwoAnswer::Heuristic { kind, note } => {
                let as_told = matches!(
                    (kind, operation),
                    (HeuristicKind::Commit, PhaseTwoOperation::Commit)
                        | (HeuristicKind::Rollback, PhaseTwoOperation::Cancel)
                );
                if as_told {
                    self.end_branch(index, PhaseTwo::Done);
                } else {
                    let number = branch.number;
                    let note = clip(note);
                    let detail = clip(format!("{}: {note}", kind.in_words()));
                    self.event(EventKind::Heuristic, Some(number), detail);
                    // Nobody hears of it before a crash can no longer take it back.
                    self.changed(Change::Awaited);
                    let phase_two = PhaseTwo::Heuristic { kind, note, operator: None };
                    self.end_branch(index, phase_two);
                }
            }
            // An attempt that was given up before ended now: its end is known already.
            _ if !current => {}
            PhaseTwoAnswer::Working { retry_after } => {
                self.working(index, retry_after);
            }
            PhaseTwoAnswer::Failed(error) => self.failed(index, error),
        }
    }

    /// The branch ends; with the last one, the transaction.
    pub(super) fn end_branch(&mut self, index: usize, phase_two: PhaseTwo) {
        let now = self.now;
        let branch = self.branch(index);
        branch.progress.phase_two = phase_two;
        branch.progress.ended_at = Some(now);
        branch.in_flight = None;
        branch.retry_at = None;
        self.clear_alarms(index);
        self.end_if_all_ended();
        self.clear_stall();
        // The end of all is about to be written with everything in it. While another branch keeps
        // failing that may be days away.
        let trouble = |b: &crate::Branch| b.progress.phase_two_attempts.last_error.is_some();
        if self.tx.branches.iter().any(|b| b.is_owed() && trouble(b)) {
            self.changed(Change::Noted);
        }
    }

    pub(super) fn end_if_all_ended(&mut self) {
        let Phase::Decided { decision, at } = self.tx.phase else {
            return;
        };
        if self.tx.branches.iter().any(|branch| branch.progress.ended_at.is_none()) {
            return;
        }
        self.tx.phase = Phase::Ended { decision, decided_at: at, at: self.now };
        self.changed(Change::Awaited);
    }

    /// Whatever was late has come: what is late next will be heard.
    pub(super) fn clear_stall(&mut self) {
        let is_late = self.tx.stalls_at(self.policy).is_some_and(|at| at <= self.now);
        if self.goes_by(RulesVersion::SECOND) && self.tx.stalled && !is_late {
            self.tx.stalled = false;
            self.changed(Change::Noted);
        }
    }

    pub(super) fn stalled(&mut self) {
        if self.tx.stalled {
            return;
        }
        self.tx.stalled = true;
        let owing: Vec<&str> = self
            .tx
            .branches
            .iter()
            .filter(|branch| branch.progress.ended_at.is_none())
            .map(|branch| branch.spec.branch_id.as_str())
            .collect();
        let detail = format!("waiting for {}", owing.join(", "));
        self.event(EventKind::Stalled, None, clip(detail));
    }
}
