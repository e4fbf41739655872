//! `unanimo tx show`: prints one transaction in full.

use std::process::ExitCode;

use unanimo_proto::v1;

use super::client::Client;
use super::target::Target;
use super::{Server, json, words};
use crate::error::Error;
use crate::output::{self, BAD, CAUTION, GOOD, HEADING, clean, table};

/// Show a transaction: its state, its branches and its history
///
/// Repeated attempts of one call are one line of the history, with their number and their first and
/// last error.
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
    let mut text = head(tx);
    if tx.stripped {
        text += "\nIts branches and history were purged.\n";
        return text;
    }
    if !tx.branches.is_empty() {
        text += &format!("\n{HEADING}Branches{HEADING:#}\n{}", branches(tx));
    }
    if !tx.timeline.is_empty() {
        let header = ["AT", "EVENT", "BRANCH", "DETAIL"];
        let lines = tx.timeline.iter().map(|entry| {
            let at = entry.occurred_at.map(words::time).unwrap_or_default();
            [at, entry.event.clone(), entry.branch_id.clone(), entry.detail.clone()]
        });
        text += &format!("\n{HEADING}History{HEADING:#}\n{}", table(header, lines));
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
        ("aborted", clean(&words::why_aborted(tx.abort_cause(), &tx.abort_branch_id))),
        ("heuristic", heuristic),
        ("attention", attention),
        ("created", time(tx.created_at)),
        ("deadline", if tx.decided_at.is_none() { time(tx.deadline) } else { String::new() }),
        ("decided", after(tx.decided_at)),
        ("ended", after(tx.ended_at)),
        ("metadata", metadata.collect::<Vec<_>>().join(" ")),
    ];
    let told = facts.into_iter().filter(|(_, fact)| !fact.is_empty());
    told.map(|(name, fact)| format!("{name:<11}{fact}\n")).collect()
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

fn branches(tx: &v1::Transaction) -> String {
    let phase_two = match tx.outcome() {
        v1::Outcome::Committed => "COMMITS",
        v1::Outcome::Aborted => "CANCELS",
        v1::Outcome::NotDecided | v1::Outcome::Unspecified => "COMMITS/CANCELS",
    };
    let header = [
        "#",
        "BRANCH",
        "PARTICIPANT",
        "ACTION",
        "STATE",
        "VOTE",
        "PREPARES",
        phase_two,
        "PAYLOAD",
        "OUTPUT",
        "LAST ERROR",
    ];
    table(header, tx.branches.iter().map(row))
}

fn row(branch: &v1::Branch) -> [String; 11] {
    let sent = |attempts: &Option<v1::Attempts>| {
        attempts.as_ref().map(|attempts| attempts.count.to_string()).unwrap_or_default()
    };
    [
        branch.branch_number.to_string(),
        branch.branch_id.clone(),
        branch.participant.clone(),
        branch.action.clone(),
        words::branch_state(branch.state()),
        words::vote(branch.vote()).unwrap_or_default(),
        sent(&branch.prepare_attempts),
        sent(&branch.phase_two_attempts),
        words::size(branch.payload.as_ref(), false),
        words::size(branch.output.as_ref(), branch.output_dropped),
        last_error(branch),
    ]
}

/// Returns the reason for a branch's state, or the last error of its calls; empty if there is none.
fn last_error(branch: &v1::Branch) -> String {
    if !branch.heuristic_note.is_empty() {
        return branch.heuristic_note.clone();
    }
    if let Some(refusal) = &branch.refusal {
        return format!("{}: {}", refusal.reason, refusal.message);
    }
    // Phase two is later than phase one, and so is its last error.
    let attempts = [&branch.phase_two_attempts, &branch.prepare_attempts].into_iter().flatten();
    let mut errors = attempts.map(|attempts| &attempts.last_error);
    errors.find(|error| !error.is_empty()).cloned().unwrap_or_default()
}
