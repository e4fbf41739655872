//! `unanimo tx rollback`, `retry`, `resolve` and `forget`: commands for a transaction that does not end by
//! itself, or shall not commit.

pub(super) mod forget;
pub(super) mod resolve;
pub(super) mod retry;

use std::process::ExitCode;

use unanimo_proto::v1;

use super::client::{self, Client};
use super::many::By;
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

/// Transaction that is named, in a command that also acts on many.
#[derive(Debug, clap::Args)]
struct One {
    /// tx_id or gid of the transaction. A name in the form of a tx_id is looked up as one first
    #[arg(value_name = "TX", required_unless_present = "all",
          conflicts_with_all = ["all", "dry_run", "yes", "pace", "conditions"])]
    name: Option<String>,
    /// TX is a gid, also if it has the form of a tx_id
    #[arg(long, conflicts_with = "all")]
    gid: bool,
}

impl One {
    fn target(self) -> Option<Target> {
        Some(Target::new(self.name?, self.gid))
    }
}

/// Operator and reason, for the history.
#[derive(Debug, clap::Args)]
struct Act {
    /// Your name, for the history. Needed where $USER is not set, but not with --all --dry-run. A coordinator with
    /// identities stores the name of yours instead
    #[arg(long, value_name = "NAME", env = "USER")]
    operator: Option<String>,
    /// Your reason, for the history and the audit. With --all --dry-run it is not needed
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    note: Option<String>,
}

impl Act {
    /// Tells who acts, and why. The contract asks for a name, also where the coordinator stores that of the identity.
    fn by(self, is_dry_run: bool) -> Result<By, client::Error> {
        let operator = self.operator.unwrap_or_default();
        if operator.is_empty() && !is_dry_run {
            let why = "who acts is not known: $USER is not set; --operator NAME says your name, for the history";
            return Err(client::Error::Lacks(why.to_owned()));
        }
        Ok(By { operator, note: self.note.unwrap_or_default() })
    }
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
