//! Participants as a coordinator tells of them, for the commands that print them.

use serde::Serialize;
use unanimo_proto::v1;

use crate::tx::Server;
use crate::tx::client::{self, Client};
use crate::tx::words;

/// Gets all pages.
pub(super) async fn fetch(server: &Server) -> Result<Vec<v1::Participant>, client::Error> {
    let mut client = Client::connect(server).await?;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = client.request(v1::ListParticipantsRequest {
            page_size: u32::MAX,
            page_token,
            requires: Vec::new(),
        });
        let page = client.directory.list_participants(request).await?.into_inner();
        found.extend(page.participants);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// Returns the state of an endpoint.
pub(super) fn state(endpoint: &v1::ParticipantEndpoint) -> &'static str {
    match (endpoint.configured, endpoint.alive) {
        (true, _) => "configured",
        (false, true) => "alive",
        (false, false) => "gone",
    }
}

/// Tells how many endpoints there are. Of a configured one nobody knows whether it is there.
pub(crate) fn processes(endpoints: usize, alive: usize, configured: usize) -> String {
    let registered = endpoints - configured;
    match (alive, registered) {
        (_, 0) if configured > 0 => format!("{configured} configured"),
        (0, _) if configured == 0 => "gone".to_owned(),
        (alive, _) if configured == 0 => format!("{alive} of {registered} alive"),
        (alive, _) => format!("{alive} of {registered} alive, {configured} configured"),
    }
}

/// The same of a participant.
pub(super) fn processes_of(participant: &v1::Participant) -> String {
    let count = |wanted: &str| participant.endpoints.iter().filter(|e| state(e) == wanted).count();
    processes(participant.endpoints.len(), count("alive"), count("configured"))
}

/// Names the versions of those that are alive; of all, if none is.
pub(super) fn versions_of(participant: &v1::Participant) -> String {
    let versions = &participant.versions;
    let alive = versions.iter().filter(|version| version.alive_count > 0).count();
    let shown = if alive == 0 { versions.len() } else { alive };
    let mut names: Vec<&str> = versions[..shown].iter().map(|version| &*version.sdk).collect();
    names.retain(|name| !name.is_empty());
    names.dedup();
    names.join(", ")
}

/// Participant in the output of `--json`. Keys are only ever added.
#[derive(Serialize)]
pub(super) struct Json {
    name: String,
    transactions_parked: u32,
    endpoints: Vec<JsonEndpoint>,
    failing: bool,
    failing_since_at: Option<String>,
    in_flight: u32,
    waiting: u64,
    calls: u64,
    failed: u64,
    owed: u64,
    last_error: Option<String>,
    last_error_at: Option<String>,
    call_p50_ms: Option<f64>,
    call_p99_ms: Option<f64>,
    counted_from: Option<String>,
    versions: Vec<JsonVersion>,
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

#[derive(Serialize)]
struct JsonVersion {
    sdk: Option<String>,
    features: Vec<String>,
    instances: u32,
    alive: u32,
    last_seen_at: Option<String>,
    may_switch_off: bool,
    sentence: String,
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl From<v1::Participant> for Json {
    fn from(participant: v1::Participant) -> Self {
        let endpoints = participant.endpoints.into_iter().map(|endpoint| JsonEndpoint {
            state: state(&endpoint),
            last_seen_at: endpoint.last_seen_at.map(words::time),
            instance_id: some(endpoint.instance_id),
            features: endpoint.features,
            sdk: some(endpoint.sdk),
            endpoint: endpoint.endpoint,
        });
        let versions = participant.versions.into_iter().map(|version| JsonVersion {
            sdk: some(version.sdk),
            features: version.features,
            instances: version.instance_count,
            alive: version.alive_count,
            last_seen_at: version.last_seen_at.map(words::time),
            may_switch_off: version.may_switch_off,
            sentence: version.sentence,
        });
        let health = participant.health.unwrap_or_default();
        Self {
            name: participant.name,
            transactions_parked: participant.transactions_parked,
            endpoints: endpoints.collect(),
            failing: health.failing,
            failing_since_at: health.failing_since_at.map(words::time),
            in_flight: health.in_flight_count,
            waiting: health.waiting_count,
            calls: health.call_count,
            failed: health.failed_count,
            owed: health.owed_count,
            last_error: some(health.last_error),
            last_error_at: health.last_error_at.map(words::time),
            call_p50_ms: health.call_p50.map(words::millis),
            call_p99_ms: health.call_p99.map(words::millis),
            counted_from: health.counted_from.map(words::time),
            versions: versions.collect(),
        }
    }
}

/// Description of a participant in the output of `--json`, for `--help`.
macro_rules! json_help {
    ($begin:literal) => {
        concat!(
            "JSON (--json): ",
            $begin,
            "
  name, transactions_parked (transactions that wait for it out of the
  coordinator's memory, as last counted; 20000 stands for that many or more)
  and endpoints, a list of objects with endpoint, state (configured, alive,
  gone), last_seen_at, instance_id, features (a list of names), sdk; failing,
  failing_since_at, in_flight and waiting (calls), calls, failed, call_p50_ms
  and call_p99_ms (of the last ten minutes, or since counted_from), owed
  (transactions that have not ended), last_error, last_error_at; and versions,
  a list of objects with sdk, features, instances, alive, last_seen_at,
  may_switch_off and sentence (the reason of that). A value that does not
  apply is null."
        )
    };
}
pub(super) use json_help;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_in_words() {
        for (endpoints, alive, configured, expected) in [
            (0, 0, 0, "gone"),
            (2, 0, 0, "gone"),
            (3, 2, 0, "2 of 3 alive"),
            (1, 0, 1, "1 configured"),
            (3, 1, 1, "1 of 2 alive, 1 configured"),
        ] {
            assert_eq!(processes(endpoints, alive, configured), expected);
        }
    }

    #[test]
    fn versions_that_are_alive_are_named() {
        let version = |sdk: &str, alive_count| v1::ParticipantVersion {
            sdk: sdk.to_owned(),
            alive_count,
            ..Default::default()
        };
        let named = |versions| versions_of(&v1::Participant { versions, ..Default::default() });
        assert_eq!(named(vec![version("b", 2), version("b", 1), version("a", 0)]), "b");
        assert_eq!(named(vec![version("b", 0), version("", 0), version("a", 0)]), "b, a");
        assert_eq!(named(vec![]), "");
    }
}
