//! `unanimo tx counts`: numbers of transactions by state.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Serialize;
use unanimo_proto::v1;

use super::client::{self, Client};
use super::filter::When;
use super::{Server, words};
use crate::error::Error;
use crate::output::{self, BAD, table};

/// Count transactions by state
///
/// Counts every transaction that has not ended and, of those that have, the ones that are kept or
/// that ended since a time. A number with a + is a limit at which the coordinator stopped counting.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): an object with counts (an object with a number for each state),
  at_least (a list of the states of which there may be more), stalled,
  heuristic and unreadable (numbers of transactions that need an operator).")]
pub(super) struct Args {
    /// Of those that have ended, only the ones that ended at this time or later:
    /// 2026-01-31T12:00:00Z, or 15m for 15 minutes ago
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
}

/// Output of `--json`. Keys are only ever added.
#[derive(Serialize)]
struct Json {
    counts: BTreeMap<String, u64>,
    at_least: Vec<String>,
    stalled: u64,
    heuristic: u64,
    unreadable: u64,
}

pub(super) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let request = client.request(v1::ListTransactionsRequest {
        page_size: 1,
        include_counts: true,
        counts_ended_from: args.since.map(When::to_wire),
        ..Default::default()
    });
    let listed = client.coordinator.list_transactions(request).await;
    let counted = listed.map_err(client::Error::from)?.into_inner().counts;
    let counted = counted.ok_or(client::Error::Nonsense("it has no counts"))?;
    if server.json {
        output::print_json(&Json::from(&counted))?;
    } else {
        output::print(&shown(&counted))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(counted: &v1::TransactionCounts) -> String {
    let rows = counted.states.iter().map(|count| {
        let more = if count.at_least { "+" } else { "" };
        [words::state(count.state()), format!("{}{more}", count.transaction_count)]
    });
    let mut text = table(["STATE", "TRANSACTIONS"], rows);
    let v1::TransactionCounts { stalled_count, heuristic_count, unreadable_count, .. } = counted;
    if stalled_count + heuristic_count + unreadable_count > 0 {
        text += &format!(
            "\n{BAD}{stalled_count} stalled, {heuristic_count} heuristic, {unreadable_count} \
             unreadable{BAD:#}:\n`unanimo tx list --attention` lists them\n"
        );
    }
    text
}

impl From<&v1::TransactionCounts> for Json {
    fn from(counted: &v1::TransactionCounts) -> Self {
        let counts = counted.states.iter();
        let at_least = counts.clone().filter(|count| count.at_least);
        Self {
            at_least: at_least.map(|count| words::state(count.state())).collect(),
            counts: counts
                .map(|count| (words::state(count.state()), count.transaction_count))
                .collect(),
            stalled: counted.stalled_count,
            heuristic: counted.heuristic_count,
            unreadable: counted.unreadable_count,
        }
    }
}
