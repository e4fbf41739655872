//! `unanimo tx list`: transactions, newest first.

use std::collections::HashMap;
use std::process::ExitCode;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use unanimo_proto::v1;

use super::client::{self, Client};
use super::{Server, json, words};
use crate::error::Error;
use crate::output::{self, table, wide_table};

/// Most transactions of a page that a coordinator answers.
const PAGE_MAX: u32 = 500;

/// List transactions, newest first
///
/// Lists transactions that meet all conditions. If more match than --limit, a line on standard
/// error (with --json: `next_page_token`) gives the --page-token of the next page. `unanimo tx show`
/// takes the gid; `unanimo tx counts` counts transactions by state.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): an object with transactions (a list of transactions without
  branches and timeline, as `unanimo tx --help` describes them) and
  next_page_token (null after the last page). With --follow a line for each
  such transaction instead.")]
pub(super) struct Args {
    /// Only transactions in this state; separate several by commas
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<State>,
    /// Only transactions that need an operator: stalled, or heuristic and not forgotten
    #[arg(long)]
    attention: bool,
    /// Only transactions of this mode; separate several by commas
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    mode: Vec<Mode>,
    /// Only transactions whose metadata has this entry; several times: all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = entry)]
    metadata: Vec<(String, String)>,
    /// Only transactions whose gid begins with this prefix
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    gid_prefix: String,
    /// Only transactions with a branch at this participant
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    participant: String,
    /// Only transactions created at this time or later: 2026-01-31T12:00:00Z, or 15m for 15 minutes
    /// ago
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Only transactions created before this time, in the form of --since
    #[arg(long, value_name = "WHEN")]
    until: Option<When>,
    /// Largest number of transactions to print
    #[arg(long, value_name = "NUMBER", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print tx_id and the number of branches, too, and each transaction in one line, however long
    #[arg(long)]
    wide: bool,
    /// Go on: print each transaction that begins from now on, as it comes, until Ctrl-C or --timeout. Not with --state
    /// or --attention: each is printed once, when it begins, and what becomes of it is not seen
    #[arg(long, conflicts_with_all = ["page_token", "until", "limit", "state", "attention"])]
    follow: bool,
    /// Token of the next page, as the previous list printed it
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum State {
    /// Begun, and waiting for its start
    Scheduled,
    /// Not decided
    Active,
    /// A child whose branches voted yes, and whose parent decides
    #[value(alias = "in_doubt")]
    InDoubt,
    /// COMMIT is decided, and not every branch has ended
    Committing,
    /// ABORT is decided, and not every branch has ended
    Aborting,
    /// Ended after COMMIT
    Committed,
    /// Ended after ABORT
    Aborted,
}

impl State {
    fn to_wire(self) -> v1::TransactionState {
        match self {
            Self::Scheduled => v1::TransactionState::Scheduled,
            Self::Active => v1::TransactionState::Active,
            Self::InDoubt => v1::TransactionState::InDoubt,
            Self::Committing => v1::TransactionState::Committing,
            Self::Aborting => v1::TransactionState::Aborting,
            Self::Committed => v1::TransactionState::Committed,
            Self::Aborted => v1::TransactionState::Aborted,
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Mode {
    /// Two-phase commit
    #[value(name = "2pc")]
    TwoPhaseCommit,
    /// Try, confirm, cancel
    Tcc,
    /// Steps and compensations
    Saga,
}

impl Mode {
    fn to_wire(self) -> v1::Mode {
        match self {
            Self::TwoPhaseCommit => v1::Mode::TwoPhaseCommit,
            Self::Tcc => v1::Mode::Tcc,
            Self::Saga => v1::Mode::Saga,
        }
    }
}

/// Reads an entry of metadata.
fn entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// Moment, given as a time or as a duration before now.
#[derive(Clone, Copy, Debug)]
pub(super) struct When(Timestamp);

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self(at));
        }
        let ago = text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative());
        let at = ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok());
        at.map(Self)
            .ok_or_else(|| "write 2026-01-31T12:00:00Z, or 15m for 15 minutes ago".to_owned())
    }
}

impl When {
    pub(super) fn to_wire(self) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds: self.0.as_second(), nanos: self.0.subsec_nanosecond() }
    }
}

pub(super) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let (wide, follow) = (args.wide, args.follow);
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut metadata = HashMap::new();
    for (key, value) in args.metadata {
        if metadata.insert(key.clone(), value).is_some() {
            return Err(client::Error::Twice(format!("--metadata {key}")).into());
        }
    }
    let mut request = v1::ListTransactionsRequest {
        states: args.state.into_iter().map(|state| state.to_wire().into()).collect(),
        attention: args.attention,
        modes: args.mode.into_iter().map(|mode| mode.to_wire().into()).collect(),
        metadata,
        gid_prefix: args.gid_prefix,
        participant: args.participant,
        created_from: args.since.map(When::to_wire),
        created_until: args.until.map(When::to_wire),
        page_size: 0,
        page_token: args.page_token,
        include_metadata: true,
        ..Default::default()
    };
    let mut client = Client::connect(server).await?;
    if follow {
        return super::follow::run(server, &mut client, request).await;
    }
    let mut found: Vec<v1::Transaction> = Vec::new();
    loop {
        let left = u32::try_from(limit - found.len()).unwrap_or(u32::MAX);
        request.page_size = left.min(PAGE_MAX);
        let asked = client.request(request.clone());
        let page = client
            .coordinator
            .list_transactions(asked)
            .await
            .map_err(client::Error::from)?
            .into_inner();
        found.extend(page.transactions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || found.len() >= limit {
            break;
        }
    }
    print(server, wide, found, request.page_token)?;
    Ok(ExitCode::SUCCESS)
}

fn print(
    server: &Server,
    wide: bool,
    found: Vec<v1::Transaction>,
    next: String,
) -> Result<(), Error> {
    if server.json {
        let view = json::View::List;
        let transactions = found.into_iter().map(|tx| json::Transaction::new(tx, view)).collect();
        let next_page_token = (!next.is_empty()).then_some(next);
        return output::print_json(&json::Page { transactions, next_page_token });
    }
    if found.is_empty() {
        output::note("no transactions match");
        return Ok(());
    }
    if wide {
        let header = ["CREATED", "TX_ID", "GID", "MODE", "STATE", "BRANCHES", "ATTENTION"];
        output::print(&wide_table(header, found.iter().map(wide_row)))?;
    } else {
        let header = ["CREATED", "GID", "MODE", "STATE", "ATTENTION"];
        output::print(&table(header, found.iter().map(row)))?;
    }
    if !next.is_empty() {
        output::note(&format!("there are more; the next page has --page-token {next}"));
    }
    Ok(())
}

pub(super) fn row(tx: &v1::Transaction) -> [String; 5] {
    [
        tx.created_at.map(words::time_to_the_second).unwrap_or_default(),
        tx.gid.clone(),
        words::mode(tx.mode).to_owned(),
        words::state(tx.state()),
        words::attention(tx),
    ]
}

fn wide_row(tx: &v1::Transaction) -> [String; 7] {
    [
        tx.created_at.map(words::time).unwrap_or_default(),
        tx.tx_id.clone(),
        tx.gid.clone(),
        words::mode(tx.mode).to_owned(),
        words::state(tx.state()),
        tx.branch_count.to_string(),
        words::attention(tx),
    ]
}
