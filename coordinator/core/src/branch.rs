//! One participant's share of a transaction, and how far it has come.

mod locks;
mod progress;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use self::locks::Locks;
pub use self::progress::{Attempts, PhaseTwo, Progress};
use crate::decision::{Decision, Heuristic, Operation, PhaseTwoOperation};
use crate::definition::{BranchSpec, Compensation, Mode};
use crate::ids::BranchNumber;
use crate::input::Obstacle;
use crate::payload::Payload;
use crate::time::Timestamp;

/// Most bytes of an error, a refusal's message or a note that are kept. Enough for a sentence and a
/// cause; a participant that answers with a page of stack trace must not fill the store.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Who sends a branch's Prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enlistment {
    /// The coordinator: Submit and Execute.
    Coordinator,
    /// The initiator, which tells the vote in Commit: Enlist.
    Initiator,
}

/// A participant's answer to Prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// Yes.
    Prepared,
    /// Yes, and no phase two is owed.
    ReadOnly,
    /// No.
    Refused,
}

impl Vote {
    /// Tells whether COMMIT may follow from it.
    #[must_use]
    pub fn is_yes(self) -> bool {
        self != Self::Refused
    }
}

/// A business no, in a participant's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable code for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// Heuristic end of a branch (X/Open).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeuristicKind {
    /// Committed.
    Commit,
    /// Rolled back.
    Rollback,
    /// Nobody can tell.
    Hazard,
}

impl HeuristicKind {
    /// Describes the end to people.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Commit => "committed",
            Self::Rollback => "rolled back",
            Self::Hazard => "a hazard",
        }
    }
}

/// Where a branch stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchState {
    /// Durable; its initiator calls it.
    Enlisted,
    /// Durable; its time has not come.
    Waiting,
    /// Prepare was sent, no vote is known.
    Preparing,
    /// Voted yes.
    Prepared,
    /// Voted yes, and is through.
    ReadOnly,
    /// Voted no.
    Refused,
    /// Commit is owed.
    Committing,
    /// Committed.
    Committed,
    /// Cancel is owed.
    Cancelling,
    /// Cancelled.
    Cancelled,
    /// A saga's step that is done for good.
    Done,
    /// A saga's step whose effect stays after an ABORT.
    Kept,
    /// Ended by itself.
    Heuristic(HeuristicKind),
}

/// A call that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) operation: Operation,
    pub(crate) attempt: u32,
}

/// A branch of a live transaction.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Its place in the order of enlisting.
    pub number: BranchNumber,
    /// The branch as its initiator stated it.
    pub spec: Arc<BranchSpec>,
    /// Who sends its Prepare.
    pub enlistment: Enlistment,
    /// Its progress.
    pub progress: Progress,
    /// Output of its Prepare.
    pub output: Option<Payload>,
    /// The call under way. Not stored: after a crash nothing is.
    pub(crate) in_flight: Option<InFlight>,
    /// When the next attempt is due. Not stored.
    pub(crate) retry_at: Option<Timestamp>,
    /// When its Prepare was sent first in this life. Not stored.
    pub(crate) asked_at: Option<Timestamp>,
    /// It is a child that sleeps until then. Not stored.
    pub(crate) is_asleep: bool,
    /// The locks that it takes.
    pub(crate) locks: Locks,
    /// The transaction that stood in the way of its locks when they were asked for last. Not stored.
    pub(crate) obstacle: Option<Obstacle>,
    /// A transition is awaited that has all of its inputs. Not stored.
    pub(crate) inputs_kept: bool,
}

impl Branch {
    pub(crate) fn new(
        number: BranchNumber,
        spec: Arc<BranchSpec>,
        enlistment: Enlistment,
        progress: Progress,
    ) -> Self {
        let locks = Locks::of(&spec.step.locks);
        let (output, in_flight, retry_at, asked_at) = (None, None, None, None);
        Self {
            number,
            spec,
            enlistment,
            progress,
            output,
            in_flight,
            retry_at,
            asked_at,
            is_asleep: false,
            locks,
            obstacle: None,
            inputs_kept: false,
        }
    }

    /// Where it stands under `decision`.
    #[must_use]
    pub fn state(&self, decision: Option<Decision>) -> BranchState {
        let operation = decision.map(Decision::operation);
        match (&self.progress.phase_two, operation) {
            (PhaseTwo::Heuristic { kind, .. }, _) => BranchState::Heuristic(*kind),
            (PhaseTwo::Done, Some(PhaseTwoOperation::Commit)) => BranchState::Committed,
            (PhaseTwo::Done, _) => BranchState::Cancelled,
            (PhaseTwo::Owed, Some(PhaseTwoOperation::Commit)) => BranchState::Committing,
            (PhaseTwo::Owed, _) => BranchState::Cancelling,
            (PhaseTwo::NotOwed, Some(operation)) if self.spec.mode == Mode::Saga => {
                self.state_of_step(operation)
            }
            (PhaseTwo::NotOwed, Some(_)) if self.progress.vote.is_none() => BranchState::Cancelled,
            (PhaseTwo::Open | PhaseTwo::NotOwed, _) => {
                match (self.progress.vote, self.enlistment) {
                    (Some(Vote::Prepared), _) => BranchState::Prepared,
                    (Some(Vote::ReadOnly), _) => BranchState::ReadOnly,
                    (Some(Vote::Refused), _) => BranchState::Refused,
                    (None, Enlistment::Coordinator) if self.was_never_called() => {
                        BranchState::Waiting
                    }
                    (None, Enlistment::Coordinator) => BranchState::Preparing,
                    (None, Enlistment::Initiator) => BranchState::Enlisted,
                }
            }
        }
    }

    /// Returns the state of a saga's step to which nothing is owed.
    fn state_of_step(&self, decided: PhaseTwoOperation) -> BranchState {
        let kept = self.spec.step.compensation != Compensation::Compensate;
        match (self.progress.vote, decided) {
            (Some(Vote::Refused), _) => BranchState::Refused,
            (_, PhaseTwoOperation::Commit) => BranchState::Done,
            (vote, PhaseTwoOperation::Cancel) => {
                let may_have_run = vote.is_some()
                    || self.progress.unanswered
                    || self.enlistment == Enlistment::Initiator;
                if kept && may_have_run { BranchState::Kept } else { BranchState::Cancelled }
            }
        }
    }

    /// Tells whether no Prepare of it was ever handed out, as far as is known.
    pub(crate) fn was_never_called(&self) -> bool {
        self.progress.prepare_attempts.count == 0
    }

    /// Tells whether it holds the locks that it takes.
    #[must_use]
    pub fn has_its_locks(&self) -> bool {
        self.locks.are_granted()
    }

    /// Returns the transaction that stands in the way of its locks, as far as is known.
    #[must_use]
    pub fn obstacle(&self) -> Option<&Obstacle> {
        self.obstacle.as_ref().filter(|_| !self.has_its_locks())
    }

    /// Tells whether its next call, or its request for locks, comes after a pause.
    pub(crate) fn waits(&self) -> bool {
        self.retry_at.is_some() || self.locks.retry_at().is_some()
    }

    /// Tells whether this very call is still wanted. A call that waited for its transition to
    /// become durable, or for a slot, may have been overtaken by a decision.
    #[must_use]
    pub fn awaits(&self, operation: Operation, attempt: u32) -> bool {
        self.in_flight == Some(InFlight { operation, attempt })
    }

    /// Tells whether an attempt failed, and the next one is sent after a pause.
    #[must_use]
    pub fn waits_for_its_next_attempt(&self) -> bool {
        self.retry_at.is_some() && self.in_flight.is_none()
    }

    /// Returns when its next attempt is sent, if it waits for that.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        self.retry_at.filter(|_| self.in_flight.is_none())
    }

    /// Tells whether a call of it is under way, or sent again after a pause.
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.in_flight.is_some() || self.retry_at.is_some()
    }

    /// Tells whether Commit or Cancel is owed to it and not answered.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.progress.phase_two == PhaseTwo::Owed
    }

    /// Tells whether an operator has said that its work is committed.
    #[must_use]
    pub fn is_committed_by_word(&self) -> bool {
        let kind = HeuristicKind::Commit;
        matches!(&self.progress.phase_two,
            PhaseTwo::Heuristic { kind: word, operator: Some(_), .. } if *word == kind)
    }

    /// The last error of its calls, of phase two before phase one.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        let Progress { phase_two_attempts, prepare_attempts, .. } = &self.progress;
        phase_two_attempts.last_error.as_deref().or(prepare_attempts.last_error.as_deref())
    }

    /// Returns the branch's share of its transaction's heuristic outcome.
    #[must_use]
    pub fn heuristic(&self, decision: Option<Decision>) -> Heuristic {
        let PhaseTwo::Heuristic { kind, .. } = &self.progress.phase_two else {
            return Heuristic::None;
        };
        match (kind, decision) {
            (HeuristicKind::Commit, Some(Decision::Abort(_)))
            | (HeuristicKind::Rollback, Some(Decision::Commit)) => Heuristic::Mixed,
            // An operator's word that a branch followed the decision is no proof of it.
            _ => Heuristic::Hazard,
        }
    }
}

/// Cuts a text at [`TEXT_BYTES_MAX`] on a character's boundary, and takes out NUL, which
/// PostgreSQL refuses in a text.
#[must_use]
pub fn clip(text: String) -> String {
    let mut text = if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows keep the field names under which earlier versions wrote them.
    #[test]
    fn stored_progress_keeps_its_names() {
        let mut progress = Progress { phase_two: PhaseTwo::Owed, ..Progress::default() };
        progress.phase_two_attempts.sent(Timestamp(7));
        let stored = serde_json::to_value(&progress).expect("JSON");
        assert_eq!(stored["finish"], "owed");
        assert_eq!(stored["finish_attempts"]["count"], 1);
        assert_eq!(serde_json::from_value::<Progress>(stored).expect("progress"), progress);
    }

    #[test]
    fn clipped_text_stays_within_its_bound_and_holds_no_nul() {
        for text in ["", "short", "a\0b", &"ä".repeat(600), &"\0".repeat(1024), &"x".repeat(5000)]
        {
            let clipped = clip(text.to_owned());
            assert!(clipped.len() <= TEXT_BYTES_MAX, "{} bytes", clipped.len());
            assert!(!clipped.contains('\0'));
            assert!(
                text.len() > TEXT_BYTES_MAX
                    || clipped == text.replace('\0', "\u{fffd}")
                    || clipped.ends_with('…')
            );
        }
    }
}
