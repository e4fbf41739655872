//! `unanimo tx`: commands about transactions, which call a coordinator's gRPC services.

pub(super) mod client;
pub(super) mod definition;
pub(super) mod export;
mod json;
mod list;
mod operate;
mod server;
mod show;
mod submit;
mod target;
mod watch;
mod words;

use std::process::ExitCode;

use unanimo_coordinator::config::Period;

pub(super) use self::json::compact;
pub(super) use self::words::mode;
use super::error::Error;

/// Heading of the options that every command has.
const COMMON: &str = "Options of every command";

/// Description of the output of `--json`, for `--help`.
const JSON_HELP: &str = "\
JSON (--json):
  A transaction is an object with
    tx_id, gid, mode (2pc, tcc), state (active, committing, aborting, committed, aborted),
    outcome (not_decided, committed, aborted), abort_cause (refused, deadline, rollback, unlisted,
    no_vote, or null), abort_branch_id, heuristic (none, mixed, hazard), stalled, attention,
    created_at, deadline, decided_at, ended_at, stripped, metadata, branch_count, revision (larger
    after each change), branches, timeline and timeline_dropped (the last three only in commands
    whose help says so).
  A branch is an object with
    branch_id, branch_number, participant, action, state, vote (prepared, refused, read_only, or
    null), refusal {reason, message}, prepare and phase_two {count, first_at, last_at,
    first_error, last_error}, voted_at, ended_at, heuristic_note, output_dropped,
    payload or payload_base64, output or output_base64.
  A line of the timeline is an object with at, event, branch_id, detail.
  Times are RFC 3339 in UTC; a value that does not apply is null. A payload or output that is JSON
  is in `payload` or `output`, any other in `payload_base64` or `output_base64`; an empty one is
  left out. Later versions may add keys, and never remove one.";

/// Submit, list and show transactions, and repair those that need an operator
#[derive(Debug, clap::Args)]
#[command(after_long_help = JSON_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

/// Coordinator to call, and form of the output.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// Address of the coordinator's gRPC services: http://HOST:PORT
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "UNANIMO_ENDPOINT",
        default_value = "http://127.0.0.1:7610",
        value_name = "URL",
        value_parser = endpoint
    )]
    endpoint: String,
    /// Time to wait for the coordinator's answer [default: 90s for `submit`, no limit for `watch`,
    /// 10s for the others]
    #[arg(long, global = true, help_heading = COMMON, value_name = "DURATION")]
    timeout: Option<Period>,
    /// Print JSON, for programs; `unanimo tx --help` describes it
    #[arg(long, global = true, help_heading = COMMON)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Submit(submit::Args),
    List(list::Args),
    Show(show::Args),
    Export(export::Args),
    Watch(watch::Args),
    Retry(operate::RetryArgs),
    Resolve(operate::ResolveArgs),
    Forget(operate::ForgetArgs),
    /// Show the coordinator that answers: its version, group, features and limits
    #[command(after_long_help = server::JSON_HELP)]
    Server,
}

pub(super) fn endpoint(text: &str) -> Result<String, String> {
    // A slash at the end is accepted, too: `http://HOST:PORT/`.
    let text = text.strip_suffix('/').unwrap_or(text);
    let parsed = unanimo_coordinator::participants::allow::parse_endpoint(text);
    parsed.map(|_| text.to_owned()).map_err(|violation| violation.rule)
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    runtime()?.block_on(async {
        let Args { server, command } = args;
        let ran = match command {
            Command::Submit(args) => submit::run(&server, args).await,
            Command::List(args) => list::run(&server, args).await,
            Command::Show(args) => show::run(&server, args).await,
            Command::Export(args) => export::run(&server, args).await,
            Command::Watch(args) => watch::run(&server, args).await,
            Command::Retry(args) => operate::retry(&server, args).await,
            Command::Resolve(args) => operate::resolve(&server, args).await,
            Command::Forget(args) => operate::forget(&server, args).await,
            Command::Server => server::run(&server).await,
        };
        ran.map_err(|error| server.name_in(error))
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { doing: "start the runtime", source })
}

impl Server {
    /// Names the coordinator in an error of a call to it.
    fn name_in(&self, error: Error) -> Error {
        match error {
            Error::Client(error) => Error::Client(error.at(&self.endpoint)),
            error => error,
        }
    }
}
