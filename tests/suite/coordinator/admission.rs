//! Overload is refused, and what is begun goes on (promise L5).

use std::time::{Duration, Instant};

use tonic::{Code, Request};
use unanimo_proto::v1::{
    BeginTransactionRequest, EnlistBranchRequest, ExecuteBranchRequest, Mode, Outcome,
};

use super::{World, branch, config, describe, sqlite_url, tcc};

#[tokio::test]
async fn l5_new_work_is_refused_and_phase_two_goes_on() {
    let mut config = config(&sqlite_url());
    config.transactions_max = 3;
    let world = World::start(config).await;
    world.p.hold(true);
    for n in 0..3 {
        let result = world.submit(tcc(&format!("g{n}"), &["ok"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
    }
    let status = world.submit(tcc("more", &["ok"])).await.unwrap_err();
    assert_eq!(describe(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
    let request = BeginTransactionRequest {
        gid: "more".into(),
        mode: Mode::Tcc.into(),
        ..Default::default()
    };
    let status = world.client().begin_transaction(request).await.unwrap_err();
    assert_eq!(describe(&status).1, "OVERLOADED");
    // A gid that is known is answered before any check of load, live or ended.
    let known = world.submit(tcc("g1", &["ok"])).await.unwrap();
    assert_eq!(known.outcome(), Outcome::Committed);
    world.p.hold(false);
    for n in 0..3 {
        world.get_until(&format!("g{n}"), "its end", |t| t.ended_at.is_some()).await;
    }
    let result = world.submit(tcc("more", &["ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed, "there is room again");
}

#[tokio::test]
async fn l5_bytes_are_counted_too() {
    let mut config = config(&sqlite_url());
    config.live_bytes_max = 3_000_000;
    let world = World::start(config).await;
    world.p.hold(true);
    let large = |gid: &str| {
        let mut request = tcc(gid, &["ok"]);
        request.branches[0].payload = unanimo_tests::payload(vec![7; 1 << 20]);
        request
    };
    world.submit(large("a")).await.unwrap();
    world.submit(large("b")).await.unwrap();
    let status = world.submit(large("c")).await.unwrap_err();
    assert_eq!(describe(&status).1, "OVERLOADED");
    assert!(status.message().contains("bytes of payloads"), "{}", status.message());

    // Execute is new work, too; its repetition is not.
    let begin =
        BeginTransactionRequest { gid: "i".into(), mode: Mode::Tcc.into(), ..Default::default() };
    let tx_id = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
    let execute = |id: &str, size: usize| {
        let mut spec = branch(id, "ok");
        spec.payload = unanimo_tests::payload(vec![7; size]);
        ExecuteBranchRequest { tx_id: tx_id.clone(), branch: Some(spec), ..Default::default() }
    };
    world.client().execute_branch(execute("small", 700_000)).await.unwrap();
    let status = world.client().execute_branch(execute("large", 700_000)).await.unwrap_err();
    assert_eq!(describe(&status).1, "OVERLOADED");
    world.client().execute_branch(execute("small", 700_000)).await.unwrap();

    world.p.hold(false);
    world.get_until("a", "its end", |t| t.ended_at.is_some()).await;
    world.get_until("b", "its end", |t| t.ended_at.is_some()).await;
    world.submit(large("c")).await.unwrap();
}

/// A repeated Enlist, whose first answer was lost, is answered at once: no vote of such a branch is
/// ever awaited here, and a repetition holds nothing more.
#[tokio::test]
async fn l5_a_repeated_enlist_is_answered_at_once_and_counted_once() {
    let mut config = config(&sqlite_url());
    config.live_bytes_max = 1_500_000;
    let world = World::start(config).await;
    let begin =
        BeginTransactionRequest { gid: "i".into(), mode: Mode::Tcc.into(), ..Default::default() };
    let tx_id = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
    let enlist = |id: &str, size: usize| {
        let mut spec = branch(id, "ok");
        spec.payload = unanimo_tests::payload(vec![7; size]);
        let mut request = Request::new(EnlistBranchRequest {
            tx_id: tx_id.clone(),
            branch: Some(spec),
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(30));
        request
    };
    let first = world.client().enlist_branch(enlist("a", 400_000)).await.unwrap().into_inner();
    for _ in 0..4 {
        let again = world.client().enlist_branch(enlist("a", 400_000)).await.unwrap().into_inner();
        assert_eq!(again, first);
    }
    world.client().enlist_branch(enlist("b", 900_000)).await.unwrap();
    let status = world.client().enlist_branch(enlist("c", 400_000)).await.unwrap_err();
    assert_eq!(describe(&status).1, "OVERLOADED");
    let started = Instant::now();
    let again = world.client().enlist_branch(enlist("a", 400_000)).await.unwrap().into_inner();
    assert_eq!(again, first);
    assert!(started.elapsed() < Duration::from_secs(10), "after {:?}", started.elapsed());
}
