//! The directory of participants, and what one of them does to the others.

use std::time::Duration;

use tonic::Code;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    DeregisterEndpointRequest, ListParticipantsRequest, Outcome, RegisterEndpointRequest, WaitFor,
};
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

use super::{World, config, describe, millis, sqlite_url, tcc};

/// Registers an endpoint, and returns the instance under which it did.
pub(super) async fn register(world: &World, name: &str, endpoint: &str) -> String {
    let instance_id = uuid::Uuid::new_v4().to_string();
    let request = RegisterEndpointRequest {
        participant: name.into(),
        endpoint: endpoint.into(),
        instance_id: instance_id.clone(),
        ..Default::default()
    };
    let response = world.directory().register_endpoint(request).await.unwrap().into_inner();
    assert!(response.keep_alive_interval.is_some());
    assert!(!response.cluster_id.is_empty());
    instance_id
}

fn at(name: &str, gid: &str, actions: &[&str]) -> unanimo_proto::v1::SubmitTransactionRequest {
    let mut request = tcc(gid, actions);
    request.branches.iter_mut().for_each(|branch| branch.participant = name.into());
    request
}

#[tokio::test]
async fn a_registered_participant_is_called_and_known_after_a_restart() {
    let world = World::sqlite().await;
    let remote = Scripted::default();
    let endpoint = remote.serve().await;
    register(&world, "remote", &endpoint).await;
    let result = world.submit(at("remote", "g", &["ok", "ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    assert_eq!(remote.calls(&result.tx_id, "a")[0], "prepare");

    let world = world.crash_and_restart().await;
    let result = world.submit(at("remote", "h", &["ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    let listed =
        world.directory().list_participants(ListParticipantsRequest::default()).await.unwrap();
    let listed = listed.into_inner().participants;
    let names: Vec<_> = listed.iter().map(|p| (p.name.as_str(), p.endpoints[0].alive)).collect();
    assert_eq!(names, [("p", true), ("remote", true)]);
    assert_eq!(listed[0].endpoints[0].endpoint, "in-process");
    assert_eq!(listed[1].endpoints[0].endpoint, endpoint);
}

#[tokio::test]
async fn one_that_is_gone_is_unavailable_for_new_work_and_nothing_is_stored() {
    let mut config = config(&sqlite_url());
    config.keep_alive_interval = Period::millis(50);
    let world = World::start(config).await;
    let remote = Scripted::default();
    let endpoint = remote.serve().await;
    register(&world, "remote", &endpoint).await;
    let mut asked = 0;
    until("it to be gone", async || {
        asked += 1;
        world.submit(at("remote", &format!("g{asked}"), &["ok"])).await.err().map(|status| {
            assert_eq!(describe(&status), (Code::Unavailable, "PARTICIPANT_GONE".into(), vec![]));
        })
    })
    .await;
    let instance_id = register(&world, "remote", &endpoint).await;
    let request = at("remote", "after", &["ok"]);
    assert_eq!(world.submit(request).await.unwrap().outcome(), Outcome::Committed);

    let request = DeregisterEndpointRequest {
        participant: "remote".into(),
        endpoint: endpoint.clone(),
        instance_id,
        ..Default::default()
    };
    world.directory().deregister_endpoint(request.clone()).await.unwrap();
    world.directory().deregister_endpoint(request).await.unwrap();
    let status = world.submit(at("remote", "late", &["ok"])).await.unwrap_err();
    assert_eq!(describe(&status).1, "PARTICIPANT_GONE", "its name stays known");
}

#[tokio::test]
async fn what_is_owed_goes_out_at_once_when_a_participant_comes_back() {
    let mut config = config(&sqlite_url());
    config.phase_two_backoff = Period::secs(1000);
    config.phase_two_backoff_max = Period::secs(1000);
    let world = World::start(config).await;
    let remote = Scripted::default();
    let endpoint = remote.serve().await;
    register(&world, "remote", &endpoint).await;
    let result = world.submit(at("remote", "g", &["commit-fail-1"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    world
        .get_until("g", "its failure", |t| {
            t.branches[0].phase_two_attempts.as_ref().is_some_and(|f| !f.last_error.is_empty())
        })
        .await;
    register(&world, "remote", &endpoint).await;
    world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(remote.calls(&result.tx_id, "a"), ["prepare", "commit", "commit"]);
}

#[tokio::test]
async fn endpoints_are_checked() {
    let world = World::sqlite().await;
    for (endpoint, code, reason) in [
        ("http://10.0.0.1:7000", Code::PermissionDenied, "ENDPOINT_NOT_ALLOWED"),
        ("http://localhost.example:7000", Code::PermissionDenied, "ENDPOINT_NOT_ALLOWED"),
        ("localhost:7000", Code::InvalidArgument, "FIELD_INVALID"),
        ("ftp://localhost:7000", Code::InvalidArgument, "FIELD_INVALID"),
        ("", Code::InvalidArgument, "FIELD_INVALID"),
    ] {
        let request = RegisterEndpointRequest {
            participant: "remote".into(),
            endpoint: endpoint.into(),
            instance_id: "life-1".into(),
            ..Default::default()
        };
        let status = world.directory().register_endpoint(request).await.unwrap_err();
        let (found, found_reason, _) = describe(&status);
        assert_eq!((found, &*found_reason), (code, reason), "{endpoint}");
    }
    let request = RegisterEndpointRequest {
        participant: "a b".into(),
        endpoint: "http://localhost:7000".into(),
        instance_id: "life-1".into(),
        ..Default::default()
    };
    let status = world.directory().register_endpoint(request).await.unwrap_err();
    assert_eq!(describe(&status).2, ["participant"]);
}

/// All Prepare slots of a participant are taken by calls that hang: Commits and Cancels to it, and
/// everything at others, go on (promise L3).
#[tokio::test]
async fn l3_a_participant_that_hangs_in_prepare_gets_its_commits_and_cancels() {
    let mut config = config(&sqlite_url());
    config.participant_slots = 4;
    config.call_timeout = Period::secs(30);
    let world = World::start(config).await;
    let remote = Scripted::default();
    register(&world, "remote", &remote.serve().await).await;
    remote.hold(true);
    let committed = world.submit(at("remote", "committed", &["ok"])).await.unwrap();
    assert_eq!(committed.outcome(), Outcome::Committed);
    let mut hanging = tokio::task::JoinSet::new();
    for n in 0..20 {
        let mut client = world.client();
        let mut request = at("remote", &format!("hang{n}"), &["hang"]);
        request.timeout = millis(4_000);
        hanging.spawn(async move { client.submit_transaction(request).await });
    }
    until("the slots to be taken", async || {
        let prepares = remote.seen().iter().filter(|s| s.operation == "prepare").count();
        (prepares >= 5).then_some(())
    })
    .await;
    remote.hold(false);
    world.get_until("committed", "its commit to get through", |t| t.ended_at.is_some()).await;
    let mut request = tcc("other", &["ok", "ok"]);
    request.wait_for = WaitFor::Ended.into();
    let started = std::time::Instant::now();
    assert_eq!(world.submit(request).await.unwrap().outcome(), Outcome::Committed);
    assert!(started.elapsed() < Duration::from_secs(2), "another participant's work goes on");
    // At the deadline the hanging ones are aborted, and their Cancels get through.
    for submit in hanging.join_all().await {
        let result = submit.unwrap().into_inner().result.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
    }
    for n in 0..20 {
        let gid = format!("hang{n}");
        let shown = world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(remote.calls(&shown.tx_id, "a").last(), Some(&"cancel"));
    }
}
