//! Phase two: what was decided is told to each branch until it has ended.

use super::{Change, Step};
use crate::branch::{Finish, HeuristicKind, clip};
use crate::decision::{FinishOperation, Operation, Phase};
use crate::effects::EventKind;
use crate::input::FinishAnswer;

impl Step<'_> {
    pub(super) fn finish_answered(
        &mut self,
        index: usize,
        operation: FinishOperation,
        attempt: u32,
        answer: FinishAnswer,
    ) {
        let Phase::Decided { decision, .. } = self.tx.phase else {
            return;
        };
        let branch = &self.tx.branches[index];
        if operation != decision.operation() || !branch.is_owed() {
            return;
        }
        let current = branch.awaits(Operation::Finish(operation), attempt);
        match answer {
            FinishAnswer::Done => self.end_branch(index, Finish::Done),
            FinishAnswer::Heuristic { kind, note } => {
                let as_told = matches!(
                    (kind, operation),
                    (HeuristicKind::Commit, FinishOperation::Commit)
                        | (HeuristicKind::Rollback, FinishOperation::Cancel)
                );
                if as_told {
                    self.end_branch(index, Finish::Done);
                } else {
                    let number = branch.number;
                    let note = clip(note);
                    self.event(EventKind::Heuristic, Some(number), format!("{kind:?}: {note}"));
                    let finish = Finish::Heuristic { kind, note, operator: None };
                    self.end_branch(index, finish);
                }
            }
            // An attempt that was given up before ended now: its end is known already.
            _ if !current => {}
            FinishAnswer::Working { retry_after } => {
                let pause = (!retry_after.is_zero()).then_some(retry_after);
                self.failed(index, "still working, by its own word".to_owned(), pause);
            }
            FinishAnswer::Failed(error) => self.failed(index, error, None),
        }
    }

    /// The branch ends; with the last one, the transaction.
    pub(super) fn end_branch(&mut self, index: usize, finish: Finish) {
        let now = self.now;
        let branch = self.branch(index);
        branch.progress.finish = finish;
        branch.progress.ended_at = Some(now);
        branch.in_flight = None;
        branch.retry_at = None;
        self.end_if_all_ended();
        // The end of all is about to be written with everything in it. While another branch keeps
        // failing that may be days away.
        let trouble = |b: &crate::Branch| b.progress.finish_attempts.last_error.is_some();
        if self.tx.branches.iter().any(|b| b.is_owed() && trouble(b)) {
            self.changed(Change::Noted);
        }
    }

    pub(super) fn end_if_all_ended(&mut self) {
        let Phase::Decided { decision, at } = self.tx.phase else {
            return;
        };
        if self.tx.branches.iter().any(crate::Branch::is_owed) {
            return;
        }
        self.tx.phase = Phase::Ended { decision, decided_at: at, at: self.now };
        self.changed(Change::Awaited);
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
            .filter(|branch| branch.is_owed())
            .map(|branch| branch.spec.branch_id.as_str())
            .collect();
        let detail = format!("waiting for {}", owing.join(", "));
        self.event(EventKind::Stalled, None, clip(detail));
    }
}
