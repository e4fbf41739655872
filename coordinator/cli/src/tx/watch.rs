//! `unanimo tx watch`: prints a line for each change of a transaction, until it has ended.

use std::collections::HashMap;
use std::process::ExitCode;

use jiff::Timestamp;
use tokio::time::Instant;
use tonic::Request;
use unanimo_proto::v1;

use super::client::{self, Client};
use super::submit::DEVIATES;
use super::target::Target;
use super::{Server, json, words};
use crate::error::Error;
use crate::output::{self, clean, wrapped};

/// Columns of the time at the beginning of a line.
const TIME: usize = 26;

/// Follow a transaction until it has ended
///
/// Prints the present state, then a line for each change: the time at which this command saw it,
/// the subject (`transaction` or a branch), and the new state. A call that fails is told with the number
/// of attempts and the last error: the first, second, fourth, eighth … attempt. Changes that follow
/// each other closely may be one line. With --timeout the command ends after that time with code 1, if
/// the transaction has not ended. It ends with code 6 if a branch has ended against the decision, or nobody can
/// tell how it has: an operator has to look at it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): a line for each change. Each line is a whole transaction as
  `unanimo tx --help` describes it, with branches and without timeline.")]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let started = Instant::now();
    let mut client = Client::connect(server).await?;
    let key = Some(args.target.watch_key(&mut client).await?);
    let watch = v1::WatchTransactionRequest { key, include_outputs: true, ..Default::default() };
    // The time is kept here: a coordinator that is told of it ends the stream before it is over.
    let until = server.timeout.map(|timeout| started + timeout.0);
    let watched = by(until, client.coordinator.watch_transaction(Request::new(watch))).await?;
    let mut changes = watched.map_err(client::Error::from)?.into_inner();
    let mut known = HashMap::new();
    let (mut ended, mut deviates) = (false, false);
    loop {
        let next = by(until, changes.message()).await?;
        let Some(change) = next.map_err(client::Error::from)? else { break };
        let tx =
            change.transaction.ok_or(client::Error::Nonsense("a change has no transaction"))?;
        (ended, deviates) = (tx.ended_at.is_some(), words::deviates(tx.heuristic));
        if server.json {
            output::print_json(&json::Transaction::new(tx, json::View::Basic))?;
        } else {
            output::print(&news(&tx, &mut known))?;
        }
    }
    match ended {
        true if deviates => Ok(ExitCode::from(DEVIATES)),
        true => Ok(ExitCode::SUCCESS),
        false => Err(client::Error::CutOff.into()),
    }
}

/// Does some work until then.
async fn by<T>(until: Option<Instant>, work: impl Future<Output = T>) -> Result<T, client::Error> {
    match until {
        Some(until) => {
            tokio::time::timeout_at(until, work).await.map_err(|_| client::Error::NotEnded)
        }
        None => Ok(work.await),
    }
}

/// Makes a line for each subject whose state differs from `known`, and updates `known`.
fn news(tx: &v1::Transaction, known: &mut HashMap<String, String>) -> String {
    let seen = Timestamp::now();
    let branches = tx.branches.iter().map(|branch| (branch.branch_id.clone(), told(branch)));
    let whole = ("transaction".to_owned(), whole(tx));
    // The transaction's key is a space, which no branch id can hold.
    let all = std::iter::once((String::from(" "), whole))
        .chain(branches.map(|(id, now)| (id.clone(), (format!("branch {id}"), now))));
    let mut text = String::new();
    for (key, (subject, now)) in all {
        if known.get(&key) != Some(&now) {
            let told = format!("{subject}  {}", clean(&now));
            text += &format!("{seen:.3}  {}\n", wrapped(TIME, &told));
            known.insert(key, now);
        }
    }
    text
}

fn whole(tx: &v1::Transaction) -> String {
    let why = words::why_aborted(tx.abort_cause(), &tx.abort_branch_id, &tx.abort_detail);
    let parts = [words::state(tx.state()), why, words::attention(tx)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

fn told(branch: &v1::Branch) -> String {
    let state = words::branch_state(branch.state());
    let why = match (&branch.refusal, branch.heuristic_note.as_str()) {
        (Some(refusal), _) => format!(": {}: {}", refusal.reason, refusal.message),
        (None, "") => failing(branch),
        (None, note) => format!(": {note}"),
    };
    state + &why
}

/// Tells the attempts and the last error of the call that a branch waits for; empty if none failed.
fn failing(branch: &v1::Branch) -> String {
    let attempts = match branch.state() {
        v1::BranchState::Preparing => &branch.prepare_attempts,
        v1::BranchState::Committing | v1::BranchState::Cancelling => &branch.phase_two_attempts,
        _ => return String::new(),
    };
    match attempts {
        Some(v1::Attempts { count, last_error, .. }) if !last_error.is_empty() => {
            format!(": {count} attempt(s), last error: {last_error}")
        }
        _ => String::new(),
    }
}
