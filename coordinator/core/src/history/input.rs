//! Inputs as they are recorded: sizes for bytes, numbers for branches, and short texts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Settings, Standing};
use crate::branch::{HeuristicKind, Vote};
use crate::ids::{BranchNumber, Gid, Incarnation, LockName};
use crate::time::{Timestamp, millis_of};

/// Most bytes of a text that are recorded: enough to recognise it. No text decides anything.
pub const TEXT_BYTES_MAX: usize = 128;

/// Something that happened to a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// It was begun, with the first so many branches of the definition.
    Begin {
        /// Number of branches.
        branches: u16,
        /// The settings in force.
        settings: Box<Settings>,
        /// Digests of the transaction and of each of these branches, as they were begun; none in a record of a
        /// version that made none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        definition: Vec<String>,
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
        #[serde(rename = "branch")]
        number: BranchNumber,
        /// Who sends its Prepare.
        by: Caller,
        /// Digest of the branch as it was added; absent in a record of a version that made none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        definition: Option<String>,
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
        #[serde(rename = "branch")]
        number: BranchNumber,
        /// Number of the attempt.
        attempt: u32,
        /// Its result.
        answer: PrepareResult,
    },
    /// A Commit or Cancel came to an end.
    PhaseTwoAnswered {
        /// Of which branch.
        #[serde(rename = "branch")]
        number: BranchNumber,
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
        #[serde(rename = "branch")]
        number: Option<BranchNumber>,
        /// Number of the attempt.
        attempt: u32,
        /// Its result.
        answer: LockResult,
    },
    /// Time passed.
    Tick,
    /// The row was written again, and nothing else.
    Rewrite,
    /// Calls that waited were sent at once.
    Retry {
        /// Of which branch; absent for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[serde(rename = "branch")]
        number: Option<BranchNumber>,
        /// The operator, if it was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operator: Option<String>,
    },
    /// An operator ended a branch by word.
    Resolve {
        /// Number of the branch.
        #[serde(rename = "branch")]
        number: BranchNumber,
        /// Its end.
        kind: HeuristicKind,
        /// Its output, if one was given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Size>,
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
    /// No vote yet: a child that waits for time alone.
    Asleep {
        /// Until when.
        until: Timestamp,
    },
    /// The call failed.
    Failed {
        /// The error.
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
        /// The error.
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
        /// That transaction waits for it, and goes first.
        #[serde(default, skip_serializing_if = "super::is_false")]
        waits: bool,
        /// An older one waits for a lock that this one's family holds.
        #[serde(default, skip_serializing_if = "super::is_false")]
        blocks_older: bool,
    },
    /// The store did not answer.
    Failed {
        /// The error.
        error: String,
    },
}
