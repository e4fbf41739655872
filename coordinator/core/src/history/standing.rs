//! A transaction's state in a few words: enough to tell the first difference.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::is_false;
use crate::branch::{Branch, BranchState, HeuristicKind};
use crate::decision::{AbortCause, Decision, Heuristic, Phase};
use crate::ids::BranchNumber;
use crate::policy::{Policy, RulesVersion};
use crate::time::Timestamp;
use crate::transaction::Transaction;

type Word = Cow<'static, str>;

/// A transaction's state in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// `scheduled`, `active`, `in_doubt`, `decided` or `ended`.
    pub phase: Word,
    /// `commit` or `abort`, once it is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Word>,
    /// Cause of an ABORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Word>,
    /// Number of the branch that is to blame for an ABORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause_branch: Option<BranchNumber>,
    /// `hazard` or `mixed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heuristic: Option<Word>,
    /// It takes too long.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stalled: bool,
    /// An operator has cleared its alarm.
    #[serde(default, skip_serializing_if = "is_false")]
    pub forgotten: bool,
    /// State of each branch, by number.
    pub branches: Vec<Word>,
    /// Stored flags of each branch, by number; empty where none has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// When ABORT is decided if nothing else is, while that can still be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// It need not be in memory before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleeps_until: Option<Timestamp>,
    /// When time alone is the next input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<Timestamp>,
}

impl Standing {
    /// Tells how the transaction stands.
    #[must_use]
    pub fn of(tx: &Transaction, policy: &Policy) -> Self {
        let decision = tx.phase().decision();
        let cause = decision.and_then(cause_of);
        Self {
            phase: phase(tx.phase()).into(),
            decision: decision.map(|decision| match decision {
                Decision::Commit => "commit".into(),
                Decision::Abort(_) => "abort".into(),
            }),
            cause: cause.map(|cause| cause_name(cause).into()),
            cause_branch: cause.and_then(AbortCause::number),
            heuristic: match tx.heuristic() {
                Heuristic::None => None,
                Heuristic::Hazard => Some("hazard".into()),
                Heuristic::Mixed => Some("mixed".into()),
            },
            stalled: tx.stalled,
            forgotten: tx.forgotten,
            branches: tx.branches().iter().map(|branch| state(branch, decision).into()).collect(),
            flags: flags(tx),
            deadline: tx.has_deadline().then(|| tx.deadline()),
            sleeps_until: tx.sleeps_until(),
            wake_at: tx.wake_at(policy),
        }
    }
}

/// Stored flags of each branch. The first rules recorded none.
fn flags(tx: &Transaction) -> Vec<String> {
    let of = |branch: &Branch| {
        let progress = &branch.progress;
        [
            ("unanswered", progress.unanswered),
            ("released", progress.released),
            ("listed", progress.listed),
            ("waits_for_locks", progress.locks_asked_at.is_some()),
            ("refused_by_word", progress.refused_by_word),
            ("output_by_word", progress.output_by_word),
            ("output_dropped", progress.output_dropped),
            ("refused_after_commit", progress.refused_after_commit),
            ("output_too_large", progress.output_too_large),
        ]
        .into_iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| name)
        .collect::<Vec<_>>()
        .join(" ")
    };
    let all: Vec<String> = tx.branches().iter().map(of).collect();
    let none = tx.rules == RulesVersion::FIRST || all.iter().all(String::is_empty);
    if none { Vec::new() } else { all }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Scheduled => "scheduled",
        Phase::Active => "active",
        Phase::InDoubt { .. } => "in_doubt",
        Phase::Decided { .. } => "decided",
        Phase::Ended { .. } => "ended",
    }
}

fn cause_of(decision: Decision) -> Option<AbortCause> {
    match decision {
        Decision::Commit => None,
        Decision::Abort(cause) => Some(cause),
    }
}

fn cause_name(cause: AbortCause) -> &'static str {
    match cause {
        AbortCause::Refused(_) => "refused",
        AbortCause::Deadline => "deadline",
        AbortCause::Rollback => "rollback",
        AbortCause::Unlisted(_) => "unlisted",
        AbortCause::NoVote(_) => "no_vote",
        AbortCause::GaveUp(_) => "gave_up",
        AbortCause::OutputDropped(_) => "output_dropped",
        AbortCause::Locked(_) => "locked",
        AbortCause::Parent => "parent",
    }
}

fn state(branch: &Branch, decision: Option<Decision>) -> &'static str {
    match branch.state(decision) {
        BranchState::Enlisted => "enlisted",
        BranchState::Waiting => "waiting",
        BranchState::Preparing => "preparing",
        BranchState::Prepared => "prepared",
        BranchState::ReadOnly => "read_only",
        BranchState::Refused => "refused",
        BranchState::Committing => "committing",
        BranchState::Committed => "committed",
        BranchState::Cancelling => "cancelling",
        BranchState::Cancelled => "cancelled",
        BranchState::Done => "done",
        BranchState::Kept => "kept",
        BranchState::Heuristic(HeuristicKind::Commit) => "heuristic_commit",
        BranchState::Heuristic(HeuristicKind::Rollback) => "heuristic_rollback",
        BranchState::Heuristic(HeuristicKind::Hazard) => "heuristic_hazard",
    }
}
