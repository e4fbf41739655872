//! `unanimo tx rollback`, `retry`, `resolve` and `forget`: commands for a transaction that does not end by
//! itself, or shall not commit.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::value::RawValue;
use unanimo_proto::v1;

use super::client::{self, Client};
use super::many::Many;
use super::show::head;
use super::submit::{DEVIATES, Wait, end, not_known, told};
use super::target::Target;
use super::{Server, json, words};
use crate::error::Error;
use crate::output::{self, CAUTION, clean};

/// Roll a transaction back that is not decided yet
///
/// Its branches are cancelled, or compensated. One that is decided stays as it was decided.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): an object as `unanimo tx submit --help` describes it.

Exit codes: 0 aborted; 1 the transaction is committed, or the command failed;
  2 an argument is wrong; 5 it is not decided yet, or nobody knows the
  outcome: run the same command again; 6 decided, and a branch ended
  otherwise, or nobody can tell how: an operator has to look at it.")]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    target: Target,
    /// Reason, for the audit, where you are an operator
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
}

/// Send the waiting calls of a transaction now, before their next retry
///
/// Use it when a participant is repaired. The transaction's history records the command. Where no call
/// waits, as in a transaction that has ended, nothing is sent, and a line on standard error says so.
///
/// With --all it is done for each transaction that is active, committing or aborting and meets the conditions, one after the other
/// and no faster than --pace. One that cannot be retried is told, and the others follow; after three in a row that the coordinator
/// puts off, the rest is left. No call waits in those that are scheduled or in doubt, and they are left out.
#[derive(Debug, clap::Args)]
#[command(override_usage = "unanimo tx retry [OPTIONS] <TX|--all>")]
#[command(after_long_help = "\
JSON (--json): the transaction, as `unanimo tx --help` describes it, with
  branches. With --all an object with matched, sent, not_sent (no call was
  due), failed, unreadable (left out, and not in matched), left (not tried,
  because the command ended before; all are numbers of transactions) and
  dry_run. It is printed also where the command ends with an error.

Exit codes: 0 success; 1 the command failed, or with --all a transaction could
  not be retried; 2 an argument is wrong.")]
pub(super) struct RetryArgs {
    /// tx_id or gid of the transaction. A name in the form of a tx_id is looked up as one first
    #[arg(value_name = "TX", required_unless_present = "all")]
    name: Option<String>,
    /// TX is a gid, also if it has the form of a tx_id
    #[arg(long)]
    gid: bool,
    /// Only this branch; without it, every branch that has not ended
    #[arg(long, value_name = "BRANCH_ID", default_value = "", hide_default_value = true)]
    branch: String,
    #[command(flatten)]
    many: Many,
    /// Your name, for the history
    #[arg(long, value_name = "NAME", env = "USER", default_value = "", hide_default_value = true)]
    operator: String,
}

/// End a branch by hand, if its participant will never answer
///
/// The transaction must be decided, and the branch must not have ended. The coordinator then sends
/// nothing more to the participant for this branch. The decision does not change. The transaction
/// becomes heuristic: it needs attention until `unanimo tx forget`.
///
/// For the pivot of a saga that was sent and never answers, it decides: `committed` stands for its yes,
/// `rolled-back` for its no, after which its participant is still told. docs/sagas.md says what follows.
#[derive(Debug, clap::Args)]
pub(super) struct ResolveArgs {
    #[command(flatten)]
    target: Target,
    /// Branch to end
    #[arg(long, value_name = "BRANCH_ID")]
    branch: String,
    /// State of the branch's work, as you found it or have made it
    #[arg(long = "as", value_name = "HOW")]
    how: Resolution,
    /// Output of a branch that is `committed` and has not answered, in JSON; '' is one without bytes. Needed
    /// where another step reads it
    #[arg(long, value_name = "JSON", value_parser = output)]
    output: Option<Output>,
    /// File with that output; its bytes are sent unchanged
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    output_file: Option<PathBuf>,
    #[command(flatten)]
    act: Act,
}

/// Clear the alarm of a heuristic transaction that has ended
///
/// Do this when the participants' data is right again. It deletes nothing: the transaction is
/// purged after its retention, like any other. Your name and note stay in its history.
///
/// The participant of a branch that was ended by `unanimo tx resolve` may still hold what it had
/// prepared or reserved: money, stock, rows that are locked. A step of a saga may not be undone, or not be done. The
/// coordinator does not call it for this branch any more, and cannot see it. So such a transaction is forgotten with
/// --released only.
#[derive(Debug, clap::Args)]
pub(super) struct ForgetArgs {
    #[command(flatten)]
    target: Target,
    /// You have looked: the participants hold nothing more of the branches that were resolved, and their steps are as
    /// they were decided
    #[arg(long)]
    released: bool,
    #[command(flatten)]
    act: Act,
}

/// Operator and reason, for the history.
#[derive(Debug, clap::Args)]
struct Act {
    /// Your name, for the history
    #[arg(long, value_name = "NAME", env = "USER")]
    operator: String,
    /// Your reason, for the history
    #[arg(long, value_name = "TEXT")]
    note: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Resolution {
    /// The work is committed
    Committed,
    /// The work is undone
    RolledBack,
    /// Nobody can tell, or only a part is done
    Hazard,
}

pub(super) async fn rollback(server: &Server, args: RollbackArgs) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    // Found first: a rollback of a gid that nobody knows would take that gid.
    let found = args.target.get(&mut client, json::View::Basic).await?;
    let is_forgotten = found.ended_at.is_some() && !found.attention;
    let v1::Transaction { tx_id, gid, .. } = found;
    let request = client.request(v1::RollbackTransactionRequest {
        key: Some(v1::rollback_transaction_request::Key::TxId(tx_id)),
        note: args.note,
        ..Default::default()
    });
    let answer = client.coordinator.rollback_transaction(request).await;
    let result = answer.map_err(client::Error::from).and_then(|answer| {
        answer.into_inner().result.ok_or(client::Error::Nonsense("it has no result"))
    });
    let result = match result {
        Ok(result) => result,
        Err(error) if error.is_indeterminate() => {
            let error = error.at(&server.endpoint);
            output::note(&format!("{CAUTION}no answer:{CAUTION:#} {error}"));
            not_known()
        }
        Err(error) => return Err(error.into()),
    };
    let code = match result.outcome() {
        v1::Outcome::NotDecided | v1::Outcome::Unspecified => ExitCode::from(5),
        _ if words::deviates(result.heuristic) => ExitCode::from(DEVIATES),
        v1::Outcome::Aborted => ExitCode::SUCCESS,
        v1::Outcome::Committed => {
            output::note("it is committed, and that stays so");
            ExitCode::FAILURE
        }
    };
    let printed = match server.json {
        true => output::print_json(&json::Submitted::new(gid, result)),
        false => output::print(&told(&gid, &result, Wait::Decided, is_forgotten)),
    };
    end(printed, code)
}

pub(super) async fn retry(server: &Server, args: RetryArgs) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let RetryArgs { name, gid, branch, operator, many } = args;
    let Some(name) = name else { return many.retry(server, &mut client, &operator).await };
    let tx_id = Target::new(name, gid).tx_id(&mut client).await?;
    let request = client.request(v1::RetryTransactionRequest {
        tx_id,
        branch_id: branch.clone(),
        operator,
        ..Default::default()
    });
    let answer = client.operator.retry_transaction(request).await.map_err(client::Error::from)?;
    let tx = answer.into_inner().transaction;
    if let Some(why) = tx.as_ref().and_then(|tx| not_sent(tx, &branch)) {
        output::note(&format!("nothing was sent: {why}"));
    }
    print(server, tx)
}

/// Tells why a retry has sent nothing; `None` if it has, or may have.
pub(super) fn not_sent(tx: &v1::Transaction, branch_id: &str) -> Option<String> {
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

/// Output of a branch, as an operator gives it.
#[derive(Clone, Debug)]
struct Output(v1::Payload);

impl Output {
    /// Bytes with the media type of JSON if they are JSON.
    fn of(bytes: Vec<u8>) -> Self {
        let is_json = serde_json::from_slice::<&RawValue>(&bytes).is_ok();
        let media_type = if is_json { "application/json" } else { "" };
        Self(v1::Payload { data: bytes.into(), media_type: media_type.to_owned() })
    }
}

fn output(text: &str) -> Result<Output, serde_json::Error> {
    if !text.is_empty() {
        serde_json::from_str::<&RawValue>(text)?;
    }
    Ok(Output::of(text.into()))
}

pub(super) async fn resolve(server: &Server, args: ResolveArgs) -> Result<ExitCode, Error> {
    let output = match (args.output, args.output_file) {
        (None, Some(path)) => {
            let read = std::fs::read(&path);
            let path = path.display().to_string();
            Some(Output::of(read.map_err(|source| client::Error::Output { path, source })?))
        }
        (output, _) => output,
    };
    let mut client = Client::connect(server).await?;
    let tx_id = args.target.tx_id(&mut client).await?;
    let resolution = match args.how {
        Resolution::Committed => v1::Resolution::Committed,
        Resolution::RolledBack => v1::Resolution::RolledBack,
        Resolution::Hazard => v1::Resolution::Hazard,
    };
    let Act { operator, note } = args.act;
    let branch_id = args.branch.clone();
    let request = client.request(v1::ResolveBranchRequest {
        tx_id,
        branch_id: args.branch,
        resolution: resolution.into(),
        operator,
        note,
        requires: output.iter().map(|_| "resolve_output".to_owned()).collect(),
        output: output.map(|Output(output)| output),
    });
    let answer = client.operator.resolve_branch(request).await.map_err(client::Error::from)?;
    let tx = answer.into_inner().transaction;
    if let Some(held) = tx.as_ref().and_then(may_hold) {
        output::note(&format!("{CAUTION}warning:{CAUTION:#} {held}"));
    }
    if let Some(never) = tx.as_ref().and_then(|tx| never_done(tx, &branch_id)) {
        output::note(&format!("{CAUTION}warning:{CAUTION:#} {never}"));
    }
    print(server, tx)
}

/// Names the steps that can never be done: they read the output of a branch that was ended without one.
fn never_done(tx: &v1::Transaction, branch_id: &str) -> Option<String> {
    let resolved = tx.branches.iter().find(|branch| branch.branch_id == branch_id)?;
    let lacks_output = resolved.voted_at.is_none()
        && !matches!(resolved.state(), v1::BranchState::HeuristicCommit)
        && tx.outcome() == v1::Outcome::Committed;
    let waits = |branch: &&v1::Branch| {
        let reads = branch.inputs.iter().any(|input| input.branch_id == branch_id);
        reads && branch.voted_at.is_none() && branch.ended_at.is_none()
    };
    let readers = tx.branches.iter().filter(waits).map(|branch| clean(&branch.branch_id));
    let readers: Vec<_> = readers.filter(|_| lacks_output).collect();
    (!readers.is_empty()).then(|| {
        let (readers, id) = (readers.join(", "), clean(branch_id));
        format!(
            "{readers} cannot be done without the output of {id}, which nobody knows: resolve that, too, or the saga \
             never ends"
        )
    })
}

pub(super) async fn forget(server: &Server, args: ForgetArgs) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let tx = args.target.get(&mut client, json::View::Basic).await?;
    // One that has not ended is refused by the coordinator, and one that is forgotten stays so.
    if !args.released
        && tx.ended_at.is_some()
        && tx.attention
        && let Some(held) = may_hold(&tx)
    {
        return Err(client::Error::StillHeld(held).into());
    }
    let tx_id = tx.tx_id;
    let Act { operator, note } = args.act;
    let request = client.request(v1::ForgetTransactionRequest {
        tx_id,
        operator,
        note,
        released: Some(args.released),
        ..Default::default()
    });
    let answer = client.operator.forget_transaction(request).await.map_err(client::Error::from)?;
    print(server, answer.into_inner().transaction)
}

/// Names the participants that may still hold something: their branches were ended by an operator's word,
/// and the coordinator does not call them any more.
fn may_hold(tx: &v1::Transaction) -> Option<String> {
    let resolved = tx.branches.iter().filter(|branch| !branch.resolved_by.is_empty());
    let named: Vec<String> = resolved.map(|branch| left_over(tx, branch)).collect();
    (!named.is_empty()).then(|| named.join("; "))
}

/// Tells what may be left of a branch that an operator resolved, in the words of its mode.
fn left_over(tx: &v1::Transaction, branch: &v1::Branch) -> String {
    let (participant, id) = (clean(&branch.participant), clean(&branch.branch_id));
    let is_committed = tx.outcome() == v1::Outcome::Committed;
    if !branch.child_gid.is_empty() {
        let child = clean(&branch.child_gid);
        return format!(
            "the child {child} (branch {id}) has not confirmed its end, and may be open still"
        );
    }
    match branch.mode() {
        v1::Mode::Saga if is_committed => format!(
            "participant {participant} (step {id}) has not confirmed that the step is done, and may not have done it"
        ),
        v1::Mode::Saga => format!(
            "participant {participant} (step {id}) has not confirmed the compensation, and may not have undone the step"
        ),
        mode => {
            let held = if mode == v1::Mode::Tcc { "reserved" } else { "prepared" };
            format!(
                "participant {participant} (branch {id}) has not confirmed the end of the branch that an operator \
                 resolved, and may still hold what it had {held}"
            )
        }
    }
}

/// Prints the transaction as it is now.
fn print(server: &Server, tx: Option<v1::Transaction>) -> Result<ExitCode, Error> {
    let tx = tx.ok_or(client::Error::Nonsense("it has no transaction"))?;
    if server.json {
        output::print_json(&json::Transaction::new(tx, json::View::Basic))?;
    } else {
        output::print(&head(&tx))?;
    }
    Ok(ExitCode::SUCCESS)
}
