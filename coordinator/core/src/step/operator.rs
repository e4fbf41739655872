//! Operators' inputs. None of them changes a decision.

use super::{Change, Step};
use crate::branch::{HeuristicKind, PhaseTwo, clip};
use crate::decision::{Heuristic, Phase};
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
        let decided = self.tx.phase.decision().is_some();
        match &branch.progress.phase_two {
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
