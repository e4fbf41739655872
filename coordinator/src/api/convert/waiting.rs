//! The answer to "why is it waiting?" as it is sent: with the sentence that people read.

use unanimo_core::waiting::{Cause, Waiting};
use unanimo_core::{Attempts, Branch, Operation, Timestamp, Transaction};
use unanimo_proto::v1;

use crate::engine::children::gid_of_child;
use crate::wire::{time_in_words, time_to_wire};

/// Returns what a transaction waits for; `None` if it has ended, or is about to go on.
pub(super) fn waiting(tx: &Transaction, now: Timestamp) -> Option<v1::Waiting> {
    let waiting = tx.waiting(now)?;
    Some(v1::Waiting {
        cause: cause(waiting.cause).into(),
        branch_id: waiting.branch.map_or_else(String::new, |b| b.spec.branch_id.to_string()),
        since: Some(time_to_wire(waiting.since)),
        until: waiting.until.map(time_to_wire),
        branch_count: u32::try_from(waiting.branches).unwrap_or(u32::MAX),
        sentence: sentence(tx, &waiting),
    })
}

fn cause(cause: Cause<'_>) -> v1::WaitCause {
    match cause {
        Cause::Time => v1::WaitCause::Time,
        Cause::Parent => v1::WaitCause::Parent,
        Cause::Initiator => v1::WaitCause::Initiator,
        Cause::Lock(_) => v1::WaitCause::Lock,
        Cause::Turn(_) => v1::WaitCause::Turn,
        Cause::Answer(_) => v1::WaitCause::Answer,
        Cause::Retry(_) => v1::WaitCause::Retry,
    }
}

fn sentence(tx: &Transaction, waiting: &Waiting<'_>) -> String {
    let &Waiting { cause, branch, since, until, branches } = waiting;
    let at = |until: Option<Timestamp>| until.map(time_in_words).unwrap_or_default();
    let who = branch.map_or_else(|| "it".to_owned(), |b| format!("branch {}", b.spec.branch_id));
    let mut text = match (cause, branch) {
        (Cause::Time, Some(_)) => format!("{who} is sent at {}", at(until)),
        (Cause::Time, None) => format!("it starts at {}", at(until)),
        (Cause::Parent, _) => "all branches have voted yes, and the parent decides".to_owned(),
        (Cause::Initiator, _) => {
            let deadline = at(until);
            format!("nobody has asked for Commit or Rollback; ABORT is decided at {deadline}")
        }
        (Cause::Lock(None), _) => format!("{who} waits for locks since {}", time_in_words(since)),
        (Cause::Lock(Some(obstacle)), _) => {
            format!("{who} waits since {}: {obstacle}", time_in_words(since))
        }
        (Cause::Turn(operation) | Cause::Answer(operation) | Cause::Retry(operation), Some(b)) => {
            call(tx, b, operation, waiting)
        }
        (Cause::Turn(_) | Cause::Answer(_) | Cause::Retry(_), None) => String::new(),
    };
    if branches > 1 {
        text += &format!("; {branches} branches wait");
    }
    text
}

/// Tells of a call that is due, under way, or sent again.
fn call(tx: &Transaction, branch: &Branch, operation: Operation, waiting: &Waiting<'_>) -> String {
    let (name, attempts) = match operation {
        Operation::Prepare => ("Prepare", &branch.progress.prepare_attempts),
        Operation::PhaseTwo(unanimo_core::PhaseTwoOperation::Commit) => {
            ("Commit", &branch.progress.phase_two_attempts)
        }
        Operation::PhaseTwo(unanimo_core::PhaseTwoOperation::Cancel) => {
            ("Cancel", &branch.progress.phase_two_attempts)
        }
    };
    let (id, since) = (&branch.spec.branch_id, time_in_words(waiting.since));
    let whom = match branch.spec.is_child() {
        true => {
            let child = gid_of_child(tx.identity(), id, branch.number);
            format!("the child {}", child.local())
        }
        false => format!("participant {}", branch.spec.participant.local()),
    };
    let Attempts { count, last_error, .. } = attempts;
    let (answer, advice) = alarmed(branch, operation);
    let sent = match (waiting.cause, count) {
        (Cause::Turn(_), 0) => {
            format!("{name} of branch {id} is to be sent to {whom} since {since}")
        }
        (Cause::Answer(_), 0 | 1) => {
            format!("{name} of branch {id} was sent to {whom} at {since}, and {answer}")
        }
        (_, 1) => format!("{name} of branch {id} was sent to {whom} at {since}, and {answer}"),
        _ => {
            format!(
                "{name} of branch {id} was sent to {whom} {count} times since {since}, and {answer}"
            )
        }
    };
    let again = waiting.until.map(|at| format!("; it is sent again at {}", time_in_words(at)));
    let error = last_error.as_ref().map(|error| format!("; last error: {error}"));
    sent + &again.unwrap_or_default() + &error.unwrap_or_default() + advice
}

/// Tells how a call that goes on was answered, and what to do about an answer that stands in the way.
fn alarmed(branch: &Branch, operation: Operation) -> (&'static str, &'static str) {
    let progress = &branch.progress;
    match operation {
        Operation::Prepare if progress.refused_after_commit => (
            "was refused, although COMMIT is decided and it must succeed",
            "; repair what the refusal names, and `unanimo tx retry` sends it at once; if it can never be done, \
             end it with `unanimo tx resolve`",
        ),
        Operation::Prepare if progress.output_too_large => (
            "was answered with an output that is too large for the step that reads it",
            "; repair the participant, and `unanimo tx retry` sends it at once; if it cannot, end it with \
             `unanimo tx resolve --as committed --output JSON`",
        ),
        _ => ("is not answered", ""),
    }
}
