//! `unanimo view`: a recorded history in the browser.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use unanimo_coordinator::Recorded;
use unanimo_core::history::Error as ReplayError;

use super::browser;
use super::error::Error;
use super::interruptions::Interruptions;
use super::output::{self, HEADING, clean};
use super::replay::{self, History};
use super::tx;

/// Exit codes and JSON, for `--help`.
const LONG_HELP: &str = "\
Exit codes of view: 0 ended by Ctrl-C or a signal; 1 the port is taken, this
  version does something else at the first input, or the history cannot be had
  from the coordinator; 2 the file cannot be read, is no history, or breaks a
  rule: the error names the field.

JSON (--json): one object, once the pages are served: address, inputs (number
  of pages), and remark (null, or why not all that happened can be looked at).";

/// Look at a recorded history in the browser: the transaction after each input, drawn
///
/// Serves pages to this machine alone, until Ctrl-C: `/1` shows the transaction after its first input, `/2` after the
/// second. Each has the picture of the attempts, the graph of a saga, what was sent, and what it waited for. Payloads
/// are not in a history.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP)]
pub(super) struct Args {
    /// File that `unanimo tx export` or an example made, or `-` for standard input; or the gid or tx_id of a
    /// transaction, whose history is asked for at the coordinator
    #[arg(value_name = "FILE|GID")]
    history: String,
    /// Port of the pages, at 127.0.0.1; 0 takes one that is free
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Print the address only, and open no browser
    #[arg(long)]
    no_open: bool,
    #[command(flatten)]
    server: tx::Server,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let History { document, unknown } = replay::read(&args.server, &args.history)?;
    replay::note_unknown(&args.history, &unknown);
    let name = || args.history.clone();
    let recorded = Recorded::new(document).map_err(|error| match error {
        ReplayError::Invalid(violation) => {
            replay::Error::Malformed { name: name(), why: violation.to_string() }
        }
        error => replay::Error::Differs { name: name(), difference: error.to_string() },
    })?;
    let runtime =
        Runtime::new().map_err(|source| Error::System { doing: "start threads", source })?;
    runtime.block_on(serve(args, recorded))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Args, recorded: Recorded) -> Result<(), Error> {
    let failed = |source| Error::Pages { port: args.port, source };
    let mut interruptions = Interruptions::listen();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await.map_err(failed)?;
    let address = format!("http://{}/", listener.local_addr().map_err(failed)?);
    tell(args, &address, &recorded)?;
    if !args.no_open {
        browser::open(&address);
    }
    let stop = async move { interruptions.next().await };
    recorded.serve(listener, stop).await.map_err(failed)
}

/// Tells where the pages are, and what is not in them.
fn tell(args: &Args, address: &str, recorded: &Recorded) -> Result<(), Error> {
    let (inputs, remark) = (recorded.count(), recorded.remark());
    if args.server.json {
        let told = json!({ "address": address, "inputs": inputs, "remark": remark });
        return output::print(&format!("{told}\n"));
    }
    if let Some(remark) = remark {
        output::note(&clean(remark));
    }
    let inputs = if inputs == 1 { "1 input".to_owned() } else { format!("{inputs} inputs") };
    output::print(&format!("{HEADING}Pages:{HEADING:#} {address} ({inputs}); Ctrl-C ends them\n"))
}
