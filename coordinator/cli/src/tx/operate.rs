//! `unanimo tx retry`, `resolve` and `forget`: what a person may do to a transaction that does not
//! end by itself.

use std::process::ExitCode;

use unanimo_proto::v1;

use super::client::{self, Client};
use super::show::head;
use super::target::Target;
use super::{Server, json};
use crate::error::Error;
use crate::output;

/// Send what is owed at once, instead of at the next retry
///
/// Use it once a participant is back. It is written to the transaction's history.
#[derive(Debug, clap::Args)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    target: Target,
    /// Only to this branch
    #[arg(long, value_name = "BRANCH_ID", default_value = "", hide_default_value = true)]
    branch: String,
    /// Who asks, for the history
    #[arg(long, value_name = "NAME", env = "USER", default_value = "", hide_default_value = true)]
    operator: String,
}

/// End a branch by your word, because its participant never will
///
/// The transaction must be decided, and the branch must owe an answer to Commit or Cancel. Nothing
/// is sent to its participant any more. The decision stands, and the transaction becomes heuristic:
/// it needs attention until `forget`.
#[derive(Debug, clap::Args)]
pub(super) struct ResolveArgs {
    #[command(flatten)]
    target: Target,
    /// The branch
    #[arg(long, value_name = "BRANCH_ID")]
    branch: String,
    /// How you found its work, or made it
    #[arg(long = "as", value_name = "HOW")]
    how: Resolution,
    #[command(flatten)]
    act: Act,
}

/// Settle the alarm of a heuristic transaction that has ended
///
/// Do this once its data is right again. The transaction may then be purged like any other; what
/// you did and noted stays in its history.
#[derive(Debug, clap::Args)]
pub(super) struct ForgetArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    act: Act,
}

/// What the history keeps of an act.
#[derive(Debug, clap::Args)]
struct Act {
    /// Who does it, for the history
    #[arg(long, value_name = "NAME", env = "USER")]
    operator: String,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    note: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Resolution {
    /// Its work is committed
    Committed,
    /// Its work is undone
    RolledBack,
    /// Nobody can tell
    Hazard,
}

pub(super) async fn retry(server: &Server, args: RetryArgs) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let tx_id = args.target.tx_id(&mut client).await?;
    let RetryArgs { branch, operator, .. } = args;
    let request =
        client.request(v1::RetryTransactionRequest { tx_id, branch_id: branch, operator });
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
    });
    let answer = client.operator.resolve_branch(request).await.map_err(client::Error::from)?;
    print(server, answer.into_inner().transaction)
}

pub(super) async fn forget(server: &Server, args: ForgetArgs) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let tx_id = args.target.tx_id(&mut client).await?;
    let Act { operator, note } = args.act;
    let request = client.request(v1::ForgetTransactionRequest { tx_id, operator, note });
    let answer = client.operator.forget_transaction(request).await.map_err(client::Error::from)?;
    print(server, answer.into_inner().transaction)
}

/// The transaction after the act.
fn print(server: &Server, tx: Option<v1::Transaction>) -> Result<ExitCode, Error> {
    let tx = tx.ok_or(client::Error::Nonsense("a transaction was asked for, none came"))?;
    if server.json {
        output::print_json(&json::Transaction::new(tx, json::View::Basic))?;
    } else {
        output::print(&head(&tx))?;
    }
    Ok(ExitCode::SUCCESS)
}
