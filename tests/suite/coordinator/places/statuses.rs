//! Statuses from participants that are too long.

use std::time::Duration;

use unanimo_proto::v1::{
    Outcome, RollbackTransactionRequest, WaitFor, rollback_transaction_request,
};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::World;
use super::super::participants::register;
use super::{at, on_sqlite, submit_all};

/// A status of any length fails its own call, with the beginning of its text. The connection and the other
/// calls on it are not concerned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_long_status_fails_its_own_call_alone() {
    let world = World::start(on_sqlite()).await;
    let remote = Scripted::default();
    register(&world, "bank", &remote.serve().await).await;
    remote.set_mood(Mood::Slow(700));
    for bytes in [5_000, 90_000, 200_000, 400_000] {
        let good = (0..30).map(|n| at("bank", &format!("good-{bytes}-{n}"), "ok", 30_000));
        let bad = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut accepted = Vec::new();
            for n in 0..3 {
                let gid = format!("bad-{bytes}-{n}");
                let mut request = at("bank", &gid, &format!("status-{bytes}"), 60_000);
                request.wait_for = WaitFor::Accepted.into();
                world.submit(request).await.unwrap();
                accepted.push(gid);
            }
            accepted
        };
        let (good, bad) = tokio::join!(submit_all(&world, good), bad);
        for (answered, _) in good {
            let result = answered.unwrap();
            assert_eq!(result.outcome(), Outcome::Committed, "{bytes} bytes: {result:?}");
            let calls = remote.calls(&result.tx_id, "a");
            let prepares = calls.iter().filter(|call| **call == "prepare").count();
            assert_eq!(prepares, 1, "none was sent again: {bytes} bytes, {calls:?}");
        }
        for gid in bad {
            let error = until("its error", async || {
                let shown = world.get(&gid).await;
                let attempts = shown.branches[0].prepare_attempts.clone().unwrap_or_default();
                (!attempts.first_error.is_empty()).then_some(attempts.first_error)
            })
            .await;
            assert!(error.starts_with("Internal: äx"), "{bytes} bytes: {error}");
            assert!(error.len() <= 1024, "{} bytes", error.len());
            let key = Some(rollback_transaction_request::Key::Gid(gid));
            let request = RollbackTransactionRequest { key, ..Default::default() };
            let rolled = world.client().rollback_transaction(request).await.unwrap();
            assert_eq!(rolled.into_inner().result.unwrap().outcome(), Outcome::Aborted);
        }
    }
    let mut request = at("bank", "after", "ok", 10_000);
    request.wait_for = WaitFor::Ended.into();
    assert_eq!(world.submit(request).await.unwrap().outcome(), Outcome::Committed);
}

/// A status that is longer than a connection can take ends the connection. It does so once: what failed is
/// repeated on a connection of its own, and takes no call of others with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_status_that_ends_its_connection_harms_others_once() {
    let world = World::start(on_sqlite()).await;
    let remote = Scripted::default();
    register(&world, "bank", &remote.serve().await).await;
    let mut bad = at("bank", "bad", "status-7000000", 60_000);
    bad.wait_for = WaitFor::Accepted.into();
    let bad = world.submit(bad).await.unwrap().tx_id;
    let tried = || remote.calls(&bad, "a").len();
    until("it to be repeated", async || (tried() >= 2).then_some(())).await;
    remote.set_mood(Mood::Slow(700));
    for round in 0..3 {
        let before = tried();
        let good = (0..10).map(|n| at("bank", &format!("good-{round}-{n}"), "ok", 20_000));
        for (answered, _) in submit_all(&world, good).await {
            let result = answered.unwrap();
            assert_eq!(result.outcome(), Outcome::Committed, "{result:?}");
            let calls = remote.calls(&result.tx_id, "a");
            let prepares = calls.iter().filter(|call| **call == "prepare").count();
            assert_eq!(prepares, 1, "none was sent again: {calls:?}");
        }
        until("it to be repeated", async || (tried() > before).then_some(())).await;
    }
}
