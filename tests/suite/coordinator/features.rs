//! Features that a request may require, and what a coordinator tells of itself.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    BeginTransactionRequest, CommitTransactionRequest, EnlistBranchRequest, ExecuteBranchRequest,
    GetServerInfoRequest, GetTransactionRequest, Mode, Outcome, RollbackTransactionRequest,
    get_transaction_request, rollback_transaction_request,
};

use super::{World, branch, config, describe, sqlite_url, tcc};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[track_caller]
fn check_unsupported(status: &Status) {
    assert_eq!(describe(status), (Code::Unimplemented, "FEATURE_UNSUPPORTED".into(), vec![]));
    let info = status.get_error_details().error_info().unwrap().clone();
    assert_eq!(info.metadata["feature"], "time_travel");
    assert!(status.message().contains("time_travel, telepathy"), "{}", status.message());
}

/// A request that demands what nobody here knows does nothing, whatever its ids are.
#[tokio::test]
async fn an_unknown_requirement_is_refused_before_anything_happens() {
    let world = World::sqlite().await;
    let mut client = world.client();
    let requires = names(&["tcc", "time_travel", "telepathy"]);
    world.submit(tcc("known", &["ok"])).await.unwrap();
    for gid in ["known", "new", "a/b"] {
        let mut request = tcc(gid, &["ok"]);
        request.requires.clone_from(&requires);
        check_unsupported(&world.submit(request).await.unwrap_err());
        let request = BeginTransactionRequest {
            gid: gid.into(),
            mode: Mode::Tcc.into(),
            requires: requires.clone(),
            ..Default::default()
        };
        check_unsupported(&client.begin_transaction(request).await.unwrap_err());
    }
    let tx = world.begin("interactive", Mode::Tcc).await.unwrap();
    for tx_id in [tx.tx_id.as_str(), "no id"] {
        let (tx_id, branch) = (tx_id.to_owned(), Some(branch("a", "ok")));
        let requires = requires.clone();
        let request = ExecuteBranchRequest {
            tx_id: tx_id.clone(),
            branch: branch.clone(),
            requires: requires.clone(),
        };
        check_unsupported(&client.execute_branch(request).await.unwrap_err());
        let request = EnlistBranchRequest {
            tx_id: tx_id.clone(),
            branch,
            requires: requires.clone(),
            ..Default::default()
        };
        check_unsupported(&client.enlist_branch(request).await.unwrap_err());
        let request = CommitTransactionRequest {
            tx_id: tx_id.clone(),
            requires: requires.clone(),
            ..Default::default()
        };
        check_unsupported(&client.commit_transaction(request).await.unwrap_err());
        let request = RollbackTransactionRequest {
            key: Some(rollback_transaction_request::Key::TxId(tx_id)),
            requires,
            ..Default::default()
        };
        check_unsupported(&client.rollback_transaction(request).await.unwrap_err());
    }
    let shown = world.get("interactive").await;
    assert_eq!((shown.outcome(), shown.branch_count), (Outcome::NotDecided, 0));
    let key = Some(get_transaction_request::Key::Gid("new".into()));
    let request = GetTransactionRequest { key, ..Default::default() };
    let status = client.get_transaction(request).await.unwrap_err();
    assert_eq!(describe(&status).1, "GID_UNKNOWN", "nothing was stored");
}

#[tokio::test]
async fn requirements_are_few_and_of_the_alphabet_and_known_ones_are_met() {
    let world = World::sqlite().await;
    for (requires, field) in [
        (vec!["f".to_owned(); 17], "requires[16]"),
        (names(&["tcc", "a b"]), "requires[1]"),
        (names(&[""]), "requires[0]"),
        (vec!["f".repeat(65)], "requires[0]"),
    ] {
        let mut request = tcc("g", &["ok"]);
        request.requires = requires;
        let status = world.submit(request).await.unwrap_err();
        let expected = (Code::InvalidArgument, "FIELD_INVALID".into(), vec![field.to_owned()]);
        assert_eq!(describe(&status), expected);
    }
    let info = world.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert!(info.features.contains(&"two_phase_commit".to_owned()), "{:?}", info.features);
    let mut request = tcc("g", &["ok"]);
    request.requires = info.features;
    assert_eq!(world.submit(request).await.unwrap().outcome(), Outcome::Committed);
}

#[tokio::test]
async fn a_coordinator_tells_its_limits() {
    let mut config = config(&sqlite_url());
    config.branches_max = 7;
    config.gid_retention = Period::secs(9 * 24 * 60 * 60);
    config.wait_max = Period::secs(44);
    let world = World::start(config.clone()).await;
    let info = world.client().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.cluster_id, world.running.engine().cluster_id());
    let limits = info.limits.unwrap();
    let period = |period: Option<prost_types::Duration>| {
        Period(Duration::try_from(period.unwrap()).unwrap())
    };
    assert_eq!(limits.branches_max, 7);
    assert_eq!(limits.payload_bytes_max, config.payload_bytes_max as u64);
    assert_eq!(limits.payloads_bytes_max, config.payloads_bytes_max as u64);
    assert_eq!(limits.output_bytes_max, config.output_bytes_max as u64);
    assert_eq!(limits.outputs_bytes_max, config.outputs_bytes_max as u64);
    assert_eq!(limits.metadata_bytes_max, config.metadata_bytes_max as u64);
    assert_eq!(limits.message_bytes_max, config.message_bytes_max as u64);
    assert_eq!(period(limits.timeout_max), config.timeout_max);
    assert_eq!(period(limits.timeout_default), config.timeout_default);
    assert_eq!(period(limits.wait_max), config.wait_max);
    assert_eq!(period(limits.gid_retention), config.gid_retention);
}
