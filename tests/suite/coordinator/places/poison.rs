//! Branches that fail whenever they are called, at a participant that works: they fail by themselves, and take
//! nothing from others (promise L3).

use std::time::Instant;

use tonic::Status;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{Outcome, SubmitTransactionRequest, TransactionResult, WaitFor};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::{PATIENCE, until};

use super::super::participants::register;
use super::super::sagas::{saga, step};
use super::super::{World, describe, millis};
use super::{at, on_both, on_sqlite, submit_all};

/// Returns the fewest calls for an operation that any of these transactions' branches got.
fn rarest(remote: &Scripted, tx_ids: &[String], operation: &str) -> usize {
    let count = |tx_id: &String| {
        remote.calls(tx_id, "a").into_iter().filter(|called| *called == operation).count()
    };
    tx_ids.iter().map(count).min().unwrap_or(0)
}

/// So many Commits fail for ever. New work is refused for moments at most, then never again, however often they
/// are repeated.
async fn new_work_goes_on(mut config: unanimo_coordinator::Config, action: &str, count: usize) {
    config.call_timeout = Period::millis(200);
    let world = World::start(config).await;
    let remote = Scripted::default();
    register(&world, "bank", &remote.serve().await).await;
    let poison = (0..count).map(|n| at("bank", &format!("poison-{n}"), action, 10_000));
    let committed = |answered: Result<TransactionResult, Status>| {
        let result = answered.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        result.tx_id
    };
    let poison = submit_all(&world, poison).await.into_iter();
    let poison: Vec<String> = poison.map(|(answered, _)| committed(answered)).collect();
    until("each to be tried", async || (rarest(&remote, &poison, "commit") >= 1).then_some(()))
        .await;
    let mut asked = 0;
    let started = Instant::now();
    until("new work to be taken", async || {
        asked += 1;
        let submitted = world.submit(at("bank", &format!("first-{asked}"), "ok", 10_000)).await;
        submitted.inspect_err(|e| assert_eq!(describe(e).1, "PARTICIPANT_FAILING")).ok()
    })
    .await;
    assert!(started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
    let first = format!("first-{asked}");
    world.get_until(&first, "its end", |t| t.ended_at.is_some()).await;
    let before = rarest(&remote, &poison, "commit");
    let mut done = 0;
    while rarest(&remote, &poison, "commit") < before + 3 || done < 20 {
        done += 1;
        let result = world.submit(at("bank", &format!("well-{done}"), "ok", 10_000)).await;
        let result = result.unwrap_or_else(|e| panic!("{count} of {action}, {done}: {e}"));
        assert_eq!(result.outcome(), Outcome::Committed);
        assert!(started.elapsed() < PATIENCE, "they are repeated");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_commits_that_always_fail_refuse_nothing() {
    for config in on_both().await {
        new_work_goes_on(config, "commit-fail-1000000", 5).await;
    }
    new_work_goes_on(on_sqlite(), "commit-fail-1000000", 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_commits_that_always_hang_refuse_nothing() {
    for config in on_both().await {
        new_work_goes_on(config, "commit-hang", 5).await;
    }
    new_work_goes_on(on_sqlite(), "commit-hang", 12).await;
}

/// Prepares that always fail or hang, until their deadline: others are taken meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_prepares_that_always_fail_refuse_nothing() {
    for action in ["fail-1000000", "hang"] {
        let mut config = on_sqlite();
        config.call_timeout = Period::millis(200);
        config.prepare_backoff_max = Period::millis(200);
        let world = World::start(config).await;
        let remote = Scripted::default();
        register(&world, "bank", &remote.serve().await).await;
        let mut accepted = Vec::new();
        for n in 0..6 {
            let gid = format!("poison-{n}");
            let mut request = at("bank", &gid, action, 120_000);
            request.wait_for = WaitFor::Accepted.into();
            // The first ones may be noticed by then.
            if world.submit(request).await.is_ok() {
                accepted.push(gid);
            }
        }
        assert!(accepted.len() >= 3, "{action}: {accepted:?}");
        until("the poison to come", async || (remote.seen().len() >= accepted.len()).then_some(()))
            .await;
        let mut asked = 0;
        until("new work to be taken", async || {
            asked += 1;
            world.submit(at("bank", &format!("first-{asked}"), "ok", 10_000)).await.ok()
        })
        .await;
        for n in 0..20 {
            let result = world.submit(at("bank", &format!("well-{n}"), "ok", 10_000)).await;
            assert_eq!(result.unwrap().outcome(), Outcome::Committed, "{action} {n}");
        }
        for gid in &accepted {
            assert_eq!(world.get(gid).await.outcome(), Outcome::NotDecided, "{action}");
        }
    }
}

/// Transactions that fail for ever give their places to others, those of their participant included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_what_fails_by_itself_holds_no_place() {
    let mut config = on_sqlite();
    config.transactions_max = 10;
    let world = World::start(config).await;
    let remote = Scripted::default();
    register(&world, "bank", &remote.serve().await).await;
    // All of the participant's share.
    let poison = (0..7).map(|n| at("bank", &format!("poison-{n}"), "commit-fail-1000000", 10_000));
    let mut tx_ids = Vec::new();
    for (answered, _) in submit_all(&world, poison).await {
        let result = answered.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        tx_ids.push(result.tx_id);
    }
    let engine = world.running.engine();
    until("new work to be taken", async || {
        let gid = format!("first-{}", uuid::Uuid::new_v4());
        world.submit(at("bank", &gid, "ok", 10_000)).await.ok()
    })
    .await;
    // Before they have failed often, they hold none only while the participant counts as failing.
    until("them to fail often", async || (rarest(&remote, &tx_ids, "commit") > 8).then_some(()))
        .await;
    until("them to hold no place", async || (engine.without_place() == 7).then_some(())).await;
    for n in 0..20 {
        let mut request = at("bank", &format!("well-{n}"), "ok", 10_000);
        request.wait_for = WaitFor::Ended.into();
        let result = world.submit(request).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        assert_eq!(engine.without_place(), 7);
    }
}

/// Work whose initiator allows less time than a call has.
fn hurried(kind: &str, gid: &str, action: &str) -> SubmitTransactionRequest {
    if kind == "deadline" {
        return at("slow", gid, action, 150);
    }
    let mut step = step("a", action, &[]);
    step.participant = "slow".into();
    step.attempt_timeout = millis(100);
    let mut request = saga(gid, vec![step]);
    request.timeout = millis(600);
    request
}

/// A participant that needs 400 ms is not silent because some give it less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_times_that_initiators_choose_are_no_silence() {
    for kind in ["deadline", "attempt"] {
        let world = World::start(on_sqlite()).await;
        let remote = Scripted::default();
        register(&world, "slow", &remote.serve().await).await;
        remote.set_mood(Mood::Slow(400));
        for round in 0..3 {
            let requests = (0..12).map(|n| hurried(kind, &format!("{round}-{n}"), "ok"));
            for (answered, _) in submit_all(&world, requests).await {
                assert_eq!(answered.unwrap().outcome(), Outcome::Aborted, "{kind} {round}");
            }
            // More than the one that would be let in to try it.
            let patient = (0..5).map(|n| at("slow", &format!("patient-{round}-{n}"), "ok", 60_000));
            for (answered, _) in submit_all(&world, patient).await {
                assert_eq!(answered.unwrap().outcome(), Outcome::Committed, "{kind} {round}");
            }
        }
    }
}

/// A participant that answers nothing at all, or no Prepare, is noticed though none has its full time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_one_that_hangs_is_noticed_by_calls_of_less_time() {
    let moods = [(Mood::Hanging, "ok"), (Mood::Well, "hang")];
    for (kind, (mood, action)) in
        ["deadline", "attempt"].into_iter().flat_map(|kind| moods.map(|mood| (kind, mood)))
    {
        let mut config = on_sqlite();
        config.call_timeout = Period::millis(1_000);
        // Where nothing can be cancelled no other call tells.
        config.phase_two_backoff = Period::secs(1000);
        config.phase_two_backoff_max = Period::secs(1000);
        let world = World::start(config).await;
        let remote = Scripted::default();
        register(&world, "slow", &remote.serve().await).await;
        remote.set_mood(mood);
        let mut asked = 0;
        let refused = until("it to be noticed", async || {
            // Its Cancels may hang as well.
            let request = |n| SubmitTransactionRequest {
                wait_for: WaitFor::Decided.into(),
                ..hurried(kind, &format!("{asked}-{n}"), action)
            };
            let requests: Vec<_> = (0..3).map(request).collect();
            let answered = submit_all(&world, requests).await;
            asked += 1;
            answered.into_iter().find_map(|(answered, _)| answered.err())
        })
        .await;
        assert_eq!(describe(&refused).1, "PARTICIPANT_FAILING", "{kind}");
        remote.set_mood(Mood::Well);
        until("new work to be taken", async || {
            asked += 1;
            let patient = at("slow", &format!("patient-{asked}"), "ok", 10_000);
            world.submit(patient).await.ok().filter(|done| done.outcome() == Outcome::Committed)
        })
        .await;
    }
}
