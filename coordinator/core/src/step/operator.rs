//! Operators' inputs. None of them changes a decision.

use super::{Change, Step};
use crate::branch::{HeuristicKind, PhaseTwo, clip};
use crate::decision::{AbortCause, Decision, Heuristic, Phase};
use crate::definition::Violation;
use crate::effects::EventKind;
use crate::ids::BranchNumber;
use crate::input::Rejection;

impl Step<'_> {
    pub(super) fn resolve(
        &mut self,
        index: usize,
        kind: HeuristicKind,
        operator: String,
        note: String,
    ) -> Result<(), Rejection> {
        let number = BranchNumber::from_index(index);
        let branch = &self.tx.branches[index];
        let waits_for_pivot = self.tx.phase == Phase::Active && self.tx.is_pivot_sent();
        if waits_for_pivot && self.tx.graph.pivot() == Some(index) {
            return self.answer_for_pivot(index, kind, operator, note);
        }
        let decided = self.tx.phase.decision().is_some();
        match &branch.progress.phase_two {
            // The word that decided, again. Its participant is still told, or has been.
            PhaseTwo::Owed | PhaseTwo::Done
                if branch.progress.refused_by_word && kind == HeuristicKind::Rollback =>
            {
                return Ok(());
            }
            PhaseTwo::Owed => {}
            // A step after the pivot whose participant will never do it.
            PhaseTwo::Open if decided && self.tx.owes(index).is_some() => {}
            PhaseTwo::Heuristic { kind: known, operator: Some(_), .. } if *known == kind => {
                return Ok(());
            }
            PhaseTwo::Heuristic { kind: known, operator: Some(_), .. } => {
                return Err(Rejection::ResolvedOtherwise(branch.spec.branch_id.clone(), *known));
            }
            _ => return Err(Rejection::NothingToResolve(number)),
        }
        let note = clip(note);
        let detail = format!("as {} by {operator}: {note}", kind.in_words());
        self.event(EventKind::Resolved, Some(number), clip(detail));
        self.changed(Change::Awaited);
        self.end_branch(index, PhaseTwo::Heuristic { kind, note, operator: Some(operator) });
        Ok(())
    }

    /// An operator's word stands for the answer of a pivot that was sent: only that decides, and nobody may
    /// ever give it.
    ///
    /// - *Committed* is its yes. COMMIT, and the pivot has ended by word: it is not sent again, for somebody
    ///   may have done its work by hand.
    /// - *Rolled back* is its no. ABORT, and its participant is sent Cancel until it answers, whatever its
    ///   compensation: a call that is still under way is then refused, and what was done is undone.
    fn answer_for_pivot(
        &mut self,
        index: usize,
        kind: HeuristicKind,
        operator: String,
        note: String,
    ) -> Result<(), Rejection> {
        if kind == HeuristicKind::Hazard {
            let rule = "must be committed or rolled_back for a pivot: its answer decides";
            return Err(Violation::new("resolution", rule).into());
        }
        let (note, now) = (clip(note), self.now);
        let detail = clip(format!("as {} by {operator}: {note}", kind.in_words()));
        self.event(EventKind::Resolved, Some(BranchNumber::from_index(index)), detail);
        let progress = &mut self.branch(index).progress;
        if kind == HeuristicKind::Commit {
            progress.phase_two = PhaseTwo::Heuristic { kind, note, operator: Some(operator) };
            progress.ended_at = Some(now);
            self.decide(Decision::Commit);
        } else {
            progress.refused_by_word = true;
            let detail = format!("the pivot was resolved as rolled back by {operator}: {note}");
            self.tx.abort_detail = Some(clip(detail));
            self.decide(Decision::Abort(AbortCause::Rollback));
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, operator: &str, note: &str) -> Result<(), Rejection> {
        let ended = matches!(self.tx.phase, Phase::Ended { .. });
        if !ended || self.tx.heuristic() == Heuristic::None {
            return Err(Rejection::NothingToForget);
        }
        if self.tx.forgotten {
            return Ok(());
        }
        self.tx.forgotten = true;
        self.event(EventKind::Forgotten, None, clip(format!("by {operator}: {note}")));
        self.changed(Change::Awaited);
        Ok(())
    }
}
