//! `unanimo tx server`: prints version, group, features and limits of the coordinator that answers, and the last incarnations.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use unanimo_coordinator::config::Period;
use unanimo_coordinator::identity::Role;
use unanimo_proto::v1;

use super::Server;
use super::client::{self, Client};
use crate::error::Error;
use crate::output::{self, CAUTION, table, wrapped};

/// Description of the output of `--json`, for `--help`.
pub(super) const JSON_HELP: &str = "\
JSON (--json): an object with version, cluster_id, features (a list of names),
  limits (an object of numbers, and of durations such as \"1m 30s\"; a key
  with `bytes` is in bytes) and incarnations (a list of objects with
  incarnation, node, answers, may_write, fenced_by and lease, newest first:
  the last lives of processes on its database; null for callers who may not
  see them, from a coordinator that is too old to tell them, or if they could
  not be read in time).";

#[derive(Serialize)]
struct Info {
    version: String,
    cluster_id: String,
    features: Vec<String>,
    limits: Limits,
    /// Nothing where it is not known.
    incarnations: Option<Vec<Incarnation>>,
}

/// Life of a process on the coordinator's database.
#[derive(Serialize)]
struct Incarnation {
    incarnation: u64,
    node: String,
    answers: bool,
    may_write: bool,
    fenced_by: Option<String>,
    lease: Option<String>,
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
    let told = told.map_err(client::Error::from)?.into_inner();
    // They are for operators and viewers. Others do not ask: a call that is denied is entered in the audit.
    let sees = [Role::Operator, Role::Viewer].map(Role::name);
    let may_see = told.caller_roles.iter().any(|role| sees.contains(&role.as_str()));
    let mut info = Info::from(told);
    if may_see {
        // What is known is told, whatever comes of this.
        info.incarnations = incarnations(&mut client).await.unwrap_or_else(|error| {
            let error = error.at(&server.endpoint);
            output::note(&format!("{CAUTION}no incarnations:{CAUTION:#} {error}"));
            None
        });
    }
    if server.json {
        output::print_json(&info)?;
    } else {
        output::print(&shown(&info))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for the last incarnations; nothing if the database did not tell them.
async fn incarnations(client: &mut Client) -> Result<Option<Vec<Incarnation>>, client::Error> {
    let request = v1::GetStatisticsRequest { include_incarnations: true, ..Default::default() };
    let request = client.request(request);
    let told = client.operator.get_statistics(request).await?.into_inner().incarnations;
    let told: Vec<_> = told.into_iter().map(Incarnation::from).collect();
    Ok(Some(told).filter(|told| !told.is_empty()))
}

fn shown(info: &Info) -> String {
    let Info { version, cluster_id, features, limits, incarnations } = info;
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
    let limits = table(["LIMIT", "VALUE"], rows.map(|(name, value)| [name.to_owned(), value]));
    let Some(incarnations) = incarnations else { return head + &limits };
    let header = ["NODE", "INCARNATION", "STATE"];
    head + &limits + "\n" + &table(header, incarnations.iter().map(Incarnation::row))
}

impl Incarnation {
    fn row(&self) -> [String; 3] {
        let state = match (self.answers, &self.fenced_by, &self.lease) {
            (true, _, Some(lease)) => format!("this one, with a lease of {lease}"),
            (true, ..) => "this one".to_owned(),
            (false, Some(by), _) => format!("fenced {by}"),
            (false, None, _) => "may write".to_owned(),
        };
        [self.node.clone(), self.incarnation.to_string(), state]
    }
}

impl From<v1::KnownIncarnation> for Incarnation {
    fn from(told: v1::KnownIncarnation) -> Self {
        let v1::KnownIncarnation { incarnation, node, answers, may_write, fenced_by, lease } = told;
        let (fenced_by, lease) = ((!may_write).then_some(fenced_by), period(lease));
        Self { incarnation, node, answers, may_write, fenced_by, lease }
    }
}

impl From<v1::GetServerInfoResponse> for Info {
    fn from(info: v1::GetServerInfoResponse) -> Self {
        let v1::GetServerInfoResponse { version, cluster_id, features, limits, .. } = info;
        let limits = limits.unwrap_or_default().into();
        Self { version, cluster_id, features, limits, incarnations: None }
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
