//! `unanimo tx server`: prints version, group, features and limits of the coordinator that answers.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1;

use super::Server;
use super::client::{self, Client};
use crate::error::Error;
use crate::output::{self, table, wrapped};

/// Description of the output of `--json`, for `--help`.
pub(super) const JSON_HELP: &str = "\
JSON (--json): an object with version, cluster_id, features (a list of names)
  and limits (an object of numbers, and of durations such as \"1m 30s\"; a key
  with `bytes` is in bytes).";

#[derive(Serialize)]
struct Info {
    version: String,
    cluster_id: String,
    features: Vec<String>,
    limits: Limits,
}

#[derive(Serialize)]
struct Limits {
    branches_max: u32,
    payload_bytes_max: u64,
    payloads_bytes_max: u64,
    output_bytes_max: u64,
    outputs_bytes_max: u64,
    metadata_bytes_max: u64,
    message_bytes_max: u64,
    timeout_max: Option<String>,
    timeout_default: Option<String>,
    wait_max: Option<String>,
    gid_retention: Option<String>,
    locks_max: Option<u32>,
    start_delay_max: Option<String>,
}

pub(super) async fn run(server: &Server) -> Result<ExitCode, Error> {
    let mut client = Client::connect(server).await?;
    let request = client.request(v1::GetServerInfoRequest {});
    let told = client.coordinator.get_server_info(request).await;
    let info = Info::from(told.map_err(client::Error::from)?.into_inner());
    if server.json {
        output::print_json(&info)?;
    } else {
        output::print(&shown(&info))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(info: &Info) -> String {
    let Info { version, cluster_id, features, limits } = info;
    let features = wrapped(10, &features.join(", "));
    let head = format!("version   {version}\ngroup     {cluster_id}\nfeatures  {features}\n\n");
    let period = |period: &Option<String>| period.clone().unwrap_or_default();
    let rows = [
        ("branches-max", limits.branches_max.to_string()),
        ("payload-bytes-max", limits.payload_bytes_max.to_string()),
        ("payloads-bytes-max", limits.payloads_bytes_max.to_string()),
        ("output-bytes-max", limits.output_bytes_max.to_string()),
        ("outputs-bytes-max", limits.outputs_bytes_max.to_string()),
        ("metadata-bytes-max", limits.metadata_bytes_max.to_string()),
        ("message-bytes-max", limits.message_bytes_max.to_string()),
        ("timeout-max", period(&limits.timeout_max)),
        ("timeout-default", period(&limits.timeout_default)),
        ("wait-max", period(&limits.wait_max)),
        ("gid-retention", period(&limits.gid_retention)),
        ("locks-max", limits.locks_max.map_or_else(String::new, |max| max.to_string())),
        ("start-delay-max", period(&limits.start_delay_max)),
    ];
    head + &table(["LIMIT", "VALUE"], rows.map(|(name, value)| [name.to_owned(), value]))
}

impl From<v1::GetServerInfoResponse> for Info {
    fn from(info: v1::GetServerInfoResponse) -> Self {
        let v1::GetServerInfoResponse { version, cluster_id, features, limits } = info;
        Self { version, cluster_id, features, limits: limits.unwrap_or_default().into() }
    }
}

impl From<v1::ServerLimits> for Limits {
    fn from(limits: v1::ServerLimits) -> Self {
        Self {
            branches_max: limits.branches_max,
            payload_bytes_max: limits.payload_bytes_max,
            payloads_bytes_max: limits.payloads_bytes_max,
            output_bytes_max: limits.output_bytes_max,
            outputs_bytes_max: limits.outputs_bytes_max,
            metadata_bytes_max: limits.metadata_bytes_max,
            message_bytes_max: limits.message_bytes_max,
            timeout_max: period(limits.timeout_max),
            timeout_default: period(limits.timeout_default),
            wait_max: period(limits.wait_max),
            gid_retention: period(limits.gid_retention),
            // An earlier coordinator does not tell it.
            locks_max: Some(limits.locks_max).filter(|max| *max != 0),
            start_delay_max: period(limits.start_delay_max),
        }
    }
}

fn period(told: Option<prost_types::Duration>) -> Option<String> {
    let duration = Duration::try_from(told?).ok()?;
    Some(Period(duration).to_string())
}
