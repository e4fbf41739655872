//! Operators' inputs. None of them changes a decision.

use super::{Change, Step};
use crate::branch::{HeuristicKind, PhaseTwo, clip};
use crate::decision::{AbortCause, Decision, Heuristic, Operation, Phase};
use crate::definition::Violation;
use crate::effects::EventKind;
use crate::ids::BranchNumber;
use crate::input::Rejection;
use crate::payload::Payload;

/// Name of the field with an operator's output for a branch.
const OUTPUT: &str = "output";

/// An operator's word for the end of a branch.
pub(super) struct Word {
    pub(super) kind: HeuristicKind,
    pub(super) output: Option<Payload>,
    pub(super) operator: String,
    pub(super) note: String,
}

impl Step<'_> {
    pub(super) fn resolve(&mut self, index: usize, word: Word) -> Result<(), Rejection> {
        let number = BranchNumber::from_index(index);
        let branch = &self.tx.branches[index];
        let waits_for_pivot = self.tx.phase == Phase::Active && self.tx.is_pivot_sent();
        if waits_for_pivot && self.tx.graph.pivot() == Some(index) {
            return self.answer_for_pivot(index, word);
        }
        let kind = word.kind;
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
                return self.word_again(index, word);
            }
            PhaseTwo::Heuristic { kind: known, operator: Some(_), .. } => {
                return Err(Rejection::ResolvedOtherwise(branch.spec.branch_id.clone(), *known));
            }
            _ => {
                let spec = &branch.spec;
                return Err(Rejection::NothingToResolve(spec.branch_id.clone(), spec.mode));
            }
        }
        self.check_output(index, &word)?;
        let Word { output, operator, note, .. } = word;
        let note = clip(note);
        let detail = format!("as {} by {operator}: {note}", kind.in_words());
        self.event(EventKind::Resolved, Some(number), clip(detail));
        self.changed(Change::Awaited);
        self.take_given_output(index, output);
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
    fn answer_for_pivot(&mut self, index: usize, word: Word) -> Result<(), Rejection> {
        let kind = word.kind;
        if kind == HeuristicKind::Hazard {
            let rule = "must be committed or rolled_back for a pivot: its answer decides";
            return Err(Violation::new("resolution", rule).into());
        }
        self.check_output(index, &word)?;
        let Word { output, operator, note, .. } = word;
        let (note, now) = (clip(note), self.now);
        let detail = clip(format!("as {} by {operator}: {note}", kind.in_words()));
        self.event(EventKind::Resolved, Some(BranchNumber::from_index(index)), detail);
        let progress = &mut self.branch(index).progress;
        if kind == HeuristicKind::Commit {
            progress.phase_two = PhaseTwo::Heuristic { kind, note, operator: Some(operator) };
            progress.ended_at = Some(now);
            self.clear_alarms(index);
            self.take_given_output(index, output);
            self.decide(Decision::Commit);
        } else {
            progress.refused_by_word = true;
            self.clear_alarms(index);
            let detail = format!("the pivot was resolved as rolled back by {operator}: {note}");
            self.tx.abort_detail = Some(clip(detail));
            self.decide(Decision::Abort(AbortCause::Rollback));
        }
        Ok(())
    }

    /// The word that ended a branch, again. It changes nothing, unless it brings an output that is lacking: earlier
    /// versions did not ask for it.
    fn word_again(&mut self, index: usize, word: Word) -> Result<(), Rejection> {
        let Word { output, operator, note, .. } = word;
        let Some(output) = output.filter(|_| self.tx.lacks_output(index)) else { return Ok(()) };
        self.check_given(index, &output)?;
        let detail = clip(format!("its output by {operator}: {note}"));
        self.event(EventKind::Resolved, Some(BranchNumber::from_index(index)), detail);
        self.changed(Change::Awaited);
        self.take_given_output(index, Some(output));
        Ok(())
    }

    fn take_given_output(&mut self, index: usize, output: Option<Payload>) {
        if let Some(output) = output {
            self.branch(index).progress.output_by_word = true;
            self.take_output(index, output);
        }
    }

    /// A branch that is said to be committed, and has not answered, has the output that the operator gives. Who
    /// reads it must succeed, and could not without: so it is asked for before anything is decided.
    fn check_output(&self, index: usize, word: &Word) -> Result<(), Rejection> {
        let is_open = self.tx.owes(index) == Some(Operation::Prepare);
        let takes_one = is_open && word.kind == HeuristicKind::Commit;
        let has_answered = self.tx.branches[index].progress.vote.is_some();
        let rule = match &word.output {
            Some(_) if has_answered => "must be left out: the branch has answered".to_owned(),
            Some(_) if !is_open => {
                "must be left out: no step that reads it is sent any more".to_owned()
            }
            Some(_) if !takes_one => "must be left out where nothing is committed".to_owned(),
            Some(output) => return self.check_given(index, output),
            // An earlier version took it.
            None if !takes_one || self.is_replayed => return Ok(()),
            None => {
                let readers = self.tx.open_readers(index);
                let readers: Vec<&str> = readers.map(|b| b.spec.branch_id.as_str()).collect();
                if readers.is_empty() {
                    return Ok(());
                }
                clip(format!("must be given: it is read by {}", readers.join(", ")))
            }
        };
        Err(Violation::new(OUTPUT, rule).into())
    }

    /// Checks an output that an operator gives.
    fn check_given(&self, index: usize, output: &Payload) -> Result<(), Rejection> {
        if let Some(violation) = output.bad_media_type(OUTPUT) {
            return Err(violation.into());
        }
        let (size, room) = (output.data.len(), self.tx.room_for_output(index, self.policy));
        if size > room {
            let rule = format!("must be at most {room} bytes, has {size}");
            return Err(Violation::new(OUTPUT, rule).into());
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
