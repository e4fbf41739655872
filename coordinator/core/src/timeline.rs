//! A transaction's history, told from its state and the few events that the state cannot tell.

use crate::branch::{Attempts, PhaseTwo, Vote};
use crate::decision::{AbortCause, Decision};
use crate::effects::Event;
use crate::ids::BranchId;
use crate::time::Timestamp;
use crate::transaction::{Origin, Transaction};

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// Stable name of the event.
    pub event: &'static str,
    /// To which branch.
    pub branch_id: Option<BranchId>,
    /// More about it.
    pub detail: String,
}

/// The lines, oldest first. Attempts of one call are one line.
#[must_use]
pub fn timeline(tx: &Transaction, events: &[Event]) -> Vec<Entry> {
    let mut lines = Vec::new();
    let mut line = |at, event, branch_id: Option<&BranchId>, detail| {
        lines.push(Entry { at, event, branch_id: branch_id.cloned(), detail });
    };
    let id_of = |number| tx.branch(number).map(|branch| &branch.spec.branch_id);

    match tx.identity.origin {
        Origin::Request { .. } => line(tx.identity.created_at, "begun", None, String::new()),
        Origin::Tombstone => {
            let detail = "no transaction of this gid was known".to_owned();
            line(tx.identity.created_at, "rolled_back_unseen", None, detail);
        }
    }
    for branch in &tx.branches {
        let id = Some(&branch.spec.branch_id);
        let progress = &branch.progress;
        attempts(&progress.prepare_attempts).for_each(|(at, text)| line(at, "prepare", id, text));
        attempts(&progress.phase_two_attempts).for_each(|(at, text)| {
            line(at, if tx.commits() { "commit" } else { "cancel" }, id, text);
        });
        if let (Some(vote), Some(at)) = (progress.vote, progress.voted_at) {
            let (event, detail) = match (vote, &progress.refusal) {
                (Vote::Prepared, _) => ("prepared", String::new()),
                (Vote::ReadOnly, _) => ("read_only", String::new()),
                (Vote::Refused, None) => ("refused", String::new()),
                (Vote::Refused, Some(no)) => ("refused", format!("{}: {}", no.reason, no.message)),
            };
            line(at, event, id, detail);
        }
        if let (PhaseTwo::Done, Some(at)) = (&progress.phase_two, progress.ended_at) {
            line(at, if tx.commits() { "committed" } else { "cancelled" }, id, String::new());
        }
    }
    if let (Some(decision), Some(at)) = (tx.phase.decision(), tx.phase.decided_at()) {
        let detail = match decision {
            Decision::Commit => "COMMIT".to_owned(),
            Decision::Abort(cause) => {
                let branch_id = cause.number().and_then(id_of).map_or("", BranchId::as_str);
                format!("ABORT: {}", cause_in_words(cause, branch_id))
            }
        };
        line(at, "decided", None, detail);
    }
    if let Some(at) = tx.phase.ended_at() {
        line(at, "ended", None, String::new());
    }
    for Event { at, kind, number, detail } in events {
        line(*at, kind.as_str(), number.and_then(id_of), detail.clone());
    }
    lines.sort_by_key(|entry| (entry.at, place(entry.event)));
    lines
}

/// Rank of an event within one millisecond: the order in which such events must have happened.
fn place(event: &str) -> u8 {
    match event {
        "begun" | "rolled_back_unseen" => 0,
        "prepare" => 1,
        "prepared" | "read_only" | "refused" => 2,
        "decided" => 3,
        "ended" => 5,
        "forgotten" => 6,
        _ => 4,
    }
}

/// The attempts of a call in one line; none if the first one succeeded, whose answer tells it all.
fn attempts(attempts: &Attempts) -> impl Iterator<Item = (Timestamp, String)> {
    let Attempts { count, first_at, last_at, first_error, last_error, .. } = attempts;
    let text = match (first_error, last_error) {
        (Some(first), Some(_)) if *count == 1 => format!("1 attempt: {first}"),
        (Some(first), Some(last)) if first == last => format!("{count} attempts: {first}"),
        (Some(first), Some(last)) => format!("{count} attempts, first: {first}; last: {last}"),
        _ => String::new(),
    };
    let over = first_at.until(*last_at);
    let text = if over.is_zero() { text } else { format!("{text} (over {over:?})") };
    (first_error.is_some()).then_some((*first_at, text)).into_iter()
}

/// Describes the cause of an ABORT to people.
#[must_use]
pub fn cause_in_words(cause: AbortCause, branch_id: &str) -> String {
    match cause {
        AbortCause::Refused(_) => format!("branch {branch_id} refused"),
        AbortCause::Deadline => "the deadline passed".to_owned(),
        AbortCause::Rollback => "the initiator asked for it".to_owned(),
        AbortCause::Unlisted(_) => format!("Commit did not list branch {branch_id}"),
        AbortCause::NoVote(_) => format!("Commit listed branch {branch_id} without its vote"),
        AbortCause::OutputDropped(_) => {
            format!("the output of branch {branch_id} is over a limit, and another branch needs it")
        }
        AbortCause::GaveUp(_) => {
            format!("branch {branch_id} used up the attempts or the time of its retry policy")
        }
        AbortCause::Locked(Some(_)) => format!("a lock of branch {branch_id} was not had in time"),
        AbortCause::Locked(None) => "a lock was not had in time".to_owned(),
        AbortCause::Parent => "the parent decided it".to_owned(),
    }
}

impl Transaction {
    fn commits(&self) -> bool {
        self.phase.decision() == Some(Decision::Commit)
    }
}
