//! `unanimo participant show`: one participant with its endpoints and versions.

use std::process::ExitCode;

use unanimo_proto::v1;

use super::found::{self, json_help, processes_of};
use crate::error::Error;
use crate::output::{self, BAD, GOOD, HEADING, clean, table, wrapped};
use crate::tx::words::{self, between};
use crate::tx::{Server, client};

/// Show a participant: its calls, what is owed to it, its endpoints, and which version may be switched off
///
/// An endpoint is `configured` (named by --participant of `unanimo serve`, and never gone), `alive`, or
/// `gone`: it was not seen for three `keep-alive-interval`s. A version are the instances with the same SDK and
/// features. Nothing is owed to a version: each call goes to any endpoint that is alive. Which actions an
/// instance offers the coordinator does not know. With several coordinators ask each of them before you
/// switch one off.
#[derive(Debug, clap::Args)]
#[command(after_long_help = json_help!("an object with"))]
pub(super) struct Args {
    /// Name of the participant
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let Args { name, server } = args;
    let found = server.block_on(async { Ok(found::fetch(server).await?) })?;
    let Some(participant) = found.into_iter().find(|one| one.name == *name) else {
        return Err(client::Error::NoParticipant(name.clone()).into());
    };
    if server.json {
        output::print_json(&found::Json::from(participant))?;
    } else {
        output::print(&in_full(&participant))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn in_full(participant: &v1::Participant) -> String {
    let mut text = head(participant);
    if !participant.endpoints.is_empty() {
        let rows = participant.endpoints.iter().map(|endpoint| {
            let seen = endpoint.last_seen_at.map(words::time_to_the_second).unwrap_or_default();
            let state = found::state(endpoint).to_owned();
            let (instance, sdk) = (endpoint.instance_id.clone(), endpoint.sdk.clone());
            [endpoint.endpoint.clone(), state, seen, instance, sdk]
        });
        let endpoints = table(["ENDPOINT", "STATE", "LAST SEEN", "INSTANCE", "SDK"], rows);
        text += &format!("\n{HEADING}Endpoints{HEADING:#}\n{endpoints}");
    }
    if !participant.versions.is_empty() {
        text += &format!("\n{HEADING}Versions{HEADING:#}\n");
    }
    for version in &participant.versions {
        let sdk = if version.sdk.is_empty() { "not named" } else { &*version.sdk };
        let seen = version.last_seen_at.map(words::time_to_the_second).unwrap_or_default();
        text += &format!(
            "{}: {} of {} alive, last seen {seen}\n",
            clean(sdk),
            version.alive_count,
            version.instance_count
        );
        let features = clean(&version.features.join(", "));
        let facts = [("features", features), ("go?", clean(&version.sentence))];
        text += &lines(&facts);
    }
    text
}

/// Makes the lines about the participant itself.
fn head(participant: &v1::Participant) -> String {
    let health = participant.health.clone().unwrap_or_default();
    let since = health.failing_since_at.map(words::time).unwrap_or_default();
    let breaker = match health.failing {
        true => {
            format!("{BAD}open{BAD:#} since {since}: its calls wait, and new work is refused")
        }
        false => format!("{GOOD}closed{GOOD:#}"),
    };
    let took = |of: Option<prost_types::Duration>| {
        let zero = prost_types::Timestamp::default();
        let end = of.map(|of| prost_types::Timestamp { seconds: of.seconds, nanos: of.nanos });
        between(Some(zero), end)
    };
    let times = took(health.call_p50).zip(took(health.call_p99));
    let times = times.map_or_else(String::new, |(p50, p99)| format!(", p50 {p50}, p99 {p99}"));
    let calls = format!(
        "{} under way, {} waiting; {} ended in ten minutes, {} of them failed{times}",
        health.in_flight_count, health.waiting_count, health.call_count, health.failed_count
    );
    let at = health.last_error_at.map(words::time).unwrap_or_default();
    let last_error = match health.last_error.as_str() {
        "" => String::new(),
        error => format!("{at}: {}", clean(error)),
    };
    let owed = match (health.owed_count, participant.transactions_parked) {
        (1, parked) => format!("1 transaction has not ended, {parked} of them parked"),
        (owed, parked) => format!("{owed} transactions have not ended, {parked} of them parked"),
    };
    let facts = [
        ("participant", clean(&participant.name)),
        ("processes", processes_of(participant)),
        ("breaker", breaker),
        ("calls", calls),
        ("owed", owed),
        ("last error", last_error),
    ];
    lines(&facts)
}

fn lines(facts: &[(&str, String)]) -> String {
    let told = facts.iter().filter(|(_, fact)| !fact.is_empty());
    told.map(|(name, fact)| format!("{name:<13}{}\n", wrapped(13, fact))).collect()
}
