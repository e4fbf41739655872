//! `unanimo tx retry`, `resolve` and `forget`: an operator's commands for a transaction that does
//! not end by itself.

use std::process::ExitCode;

use unanimo_proto::v1;

use super::client::{self, Client};
use super::show::head;
use super::target::Target;
use super::{Server, json};
use crate::error::Error;
use crate::output;

/// Send the waiting calls of a transaction now, before their next retry
///
/// Use it when a participant is repaired. The transaction's history records the command.
#[derive(Debug, clap::Args)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    target: Target,
    /// Only this branch; without it, every branch that has not ended
    #[arg(long, value_name = "BRANCH_ID", default_value = "", hide_default_value = true)]
    branch: String,
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
    #[command(flatten)]
    act: Act,
}

/// Clear the alarm of a heuristic transaction that has ended
///
/// Do this when the participants' data is right again. It deletes nothing: the transaction is
/// purged after its retention, like any other. Your name and note stay in its history.
#[derive(Debug, clap::Args)]
pub(super) struct ForgetArgs {
    #[command(flatten)]
    target: Target,
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

pub(super) async fn retry(server: &Server, args: RetryArgs) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let tx_id = args.target.tx_id(&mut client).await?;
    let RetryArgs { branch, operator, .. } = args;
    let request = client.request(v1::RetryTransactionRequest {
        tx_id,
        branch_id: branch,
        operator,
        ..Default::default()
    });
    let answer = client.operator.retry_transaction(request).await.map_err(client::Error::from)?;
    print(server, answer.into_inner().transaction)
}

pub(super) async fn resolve(server: &Server, args: ResolveArgs) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let tx_id = args.target.tx_id(&mut client).await?;
    let resolution = match args.how {
        Resolution::Committed => v1::Resolution::Committed,
        Resolution::RolledBack => v1::Resolution::RolledBack,
        Resolution::Hazard => v1::Resolution::Hazard,
    };
    let Act { operator, note } = args.act;
    let request = client.request(v1::ResolveBranchRequest {
        tx_id,
        branch_id: args.branch,
        resolution: resolution.into(),
        operator,
        note,
        ..Default::default()
    });
    let answer = client.operator.resolve_branch(request).await.map_err(client::Error::from)?;
    print(server, answer.into_inner().transaction)
}

pub(super) async fn forget(server: &Server, args: ForgetArgs) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let tx_id = args.target.tx_id(&mut client).await?;
    let Act { operator, note } = args.act;
    let request = client.request(v1::ForgetTransactionRequest {
        tx_id,
        operator,
        note,
        ..Default::default()
    });
    let answer = client.operator.forget_transaction(request).await.map_err(client::Error::from)?;
    print(server, answer.into_inner().transaction)
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
