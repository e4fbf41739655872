//! `unanimo tx show`: prints one transaction in full.

use std::process::ExitCode;

use unanimo_coordinator::advice::{Advice, Troubled};
use unanimo_proto::v1;

use super::client::Client;
use super::target::Target;
use super::{Server, json, words};
use crate::error::Error;
use crate::output::{self, BAD, CAUTION, GOOD, HEADING, clean, shared_table, table, wrapped};

/// Show a transaction: its state, its branches and its history
///
/// CALLS is the number of Prepares sent, and of Commits or Cancels. NOTES has what else is to be said of a
/// branch: its last errors, an operator's note, the sizes of payload and output, and the media types of those that you may
/// not read. Repeated attempts of one
/// call are one line of the history, with their number and their first and last error.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let tx = args.target.get(&mut client, json::View::Full).await?;
    if server.json {
        output::print_json(&json::Transaction::new(tx, json::View::Full))?;
    } else {
        output::print(&in_full(&tx))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn in_full(tx: &v1::Transaction) -> String {
    let mut text = head(tx) + &next(tx);
    if tx.stripped {
        text += "\nIts branches and history were purged.\n";
        return text;
    }
    if !tx.branches.is_empty() {
        text += &format!("\n{HEADING}Branches{HEADING:#}\n{}", branches(tx));
        let notes = notes(tx);
        if !notes.is_empty() {
            text += &format!("\n{HEADING}Notes{HEADING:#}\n{notes}");
        }
    }
    if !tx.timeline.is_empty() {
        let header = ["AT", "EVENT", "BRANCH", "DETAIL"];
        let lines = tx.timeline.iter().map(|entry| {
            let at = entry.occurred_at.map(words::time).unwrap_or_default();
            [at, entry.event.clone(), entry.branch_id.clone(), entry.detail.clone()]
        });
        text += &format!("\n{HEADING}History{HEADING:#}\n{}", shared_table(header, lines));
    }
    text
}

/// Makes the lines about the transaction itself, one for each fact.
pub(super) fn head(tx: &v1::Transaction) -> String {
    let time = |at: Option<prost_types::Timestamp>| at.map(words::time).unwrap_or_default();
    let after = |at: Option<prost_types::Timestamp>| {
        let took = words::between(tx.created_at, at);
        took.map_or_else(String::new, |took| format!("{} ({took} after it began)", time(at)))
    };
    let heuristic = match tx.heuristic() {
        v1::Heuristic::None | v1::Heuristic::Unspecified => String::new(),
        kind => format!("{BAD}{}{BAD:#}", words::heuristic(kind)),
    };
    let attention = match words::attention(tx) {
        reasons if reasons.is_empty() => String::new(),
        reasons => format!("{BAD}{reasons}{BAD:#}"),
    };
    let metadata: std::collections::BTreeMap<_, _> = tx.metadata.iter().collect();
    let metadata = metadata.into_iter().map(|(key, value)| format!("{key}={}", clean(value)));
    let facts = [
        ("tx_id", tx.tx_id.clone()),
        ("gid", tx.gid.clone()),
        ("mode", words::mode(tx.mode).to_owned()),
        ("state", state(tx)),
        ("waits", tx.waiting.as_ref().map_or_else(String::new, |w| clean(&w.sentence))),
        (
            "aborted",
            clean(&words::why_aborted(tx.abort_cause(), &tx.abort_branch_id, &tx.abort_detail)),
        ),
        ("heuristic", heuristic),
        ("attention", attention),
        ("parent", parent(tx)),
        ("created", time(tx.created_at)),
        ("starts", if tx.started_at.is_none() { time(tx.start_at) } else { String::new() }),
        ("started", after(tx.started_at)),
        ("deadline", if tx.decided_at.is_none() { time(tx.deadline) } else { String::new() }),
        ("decided", after(tx.decided_at)),
        ("ended", after(tx.ended_at)),
        ("locks", locks(tx)),
        ("metadata", metadata.collect::<Vec<_>>().join(" ")),
    ];
    let told = facts.into_iter().filter(|(_, fact)| !fact.is_empty());
    told.map(|(name, fact)| format!("{name:<11}{}\n", wrapped(11, &fact))).collect()
}

/// Tells what a person is to do about a transaction that needs one: the words, and below them the commands, each whole on a
/// line of its own. Empty if it needs none.
fn next(tx: &v1::Transaction) -> String {
    let count = |attempts: &Option<v1::Attempts>| attempts.as_ref().map_or(0, |sent| sent.count);
    let called = |branch: &&v1::Branch| {
        branch.ended_at.is_none()
            && count(&branch.prepare_attempts) + count(&branch.phase_two_attempts) > 0
    };
    let open = tx.branches.iter().filter(called).map(|branch| branch.branch_id.as_str());
    let troubled = Troubled {
        tx_id: &tx.tx_id,
        is_unreadable: !tx.unreadable.is_empty(),
        has_attention: tx.attention,
        is_stalled: tx.stalled,
        is_heuristic: words::deviates(tx.heuristic),
        alarms: &tx.alarms,
        open: open.collect(),
    };
    let told = |advice: Advice| {
        let commands =
            advice.commands.iter().map(|command| format!("{:11}{}\n", "", clean(command)));
        format!("{:<11}{}\n{}", "next", wrapped(11, advice.why), commands.collect::<String>())
    };
    troubled.advice().into_iter().map(told).collect()
}

fn state(tx: &v1::Transaction) -> String {
    let state = words::state(tx.state());
    let (style, more) = match tx.state() {
        v1::TransactionState::Committed => (GOOD, ""),
        v1::TransactionState::Committing => (GOOD, ": decided, and not every branch has ended"),
        v1::TransactionState::Aborting => (CAUTION, ": decided, and not every branch has ended"),
        v1::TransactionState::Aborted => (CAUTION, ""),
        v1::TransactionState::Active => (CAUTION, ": not decided"),
        v1::TransactionState::Scheduled => (CAUTION, ": it waits for its start"),
        v1::TransactionState::InDoubt => {
            (CAUTION, ": its branches voted yes, and its parent decides")
        }
        v1::TransactionState::Unspecified => (CAUTION, ": this version does not know the state"),
    };
    format!("{style}{state}{style:#}{more}")
}

fn parent(tx: &v1::Transaction) -> String {
    let parent = tx.parent.as_ref();
    parent.map_or_else(String::new, |parent| {
        format!("branch {} of {}", clean(&parent.branch_id), clean(&parent.tx_id))
    })
}

fn locks(tx: &v1::Transaction) -> String {
    let lock = |lock: &v1::HeldLock| {
        let mode = words::lock_mode(lock.mode());
        let of = match lock.branch_id.as_str() {
            "" => String::new(),
            branch => format!(" for {}", clean(branch)),
        };
        let waits = match (lock.granted, lock.holder_gid.as_str(), lock.holder_waits) {
            (true, _, _) => String::new(),
            (false, "", _) => ", waits".to_owned(),
            (false, holder, false) => format!(", waits; held by {}", clean(holder)),
            (false, holder, true) => format!(", waits behind {}", clean(holder)),
        };
        format!("{} ({mode}{waits}{of})", clean(&lock.name))
    };
    tx.locks.iter().map(lock).collect::<Vec<_>>().join(", ")
}

fn branches(tx: &v1::Transaction) -> String {
    let header = ["#", "BRANCH", "PARTICIPANT", "ACTION", "STATE", "VOTE", "CALLS"];
    table(header, tx.branches.iter().map(row))
}

fn row(branch: &v1::Branch) -> [String; 7] {
    let count = |attempts: &Option<v1::Attempts>| attempts.as_ref().map_or(0, |sent| sent.count);
    let (prepares, phase_two) =
        (count(&branch.prepare_attempts), count(&branch.phase_two_attempts));
    [
        branch.branch_number.to_string(),
        branch.branch_id.clone(),
        branch.participant.clone(),
        branch.action.clone(),
        words::branch_state(branch.state()),
        words::vote(branch.vote()).unwrap_or_default(),
        format!("{prepares}+{phase_two}"),
    ]
}

/// Makes the lines of what is to be said of branches beside their columns, each under a heading of its
/// own; empty if there is nothing.
fn notes(tx: &v1::Transaction) -> String {
    let rows: Vec<[String; 3]> = tx
        .branches
        .iter()
        .flat_map(|branch| {
            let notes = notes_of(tx, branch).into_iter();
            notes.map(|(about, text)| [branch.branch_id.clone(), about.to_owned(), text])
        })
        .collect();
    if rows.is_empty() { String::new() } else { table(["BRANCH", "ABOUT", "TEXT"], rows) }
}

fn notes_of(tx: &v1::Transaction, branch: &v1::Branch) -> Vec<(&'static str, String)> {
    let mut notes = Vec::new();
    if branch.pivot {
        notes.push(("pivot", "its vote decides".to_owned()));
    }
    if branch.mode != tx.mode && branch.child_gid.is_empty() {
        notes.push(("mode", words::mode(branch.mode).to_owned()));
    }
    if !branch.child_gid.is_empty() {
        notes.push(("child", branch.child_gid.clone()));
    }
    if branch.state() == v1::BranchState::Waiting {
        notes.extend(waits_for(tx, branch).into_iter().map(|text| ("waits", text)));
    }
    if let Some(refusal) = &branch.refusal {
        notes.push(("refusal", format!("{}: {}", refusal.reason, refusal.message)));
    }
    // An operator's words and a participant's are not each other's.
    if !branch.resolved_by.is_empty() {
        let text = format!("by {}: {}", branch.resolved_by, branch.resolution_note);
        notes.push(("resolved", text));
    } else if !branch.heuristic_note.is_empty() {
        notes.push(("heuristic", branch.heuristic_note.clone()));
    }
    let error = |attempts: &Option<v1::Attempts>| {
        attempts.as_ref().map_or_else(String::new, |attempts| attempts.last_error.clone())
    };
    let phase_two =
        if tx.outcome() == v1::Outcome::Committed { "commit error" } else { "cancel error" };
    let errors = [
        ("prepare error", error(&branch.prepare_attempts)),
        (phase_two, error(&branch.phase_two_attempts)),
    ];
    notes.extend(errors.into_iter().filter(|(_, error)| !error.is_empty()));
    let sizes = [
        ("payload", words::size(branch.payload.as_ref(), false)),
        ("payload", words::hidden(branch.hidden_payload.as_ref())),
        ("output", words::size(branch.output.as_ref(), branch.output_dropped)),
        ("output", words::hidden(branch.hidden_output.as_ref())),
    ];
    notes.extend(sizes.into_iter().filter(|(_, size)| !size.is_empty()));
    notes
}

/// Tells what a branch waits for: other branches, locks, its time.
fn waits_for(tx: &v1::Transaction, branch: &v1::Branch) -> Vec<String> {
    let is_open = |id: &&String| {
        let voted = tx.branches.iter().find(|other| other.branch_id == **id).map(v1::Branch::vote);
        !matches!(voted, Some(v1::Vote::Prepared | v1::Vote::ReadOnly))
    };
    let mut open: Vec<&str> =
        branch.depends_on.iter().filter(is_open).map(String::as_str).collect();
    if branch.pivot && open.is_empty() && tx.outcome() == v1::Outcome::NotDecided {
        let voted = |vote| matches!(vote, v1::Vote::Prepared | v1::Vote::ReadOnly);
        let others = tx.branches.iter().filter(|other| {
            other.branch_id != branch.branch_id
                && !voted(other.vote())
                && !follows(tx, other, branch)
        });
        open.extend(others.map(|other| other.branch_id.as_str()));
    }
    let locks = tx.locks.iter().filter(|lock| !lock.granted);
    let locks =
        locks.filter(|lock| lock.branch_id.is_empty() || lock.branch_id == branch.branch_id);
    let locks: Vec<&str> = locks.map(|lock| lock.name.as_str()).collect();
    let mut told = Vec::new();
    told.extend((!open.is_empty()).then(|| format!("waits for {}", open.join(", "))));
    told.extend((!locks.is_empty()).then(|| format!("waits for lock {}", locks.join(", "))));
    told.extend(branch.due_at.map(|at| format!("due {}", words::time(at))));
    told
}

/// Tells whether a branch depends on another one, directly or not.
fn follows(tx: &v1::Transaction, branch: &v1::Branch, on: &v1::Branch) -> bool {
    let mut seen = std::collections::HashSet::new();
    let mut open = vec![branch];
    while let Some(branch) = open.pop() {
        if branch.depends_on.contains(&on.branch_id) {
            return true;
        }
        let before =
            tx.branches.iter().filter(|other| branch.depends_on.contains(&other.branch_id));
        open.extend(before.filter(|other| seen.insert(other.branch_id.as_str())));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_needs_a_person_says_what_to_do() {
        let attempts = || Some(v1::Attempts { count: 3, ..Default::default() });
        let branch = |id: &str, phase_two| v1::Branch {
            branch_id: id.to_owned(),
            phase_two_attempts: phase_two,
            ..Default::default()
        };
        let mut tx = v1::Transaction {
            tx_id: "T".to_owned(),
            stalled: true,
            branches: vec![branch("debit", attempts()), branch("later", None)],
            ..Default::default()
        };
        assert_eq!(next(&tx), "", "it needs nobody");
        tx.attention = true;
        let told = next(&tx);
        assert!(told.starts_with("next       A branch does not end. Repair its "), "{told}");
        let commands = "\n           unanimo tx retry T\n           unanimo tx resolve T --branch debit --as HOW \
                        --operator YOU --note \"why\"\n";
        assert!(told.ends_with(commands), "{told}");
        tx.alarms = vec!["refused_after_commit".to_owned()];
        assert!(next(&tx).contains("A step after the pivot was refused, "), "{}", next(&tx));
    }
}
