//! Answers that move nothing: WORKING for long, and a no to what may only succeed. They hold nobody else's
//! places, open no breaker, and close none at once.

use std::time::{Duration, Instant};

use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{BranchSpec, Compensation, Outcome, SubmitTransactionRequest, WaitFor};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::participants::register;
use super::super::sagas::{saga, step};
use super::super::{World, describe, tcc};
use super::{at, on_both, on_sqlite, submit_all};

/// A TCC of a branch at each of `well` and `sick`, and with a reason to abort one more at `p` that says no.
fn both(gid: &str, aborts: bool) -> SubmitTransactionRequest {
    let actions: &[&str] = if aborts { &["ok", "ok", "refuse"] } else { &["ok", "ok"] };
    let mut request = tcc(gid, actions);
    request.branches[0].participant = "well".into();
    request.branches[1].participant = "sick".into();
    request
}

/// A saga whose step after the pivot is refused for ever.
fn refused(gid: &str) -> SubmitTransactionRequest {
    let compensation = Compensation::None.into();
    let at = |participant: &str, step: BranchSpec| BranchSpec {
        participant: participant.into(),
        compensation,
        ..step
    };
    let pivot = BranchSpec { pivot: true, ..at("well", step("pay", "ok", &[])) };
    let mut request = saga(gid, vec![pivot, at("sick", step("ship", "refuse", &["pay"]))]);
    request.wait_for = WaitFor::Decided.into();
    request
}

async fn world_of_two(mut config: unanimo_coordinator::Config) -> (World, Scripted, Scripted) {
    config.transactions_max = 10;
    let world = World::start(config).await;
    let (well, sick) = (Scripted::default(), Scripted::default());
    register(&world, "well", &well.serve().await).await;
    register(&world, "sick", &sick.serve().await).await;
    (world, well, sick)
}

async fn all_at_well(world: &World, what: &str, count: usize) {
    let requests = (0..count).map(|n| at("well", &format!("{what}{n}"), "ok", 10_000));
    for (answered, _) in submit_all(world, requests).await {
        assert_eq!(answered.unwrap().outcome(), Outcome::Committed, "L3: {what}");
    }
}

/// So many transactions of both participants wait for the one that answers WORKING. The other one has its places
/// back at once, and a little later all other places are free. What is new to the busy one is bounded by its share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_work_that_takes_long_takes_no_place_of_the_healthy() {
    for (aborts, retry_after) in [(false, 20), (true, 20), (false, 3_600_000)] {
        for config in on_both().await {
            let (world, well, sick) = world_of_two(config).await;
            sick.set_mood(Mood::WorkingInPhaseTwo(retry_after));
            let mut tx_ids = Vec::new();
            let requests = (0..7).map(|n| both(&format!("b{n}"), aborts));
            for (answered, _) in submit_all(&world, requests).await {
                tx_ids.push(answered.unwrap().tx_id);
            }
            let operation = if aborts { "cancel" } else { "commit" };
            until("the healthy one to end its part", async || {
                let ended = |tx_id: &String| well.calls(tx_id, "a").contains(&operation);
                tx_ids.iter().all(ended).then_some(())
            })
            .await;
            until("its places to be free", async || {
                let request = at("well", &uuid::Uuid::new_v4().to_string(), "ok", 5_000);
                world.submit(request).await.ok()
            })
            .await;
            let engine = world.running.engine();
            until("that one to have ended", async || (engine.in_flight().0 == 7).then_some(()))
                .await;
            if retry_after < 1_000 {
                assert!(engine.without_place() < 7, "it need not wait until they are set aside");
            }
            all_at_well(&world, "soon", 3).await;
            until("them to be set aside", async || (engine.without_place() == 7).then_some(()))
                .await;
            // Each of the others has its place until it has ended, which is after it is answered.
            until("the others to have ended", async || (engine.in_flight().0 == 7).then_some(()))
                .await;
            all_at_well(&world, "later", 7).await;
            // It takes no more than its share, and it does not count as failing.
            let status = world.submit(at("sick", "more", "ok", 5_000)).await.unwrap_err();
            assert_eq!(describe(&status).1, "OVERLOADED", "{status}");
            assert!(status.message().contains("participant sick"), "{status}");
            sick.set_mood(Mood::Well);
            if retry_after < 1_000 {
                until("memory to be empty", async || (engine.in_flight().0 == 0).then_some(()))
                    .await;
                assert_eq!(engine.without_place(), 0);
                let result = world.submit(at("sick", "after", "ok", 5_000)).await.unwrap();
                assert_eq!(result.outcome(), Outcome::Committed);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_step_that_is_refused_for_ever_takes_no_place_of_the_healthy() {
    for config in on_both().await {
        let (world, _, _sick) = world_of_two(config).await;
        for (answered, _) in submit_all(&world, (0..7).map(|n| refused(&format!("s{n}")))).await {
            assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
        }
        let engine = world.running.engine();
        until("them to be set aside", async || (engine.without_place() == 7).then_some(())).await;
        all_at_well(&world, "later", 7).await;
    }
}

/// Many transactions of one participant are one alarm of each kind.
#[tokio::test]
async fn refusals_after_the_pivot_are_one_alarm() {
    let (alarms, _listening) = Alarms::listen();
    let world = World::start(on_sqlite()).await;
    let sick = Scripted::default();
    register(&world, "well", &Scripted::default().serve().await).await;
    register(&world, "sick", &sick.serve().await).await;
    for (answered, _) in submit_all(&world, (0..6).map(|n| refused(&format!("s{n}")))).await {
        assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
    }
    until("all to be refused", async || {
        let ships = sick.seen().iter().filter(|seen| seen.branch_id == "ship").count();
        (ships >= 24).then_some(())
    })
    .await;
    let told = alarms.named("refused_after_commit");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("participant=sick") && told[0].contains("NO_MONEY"), "{told:?}");
}

/// WORKING is the answer of work that takes long: the breaker stays closed, whatever the operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn working_opens_no_breaker() {
    let world = World::start(on_sqlite()).await;
    let sick = Scripted::default();
    register(&world, "sick", &sick.serve().await).await;
    sick.set_mood(Mood::Working(5));
    let slow = (0..20).map(|n| SubmitTransactionRequest {
        wait_for: WaitFor::Accepted.into(),
        ..at("sick", &format!("slow{n}"), "ok", 60_000)
    });
    for (answered, _) in submit_all(&world, slow).await {
        answered.unwrap();
    }
    until("all to be asked often", async || (sick.seen().len() > 400).then_some(())).await;
    sick.set_mood(Mood::Well);
    let result = world.submit(at("sick", "g", "ok", 5_000)).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
}

/// A participant that was down and is back, but too busy to do anything, is not flooded by that answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_busy_answer_closes_no_breaker_at_once() {
    let mut config = on_sqlite();
    config.transactions_max = 2_000;
    config.phase_two_backoff = Period::millis(50);
    config.phase_two_backoff_max = Period::millis(500);
    let world = World::start(config).await;
    let sick = Scripted::default();
    register(&world, "sick", &sick.serve().await).await;
    sick.set_mood(Mood::FailingInPhaseTwo);
    let owed = (0..1_000).map(|n| at("sick", &format!("g{n}"), "ok", 20_000));
    // The breaker opens while they come.
    let owed = submit_all(&world, owed).await.into_iter().filter(|(a, _)| a.is_ok()).count();
    assert!(owed > 100, "{owed}");
    let failing = async || {
        let request = at("sick", &uuid::Uuid::new_v4().to_string(), "ok", 1_000);
        let status = world.submit(request).await.err()?;
        (describe(&status).1 == "PARTICIPANT_FAILING").then_some(())
    };
    until("it to be noticed", failing).await;
    // A busy answer leaves the pause between probes as it is, and on a slow machine it may have only begun to grow.
    until("pauses that have grown", async || {
        let before = sick.seen().len();
        tokio::time::sleep(Duration::from_secs(2)).await;
        (2..16).contains(&(sick.seen().len() - before)).then_some(())
    })
    .await;
    sick.set_mood(Mood::WorkingInPhaseTwo(50));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, since) = (sick.seen().len(), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (calls, took) = (sick.seen().len() - before, since.elapsed());
    assert!((calls as f64) < 20.0 * took.as_secs_f64(), "{calls} calls in {took:?}");
    sick.set_mood(Mood::Well);
    let engine = world.running.engine();
    until("memory to be empty", async || (engine.in_flight().0 == 0).then_some(())).await;
    let result = world.submit(at("sick", "after", "ok", 5_000)).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
}
