//! `unanimo saga run`: submits a saga from a definition and its inputs, and prints what came out.

use std::path::PathBuf;
use std::process::ExitCode;

use unanimo_core::Gid;
use unanimo_proto::v1;
use unanimo_saga::SagaFile;
use uuid::Uuid;

use super::{Error, InputArgs, graph, warn};
use crate::error::Error as Failure;
use crate::output::{self, CAUTION, HEADING, clean};
use crate::tx::client::Client;
use crate::tx::submit::{self, Wait};
use crate::tx::{Server, json};

/// Run a saga from a definition, and wait for its outcome
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
docs/saga-definitions.md describes FILE. The same gid with the same steps and
  inputs is the same transaction: run the command again, and you get its
  outcome. The coordinator keeps a gid for its `gid-retention` (by default
  7 days after the transaction's end); after that the gid is new, and the saga
  would run again. Where a command may be repeated that late, use
  --must-exist.

Without --gid the command makes one of the saga's name and a random part, and
  prints it on standard error before it calls the coordinator. Each such run
  is a saga of its own: if you do not hear its outcome, run the command again
  with --gid and what was printed.

If the connection to the coordinator breaks, the command asks again under the
same gid until --timeout.

JSON (--json): as `unanimo tx submit` prints it.

Exit codes: 0 committed, or with --wait accepted accepted and not decided yet;
  4 aborted; 6 committed or aborted, and a step ended otherwise, or nobody can
  tell how (see heuristic): an operator has to look at it, and `unanimo tx
  show` tells more; 5 not decided before --timeout, or with --wait ended not
  ended, or nobody knows: run the same command again; 1 the command failed,
  and began no transaction; 2 an argument, an input or a field of FILE is
  wrong, and no transaction was begun.")]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// File with the definition, in YAML or JSON; `-` is standard input
    file: PathBuf,
    /// Your name for the transaction, its idempotency key. One is made and printed if it is left out
    #[arg(long)]
    gid: Option<String>,
    #[command(flatten)]
    inputs: InputArgs,
    /// Event to wait for
    #[arg(long, value_name = "EVENT", default_value = "decided")]
    wait: Wait,
    /// Begin nothing: the gid must be known. For a command that may be repeated after the gid retention
    #[arg(long, requires = "gid")]
    must_exist: bool,
    /// Draw the transaction as it is after the wait
    #[arg(long, conflicts_with = "json")]
    graph: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let request = request(args)?;
    let gid = request.gid.clone();
    if args.gid.is_none() {
        // Before the call: an answer that is lost is asked for by it.
        output::note(&format!(
            "gid {gid}; to ask for this saga again: the same command with --gid {gid}"
        ));
    }
    args.server.block_on(async {
        // Under a gid that nobody has had before, nothing can have begun.
        let mut client = match &args.gid {
            None => Some(Client::connect(&args.server).await?),
            Some(_) => submit::connect(&args.server).await?,
        };
        let steps: Vec<_> = request.branches.iter().map(|step| step.branch_id.clone()).collect();
        let (result, text) = match &mut client {
            Some(client) => {
                let submitted = submit::submit(&args.server, client, request, args.wait).await;
                let result = submitted.map_err(|error| error.of_steps(&steps))?;
                let text = submit::shown(&gid, &result, args.wait) + &outputs(&result);
                (result, text)
            }
            None => (submit::not_known(), submit::unreached(&gid)),
        };
        let code = submit::exit_code(&result, args.wait);
        let printed = if args.server.json {
            output::print_json(&json::Submitted::new(gid.clone(), result))
        } else {
            output::print(&text)
        };
        if args.graph
            && printed.is_ok()
            && let Some(client) = &mut client
        {
            draw(client, &gid).await;
        }
        submit::end(printed, code)
    })
}

/// Draws the transaction. Where that fails, the outcome is known all the same: it is a note.
async fn draw(client: &mut Client, gid: &str) {
    let drawn = match graph::fetch(client, gid).await {
        Ok(drawn) => drawn,
        Err(error) => {
            output::note(&format!("{CAUTION}no graph:{CAUTION:#} {error}"));
            return;
        }
    };
    if let Some(drawn) = drawn {
        // The exit code tells the outcome also if the graph is not read.
        let _ = output::print(&format!("\n{}", drawn.to_text()));
    }
}

fn request(args: &Args) -> Result<v1::SubmitTransactionRequest, Error> {
    let given = args.gid.as_deref().map(Gid::new).transpose().map_err(Error::Gid)?;
    let file = SagaFile::read(&args.file).map_err(Error::Definition)?;
    warn(&file);
    let name = args.file.display().to_string();
    let filled = file.with(&args.inputs.read()?);
    let saga = filled.map_err(|problems| Error::Inputs { file: name, problems })?;
    let gid = match given {
        Some(gid) => gid,
        // A name has at most half of a gid's length, and its alphabet.
        None => Gid::new(&format!("{}-{}", file.name(), Uuid::now_v7())).map_err(Error::Gid)?,
    };
    let mut request = saga.request(&gid);
    if args.must_exist {
        submit::require_existing(&mut request);
    }
    Ok(request)
}

/// Makes the lines about the outputs of the steps.
fn outputs(result: &v1::TransactionResult) -> String {
    let lines: Vec<_> = result
        .branches
        .iter()
        .filter_map(|branch| {
            let output = branch.output.as_ref().filter(|output| !output.data.is_empty())?;
            let text = match std::str::from_utf8(&output.data) {
                Ok(text) => clean(text),
                Err(_) => format!("{} bytes", output.data.len()),
            };
            Some(format!("{}: {text}\n", branch.branch_id))
        })
        .collect();
    match lines.as_slice() {
        [] => String::new(),
        lines => format!("\n{HEADING}Outputs{HEADING:#}\n{}", lines.concat()),
    }
}
