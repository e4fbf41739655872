//! Progress of a branch, as it is stored.

use serde::{Deserialize, Serialize};

use super::{HeuristicKind, Refusal, Vote, clip};
use crate::time::Timestamp;

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
    /// Id of the participant's database that holds the vote, or is going to; empty if it is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub database_id: String,
    /// Some attempt of Prepare got no vote: it may have taken effect, or may yet.
    #[serde(skip_serializing_if = "is_false")]
    pub unanswered: bool,
    /// The pivot: its Prepare may have been sent. Durable before it is, so that nothing but its answer
    /// decides from then on.
    #[serde(skip_serializing_if = "is_false")]
    pub released: bool,
    /// The pivot: an operator's word stands for its no. Its participant is told, and nothing waits for that.
    #[serde(skip_serializing_if = "is_false")]
    pub refused_by_word: bool,
    /// The initiator has asked for COMMIT and listed it, while some vote was still out.
    #[serde(skip_serializing_if = "is_false")]
    pub listed: bool,
    /// When its locks were asked for first, while they are waited for: the wait counts from then, over crashes, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locks_asked_at: Option<Timestamp>,
    /// The refusal's reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// An operator said that it is committed and gave its output, which may be empty. Earlier versions asked for none:
    /// then the output is not known.
    #[serde(skip_serializing_if = "is_false")]
    pub output_by_word: bool,
    /// It was refused after COMMIT: the alarm is raised until it votes or ends.
    #[serde(skip_serializing_if = "is_false")]
    pub refused_after_commit: bool,
    /// Its output was too large for the step that reads it: the alarm is raised until it votes or ends.
    #[serde(skip_serializing_if = "is_false")]
    pub output_too_large: bool,
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

impl Progress {
    /// Tells whether an alarm of the branch is raised.
    #[must_use]
    pub fn has_alarm(&self) -> bool {
        self.refused_after_commit || self.output_too_large
    }
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
