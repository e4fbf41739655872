//! `unanimo participant list`: the participants that a coordinator knows, and their endpoints.

use std::process::ExitCode;

use serde::Serialize;
use unanimo_proto::v1;

use crate::error::Error;
use crate::output::{self, table, wide_table};
use crate::tx::Server;
use crate::tx::client::{self, Client};
use crate::tx::words;

/// List the participants that a coordinator knows, with their endpoints
///
/// An endpoint is `configured` (named by --participant of `unanimo serve`, and never gone), `alive`, or
/// `gone`: it was not seen for three `keep-alive-interval`s. New transactions need a participant with an
/// endpoint that is not gone; what is owed is sent to those that are gone, too, if there are no others.
/// PARKED is the number of transactions that wait for the participant and need no memory meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): an object with participants: a list of objects with name,
  transactions_parked (transactions that wait for it out of the coordinator's
  memory, as last counted; 20000 stands for that many or more) and endpoints,
  a list of objects with endpoint, state (configured, alive, gone),
  last_seen_at, instance_id, features (a list of names), sdk; and failing,
  calls, failed (of the last ten minutes), owed (transactions that have not
  ended), last_error. A value that does not apply is null.")]
pub(super) struct Args {
    /// Give each endpoint one line, however long
    #[arg(long)]
    wide: bool,
    #[command(flatten)]
    server: Server,
}

/// Output of `--json`. Keys are only ever added.
#[derive(Serialize)]
struct Json {
    participants: Vec<JsonParticipant>,
}

#[derive(Serialize)]
struct JsonParticipant {
    name: String,
    transactions_parked: u32,
    endpoints: Vec<JsonEndpoint>,
    failing: bool,
    calls: u64,
    failed: u64,
    owed: u64,
    last_error: Option<String>,
}

#[derive(Serialize)]
struct JsonEndpoint {
    endpoint: String,
    state: &'static str,
    last_seen_at: Option<String>,
    instance_id: Option<String>,
    features: Vec<String>,
    sdk: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let Args { wide, server } = args;
    let participants = server.block_on(fetch(server))?;
    if server.json {
        let participants = participants.into_iter().map(JsonParticipant::from).collect();
        output::print_json(&Json { participants })?;
    } else if participants.is_empty() {
        output::note("no participant has registered, and none is configured");
    } else {
        let header = ["PARTICIPANT", "ENDPOINT", "STATE", "PARKED", "LAST SEEN", "SDK"];
        let rows = participants.iter().flat_map(rows);
        output::print(&if *wide { wide_table(header, rows) } else { table(header, rows) })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Gets all pages.
async fn fetch(server: &Server) -> Result<Vec<v1::Participant>, Error> {
    let mut client = Client::connect(server).await?;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = client.request(v1::ListParticipantsRequest {
            page_size: u32::MAX,
            page_token,
            requires: Vec::new(),
        });
        let page = client.directory.list_participants(request).await;
        let page = page.map_err(client::Error::from)?.into_inner();
        found.extend(page.participants);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// Makes a line for each endpoint, and one for a name without any.
fn rows(participant: &v1::Participant) -> Vec<[String; 6]> {
    let (name, parked) = (&participant.name, participant.transactions_parked.to_string());
    if participant.endpoints.is_empty() {
        return vec![[
            name.clone(),
            String::new(),
            "gone".to_owned(),
            parked,
            String::new(),
            String::new(),
        ]];
    }
    let row = |endpoint: &v1::ParticipantEndpoint| {
        let seen = endpoint.last_seen_at.map(words::time_to_the_second).unwrap_or_default();
        let state = state(endpoint).to_owned();
        [name.clone(), endpoint.endpoint.clone(), state, parked.clone(), seen, endpoint.sdk.clone()]
    };
    participant.endpoints.iter().map(row).collect()
}

fn state(endpoint: &v1::ParticipantEndpoint) -> &'static str {
    match (endpoint.configured, endpoint.alive) {
        (true, _) => "configured",
        (false, true) => "alive",
        (false, false) => "gone",
    }
}

impl From<v1::Participant> for JsonParticipant {
    fn from(participant: v1::Participant) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let endpoints = participant.endpoints.into_iter().map(|endpoint| JsonEndpoint {
            state: state(&endpoint),
            last_seen_at: endpoint.last_seen_at.map(words::time),
            instance_id: some(endpoint.instance_id),
            features: endpoint.features,
            sdk: some(endpoint.sdk),
            endpoint: endpoint.endpoint,
        });
        let health = participant.health.unwrap_or_default();
        Self {
            name: participant.name,
            transactions_parked: participant.transactions_parked,
            endpoints: endpoints.collect(),
            failing: health.failing,
            calls: health.call_count,
            failed: health.failed_count,
            owed: health.owed_count,
            last_error: some(health.last_error),
        }
    }
}
