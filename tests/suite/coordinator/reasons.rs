//! Reasons of refusals, and that a refusal is never too large to arrive.

use std::time::Duration;

use tonic::Code;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    CommitBranch, CommitTransactionRequest, GetTransactionRequest, ListTransactionsRequest, Mode,
    Outcome, ResolveBranchRequest, SubmitTransactionRequest, get_transaction_request,
};
use unanimo_tests::scripted::Scripted;

use super::participants::register;
use super::{World, branch, config, describe, sqlite_url, tcc};

fn at(participant: &str, gid: &str) -> SubmitTransactionRequest {
    let mut request = tcc(gid, &["ok", "ok"]);
    request.branches[1].participant = participant.into();
    request
}

/// A participant registers at intervals: for three of them after its start a coordinator cannot tell
/// whether a name is unknown.
#[tokio::test]
async fn an_unknown_participant_is_told_once_all_had_time_to_register() {
    let mut config = config(&sqlite_url());
    config.keep_alive_interval = Period::millis(500);
    let world = World::start(config).await;
    let early = world.submit(at("late", "g")).await.unwrap_err();
    let expected = (Code::Unavailable, "PARTICIPANT_NOT_REGISTERED_YET".to_owned(), vec![]);
    assert_eq!(describe(&early), expected);
    let tx = world.begin("i", Mode::Tcc).await.unwrap();
    let mut spec = branch("a", "ok");
    spec.participant = "late".into();
    let early = world.execute(&tx.tx_id, spec.clone()).await.unwrap_err();
    assert_eq!(describe(&early), expected);

    tokio::time::sleep(Duration::from_millis(1600)).await;
    let field = |name: &str| vec![name.to_owned()];
    let unknown = world.submit(at("late", "g")).await.unwrap_err();
    let reason = || "PARTICIPANT_UNKNOWN".to_owned();
    let expected = (Code::InvalidArgument, reason(), field("branches[1].participant"));
    assert_eq!(describe(&unknown), expected);
    let message = "participant late is not known: it never registered";
    assert!(unknown.message().contains(message), "{}", unknown.message());
    let unknown = world.execute(&tx.tx_id, spec.clone()).await.unwrap_err();
    let expected = (Code::InvalidArgument, reason(), field("branch.participant"));
    assert_eq!(describe(&unknown), expected);

    register(&world, "late", &Scripted::default().serve().await).await;
    assert_eq!(world.submit(at("late", "g")).await.unwrap().outcome(), Outcome::Committed);
}

/// Clients bound the headers that they accept, and end the connection past that.
#[tokio::test]
async fn four_hundred_bad_branches_are_refused_and_the_connection_lives() {
    let world = World::sqlite().await;
    // The limits that a client has by default.
    let mut client = CoordinatorServiceClient::new(world.channel.clone());
    let bad = branch(&"b".repeat(128), "ok");
    let request = SubmitTransactionRequest { branches: vec![bad; 400], ..tcc("g", &[]) };
    let status = client.submit_transaction(request).await.unwrap_err();
    let (code, reason, fields) = describe(&status);
    assert_eq!((code, &*reason), (Code::InvalidArgument, "FIELD_INVALID"));
    assert_eq!(fields, ["branches"], "the list is not gone through");
    for request in [
        SubmitTransactionRequest { branches: vec![branch("/", "ok"); 1025], ..tcc("g", &[]) },
        SubmitTransactionRequest { branches: vec![branch("a", "ok"); 65], ..tcc("g", &[]) },
    ] {
        let status = client.submit_transaction(request).await.unwrap_err();
        assert!(status.message().starts_with("branches must have at most 64"), "{status:?}");
        assert_eq!(describe(&status).2, ["branches"]);
    }
    let listed = vec![CommitBranch { branch_id: "/".into(), ..Default::default() }; 1025];
    let tx_id = uuid::Uuid::now_v7().to_string();
    let request = CommitTransactionRequest { tx_id, branches: listed, ..Default::default() };
    let status = client.commit_transaction(request).await.unwrap_err();
    assert_eq!(describe(&status).2, ["branches"]);
    let states = vec![1; 8];
    let request = ListTransactionsRequest { states, ..Default::default() };
    let status = client.list_transactions(request).await.unwrap_err();
    assert_eq!(describe(&status).2, ["states"]);
    let result = client.submit_transaction(tcc("g", &["ok"])).await.unwrap().into_inner().result;
    assert_eq!(result.unwrap().outcome(), Outcome::Committed);
}

/// An enum value that this version does not know is refused, with its field.
#[tokio::test]
async fn unknown_enum_values_are_refused() {
    let world = World::sqlite().await;
    let mut client = world.client();
    let tx_id = world.begin("i", Mode::Tcc).await.unwrap().tx_id;
    world.execute(&tx_id, branch("a", "ok")).await.unwrap();
    let request = SubmitTransactionRequest { mode: 99, ..tcc("g", &["ok"]) };
    assert_eq!(describe(&world.submit(request).await.unwrap_err()).2, ["mode"]);
    let request = SubmitTransactionRequest { wait_for: 99, ..tcc("g", &["ok"]) };
    assert_eq!(describe(&world.submit(request).await.unwrap_err()).2, ["wait_for"]);
    let request = GetTransactionRequest {
        key: Some(get_transaction_request::Key::Gid("i".into())),
        wait_for: 99,
        ..Default::default()
    };
    assert_eq!(describe(&client.get_transaction(request).await.unwrap_err()).2, ["wait_for"]);
    let request = CommitTransactionRequest {
        tx_id: tx_id.clone(),
        branches: vec![CommitBranch { branch_id: "a".into(), vote: 99 }],
        ..Default::default()
    };
    let status = client.commit_transaction(request).await.unwrap_err();
    assert_eq!(describe(&status).2, ["branches[0].vote"]);
    let request = ResolveBranchRequest {
        tx_id,
        branch_id: "a".into(),
        resolution: 99,
        operator: "ann".into(),
        note: "odd".into(),
        ..Default::default()
    };
    let status = world.operator().resolve_branch(request).await.unwrap_err();
    assert_eq!(describe(&status).2, ["resolution"]);
    assert_eq!(world.get("i").await.outcome(), Outcome::NotDecided);
}
