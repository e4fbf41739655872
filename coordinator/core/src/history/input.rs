//! Inputs as they are recorded: sizes for bytes, numbers for branches, and short texts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LAST_VERSION, Settings, Standing};
use crate::branch::{Enlistment, HeuristicKind, Refusal, Vote};
use crate::decision::{Operation, Phase, PhaseTwoOperation};
use crate::definition::BranchSpec;
use crate::ids::{BranchNumber, Gid, Incarnation, LockName};
use crate::input::{LockAnswer, PhaseTwoAnswer, PrepareAnswer};
use crate::payload::Payload;
use crate::policy::Policy;
use crate::time::millis_of;
use crate::transaction::Transaction;

/// Most bytes of a text that are recorded: enough to recognise it. No text decides anything.
pub const TEXT_BYTES_MAX: usize = 128;

/// Something that happened to a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// It was begun, with the first so many branches of the definition.
    Begin {
        /// How many.
        branches: u16,
        /// The settings in force.
        settings: Box<Settings>,
    },
    /// An incarnation adopted it.
    Recovered {
        /// The adopter.
        by: Incarnation,
        /// The settings in force from now on.
        settings: Box<Settings>,
        /// The transaction as it was found.
        found: Box<Standing>,
    },
    /// A branch was added.
    Enlist {
        /// Its number.
        branch: BranchNumber,
        /// Who sends its Prepare.
        by: Caller,
    },
    /// The initiator asked for COMMIT.
    CommitAsked {
        /// The branches that it listed, with the votes of those that it called itself.
        listed: Vec<(BranchNumber, Option<Vote>)>,
    },
    /// The initiator asked for ABORT.
    RollbackAsked,
    /// The parent of a child decided.
    ParentDecided {
        /// `commit` or `cancel`.
        operation: RecordedOperation,
    },
    /// A Prepare came to an end.
    PrepareAnswered {
        /// Of which branch.
        branch: BranchNumber,
        /// Number of the attempt.
        attempt: u32,
        /// Its result.
        answer: PrepareResult,
    },
    /// A Commit or Cancel came to an end.
    PhaseTwoAnswered {
        /// Of which branch.
        branch: BranchNumber,
        /// `commit` or `cancel`.
        operation: RecordedOperation,
        /// Number of the attempt.
        attempt: u32,
        /// Its result.
        answer: PhaseTwoResult,
    },
    /// A request for locks came to an end.
    LocksAnswered {
        /// Of which branch; absent for the transaction's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<BranchNumber>,
        /// Number of the attempt.
        attempt: u32,
        /// Its result.
        answer: LockResult,
    },
    /// Time passed.
    Tick,
    /// What waits was sent at once.
    Retry {
        /// Of which branch; absent for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<BranchNumber>,
        /// The operator, if it was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operator: Option<String>,
    },
    /// An operator ended a branch by word.
    Resolve {
        /// Which branch.
        branch: BranchNumber,
        /// Its end.
        kind: HeuristicKind,
        /// Who said so.
        operator: String,
        /// The reason.
        note: String,
    },
    /// An operator cleared the alarm.
    Forget {
        /// Who said so.
        operator: String,
        /// The reason.
        note: String,
    },
}

/// Who sends a branch's Prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// The coordinator.
    Coordinator,
    /// The initiator.
    Initiator,
}

/// Operation that a participant is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedOperation {
    /// Phase one.
    Prepare,
    /// Phase two after COMMIT.
    Commit,
    /// Phase two after ABORT.
    Cancel,
}

/// Size and type of bytes that are not recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Number of bytes.
    pub bytes: usize,
    /// Media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
}

/// Result of an attempt of Prepare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrepareResult {
    /// Voted PREPARED.
    Prepared {
        /// Its output.
        #[serde(default)]
        output: Size,
    },
    /// Voted READ_ONLY.
    ReadOnly,
    /// Voted REFUSED.
    Refused {
        /// Code for programs.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// No vote yet.
    Working {
        /// After how long to ask again, in milliseconds.
        #[serde(with = "millis_of")]
        retry_after: Duration,
    },
    /// The call failed.
    Failed {
        /// How.
        error: String,
    },
}

/// Result of an attempt of Commit or Cancel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseTwoResult {
    /// Done as told.
    Done,
    /// Ended otherwise.
    Heuristic {
        /// Its end.
        kind: HeuristicKind,
        /// The participant's words.
        note: String,
    },
    /// Not done yet.
    Working {
        /// After how long to ask again, in milliseconds.
        #[serde(with = "millis_of")]
        retry_after: Duration,
    },
    /// The call failed.
    Failed {
        /// How.
        error: String,
    },
}

/// Result of a request for locks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockResult {
    /// All are held.
    Granted,
    /// One is held by another transaction.
    Held {
        /// The lock.
        lock: LockName,
        /// The gid of that transaction.
        holder: Gid,
        /// That transaction is older.
        older: bool,
    },
    /// The store did not answer.
    Failed {
        /// How.
        error: String,
    },
}

impl Input {
    /// Makes the first input of a transaction, if it is recorded.
    pub(crate) fn begin(
        tx: &Transaction,
        branches: &[BranchSpec],
        policy: &Policy,
    ) -> Option<Self> {
        let branches = u16::try_from(branches.len()).unwrap_or(u16::MAX);
        is_recorded(tx, policy)
            .then(|| Self::Begin { branches, settings: Box::new(Settings::of(policy)) })
    }

    /// Makes the recorded form of an input that the transaction is about to take, if it is recorded.
    pub(crate) fn of(input: &crate::Input, tx: &Transaction, policy: &Policy) -> Option<Self> {
        use crate::Input as Live;
        let waits =
            |branch: &crate::Branch| branch.retry_at.is_some() || branch.locks.retry_at().is_some();
        let idle = match input {
            Live::Retry { operator: None, .. } => {
                tx.locks.retry_at().is_none() && !tx.branches().iter().any(waits)
            }
            _ => false,
        };
        (!idle && is_recorded(tx, policy)).then(|| Self::taken(input, tx, policy))
    }

    /// Tells whether the input has effects if it changes anything. One of this kind that has none is
    /// not worth a record, and may come any number of times.
    pub(crate) fn shows_in_effects(&self) -> bool {
        !matches!(
            self,
            Self::Recovered { .. }
                | Self::PrepareAnswered { .. }
                | Self::PhaseTwoAnswered { .. }
                | Self::LocksAnswered { .. }
                | Self::Retry { .. }
        )
    }

    fn taken(input: &crate::Input, tx: &Transaction, policy: &Policy) -> Self {
        use crate::Input as Live;
        match input {
            Live::Enlist { enlistment, .. } => Self::Enlist {
                // One that is known changes nothing, and is not kept.
                branch: BranchNumber::from_index(tx.branches().len()),
                by: (*enlistment).into(),
            },
            Live::CommitAsked { listed } => {
                let known = |(id, vote): &(_, _)| Some((tx.branch_by_id(id)?.number, *vote));
                Self::CommitAsked { listed: listed.iter().filter_map(known).collect() }
            }
            Live::RollbackAsked => Self::RollbackAsked,
            Live::ParentDecided { operation } => {
                Self::ParentDecided { operation: Operation::PhaseTwo(*operation).into() }
            }
            Live::PrepareAnswered { number, attempt, answer } => {
                Self::PrepareAnswered { branch: *number, attempt: *attempt, answer: answer.into() }
            }
            Live::PhaseTwoAnswered { number, operation, attempt, answer } => {
                Self::PhaseTwoAnswered {
                    branch: *number,
                    operation: Operation::PhaseTwo(*operation).into(),
                    attempt: *attempt,
                    answer: answer.into(),
                }
            }
            Live::LocksAnswered { number, attempt, answer } => {
                Self::LocksAnswered { branch: *number, attempt: *attempt, answer: answer.into() }
            }
            Live::Tick => Self::Tick,
            Live::Recovered { by } => Self::Recovered {
                by: *by,
                settings: Box::new(Settings::of(policy)),
                found: Box::new(Standing::of(tx, policy)),
            },
            Live::Retry { number, operator } => {
                Self::Retry { branch: *number, operator: operator.as_deref().map(short) }
            }
            Live::Resolve { number, kind, operator, note } => Self::Resolve {
                branch: *number,
                kind: *kind,
                operator: short(operator),
                note: short(note),
            },
            Live::Forget { operator, note } => {
                Self::Forget { operator: short(operator), note: short(note) }
            }
        }
    }
}

fn is_recorded(tx: &Transaction, policy: &Policy) -> bool {
    // Whoever clears the alarm of a stripped transaction adds to a history that is deleted.
    let stripped = matches!(tx.phase, Phase::Ended { .. }) && tx.branches.is_empty();
    tx.version < LAST_VERSION && !stripped && policy.record.applies_to(tx.identity.mode())
}

impl From<Enlistment> for Caller {
    fn from(enlistment: Enlistment) -> Self {
        match enlistment {
            Enlistment::Coordinator => Self::Coordinator,
            Enlistment::Initiator => Self::Initiator,
        }
    }
}

impl From<Caller> for Enlistment {
    fn from(caller: Caller) -> Self {
        match caller {
            Caller::Coordinator => Self::Coordinator,
            Caller::Initiator => Self::Initiator,
        }
    }
}

impl From<Operation> for RecordedOperation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Prepare => Self::Prepare,
            Operation::PhaseTwo(PhaseTwoOperation::Commit) => Self::Commit,
            Operation::PhaseTwo(PhaseTwoOperation::Cancel) => Self::Cancel,
        }
    }
}

impl RecordedOperation {
    /// Returns the operation of phase two; `None` for Prepare.
    #[must_use]
    pub fn phase_two(self) -> Option<PhaseTwoOperation> {
        match self {
            Self::Prepare => None,
            Self::Commit => Some(PhaseTwoOperation::Commit),
            Self::Cancel => Some(PhaseTwoOperation::Cancel),
        }
    }
}

impl From<&Payload> for Size {
    fn from(payload: &Payload) -> Self {
        Self { bytes: payload.data.len(), media_type: payload.media_type.clone() }
    }
}

impl From<&PrepareAnswer> for PrepareResult {
    fn from(answer: &PrepareAnswer) -> Self {
        match answer {
            PrepareAnswer::Prepared(output) => {
                // A bad one is dropped by the transaction too, and could be of any length.
                let output = output.clone().without_bad_media_type();
                Self::Prepared { output: (&output).into() }
            }
            PrepareAnswer::ReadOnly => Self::ReadOnly,
            PrepareAnswer::Refused(Refusal { reason, message }) => {
                Self::Refused { reason: short(reason), message: short(message) }
            }
            PrepareAnswer::Working { retry_after } => Self::Working { retry_after: *retry_after },
            PrepareAnswer::Failed(error) => Self::Failed { error: short(error) },
        }
    }
}

impl From<&PhaseTwoAnswer> for PhaseTwoResult {
    fn from(answer: &PhaseTwoAnswer) -> Self {
        match answer {
            PhaseTwoAnswer::Done => Self::Done,
            PhaseTwoAnswer::Heuristic { kind, note } => {
                Self::Heuristic { kind: *kind, note: short(note) }
            }
            PhaseTwoAnswer::Working { retry_after } => Self::Working { retry_after: *retry_after },
            PhaseTwoAnswer::Failed(error) => Self::Failed { error: short(error) },
        }
    }
}

impl From<&LockAnswer> for LockResult {
    fn from(answer: &LockAnswer) -> Self {
        match answer {
            LockAnswer::Granted => Self::Granted,
            LockAnswer::Held { lock, holder, older } => {
                Self::Held { lock: lock.clone(), holder: holder.clone(), older: *older }
            }
            LockAnswer::Failed(error) => Self::Failed { error: short(error) },
        }
    }
}

/// Cuts a text at [`TEXT_BYTES_MAX`], on a character's boundary.
fn short(text: &str) -> String {
    match text.len() {
        0..=TEXT_BYTES_MAX => text.to_owned(),
        _ => {
            let end = text.floor_char_boundary(TEXT_BYTES_MAX - '…'.len_utf8());
            format!("{}…", &text[..end])
        }
    }
}
