//! Words of the acts.

use super::super::data::Tx;
use super::many::Many;
use crate::api::http::Act;

/// Acts, and their names in addresses.
pub(super) const ACTS: &[(Act, &str)] =
    &[(Act::Retry, "retry"), (Act::Resolve, "resolve"), (Act::Forget, "forget")];

pub(super) fn name(act: Act) -> &'static str {
    ACTS.iter().find(|(of, _)| *of == act).map_or("", |(_, name)| name)
}

pub(super) fn title(act: Act, name: &str) -> String {
    match act {
        Act::Retry => format!("Retry {name}"),
        Act::Resolve => format!("Resolve a branch of {name}"),
        Act::Forget => format!("Forget {name}"),
    }
}

pub(super) fn title_of_many(act: Act) -> &'static str {
    match act {
        Act::Retry => "Retry many",
        Act::Resolve => "Resolve branches of many",
        Act::Forget => "Forget many",
    }
}

const RETRY: &str = "Every call that waits is sent now, before its next retry. No decision changes, and nothing is sent \
                     twice with another effect: if a participant is still away, its call waits again as before.";

const RESOLVE: &str = "The branch ends as you say, and its participant is told nothing more of it. Do this only if it will \
                       never answer, and after you have looked at its data: what it has prepared or reserved stays there \
                       until somebody ends it by hand. It cannot be undone.";

const HEURISTIC: &str =
    "The transaction becomes heuristic, and needs a person until it is forgotten.";

const UNDECIDED: &str = "Transactions that are not decided are left out, for the end of a branch may be their decision: \
                         resolve these one by one.";

const FORGET: &str = "The alarm is cleared. Do this when the data of all participants is right again. Nothing is deleted: the \
                      transaction is purged after its retention, like any other.";

const ENTERED: &str = "The act is entered in the audit, with your name and reason, and in the history of the transaction.";

/// Returns what an act will do, in sentences.
pub(super) fn says(act: Act, tx: &Tx) -> Vec<String> {
    let mut says: Vec<String> = Vec::new();
    if let Some(waiting) = &tx.waiting {
        says.push(waiting.sentence.clone());
    }
    match act {
        Act::Retry => says.push(RETRY.to_owned()),
        Act::Resolve => {
            says.push(RESOLVE.to_owned());
            if tx.decided_at.is_empty() {
                says.push(
                    "The transaction is not decided: for its pivot, committed decides COMMIT in place of its answer, and \
                     rolled back decides ABORT."
                        .to_owned(),
                );
            } else {
                let decision = if tx.outcome == "OUTCOME_COMMITTED" { "COMMIT" } else { "ABORT" };
                says.push(format!("The decision, {decision}, does not change. {HEURISTIC}"));
            }
        }
        Act::Forget => says.push(FORGET.to_owned()),
    }
    says.push(ENTERED.to_owned());
    says
}

/// Returns what an act on many will do, in sentences.
pub(super) fn says_of_many(act: Act, participant: &str) -> Vec<String> {
    let first = match act {
        Act::Retry => format!("For each of them: {RETRY}"),
        Act::Resolve => format!(
            "In each of them, every branch of {participant} that was called and has not ended is resolved. {RESOLVE} \
             {HEURISTIC} {UNDECIDED}"
        ),
        Act::Forget => format!("For each of them: {FORGET}"),
    };
    let since = if act == Act::Forget { "ended" } else { "begun" };
    let left = format!("Those that have {since} since this page was made are left alone.");
    let pace = "They come one after the other, at most a hundred a second. It goes on when this page is closed, and can be \
                stopped; it ends if the coordinator does. Each act is entered in the audit, with your name and reason.";
    vec![first, left, pace.to_owned()]
}

/// Returns the reason for which there is nothing to do; empty if there is something.
pub(super) fn nothing(act: Act, tx: &Tx, branches: &[String]) -> String {
    let why = match act {
        Act::Retry if !tx.ended_at.is_empty() => "The transaction has ended: no call waits.",
        Act::Resolve if branches.is_empty() => "No branch waits for its participant.",
        Act::Forget if tx.ended_at.is_empty() => {
            "The transaction has not ended: it cannot be forgotten yet."
        }
        Act::Forget if !tx.is_heuristic() => {
            "The transaction is not heuristic: there is no alarm to clear."
        }
        Act::Forget if !tx.attention => "The transaction was forgotten before.",
        _ => "",
    };
    why.to_owned()
}

pub(super) fn nothing_of_many(act: Act, many: &Many) -> String {
    let why = match act {
        Act::Resolve if many.filter.participant.is_empty() => {
            "Branches are resolved for one participant at a time: name it, and count again."
        }
        _ if many.count == 0 && many.at_least => {
            return format!(
                "None among the first {} that were looked at; there may be more of them further on. Name the beginning of \
                 the gid, the participant or the state, and count again.",
                many.looked_at
            );
        }
        _ if many.count == 0 => "No transaction matches.",
        _ => "",
    };
    why.to_owned()
}

/// Names the steps that can never be done: they read the output of a branch that was ended without one.
pub(super) fn never_done(tx: &Tx, branch_id: &str) -> Option<String> {
    let resolved = tx.branches.iter().find(|branch| branch.branch_id == branch_id)?;
    let lacks_output = resolved.voted_at.is_empty()
        && resolved.state != "BRANCH_STATE_HEURISTIC_COMMIT"
        && tx.outcome == "OUTCOME_COMMITTED";
    let waits = tx.branches.iter().filter(|branch| {
        let reads = branch.inputs.iter().any(|input| input.branch_id == branch_id);
        reads && branch.voted_at.is_empty() && branch.is_open()
    });
    let readers: Vec<_> = waits.map(|branch| branch.branch_id.as_str()).collect();
    (lacks_output && !readers.is_empty()).then(|| {
        let readers = readers.join(", ");
        format!(
            "{readers} cannot be done without the output of {branch_id}, which nobody knows: resolve that, too, or the \
             saga never ends."
        )
    })
}

/// Returns what may be held still of branches that operators have resolved.
pub(super) fn held(tx: &Tx) -> Vec<String> {
    let resolved = tx.branches.iter().filter(|branch| !branch.resolved_by.is_empty());
    resolved
        .map(|branch| {
            format!(
                "{} (branch {}) has not confirmed the end of what {} resolved, and may still hold what it had prepared or \
                 reserved, or not have done its step.",
                branch.participant, branch.branch_id, branch.resolved_by
            )
        })
        .collect()
}

pub(super) fn held_by_many(act: Act) -> Vec<String> {
    match act {
        Act::Forget => vec![
            "Where an operator has resolved a branch, its participant may still hold something: without your word such a \
             transaction is refused."
                .to_owned(),
        ],
        _ => Vec::new(),
    }
}
