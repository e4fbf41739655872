//! `unanimo tx retry`: sends what waits at once.

use std::process::ExitCode;

use unanimo_proto::v1;

use super::super::client::{self, Client};
use super::super::many::{Act, By, Many};
use super::super::{Server, words};
use super::{One, print};
use crate::error::Error;
use crate::output;

/// Send the waiting calls of a transaction now, before their next retry
///
/// Use it when a participant is repaired. The transaction's history records the command. Where no call
/// waits, as in a transaction that has ended, nothing is sent, and a line on standard error says so.
///
/// With --all it is done for each transaction that is active, committing or aborting and meets the conditions, the oldest first and
/// no faster than --pace, once you have agreed to their number. One that cannot be retried is told, and the others follow; after
/// three in a row that the coordinator puts off, the rest is left. No call waits in those that are scheduled or in doubt, and they
/// are left out.
#[derive(Debug, clap::Args)]
#[command(override_usage = "unanimo tx retry [OPTIONS] <TX|--all>")]
#[command(after_long_help = "\
JSON (--json): the transaction, as `unanimo tx --help` describes it, with
  branches. With --all an object with act, matched, done (calls were sent),
  nothing_due (no call was due), sent and not_sent (the same two again),
  failed, unreadable (left out, and not in matched), left (not tried, because
  the command ended before; all are numbers of transactions) and dry_run. It
  is printed also where the command ends with an error.

Exit codes: 0 success; 1 the command failed, or with --all a transaction was
  refused, or nobody agreed to go on; 2 an argument is wrong, or --yes is
  needed.")]
pub(in crate::tx) struct Args {
    #[command(flatten)]
    one: One,
    /// Only this branch; without it, every branch that has not ended
    #[arg(
        long,
        value_name = "BRANCH_ID",
        conflicts_with = "all",
        default_value = "",
        hide_default_value = true
    )]
    branch: String,
    #[command(flatten)]
    many: Many,
    /// Your name, for the history
    #[arg(long, value_name = "NAME", env = "USER", default_value = "", hide_default_value = true)]
    operator: String,
    /// Your reason, for the history and the audit; needed with --all
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
}

pub(in crate::tx) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let Args { one, branch, operator, note, many } = args;
    let Some(target) = one.target() else {
        return many.run(server, &mut client, Act::Retry, By { operator, note }).await;
    };
    let tx_id = target.tx_id(&mut client).await?;
    // A coordinator that does not know reasons of a retry would lose it.
    let requires = (!note.is_empty()).then(|| "retry_note".to_owned());
    let request = client.request(v1::RetryTransactionRequest {
        tx_id,
        branch_id: branch.clone(),
        operator,
        requires: requires.into_iter().collect(),
        note,
    });
    let answer = client.operator.retry_transaction(request).await.map_err(client::Error::from)?;
    let tx = answer.into_inner().transaction;
    if let Some(why) = tx.as_ref().and_then(|tx| not_sent(tx, &branch)) {
        output::note(&format!("nothing was sent: {why}"));
    }
    print(server, tx)
}

/// Tells why a retry has sent nothing; `None` if it has, or may have.
pub(in crate::tx) fn not_sent(tx: &v1::Transaction, branch_id: &str) -> Option<String> {
    if tx.ended_at.is_some() {
        return Some("the transaction has ended".to_owned());
    }
    if branch_id.is_empty() {
        let waits = tx.branches.iter().any(calls_are_due);
        return (!waits).then(|| "no call to a participant is due".to_owned());
    }
    let branch = tx.branches.iter().find(|branch| branch.branch_id == branch_id)?;
    (!calls_are_due(branch)).then(|| {
        let state = words::branch_state(branch.state());
        format!("no call is due to branch {branch_id}, which is {state}")
    })
}

/// Tells whether a participant's answer to some call is waited for.
fn calls_are_due(branch: &v1::Branch) -> bool {
    use v1::BranchState as State;
    matches!(
        branch.state(),
        State::Waiting | State::Preparing | State::Committing | State::Cancelling
    )
}
