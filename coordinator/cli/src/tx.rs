//! `unanimo tx`: commands about transactions, which call a coordinator's gRPC services.

pub(super) mod client;
mod counts;
pub(super) mod definition;
pub(super) mod export;
mod filter;
mod follow;
pub(super) mod json;
mod list;
mod many;
mod operate;
mod server;
mod show;
pub(super) mod submit;
pub(super) mod target;
pub(super) mod tls;
mod watch;
pub(super) mod words;

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
    tx_id, gid, mode (2pc, tcc, saga), state (scheduled, active, in_doubt,
    committing, aborting, committed, aborted), outcome (not_decided,
    committed, aborted), abort_cause (refused, deadline, rollback, unlisted,
    no_vote, gave_up, output_dropped, locked, parent, or null),
    abort_branch_id, abort_detail, heuristic (none, mixed, hazard), stalled,
    attention, alarms (why it is stalled, where there is more to say:
    pivot_unanswered, refused_after_commit, output_too_large), unreadable (why
    the coordinator cannot read it, in lists), created_at, start_at,
    started_at, deadline, decided_at, ended_at, stripped, metadata, parent
    {tx_id, branch_id}, locks (a list of objects with name, mode (exclusive,
    shared), granted, branch_id, holder_gid, holder_waits), waiting (null,
    or an object with cause (time, parent, initiator, lock, turn, answer,
    retry), branch_id, since, until, branch_count, sentence; null in lists),
    branch_count, revision (larger after each change), branches, timeline
    and timeline_dropped (the last three only in commands whose help says
    so).
  A branch is an object with
    branch_id, branch_number, participant, action, mode, state, vote
    (prepared, refused, read_only, or null), refusal {reason, message},
    prepare and phase_two {count, first_at, last_at, first_error, last_error},
    voted_at, ended_at, heuristic_note, resolved_by, resolution_note,
    depends_on, inputs (a list of objects with name, branch_id), pivot,
    compensation (compensate, none, kept), due_at, child_gid, output_dropped,
    payload or payload_base64, output or output_base64, and where you may not
    read them hidden_payload and hidden_output {bytes, media_type}.
  A line of the timeline is an object with at, event, branch_id, detail.
  Times are RFC 3339 in UTC; a value that does not apply is null. A payload or
  output that is JSON is in `payload` or `output`, any other in
  `payload_base64` or `output_base64`; an empty one is left out. Later
  versions may add keys, and never remove one.";

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
    /// Address of the coordinator's gRPC services: http://HOST:PORT or https://HOST:PORT
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "UNANIMO_ENDPOINT",
        default_value = "http://127.0.0.1:7610",
        value_name = "URL",
        value_parser = endpoint
    )]
    pub(super) endpoint: String,
    #[command(flatten)]
    pub(super) tls: tls::TlsArgs,
    /// Time to wait for the coordinator's answer [default: 90s for `tx submit` and `saga run`, no
    /// limit for `tx watch` and `events`, 10s for the others]
    #[arg(long, global = true, help_heading = COMMON, value_name = "DURATION")]
    pub(super) timeout: Option<Period>,
    /// Print JSON, for programs; `unanimo tx --help` describes it
    #[arg(long, global = true, help_heading = COMMON)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Submit(submit::Args),
    List(list::Args),
    Counts(counts::Args),
    Show(show::Args),
    Export(export::Args),
    Watch(watch::Args),
    Rollback(operate::RollbackArgs),
    Retry(operate::retry::Args),
    Resolve(operate::resolve::Args),
    Forget(operate::forget::Args),
    /// Show the coordinator that answers: its version, group, features and limits
    #[command(after_long_help = server::JSON_HELP)]
    Server,
}

pub(super) fn endpoint(text: &str) -> Result<String, String> {
    // A slash at the end is accepted, too: `http://HOST:PORT/`.
    let text = text.strip_suffix('/').unwrap_or(text);
    let parsed = unanimo_coordinator::participants::allow::parse_grpc(text);
    parsed.map(|_| text.to_owned()).map_err(|violation| violation.rule)
}

impl Server {
    /// Runs a command that calls the coordinator.
    pub(super) fn block_on<T>(
        &self,
        command: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::System { doing: "start the runtime", source })?;
        runtime.block_on(command).map_err(|error| match error {
            Error::Client(error) => Error::Client(error.at(&self.endpoint)),
            error => error,
        })
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    let Args { server, command } = args;
    server.block_on(async {
        match command {
            Command::Submit(args) => submit::run(&server, args).await,
            Command::List(args) => list::run(&server, args).await,
            Command::Counts(args) => counts::run(&server, args).await,
            Command::Show(args) => show::run(&server, args).await,
            Command::Export(args) => export::run(&server, args).await,
            Command::Watch(args) => watch::run(&server, args).await,
            Command::Rollback(args) => operate::rollback(&server, args).await,
            Command::Retry(args) => operate::retry::run(&server, args).await,
            Command::Resolve(args) => operate::resolve::run(&server, args).await,
            Command::Forget(args) => operate::forget::run(&server, args).await,
            Command::Server => server::run(&server).await,
        }
    })
}
