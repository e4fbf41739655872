//! `unanimo participant list`: the participants that a coordinator knows, a line for each.

use std::process::ExitCode;

use serde::Serialize;
use unanimo_proto::v1;

use super::found::{self, json_help, processes_of, versions_of};
use crate::error::Error;
use crate::output::{self, table, wide_table};
use crate::tx::Server;

/// List the participants that a coordinator knows
///
/// PROCESSES counts its endpoints: those that are alive, and those of the configuration (--participant of
/// `unanimo serve`), which are never gone. One that is not alive was not seen for three
/// `keep-alive-interval`s. New transactions need a participant with an endpoint that is not gone; what is
/// owed is sent to those that are gone, too, if there are no others. BREAKER is `open` where its last calls
/// have all failed: new work is refused, and calls wait. FLIGHT is the number of calls under way, OWED that of
/// transactions with a branch there that have not ended, and PARKED those of them that wait for it and need
/// no memory meanwhile. `unanimo participant show NAME` has its endpoints, versions and last error.
#[derive(Debug, clap::Args)]
#[command(after_long_help = json_help!("an object with participants: a list of objects with"))]
pub(super) struct Args {
    /// Give each participant one line, however long
    #[arg(long)]
    wide: bool,
    #[command(flatten)]
    server: Server,
}

/// Output of `--json`. Keys are only ever added.
#[derive(Serialize)]
struct Json {
    participants: Vec<found::Json>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let Args { wide, server } = args;
    let participants = server.block_on(async { Ok(found::fetch(server).await?) })?;
    if server.json {
        let participants = participants.into_iter().map(found::Json::from).collect();
        output::print_json(&Json { participants })?;
    } else if participants.is_empty() {
        output::note("no participant has registered, and none is configured");
    } else {
        let header = ["PARTICIPANT", "PROCESSES", "BREAKER", "FLIGHT", "OWED", "PARKED", "VERSION"];
        let rows = participants.iter().map(row);
        output::print(&if *wide { wide_table(header, rows) } else { table(header, rows) })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(participant: &v1::Participant) -> [String; 7] {
    let health = participant.health.clone().unwrap_or_default();
    [
        participant.name.clone(),
        processes_of(participant),
        if health.failing { "open" } else { "closed" }.to_owned(),
        health.in_flight_count.to_string(),
        health.owed_count.to_string(),
        participant.transactions_parked.to_string(),
        versions_of(participant),
    ]
}
