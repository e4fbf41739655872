//! Inputs of a transaction, and the reasons to reject one.

use std::time::Duration;

use crate::branch::{Enlistment, HeuristicKind, Refusal, Vote};
use crate::decision::PhaseTwoOperation;
use crate::definition::{BranchRequest, Mode, Violation};
use crate::ids::{BranchId, BranchNumber, Gid, Incarnation, LockName};
use crate::payload::Payload;
use crate::time::Timestamp;

/// Something that happened. The caller adds when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The initiator adds a branch: Execute, or Enlist.
    Enlist {
        /// The branch.
        branch: BranchRequest,
        /// Who sends its Prepare.
        enlistment: Enlistment,
    },
    /// The initiator asks for COMMIT.
    CommitAsked {
        /// Every branch that it knows, with the votes of those that it called itself.
        listed: Vec<(BranchId, Option<Vote>)>,
    },
    /// The initiator asks for ABORT.
    RollbackAsked,
    /// A Prepare came to an end, with a vote or without.
    PrepareAnswered {
        /// Of which branch.
        number: BranchNumber,
        /// Number of the attempt.
        attempt: u32,
        /// Its result.
        answer: PrepareAnswer,
    },
    /// A Commit or Cancel came to an end.
    PhaseTwoAnswered {
        /// Of which branch.
        number: BranchNumber,
        /// Commit or Cancel.
        operation: PhaseTwoOperation,
        /// Number of the attempt.
        attempt: u32,
        /// Its result.
        answer: PhaseTwoAnswer,
    },
    /// Time has passed: whatever is due by now happens.
    Tick,
    /// The row is to be written again: what its owner says there of when it need not be in memory has changed.
    Rewrite,
    /// This incarnation adopted the transaction, durably. The first input after a restore.
    Recovered {
        /// The adopter.
        by: Incarnation,
    },
    /// Calls that wait for their next attempt go out now: the participant came back, or somebody in
    /// doubt asked, or an operator did.
    Retry {
        /// Number of the branch; `None` for all.
        number: Option<BranchNumber>,
        /// The operator, if it was one, with the reason behind a colon where one was given.
        operator: Option<String>,
    },
    /// A request for locks came to an end.
    LocksAnswered {
        /// Of which branch; `None` for the transaction's own locks.
        number: Option<BranchNumber>,
        /// Number of the attempt.
        attempt: u32,
        /// Its result.
        answer: LockAnswer,
    },
    /// The parent of a child has decided.
    ParentDecided {
        /// The decision, as the operation that the parent owes to its branch.
        operation: PhaseTwoOperation,
    },
    /// An operator ends a branch by word.
    Resolve {
        /// Number of the branch.
        number: BranchNumber,
        /// Its end, as the operator states it.
        kind: HeuristicKind,
        /// Its output, for the steps that read it: of a branch that has not voted, with the kind *committed*.
        output: Option<Payload>,
        /// Who says so.
        operator: String,
        /// The operator's reason.
        note: String,
    },
    /// An operator clears the alarm of a heuristic transaction.
    Forget {
        /// Who says so.
        operator: String,
        /// The operator's reason.
        note: String,
    },
}

/// Transaction that stands between a request for locks and its grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The lock.
    pub lock: LockName,
    /// The client's name for the transaction.
    pub holder: Gid,
    /// It does not hold the lock: it waits for it, and goes first, because it is older.
    pub waits: bool,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Both are in the namespace of the one who waits, and its people read this.
        let (lock, holder, waits) = (self.lock.local(), self.holder.local(), self.waits);
        match waits {
            false => write!(f, "lock {lock} is held by transaction {holder}"),
            true => write!(
                f,
                "lock {lock} is waited for by transaction {holder}, which is older and goes first"
            ),
        }
    }
}

/// Result of one attempt of Prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareAnswer {
    /// Voted PREPARED, with an output.
    Prepared(Payload),
    /// Voted READ_ONLY.
    ReadOnly,
    /// Voted REFUSED.
    Refused(Refusal),
    /// No vote yet.
    Working {
        /// After how long to ask again, in the participant's opinion.
        retry_after: Duration,
    },
    /// No vote yet: the branch is a child that waits for nothing but time.
    Asleep {
        /// Until when.
        until: Timestamp,
    },
    /// No vote: the call failed, and may have taken effect.
    Failed(String),
}

/// Result of one request for locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockAnswer {
    /// All of them are held, durably.
    Granted,
    /// One is held, or waited for, by a transaction that goes first.
    Held {
        /// The lock.
        lock: LockName,
        /// The client's name for that transaction.
        holder: Gid,
        /// That transaction is older than this one.
        older: bool,
        /// That transaction does not hold the lock, and waits for it.
        waits: bool,
        /// Some transaction that is older than this one, that one or another, waits for a lock that this one's family holds.
        blocks_older: bool,
    },
    /// The store did not answer; they may be held.
    Failed(String),
}

/// Result of one attempt of Commit or Cancel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhaseTwoAnswer {
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
        /// After how long to ask again, in the participant's opinion.
        retry_after: Duration,
    },
    /// No answer: the call failed, and may have taken effect.
    Failed(String),
}

/// An input that does not fit. The transaction is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A rule about the request itself is broken.
    #[error(transparent)]
    Invalid(#[from] Violation),
    /// The branch id is in use for other content.
    #[error("branch {0} is enlisted with other content")]
    BranchReused(BranchId),
    /// Only a saga has branches of several modes.
    #[error("branch.mode must be the mode of the transaction, {}", .0.name())]
    OtherMode(Mode),
    /// The decision of a child that has voted is its parent's.
    #[error("the transaction is a branch of another one, and has voted: its parent decides")]
    ParentDecides,
    /// A parent decides COMMIT only after its child has voted.
    #[error("the transaction has not voted: its parent cannot commit it")]
    NotVoted,
    /// Only a child has a parent.
    #[error("the transaction is no branch of another one")]
    NoParent,
    /// No branch may be added any more.
    #[error("the transaction is decided, or asked to commit: it takes no more branches")]
    Closed,
    /// Submit named all branches; it takes no others, and no Commit.
    #[error("the transaction was submitted with all its branches: it commits by itself")]
    NotInteractive,
    /// The initiator has asked for COMMIT with another list of branches or votes, and that one waits.
    #[error("the transaction waits to commit with another list of branches or votes")]
    CommitReused,
    /// Only a branch that phase two is owed to can be resolved, or a pivot that has not answered.
    #[error("{}: there is nothing to resolve", not_owed(.0, *.1))]
    NothingToResolve(BranchId, Mode),
    /// An operator has ended the branch otherwise before.
    #[error("branch {0} was resolved as {kind} before, and stays so", kind = .1.in_words())]
    ResolvedOtherwise(BranchId, HeuristicKind),
    /// Only a transaction that has ended and is heuristic can be forgotten.
    #[error("the transaction has not ended, or is not heuristic: there is nothing to forget")]
    NothingToForget,
    /// No branch of this number.
    #[error("the transaction has no branch {0}")]
    UnknownBranch(BranchNumber),
    /// No branch of this id.
    #[error(transparent)]
    NoBranch(Violation),
}

/// Tells of a branch that nothing is owed to, in the words of its mode.
fn not_owed(id: &BranchId, mode: Mode) -> String {
    match mode {
        Mode::Saga => format!(
            "step {id} is neither to be compensated, nor to be done after COMMIT, nor a pivot that was sent"
        ),
        Mode::Tcc => format!("branch {id} is owed neither Confirm (Commit) nor Cancel"),
        Mode::TwoPhaseCommit => format!("branch {id} is owed neither Commit nor Rollback (Cancel)"),
    }
}

impl Rejection {
    /// Makes the rejection of a field that names no branch of the transaction.
    pub fn no_branch(field: impl Into<String>, id: &BranchId) -> Self {
        let rule = format!("must name a branch of the transaction, {id} is none");
        Self::NoBranch(Violation::new(field, rule))
    }
}

impl std::fmt::Display for BranchNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}
