//! `unanimo tx resolve`: ends branches by an operator's word.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::value::RawValue;
use unanimo_proto::v1;

use super::super::Server;
use super::super::client::{self, Client};
use super::super::many::{Act, By, Many};
use super::{One, may_hold, print};
use crate::error::Error;
use crate::output::{self, CAUTION, clean};

/// End a branch by hand, if its participant will never answer
///
/// The transaction must be decided, and the branch must not have ended. The coordinator then sends
/// nothing more to the participant for this branch. The decision does not change. The transaction
/// becomes heuristic: it needs attention until `unanimo tx forget`.
///
/// For the pivot of a saga that was sent and never answers, it decides: `committed` stands for its yes,
/// `rolled-back` for its no, after which its participant is still told. docs/sagas.md says what follows.
///
/// With --all it is done in each transaction that is committing or aborting and meets the conditions, one of which is --participant:
/// each branch of it that was called and has not ended is resolved, the oldest transaction first and no faster than --pace, once
/// you have agreed to their number. One that is refused is told, and the others follow. Transactions that are not decided are left
/// out, for the end of a branch may be their decision.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "unanimo tx resolve [OPTIONS] --as <HOW> <TX --branch <BRANCH_ID>|--all>"
)]
#[command(after_long_help = "\
JSON (--json): the transaction, as `unanimo tx --help` describes it, with
  branches. With --all an object with act, matched, done, nothing_due (no
  branch waited), failed (a branch was refused), unreadable (left out, and not
  in matched), left (not tried, because the command ended before; all are
  numbers of transactions) and dry_run. It is printed also where the command
  ends with an error.

Exit codes: 0 success; 1 the command failed, or with --all a transaction was
  refused, or nobody agreed to go on; 2 an argument is wrong, or --yes is
  needed.")]
pub(in crate::tx) struct Args {
    #[command(flatten)]
    one: One,
    /// Branch to end
    #[arg(long, value_name = "BRANCH_ID", required_unless_present = "all", conflicts_with = "all")]
    branch: Option<String>,
    /// State of the branch's work, as you found it or have made it
    #[arg(long = "as", value_name = "HOW")]
    how: Resolution,
    /// Output of a branch that is `committed` and has not answered, in JSON; '' is one without bytes. Needed
    /// where another step reads it
    #[arg(long, value_name = "JSON", value_parser = output, conflicts_with = "all")]
    output: Option<Output>,
    /// File with that output; its bytes are sent unchanged
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "all"])]
    output_file: Option<PathBuf>,
    #[command(flatten)]
    many: Many,
    #[command(flatten)]
    act: super::Act,
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

pub(in crate::tx) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let output = match (args.output, args.output_file) {
        (None, Some(path)) => {
            let read = std::fs::read(&path);
            let path = path.display().to_string();
            Some(Output::of(read.map_err(|source| client::Error::Output { path, source })?))
        }
        (output, _) => output,
    };
    let by = args.act.by(args.many.is_dry_run())?;
    let mut client = Client::connect(server).await?;
    let resolution = match args.how {
        Resolution::Committed => v1::Resolution::Committed,
        Resolution::RolledBack => v1::Resolution::RolledBack,
        Resolution::Hazard => v1::Resolution::Hazard,
    };
    let Some(target) = args.one.target() else {
        return args.many.run(server, &mut client, Act::Resolve(resolution), by).await;
    };
    let tx_id = target.tx_id(&mut client).await?;
    let (By { operator, note }, branch_id) = (by, args.branch.unwrap_or_default());
    let request = client.request(v1::ResolveBranchRequest {
        tx_id,
        branch_id: branch_id.clone(),
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
