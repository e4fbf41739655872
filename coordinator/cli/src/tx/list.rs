//! `unanimo tx list`: transactions, newest first.

use std::process::ExitCode;

use unanimo_proto::v1;

use super::client::{self, Client};
use super::filter::Filter;
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
    #[command(flatten)]
    filter: Filter,
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

pub(super) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let (wide, follow) = (args.wide, args.follow);
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut request = v1::ListTransactionsRequest {
        page_token: args.page_token,
        include_metadata: true,
        ..args.filter.request()?
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
