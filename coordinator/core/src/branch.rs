//! One participant's share of a transaction, and how far it has come.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::decision::{Decision, Heuristic, Operation, PhaseTwoOperation};
use crate::definition::{BranchSpec, Compensation, Lock, Mode};
use crate::ids::BranchNumber;
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

/// Progress of phase two of a branch. The operation follows from the decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseTwo {
    /// Nothing is decided.
    #[default]
    Open,
    /// The decision asks nothing of it.
    NotOwed,
    /// It was told, or is to be told, and has not answered.
    Owed,
    /// It did as it was told.
    Done,
    /// It ended otherwise.
    Heuristic {
        /// Its end.
        kind: HeuristicKind,
        /// The reason, in the words of the participant or the operator.
        note: String,
        /// The operator who said so; `None` if the participant did.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        operator: Option<String>,
    },
}

/// The attempts of one call, folded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempts {
    /// Number of attempts that were sent.
    pub count: u32,
    /// When the first was.
    pub first_at: Timestamp,
    /// When the last was.
    pub last_at: Timestamp,
    /// Error of the first attempt that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Error of the last attempt that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Number of attempts that were answered WORKING: the participant is at it, and a retry policy does
    /// not count them.
    #[serde(skip_serializing_if = "is_zero")]
    pub working: u32,
}

impl Attempts {
    fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn sent(&mut self, now: Timestamp) -> u32 {
        if self.count == 0 {
            self.first_at = now;
        }
        self.last_at = now;
        self.count = self.count.saturating_add(1);
        self.count
    }

    pub(crate) fn failed(&mut self, error: String) {
        let error = clip(error);
        self.first_error.get_or_insert_with(|| error.clone());
        self.last_error = Some(error);
    }
}

/// Progress of a branch: all that is stored of it besides its specification and output. It is
/// rewritten with each transition of its transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The vote, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote: Option<Vote>,
    /// When it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voted_at: Option<Timestamp>,
    /// Some attempt of Prepare got no vote: it may have taken effect, or may yet.
    #[serde(skip_serializing_if = "is_false")]
    pub unanswered: bool,
    /// The pivot: its Prepare may have been sent. Durable before it is, so that nothing but its answer
    /// decides from then on.
    #[serde(skip_serializing_if = "is_false")]
    pub released: bool,
    /// The initiator has asked for COMMIT and listed it, while some vote was still out.
    #[serde(skip_serializing_if = "is_false")]
    pub listed: bool,
    /// The refusal's reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// Its output was over a limit.
    #[serde(skip_serializing_if = "is_false")]
    pub output_dropped: bool,
    /// Phase two.
    #[serde(rename = "finish", skip_serializing_if = "is_open")]
    pub phase_two: PhaseTwo,
    /// When nothing more was owed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Attempts of Prepare.
    #[serde(skip_serializing_if = "Attempts::is_empty")]
    pub prepare_attempts: Attempts,
    /// Attempts of Commit or Cancel.
    #[serde(rename = "finish_attempts", skip_serializing_if = "Attempts::is_empty")]
    pub phase_two_attempts: Attempts,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_open(phase_two: &PhaseTwo) -> bool {
    *phase_two == PhaseTwo::Open
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

/// Progress of a request for locks. Not stored: the locks themselves are, and a request that comes again
/// finds those that are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locks {
    /// They are held, or there are none.
    Granted,
    /// They were not asked for.
    Wanted,
    /// The request is under way.
    Asked { attempt: u32, since: Timestamp },
    /// The request comes again at this time.
    Waiting { attempt: u32, since: Timestamp, retry_at: Timestamp },
}

impl Locks {
    pub(crate) fn of(locks: &[Lock]) -> Self {
        if locks.is_empty() { Self::Granted } else { Self::Wanted }
    }

    pub(crate) fn are_granted(self) -> bool {
        self == Self::Granted
    }

    pub(crate) fn is_due(self, now: Timestamp) -> bool {
        match self {
            Self::Wanted => true,
            Self::Waiting { retry_at, .. } => retry_at <= now,
            Self::Granted | Self::Asked { .. } => false,
        }
    }

    /// Tells whether nothing is under way, or about to come again.
    pub(crate) fn is_idle(self) -> bool {
        matches!(self, Self::Granted | Self::Wanted)
    }

    pub(crate) fn retry_at(self) -> Option<Timestamp> {
        match self {
            Self::Waiting { retry_at, .. } => Some(retry_at),
            Self::Granted | Self::Wanted | Self::Asked { .. } => None,
        }
    }

    /// Asks, and returns the number of the attempt.
    pub(crate) fn ask(&mut self, now: Timestamp) -> u32 {
        let (attempt, since) = match *self {
            Self::Asked { attempt, since } | Self::Waiting { attempt, since, .. } => {
                (attempt.saturating_add(1), since)
            }
            Self::Granted | Self::Wanted => (1, now),
        };
        *self = Self::Asked { attempt, since };
        attempt
    }

    /// Has what waits go out now.
    pub(crate) fn hurry(&mut self, now: Timestamp) {
        if let Self::Waiting { retry_at, .. } = self {
            *retry_at = now;
        }
    }
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
    /// The locks that it takes.
    pub(crate) locks: Locks,
}

impl Branch {
    pub(crate) fn new(
        number: BranchNumber,
        spec: Arc<BranchSpec>,
        enlistment: Enlistment,
        progress: Progress,
    ) -> Self {
        let locks = Locks::of(&spec.step.locks);
        let (output, in_flight, retry_at) = (None, None, None);
        Self { number, spec, enlistment, progress, output, in_flight, retry_at, locks }
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
                let may_have_run = vote.is_some() || self.progress.unanswered;
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

    /// Tells whether this very call is still wanted. A call that waited for its transition to
    /// become durable, or for a slot, may have been overtaken by a decision.
    #[must_use]
    pub fn awaits(&self, operation: Operation, attempt: u32) -> bool {
        self.in_flight == Some(InFlight { operation, attempt })
    }

    /// Tells whether Commit or Cancel is owed to it and not answered.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.progress.phase_two == PhaseTwo::Owed
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
