//! Decision on a transaction, its phases, and the outcome that clients are told.

use crate::ids::BranchNumber;
use crate::time::Timestamp;

/// Cause of an ABORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortCause {
    /// This branch voted REFUSED.
    Refused(BranchNumber),
    /// The deadline passed.
    Deadline,
    /// The initiator asked for it.
    Rollback,
    /// Commit did not list this branch.
    Unlisted(BranchNumber),
    /// Commit listed this branch, which its initiator had called itself, without a vote.
    NoVote(BranchNumber),
    /// This branch used up its attempts, or its time, without a vote.
    GaveUp(BranchNumber),
    /// The output of this branch was over a limit, and another branch needs it.
    OutputDropped(BranchNumber),
    /// A lock was not had in time: of this branch, or of the transaction itself.
    Locked(Option<BranchNumber>),
    /// The transaction is a child, and its parent decided ABORT.
    Parent,
}

impl AbortCause {
    /// Returns the stable name, as stored and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Deadline => "deadline",
            Self::Rollback => "rollback",
            Self::Unlisted(_) => "unlisted",
            Self::NoVote(_) => "no_vote",
            Self::GaveUp(_) => "gave_up",
            Self::OutputDropped(_) => "output_dropped",
            Self::Locked(_) => "locked",
            Self::Parent => "parent",
        }
    }

    /// The number of the branch that is to blame, if one is.
    #[must_use]
    pub fn number(self) -> Option<BranchNumber> {
        match self {
            Self::Refused(number)
            | Self::Unlisted(number)
            | Self::NoVote(number)
            | Self::GaveUp(number)
            | Self::OutputDropped(number) => Some(number),
            Self::Locked(number) => number,
            Self::Deadline | Self::Rollback | Self::Parent => None,
        }
    }
}

/// COMMIT or ABORT. Made once, never changed (promise S4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every branch is to be committed.
    Commit,
    /// Every branch is to be undone.
    Abort(AbortCause),
}

impl Decision {
    /// Returns the operation that is owed to each branch. One decision, one operation: promise S1.
    #[must_use]
    pub fn operation(self) -> PhaseTwoOperation {
        match self {
            Self::Commit => PhaseTwoOperation::Commit,
            Self::Abort(_) => PhaseTwoOperation::Cancel,
        }
    }
}

/// Operation of phase two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhaseTwoOperation {
    /// After COMMIT.
    Commit,
    /// After ABORT.
    Cancel,
}

/// Operation that a participant is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Phase one.
    Prepare,
    /// Phase two.
    PhaseTwo(PhaseTwoOperation),
}

impl Operation {
    /// The operation's name, for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::PhaseTwo(PhaseTwoOperation::Commit) => "commit",
            Self::PhaseTwo(PhaseTwoOperation::Cancel) => "cancel",
        }
    }
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Begun, and waiting for its time: nothing was sent.
    Scheduled,
    /// Phase one: nothing decided.
    Active,
    /// A child whose branches all voted yes: its parent decides, and no deadline does.
    InDoubt {
        /// When the last vote came.
        at: Timestamp,
    },
    /// Phase two: some branch still owes its answer.
    Decided {
        /// The decision.
        decision: Decision,
        /// When it was made.
        at: Timestamp,
    },
    /// Nothing more is owed.
    Ended {
        /// The decision.
        decision: Decision,
        /// When it was made.
        decided_at: Timestamp,
        /// When the last branch ended.
        at: Timestamp,
    },
}

impl Phase {
    /// The decision, once there is one.
    #[must_use]
    pub fn decision(self) -> Option<Decision> {
        match self {
            Self::Scheduled | Self::Active | Self::InDoubt { .. } => None,
            Self::Decided { decision, .. } | Self::Ended { decision, .. } => Some(decision),
        }
    }

    /// When it was decided.
    #[must_use]
    pub fn decided_at(self) -> Option<Timestamp> {
        match self {
            Self::Scheduled | Self::Active | Self::InDoubt { .. } => None,
            Self::Decided { at, .. } => Some(at),
            Self::Ended { decided_at, .. } => Some(decided_at),
        }
    }

    /// When it ended.
    #[must_use]
    pub fn ended_at(self) -> Option<Timestamp> {
        match self {
            Self::Ended { at, .. } => Some(at),
            Self::Scheduled | Self::Active | Self::InDoubt { .. } | Self::Decided { .. } => None,
        }
    }

    /// Tells whether a decision can still be made.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Scheduled | Self::Active | Self::InDoubt { .. })
    }
}

/// Outcome that a client may conclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    NotDecided,
    /// COMMIT.
    Committed,
    /// ABORT.
    Aborted,
}

impl From<Phase> for Outcome {
    fn from(phase: Phase) -> Self {
        match phase.decision() {
            None => Self::NotDecided,
            Some(Decision::Commit) => Self::Committed,
            Some(Decision::Abort(_)) => Self::Aborted,
        }
    }
}

/// Confidence that the branches followed the decision (X/Open heuristics).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heuristic {
    /// They did, as far as is known.
    None,
    /// One cannot tell, or only an operator's word tells how it ended.
    Hazard,
    /// One ended against the decision.
    Mixed,
}
