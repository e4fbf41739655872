//! Identities and roles: each rpc, each role, own transactions and others'. The table in docs/security.md is what is
//! expected.

use std::fs;
use std::path::PathBuf;

use prost_reflect::DescriptorPool;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use unanimo_coordinator::identity::Token;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{self, Mode};
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::{Authority, channel, guarded, setting};
use crate::coordinator::{World, branch, config, sqlite_url, tcc};

/// Page with the table.
const PAGE: &str = include_str!("../../../docs/security.md");

/// Columns of the table, and the identity of each; the last one has none.
pub(super) const COLUMNS: [&str; 7] = [
    "its initiator",
    "another initiator",
    "its participant",
    "another participant",
    "operator",
    "viewer",
    "nobody",
];

pub(super) type Link = InterceptedService<Channel, Signing>;

#[derive(Clone)]
pub(super) struct Signing(Option<String>);

impl Signing {
    /// One without any.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// One with this token.
    pub(super) fn bearer(token: &str) -> Self {
        Self(Some(format!("Bearer {token}")))
    }
}

impl tonic::service::Interceptor for Signing {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.parse().unwrap());
        }
        Ok(request)
    }
}

/// A file of identities, and a token for each.
pub(super) struct File {
    path: PathBuf,
    tokens: Vec<Token>,
}

fn entry(name: &str, role: &str, more: &str) -> String {
    format!("[[identity]]\nname = \"{name}\"\nroles = [\"{role}\"]\n{more}\n")
}

impl File {
    /// An identity for each column.
    pub(super) fn new() -> Self {
        let file = Self {
            path: run_folder().join(Uuid::new_v4().to_string()),
            tokens: (0..6).map(|n| Token::new([n; Token::RANDOM_BYTES])).collect(),
        };
        file.write(&[0, 1, 2, 3, 4, 5]);
        file
    }

    /// Gives the first one the role of an operator, too, and leaves one other initiator and a viewer.
    pub(super) fn write_both(&self) {
        let token = |column: usize| format!("tokens = [\"{}\"]", self.tokens[column].hashed());
        let both = entry("web", "initiator\", \"operator", &token(0));
        let (other, viewer) =
            (entry("batch", "initiator", &token(1)), entry("bob", "viewer", &token(5)));
        fs::write(&self.path, format!("{both}{other}{viewer}")).unwrap();
    }

    /// Writes those of these columns, each with this role alone.
    pub(super) fn write_as(&self, of: &[(usize, &str)]) {
        let text = of.iter().map(|(column, role)| {
            let name = ["web", "batch", "bank", "shop", "ann", "bob"][*column];
            let more = if *role == "participant" { "participants = [\"p\"]\n" } else { "" };
            let hashed = self.tokens[*column].hashed();
            entry(name, role, &format!("{more}tokens = [\"{hashed}\"]"))
        });
        fs::write(&self.path, text.collect::<String>()).unwrap();
    }

    /// Writes the initiators, the first one with these lines in its entry.
    pub(super) fn write_initiators(&self, more: &str) {
        let token = |column: usize| format!("tokens = [\"{}\"]", self.tokens[column].hashed());
        let web = entry("web", "initiator", &format!("{}\n{more}", token(0)));
        fs::write(&self.path, format!("{web}{}", entry("batch", "initiator", &token(1)))).unwrap();
    }

    /// Writes those of these columns.
    pub(super) fn write(&self, columns: &[usize]) {
        let of = [
            ("web", "initiator", ""),
            ("batch", "initiator", ""),
            ("bank", "participant", "participants = [\"p\", \"r\"]\n"),
            ("shop", "participant", "participants = [\"q\"]\n"),
            ("ann", "operator", ""),
            ("bob", "viewer", ""),
        ];
        let text = columns.iter().map(|column| {
            let (name, role, more) = of[*column];
            let hashed = self.tokens[*column].hashed();
            entry(name, role, &format!("{more}tokens = [\"{hashed}\"]"))
        });
        fs::write(&self.path, text.collect::<String>()).unwrap();
    }

    pub(super) async fn world(&self) -> World {
        let mut config = config(&sqlite_url());
        config.identities = setting(&self.path);
        // What is begun here is left open, and no stop has to wait for it.
        config.drain_timeout = unanimo_coordinator::config::Period::millis(200);
        World::start(config).await
    }

    pub(super) fn setting(&self) -> unanimo_coordinator::config::FilePath {
        setting(&self.path)
    }

    pub(super) fn token(&self, column: usize) -> &str {
        self.tokens[column].text()
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub(super) fn link(&self, world: &World, column: usize) -> Link {
        self.link_to(&world.channel, column)
    }

    pub(super) fn link_to(&self, channel: &Channel, column: usize) -> Link {
        let token = self.tokens.get(column).map(Token::text);
        let signing = token.map_or_else(Signing::none, Signing::bearer);
        InterceptedService::new(channel.clone(), signing)
    }
}

fn signed(world: &World, header: &str) -> Link {
    InterceptedService::new(world.channel.clone(), Signing(Some(header.to_owned())))
}

/// A transaction of `web` with a branch of `p` and one of `p` again.
pub(super) struct Begun {
    pub(super) tx_id: String,
    pub(super) gid: String,
    pub(super) cluster_id: String,
}

pub(super) async fn begin(link: Link) -> Begun {
    let gid = format!("g-{}", Uuid::new_v4());
    let mut client = CoordinatorServiceClient::new(link);
    let request = v1::BeginTransactionRequest {
        gid: gid.clone(),
        mode: Mode::Tcc.into(),
        ..Default::default()
    };
    let begun = client.begin_transaction(request).await.unwrap().into_inner();
    let tx_id = begun.tx_id;
    let execute = v1::ExecuteBranchRequest {
        tx_id: tx_id.clone(),
        branch: Some(branch("a", "ok")),
        ..Default::default()
    };
    client.execute_branch(execute).await.unwrap();
    Begun { tx_id, gid, cluster_id: begun.cluster_id }
}

/// Makes the call; a list without the transaction counts as not found.
pub(super) async fn call(rpc: &str, link: Link, of: &Begun) -> Result<(), Status> {
    let Begun { tx_id, gid, cluster_id } = of;
    let (tx_id, gid) = (tx_id.clone(), gid.clone());
    let mut coordinator = CoordinatorServiceClient::new(link.clone());
    let mut directory = ParticipantDirectoryServiceClient::new(link.clone());
    let mut operator = OperatorServiceClient::new(link);
    let (someone, note) = ("ann".to_owned(), "a test".to_owned());
    match rpc {
        "SubmitTransaction" => {
            let request = tcc(&format!("s-{}", Uuid::new_v4()), &["ok"]);
            coordinator.submit_transaction(request).await.map(drop)
        }
        "BeginTransaction" => {
            let gid = format!("b-{}", Uuid::new_v4());
            let mode = Mode::Tcc.into();
            let request = v1::BeginTransactionRequest { gid, mode, ..Default::default() };
            coordinator.begin_transaction(request).await.map(drop)
        }
        "ExecuteBranch" => {
            let branch = Some(branch("b", "ok"));
            let request = v1::ExecuteBranchRequest { tx_id, branch, ..Default::default() };
            coordinator.execute_branch(request).await.map(drop)
        }
        "EnlistBranch" => {
            let branch = Some(branch("b", "ok"));
            let request = v1::EnlistBranchRequest { tx_id, branch, ..Default::default() };
            coordinator.enlist_branch(request).await.map(drop)
        }
        "CommitTransaction" => {
            let request = v1::CommitTransactionRequest { tx_id, ..Default::default() };
            coordinator.commit_transaction(request).await.map(drop)
        }
        "RollbackTransaction" => {
            let key = Some(v1::rollback_transaction_request::Key::Gid(gid));
            let request = v1::RollbackTransactionRequest { key, ..Default::default() };
            coordinator.rollback_transaction(request).await.map(drop)
        }
        "GetTransaction" => {
            let key = Some(v1::get_transaction_request::Key::Gid(gid));
            let request = v1::GetTransactionRequest { key, ..Default::default() };
            coordinator.get_transaction(request).await.map(drop)
        }
        "WatchTransaction" => {
            let key = Some(v1::watch_transaction_request::Key::TxId(tx_id));
            let request = v1::WatchTransactionRequest { key, ..Default::default() };
            coordinator.watch_transaction(request).await.map(drop)
        }
        "WatchTransactions" => {
            coordinator.watch_transactions(v1::WatchTransactionsRequest::default()).await.map(drop)
        }
        "ExportTransaction" => {
            let key = Some(v1::export_transaction_request::Key::TxId(tx_id));
            let request = v1::ExportTransactionRequest { key, ..Default::default() };
            coordinator.export_transaction(request).await.map(drop)
        }
        "ListTransactions" => {
            let request =
                v1::ListTransactionsRequest { participant: "p".into(), ..Default::default() };
            let listed = coordinator.list_transactions(request).await?.into_inner();
            let found = listed.transactions.iter().any(|listed| listed.tx_id == tx_id);
            found.then_some(()).ok_or_else(|| Status::not_found("not listed"))
        }
        "InquireBranches" => {
            let asked = v1::InquiredBranch {
                tx_id,
                branch: Some(v1::inquired_branch::Branch::BranchId("a".into())),
            };
            let request = v1::InquireBranchesRequest {
                participant: "p".into(),
                cluster_id: cluster_id.clone(),
                branches: vec![asked],
                ..Default::default()
            };
            coordinator.inquire_branches(request).await.map(drop)
        }
        "GetServerInfo" => {
            coordinator.get_server_info(v1::GetServerInfoRequest::default()).await.map(drop)
        }
        "RegisterEndpoint" | "DeregisterEndpoint" | "ListParticipants" => {
            about_participants(rpc, &mut directory).await
        }
        "RetryTransaction" => {
            let request = v1::RetryTransactionRequest { tx_id, ..Default::default() };
            operator.retry_transaction(request).await.map(drop)
        }
        "ResolveBranch" => {
            let request = v1::ResolveBranchRequest {
                tx_id,
                branch_id: "a".into(),
                resolution: v1::Resolution::Committed.into(),
                operator: someone,
                note,
                ..Default::default()
            };
            operator.resolve_branch(request).await.map(drop)
        }
        "ForgetTransaction" => {
            let request = v1::ForgetTransactionRequest {
                tx_id,
                operator: someone,
                note,
                ..Default::default()
            };
            operator.forget_transaction(request).await.map(drop)
        }
        "ListAudit" => operator.list_audit(v1::ListAuditRequest::default()).await.map(drop),
        "GetStatistics" => {
            operator.get_statistics(v1::GetStatisticsRequest::default()).await.map(drop)
        }
        rpc if rpc.contains("Webhook") || ["ListDeadLetters", "RedeliverEvents"].contains(&rpc) => {
            about_webhooks(rpc, &mut operator).await
        }
        other => panic!("the table has {other}, which no call is written for"),
    }
}

/// Makes a call about participants.
async fn about_participants(
    rpc: &str,
    directory: &mut ParticipantDirectoryServiceClient<Link>,
) -> Result<(), Status> {
    let (participant, endpoint) = ("r".to_owned(), "http://127.0.0.1:1".to_owned());
    let instance_id = "one".to_owned();
    match rpc {
        "RegisterEndpoint" => {
            let request = v1::RegisterEndpointRequest {
                participant,
                endpoint,
                instance_id,
                ..Default::default()
            };
            directory.register_endpoint(request).await.map(drop)
        }
        "DeregisterEndpoint" => {
            let request = v1::DeregisterEndpointRequest {
                participant,
                endpoint,
                instance_id,
                ..Default::default()
            };
            directory.deregister_endpoint(request).await.map(drop)
        }
        "ListParticipants" => {
            directory.list_participants(v1::ListParticipantsRequest::default()).await.map(drop)
        }
        other => panic!("no call is written for {other}"),
    }
}

/// Makes a call about webhooks.
async fn about_webhooks(
    rpc: &str,
    operator: &mut OperatorServiceClient<Link>,
) -> Result<(), Status> {
    match rpc {
        "ListWebhooks" => {
            operator.list_webhooks(v1::ListWebhooksRequest::default()).await.map(drop)
        }
        "ListDeadLetters" => {
            operator.list_dead_letters(v1::ListDeadLettersRequest::default()).await.map(drop)
        }
        "RedeliverEvents" => {
            let request =
                v1::RedeliverEventsRequest { webhook: "none".into(), ..Default::default() };
            unless_unknown(operator.redeliver_events(request).await.map(drop))
        }
        "TestWebhook" => {
            let request = v1::TestWebhookRequest { webhook: "none".into(), ..Default::default() };
            unless_unknown(operator.test_webhook(request).await.map(drop))
        }
        other => panic!("the table has {other}, which no call is written for"),
    }
}

/// Takes an answer that there is no such webhook: who is told so may ask.
fn unless_unknown(answer: Result<(), Status>) -> Result<(), Status> {
    match answer {
        Err(status) if reason(&status) == "WEBHOOK_UNKNOWN" => Ok(()),
        answer => answer,
    }
}

/// Word of the tables for an answer. Nothing is owed, wrong or recorded yet: who is told so may ask. Every other failure is
/// none of the tables'.
pub(super) fn word(rpc: &str, answer: &Result<(), Status>) -> &'static str {
    let Err(status) = answer else { return "yes" };
    match (status.code(), rpc, reason(status).as_str()) {
        (Code::NotFound, ..) => "NOT_FOUND",
        (Code::PermissionDenied, _, "DENIED") => "DENIED",
        (Code::Unauthenticated, _, "UNAUTHENTICATED") => "UNAUTHENTICATED",
        (Code::FailedPrecondition, "ResolveBranch", "NOTHING_TO_RESOLVE")
        | (Code::FailedPrecondition, "ForgetTransaction", "NOTHING_TO_FORGET")
        | (Code::FailedPrecondition, "ExportTransaction", "NO_HISTORY") => "yes",
        _ => "another answer",
    }
}

fn reason(status: &Status) -> String {
    use tonic_types::StatusExt;
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Rows of the table: an rpc, and a cell for each column.
pub(super) fn table() -> Vec<(String, Vec<String>)> {
    let head = format!("| rpc | {} |", COLUMNS.join(" | "));
    let (_, table) = PAGE.split_once(&head).expect("the table of roles");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
        (cells.next().unwrap(), cells.collect())
    })
    .collect()
}

/// Rpcs of the contract that a coordinator serves, by name.
fn contract() -> Vec<String> {
    let pool = DescriptorPool::decode(unanimo_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = pool.services().filter(|service| service.name() != "ParticipantService");
    let all = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut names: Vec<_> = all.map(|method| method.name().to_owned()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn each_role_may_do_what_the_table_says() {
    let file = File::new();
    let world = file.world().await;
    let (rows, mut wrong) = (table(), Vec::new());
    let mut named: Vec<_> = rows.iter().map(|(rpc, _)| rpc.clone()).collect();
    named.sort_unstable();
    assert_eq!(named, contract(), "every rpc of the contract has one row");
    for (rpc, cells) in rows {
        assert_eq!(cells.len(), COLUMNS.len(), "{rpc}");
        for (column, expected) in cells.iter().enumerate() {
            let begun = begin(file.link(&world, 0)).await;
            let answer = call(&rpc, file.link(&world, column), &begun).await;
            let found = word(&rpc, &answer);
            if found != expected {
                wrong.push(format!(
                    "{rpc} by {}: {found}, not {expected}: {answer:?}",
                    COLUMNS[column]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn whoever_is_not_known_is_not_served_and_a_revoked_token_is_none() {
    let file = File::new();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    let text = file.tokens[0].text();
    let cut = &text[..text.len() - 1];
    let (basic, guess) = (format!("Basic {text}"), format!("Bearer {cut}x"));
    for header in ["", "Bearer", "Bearer ", "Bearer x", &basic, &guess, text] {
        let status = call("GetTransaction", signed(&world, header), &begun).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{header}: {status}");
        assert!(!format!("{status:?}").contains(cut), "{status:?}");
    }
    let bare = InterceptedService::new(world.channel.clone(), Signing(None));
    let status = call("GetServerInfo", bare, &begun).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    call("GetTransaction", file.link(&world, 0), &begun).await.expect("the good one");

    file.write(&[1]);
    until("the token to be revoked", async || {
        let answer = call("GetTransaction", file.link(&world, 0), &begun).await;
        answer.is_err_and(|status| status.code() == Code::Unauthenticated).then_some(())
    })
    .await;
    let status = call("GetTransaction", file.link(&world, 1), &begun).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "the others go on: {status}");
}

/// Events tell an initiator of its own transactions alone.
#[tokio::test]
async fn an_initiator_sees_events_of_its_own_alone() {
    let file = File::new();
    let world = file.world().await;
    let follow = async |column: usize| {
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        let request = v1::WatchTransactionsRequest::default();
        client.watch_transactions(request).await.unwrap().into_inner()
    };
    let (mut own, mut others, mut all) = (follow(0).await, follow(1).await, follow(5).await);
    for (column, gid) in [(0, "of-one"), (1, "of-another")] {
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        client.submit_transaction(tcc(gid, &["ok"])).await.unwrap();
        let first = async |stream: &mut tonic::Streaming<v1::WatchTransactionsResponse>| loop {
            let next = tokio::time::timeout(std::time::Duration::from_secs(60), stream.message());
            let news = next.await.expect("it is silent").unwrap().unwrap();
            if let Some(event) = news.event {
                return event.gid;
            }
        };
        assert_eq!(first(&mut all).await, gid);
        let seen = if column == 0 { first(&mut own).await } else { first(&mut others).await };
        assert_eq!(seen, gid, "the first that it sees is its own");
    }
}

/// Another initiator learns nothing by a gid that it can guess.
#[tokio::test]
async fn a_gid_of_another_initiator_tells_nothing() {
    let file = File::new();
    let world = file.world().await;
    let submit = async |column: usize, gid: &str| {
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        client.submit_transaction(tcc(gid, &["ok"])).await
    };
    submit(0, "g").await.unwrap();
    submit(0, "g").await.expect("its own, once more");
    let status = submit(1, "g").await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert_eq!(status.message(), "the gid is in use for a transaction of another initiator");
    // A tombstone is its initiator's, too.
    let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
    let key = Some(v1::rollback_transaction_request::Key::Gid("t".into()));
    let request = v1::RollbackTransactionRequest { key, ..Default::default() };
    client.rollback_transaction(request).await.unwrap();
    submit(0, "t").await.expect("aborted, and its own");
    assert_eq!(submit(1, "t").await.unwrap_err().code(), Code::AlreadyExists);
}

/// A participant reads of a transaction what is its own.
#[tokio::test]
async fn a_participant_sees_its_own_branches_alone() {
    let file = File::new();
    let world = file.world().await;
    let mut request = tcc("g", &["ok"]);
    request.metadata.insert("secret".into(), "of the initiator".into());
    let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
    client.submit_transaction(request).await.unwrap();
    let get = async |column: usize| {
        let key = Some(v1::get_transaction_request::Key::Gid("g".into()));
        let request = v1::GetTransactionRequest {
            key,
            include_payloads: true,
            include_timeline: true,
            ..Default::default()
        };
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        client.get_transaction(request).await.unwrap().into_inner().transaction.unwrap()
    };
    let (all, own) = (get(4).await, get(2).await);
    assert!(!all.metadata.is_empty() && !all.timeline.is_empty(), "{all:?}");
    assert_eq!(own.branches, all.branches, "they are all its own");
    assert!(own.metadata.is_empty() && own.timeline.is_empty(), "{own:?}");
}

/// The name in a certificate is an identity; a token that comes with it counts instead.
#[tokio::test]
async fn a_certificate_names_an_identity() {
    let (authority, file) = (Authority::new(), File::new());
    let spiffe = entry("web", "viewer", "subjects = [\"spiffe://shop.example/web\"]");
    let hashed = file.tokens[4].hashed();
    let token = entry("ann", "operator", &format!("tokens = [\"{hashed}\"]"));
    fs::write(&file.path, format!("{spiffe}{token}")).unwrap();
    let mut config = guarded(&authority);
    config.identities = setting(&file.path);
    let world = World::start(config).await;
    let url = format!("https://{}", world.running.grpc_address().unwrap());
    let begun =
        Begun { tx_id: Uuid::now_v7().to_string(), gid: "g".into(), cluster_id: "c".into() };
    let code = async |rpc: &str, files, header: Option<String>| {
        let link = InterceptedService::new(channel(&url, files), Signing(header));
        call(rpc, link, &begun).await.map_or_else(|status| status.code(), |()| Code::Ok)
    };
    assert_eq!(code("ListParticipants", authority.client(), None).await, Code::Ok);
    assert_eq!(code("RetryTransaction", authority.client(), None).await, Code::PermissionDenied);
    let (cert, key) = authority.sign(&["spiffe://shop.example/other"], super::Valid::Now);
    let other = authority.trusting().identity(cert, key);
    assert_eq!(code("ListParticipants", other, None).await, Code::Unauthenticated);
    let header = Some(format!("bearer {}", file.tokens[4].text()));
    assert_eq!(code("RetryTransaction", authority.client(), header).await, Code::NotFound);
    let bad = Some("Bearer unanimo_0000000000000000_x".to_owned());
    assert_eq!(code("ListParticipants", authority.client(), bad).await, Code::Unauthenticated);
}
