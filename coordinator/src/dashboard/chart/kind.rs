//! Kinds of calls, and names of what is in a picture.

use crate::dashboard::data::{Attempts, Branch, Tx};

/// Kind of a call: class, name, and what a legend calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) class: &'static str,
    pub(super) name: &'static str,
}

pub(super) const PREPARE: Kind = Kind { class: "prepare", name: "Prepare" };
pub(super) const ACTION: Kind = Kind { class: "action", name: "action" };
pub(super) const COMMIT: Kind = Kind { class: "commit", name: "Commit" };
pub(super) const CANCEL: Kind = Kind { class: "cancel", name: "Cancel" };
pub(super) const COMPENSATE: Kind = Kind { class: "compensate", name: "compensation" };

/// Names of the legend, in its order.
pub(super) const LEGEND: [(&str, &str); 13] = [
    (PREPARE.class, PREPARE.name),
    (ACTION.class, ACTION.name),
    (COMMIT.class, COMMIT.name),
    (CANCEL.class, CANCEL.name),
    (COMPENSATE.class, COMPENSATE.name),
    ("failing", "failing"),
    ("begun", "begun"),
    ("vote", "vote"),
    ("ended", "end of a branch"),
    ("committed", "decision: COMMIT"),
    ("aborted", "decision: ABORT"),
    ("end", "last end"),
    ("write", "durable write"),
];

impl Branch {
    pub(super) fn phase_one(&self) -> Kind {
        if self.is_step() { ACTION } else { PREPARE }
    }

    /// Returns both phases: kind of the calls, attempts, time of the answer, and the time after which none is waited for.
    pub(super) fn phases<'a>(&'a self, tx: &'a Tx) -> [(Kind, &'a Attempts, &'a str, &'a str); 2] {
        [
            (self.phase_one(), &self.prepare_attempts, &*self.voted_at, &*tx.decided_at),
            (self.phase_two(&tx.outcome), &self.phase_two_attempts, &*self.ended_at, ""),
        ]
    }

    /// Returns the kind of its second call: as its state says, or else as the outcome does.
    pub(super) fn phase_two(&self, outcome: &str) -> Kind {
        let is_commit = match self.state.as_str() {
            "BRANCH_STATE_COMMITTING" | "BRANCH_STATE_COMMITTED" => true,
            "BRANCH_STATE_CANCELLING" | "BRANCH_STATE_CANCELLED" => false,
            _ => outcome == "OUTCOME_COMMITTED",
        };
        match (is_commit, self.is_step()) {
            (true, _) => COMMIT,
            (false, true) => COMPENSATE,
            (false, false) => CANCEL,
        }
    }
}
