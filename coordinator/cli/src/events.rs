//! `unanimo events`: follows the events of all transactions.

use std::process::ExitCode;

use serde::Serialize;
use tokio::time::Instant;
use tonic::Request;
use unanimo_proto::v1;

use super::error::Error as CommandError;
use super::output::{self, clean, folded};
use super::tx::Server;
use super::tx::client::{self, Client};
use super::tx::{mode, words};

/// Columns before what goes on below, in a terminal that is narrower than an event's line.
const BELOW: usize = 4;

/// Description of the output of `--json`, for `--help`.
const JSON_HELP: &str = "\
JSON (--json): a line for each event: an object with revision, at, kind
  (committed, aborted, heuristic, stalled, forgotten), tx_id, gid, mode (2pc,
  tcc, saga, none), outcome (not_decided, committed, aborted), reason,
  branch_id, detail, initiator, participants (a list), metadata, created_at
  (or null). Times are RFC 3339 in UTC. Later versions may add keys.

Exit codes: 0 --timeout is over; 1 the coordinator cannot be reached, has
  stopped, or refused the request, as it does where events behind --from were
  purged; 2 an argument is wrong.";

/// Follow the events of all transactions: what has ended, is held up, or was forgotten
///
/// Prints a line for each event as it comes, until it is interrupted. Each has a revision: with --from and the last one that
/// was seen nothing is missed, as long as the events are kept (`events-retention`). Without --from it begins with what
/// comes from now on; --from 0 begins with the oldest event that is kept. The present revision is told on standard error.
#[derive(Debug, clap::Args)]
#[command(after_long_help = JSON_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// Last revision that was seen: only later events are printed
    #[arg(long, value_name = "REVISION")]
    from: Option<u64>,
    /// Only events of this kind; may be given several times
    #[arg(long, value_name = "KIND", value_parser = ["committed", "aborted", "heuristic", "stalled", "forgotten"])]
    kind: Vec<String>,
    /// Only transactions whose gid begins so
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    gid_prefix: String,
    /// Only transactions with a branch at this participant
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    participant: String,
}

/// Event, as JSON. Keys are only ever added.
#[derive(Serialize)]
struct Line {
    revision: u64,
    at: String,
    kind: String,
    tx_id: String,
    gid: String,
    mode: &'static str,
    outcome: String,
    reason: String,
    branch_id: String,
    detail: String,
    initiator: String,
    participants: Vec<String>,
    metadata: std::collections::BTreeMap<String, String>,
    created_at: Option<String>,
}

pub(super) fn run(args: Args) -> Result<ExitCode, CommandError> {
    let Args { server, from, kind, gid_prefix, participant } = args;
    let request = v1::WatchTransactionsRequest {
        after_revision: from.unwrap_or(0),
        only_new: from.is_none(),
        kinds: kind.iter().map(|name| kind_of(name).into()).collect(),
        gid_prefix,
        participant,
        requires: Vec::new(),
    };
    server.block_on(follow(&server, request))
}

async fn follow(
    server: &Server,
    request: v1::WatchTransactionsRequest,
) -> Result<ExitCode, CommandError> {
    // The time is kept here: a coordinator that is told of it ends the stream before it is over.
    let until = server.timeout.map(|timeout| Instant::now() + timeout.0);
    let mut client = Client::connect(server).await?;
    let asked = by(until, client.coordinator.watch_transactions(Request::new(request))).await;
    let events = asked.ok_or(client::Error::Silent)?;
    let mut events = events.map_err(client::Error::from)?.into_inner();
    let mut is_first = true;
    while let Some(next) = by(until, events.message()).await {
        let news = next.map_err(client::Error::from)?.ok_or(client::Error::EventsEnded)?;
        if std::mem::take(&mut is_first) {
            output::note(&format!("from revision {}", news.revision));
        }
        let Some(event) = news.event else { continue };
        let line = Line::from(event);
        if server.json {
            output::print_json(&line)?;
        } else {
            output::print(&line.text())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does some work until then; `None` if it is not done by then.
async fn by<T>(until: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => tokio::time::timeout_at(until, work).await.ok(),
        None => Some(work.await),
    }
}

impl From<v1::TransactionEvent> for Line {
    fn from(event: v1::TransactionEvent) -> Self {
        Self {
            revision: event.revision,
            kind: word(event.kind().as_str_name(), "TRANSACTION_EVENT_KIND_"),
            outcome: word(event.outcome().as_str_name(), "OUTCOME_"),
            at: event.occurred_at.map(words::time).unwrap_or_default(),
            created_at: event.created_at.map(words::time),
            mode: mode(event.mode),
            tx_id: event.tx_id,
            gid: event.gid,
            reason: event.reason,
            branch_id: event.branch_id,
            detail: event.detail,
            initiator: event.initiator,
            participants: event.participants,
            metadata: event.metadata.into_iter().collect(),
        }
    }
}

impl Line {
    /// Makes the line for people.
    fn text(&self) -> String {
        let Self { revision, at, kind, gid, tx_id, reason, branch_id, detail, .. } = self;
        let branch =
            if branch_id.is_empty() { String::new() } else { format!("branch {branch_id}") };
        let why = [reason, &branch, detail].into_iter().filter(|part| !part.is_empty());
        let why: Vec<&str> = why.map(String::as_str).collect();
        let why = if why.is_empty() { String::new() } else { format!("  {}", why.join(": ")) };
        let text = format!("{revision}  {at}  {kind}  {}  {tx_id}{}", clean(gid), clean(&why));
        format!("{}\n", folded(output::columns(), BELOW, &text))
    }
}

fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

fn kind_of(name: &str) -> v1::TransactionEventKind {
    let full = format!("TRANSACTION_EVENT_KIND_{}", name.to_uppercase());
    v1::TransactionEventKind::from_str_name(&full).unwrap_or_default()
}
