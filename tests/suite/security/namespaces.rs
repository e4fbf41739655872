//! Namespaces: tenants of one coordinator that use the same names, and learn nothing of each other. The table in
//! docs/security.md is what is expected.

mod answers;
pub(super) mod limits;
mod tenants;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::Config;
use unanimo_coordinator::identity::Token;
use unanimo_core::ParticipantName;
use unanimo_proto::v1;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::scripted::Scripted;
use uuid::Uuid;

use super::over_http::request;
use super::roles::{Begun, Link, Signing, begin, word};
use super::setting;
use crate::coordinator::http::{first_event, http_call};
use crate::coordinator::{World, branch, config, sqlite_url};

/// Page with the table.
const PAGE: &str = include_str!("../../../docs/security.md");

/// Columns of the table, and the identity of each. The first two have every role.
const COLUMNS: [&str; 4] = [
    "its namespace",
    "another namespace",
    "none: initiator, participant",
    "none: operator, viewer",
];

/// Endpoint that the participant `p` of the first column registers.
const ENDPOINT: &str = "http://127.0.0.1:2";

/// A file of identities: one for each column, and the token of each.
pub(super) struct Tenants {
    path: PathBuf,
    tokens: Vec<Token>,
}

impl Tenants {
    pub(super) fn new() -> Self {
        let all = ["initiator", "participant", "operator", "viewer"];
        let of = [
            ("web", "namespace = \"tenant-a\"\n", &all[..]),
            ("shop", "namespace = \"tenant-b\"\n", &all[..]),
            ("plain", "", &all[..2]),
            ("root", "", &all[2..]),
        ];
        let tokens: Vec<_> = (0..4).map(|n| Token::new([n; Token::RANDOM_BYTES])).collect();
        let text = of.iter().zip(&tokens).map(|((name, namespace, roles), token)| {
            let participants =
                if roles.contains(&"participant") { "participants = [\"p\", \"r\"]\n" } else { "" };
            format!(
                "[[identity]]\nname = \"{name}\"\nroles = {roles:?}\n{namespace}{participants}\
                 tokens = [\"{}\"]\n",
                token.hashed()
            )
        });
        let path = run_folder().join(Uuid::new_v4().to_string());
        fs::write(&path, text.collect::<String>()).unwrap();
        Self { path, tokens }
    }

    fn config(&self, database_url: &str) -> Config {
        let mut config = config(database_url);
        config.identities = setting(&self.path);
        // What is begun here is left open, and no stop has to wait for it.
        config.drain_timeout = unanimo_coordinator::config::Period::millis(200);
        config
    }

    fn header(&self, column: usize) -> String {
        format!("Bearer {}", self.tokens[column].text())
    }

    fn link(&self, channel: &Channel, column: usize) -> Link {
        InterceptedService::new(channel.clone(), Signing::bearer(self.tokens[column].text()))
    }
}

/// Registers the participant `p` of a column.
async fn register(link: Link, endpoint: &str) {
    let request = v1::RegisterEndpointRequest {
        participant: "p".into(),
        endpoint: endpoint.into(),
        instance_id: "one".into(),
        ..Default::default()
    };
    ParticipantDirectoryServiceClient::new(link).register_endpoint(request).await.unwrap();
}

/// A coordinator with participants `p` of both tenants and of none, and an act of the first tenant in its audit.
async fn world(tenants: &Tenants) -> World {
    let mut config = tenants.config(&sqlite_url());
    for name in ["tenant-a/p", "tenant-b/p"] {
        let endpoint = Scripted::default().serve().await;
        config.participants.insert(ParticipantName::full(name).unwrap(), vec![endpoint]);
    }
    let world = World::start(config).await;
    register(tenants.link(&world.channel, 0), ENDPOINT).await;
    let link = tenants.link(&world.channel, 0);
    let nobody =
        v1::RetryTransactionRequest { tx_id: Uuid::now_v7().to_string(), ..Default::default() };
    OperatorServiceClient::new(link).retry_transaction(nobody).await.unwrap_err();
    world
}

/// Makes an answer without what was asked for: lists, numbers and verdicts that lack what they are about are of nothing.
fn seen(is_there: bool) -> Result<(), Status> {
    is_there.then_some(()).ok_or_else(|| Status::not_found("it is not in the answer"))
}

/// Makes a call that names a transaction by its `tx_id`, or looks for what is the first tenant's.
async fn call(rpc: &str, link: Link, of: &Begun) -> Result<(), Status> {
    let tx_id = of.tx_id.clone();
    let mut coordinator = CoordinatorServiceClient::new(link.clone());
    let mut operator = OperatorServiceClient::new(link.clone());
    match rpc {
        "RollbackTransaction" => {
            let key = Some(v1::rollback_transaction_request::Key::TxId(tx_id));
            let request = v1::RollbackTransactionRequest { key, ..Default::default() };
            coordinator.rollback_transaction(request).await.map(drop)
        }
        "GetTransaction" => {
            let key = Some(v1::get_transaction_request::Key::TxId(tx_id));
            let request = v1::GetTransactionRequest { key, ..Default::default() };
            coordinator.get_transaction(request).await.map(drop)
        }
        "ListTransactions" => {
            let listed = coordinator.list_transactions(v1::ListTransactionsRequest::default());
            let listed = listed.await?.into_inner().transactions;
            seen(listed.iter().any(|listed| listed.tx_id == tx_id))
        }
        "InquireBranches" => {
            let named = v1::inquired_branch::Branch::BranchId("a".into());
            let request = v1::InquireBranchesRequest {
                participant: "p".into(),
                cluster_id: of.cluster_id.clone(),
                branches: vec![v1::InquiredBranch { tx_id, branch: Some(named) }],
                ..Default::default()
            };
            let verdicts = coordinator.inquire_branches(request).await?.into_inner().verdicts;
            seen(verdicts[0].verdict() != v1::Verdict::NeverSeen)
        }
        "ListParticipants" => {
            let mut directory = ParticipantDirectoryServiceClient::new(link);
            let request = v1::ListParticipantsRequest::default();
            let listed = directory.list_participants(request).await?.into_inner().participants;
            let mut endpoints = listed.iter().flat_map(|listed| &listed.endpoints);
            seen(endpoints.any(|listed| listed.endpoint == ENDPOINT))
        }
        "ListAudit" => {
            let listed = operator.list_audit(v1::ListAuditRequest::default()).await?.into_inner();
            seen(listed.entries.iter().any(|entry| entry.identity.ends_with("web")))
        }
        _ => super::roles::call(rpc, link, of).await,
    }
}

/// Rows of the table: an rpc, and a cell for each column.
fn table() -> Vec<(String, Vec<String>)> {
    let head = format!("| rpc | {} |", COLUMNS.join(" | "));
    let (_, table) = PAGE.split_once(&head).expect("the table of namespaces");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
        (cells.next().unwrap(), cells.collect())
    })
    .collect()
}

#[tokio::test]
async fn each_namespace_may_do_what_the_table_says() {
    let tenants = Tenants::new();
    let world = world(&tenants).await;
    let (rows, mut wrong) = (table(), Vec::new());
    let of_roles: Vec<_> = super::roles::table().into_iter().map(|(rpc, _)| rpc).collect();
    assert_eq!(
        rows.iter().map(|(rpc, _)| rpc).collect::<Vec<_>>(),
        of_roles.iter().collect::<Vec<_>>()
    );
    for (rpc, cells) in rows {
        assert_eq!(cells.len(), COLUMNS.len(), "{rpc}");
        // What the first column does to its own is done last.
        for (column, expected) in cells.iter().enumerate().rev() {
            let begun = begin(tenants.link(&world.channel, 0)).await;
            let answer = call(&rpc, tenants.link(&world.channel, column), &begun).await;
            let found = word(&rpc, &answer);
            if found != expected {
                let column = COLUMNS[column];
                wrong.push(format!("{rpc} by {column}: {found}, not {expected}: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Word of the table for an answer over HTTP.
async fn found_over_http(
    world: &World,
    header: &str,
    rpc: &str,
    of: &Begun,
) -> (&'static str, String) {
    let (method, mut path, body) = request(rpc, of);
    match rpc {
        "RollbackTransaction" => path = format!("/v1/tx/{}:rollback", of.tx_id),
        "GetTransaction" => path = format!("/v1/tx/{}", of.tx_id),
        "ListTransactions" => path = "/v1/transactions".to_owned(),
        _ => {}
    }
    let address = world.running.admin_address().unwrap();
    let headers = [("authorization", header), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let reply = match rpc {
        "WatchTransaction" | "WatchTransactions" => first_event(address, &path, &headers).await.0,
        _ => http_call(address, method, &path, &headers, body.as_bytes()).await,
    };
    let lacks = |text: &str| reply.code == 200 && !reply.body.contains(text);
    let is_missing = match rpc {
        "ListTransactions" => lacks(&of.tx_id),
        "InquireBranches" => reply.body.contains("VERDICT_NEVER_SEEN"),
        "ListParticipants" => lacks(ENDPOINT),
        "ListAudit" => lacks("web\""),
        _ => false,
    };
    let word = match reply.code {
        404 if reply.body.contains("\"reason\":\"WEBHOOK_UNKNOWN\"") => "yes",
        404 => "NOT_FOUND",
        _ if is_missing => "NOT_FOUND",
        403 => "DENIED",
        200 => "yes",
        // Nothing is owed, wrong or recorded yet; who is told so may ask.
        400 if reply.body.contains("\"reason\":\"NO") => "yes",
        _ => "another answer",
    };
    (word, format!("{reply:?}"))
}

#[tokio::test]
async fn each_namespace_may_do_over_http_what_the_table_says() {
    let tenants = Tenants::new();
    let world = world(&tenants).await;
    let mut wrong = Vec::new();
    for (rpc, cells) in table() {
        for (column, expected) in cells.iter().enumerate().rev() {
            let begun = begin(tenants.link(&world.channel, 0)).await;
            let (word, reply) =
                found_over_http(&world, &tenants.header(column), &rpc, &begun).await;
            if word != expected {
                wrong
                    .push(format!("{rpc} by {}: {word}, not {expected}: {reply}", COLUMNS[column]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A transaction of another namespace is answered as one that never was, to the byte.
#[tokio::test]
async fn what_is_in_another_namespace_is_answered_as_if_it_had_never_been() {
    let tenants = Tenants::new();
    let world = world(&tenants).await;
    for rpc in [
        "ExecuteBranch",
        "EnlistBranch",
        "CommitTransaction",
        "RollbackTransaction",
        "GetTransaction",
        "ListTransactions",
        "WatchTransaction",
        "ExportTransaction",
        "InquireBranches",
        "RetryTransaction",
        "ResolveBranch",
        "ForgetTransaction",
    ] {
        for column in [1, 2] {
            let begun = begin(tenants.link(&world.channel, 0)).await;
            let never =
                Begun { tx_id: Uuid::now_v7().to_string(), gid: "never".into(), ..clone(&begun) };
            let told = async |of: &Begun| {
                let status = call(rpc, tenants.link(&world.channel, column), of).await.unwrap_err();
                assert!(!format!("{status:?}").contains(&of.tx_id), "{status:?}");
                // An answer that lacks what was asked for has none. Their fields come in no order.
                let info = status.get_error_details().error_info().cloned();
                let told = info.map(|info| (info.reason, BTreeMap::from_iter(info.metadata)));
                (status.code(), status.message().to_owned(), told, status.details().len())
            };
            assert_eq!(told(&begun).await, told(&never).await, "{rpc} by {}", COLUMNS[column]);
        }
    }
    // Nor does a gid tell anything, or what a caller may write of one.
    for (column, gid) in [(1, "tenant-a/g"), (2, "tenant-a/g"), (1, "/g"), (2, "tenant-a/")] {
        let key = Some(v1::get_transaction_request::Key::Gid(gid.into()));
        let request = v1::GetTransactionRequest { key, ..Default::default() };
        let mut client = CoordinatorServiceClient::new(tenants.link(&world.channel, column));
        let status = client.get_transaction(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let mut of_another = branch("a", "ok");
        of_another.participant = "tenant-a/p".into();
        let request = v1::SubmitTransactionRequest {
            gid: format!("s-{}", Uuid::new_v4()),
            mode: v1::Mode::Tcc.into(),
            branches: vec![of_another],
            ..Default::default()
        };
        let status = client.submit_transaction(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

fn clone(of: &Begun) -> Begun {
    let Begun { tx_id, gid, cluster_id } = of;
    Begun { tx_id: tx_id.clone(), gid: gid.clone(), cluster_id: cluster_id.clone() }
}
