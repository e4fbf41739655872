//! A participant that fails takes nothing from the others (promise L3).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tonic::Code;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    GetTransactionRequest, Outcome, SubmitTransactionRequest, WaitFor, get_transaction_request,
};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::{PATIENCE, until};

use super::super::http::http_get;
use super::super::participants::register;
use super::super::{World, describe, millis, tcc};
use super::{at, dead_endpoint, endpoints, leave, on_both, on_sqlite, register_as, submit_all};

/// Ways to be sick.
#[derive(Clone, Copy, Debug)]
enum Sick {
    Mood(Mood),
    Dead,
}

/// Its transactions are aborted and owed Cancels that nobody takes. New work for it is refused before
/// anything is stored, the work of others goes on, and everything ends once it is back.
async fn others_go_on(mut config: unanimo_coordinator::Config, sick: Sick) {
    config.transactions_max = 10;
    config.call_timeout = Period::millis(200);
    let world = World::start(config).await;
    let remote = Scripted::default();
    let alive = remote.serve().await;
    let dead = dead_endpoint();
    match sick {
        Sick::Mood(mood) => {
            register(&world, "sick", &alive).await;
            remote.set_mood(mood);
        }
        Sick::Dead => drop(register(&world, "sick", &dead).await),
    }
    let many = |from: usize| (from..from + 10).map(|n| at("sick", &format!("s{n}"), "ok", 300));
    for (answered, _) in submit_all(&world, many(0)).await {
        let refused = answered.map(|result| assert_eq!(result.outcome(), Outcome::Aborted));
        if let Err(status) = refused {
            assert!(["OVERLOADED", "PARTICIPANT_FAILING"].contains(&&*describe(&status).1));
        }
    }
    // Its share is not all, and what nobody can end holds no place.
    let mut asked = 0;
    until("its work to be refused", async || {
        asked += 1;
        let refused = world.submit(at("sick", &format!("r{asked}"), "ok", 300)).await.err()?;
        (describe(&refused) == (Code::Unavailable, "PARTICIPANT_FAILING".into(), vec![]))
            .then_some(())
    })
    .await;
    for n in 0..30 {
        let result = world.submit(tcc(&format!("p{n}"), &["ok", "ok"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed, "{sick:?}");
    }
    // A try that was let in has its place until its deadline.
    let engine = world.running.engine();
    until("what is sick to hold no place", async || {
        (engine.in_flight().0 == engine.without_place()).then_some(())
    })
    .await;
    let held = submit_all(&world, (0..6).map(|n| tcc(&format!("all{n}"), &["ok"]))).await;
    assert!(held.iter().all(|(answered, _)| answered.is_ok()), "{sick:?}: {held:?}");
    let (_, metrics) = http_get(&world, "/metrics").await;
    assert!(metrics.contains("unanimo_participants_failing 1"), "{metrics}");
    assert!(
        metrics.contains("unanimo_participant_calls_waiting{participant=\"sick\"}"),
        "{metrics}"
    );

    remote.set_mood(Mood::Well);
    if matches!(sick, Sick::Dead) {
        register(&world, "sick", &alive).await;
    }
    until("memory to be empty", async || (world.running.engine().in_flight().0 == 0).then_some(()))
        .await;
    assert_eq!(world.running.engine().without_place(), 0);
    let result = until("new work to be taken", async || {
        world.submit(at("sick", "after", "ok", 5_000)).await.ok()
    })
    .await;
    assert_eq!(result.outcome(), Outcome::Committed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_one_that_answers_errors_takes_nothing_from_others() {
    for config in on_both().await {
        others_go_on(config, Sick::Mood(Mood::Failing)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_one_that_hangs_takes_nothing_from_others() {
    for config in on_both().await {
        others_go_on(config, Sick::Mood(Mood::Hanging)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_one_that_is_dead_takes_nothing_from_others() {
    for config in on_both().await {
        others_go_on(config, Sick::Dead).await;
    }
}

/// A slow participant never fails, and has its share of the places only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_one_that_is_slow_has_its_share_only() {
    let mut config = on_sqlite();
    config.transactions_max = 10;
    let world = World::start(config).await;
    let remote = Scripted::default();
    register(&world, "slow", &remote.serve().await).await;
    remote.set_mood(Mood::Slow(1_000));
    let submits = submit_all(&world, (0..30).map(|n| at("slow", &format!("s{n}"), "ok", 20_000)));
    let others = async {
        until("its share to be taken", async || (remote.seen().len() == 7).then_some(())).await;
        for n in 0..20 {
            let started = Instant::now();
            let result = world.submit(tcc(&format!("p{n}"), &["ok"])).await.unwrap();
            assert_eq!(result.outcome(), Outcome::Committed);
            assert!(started.elapsed() < Duration::from_secs(1));
        }
    };
    let (slow, ()) = tokio::join!(submits, others);
    let (done, refused): (Vec<_>, Vec<_>) =
        slow.into_iter().partition(|(answered, _)| answered.is_ok());
    assert_eq!((done.len(), refused.len()), (7, 23));
    for (answered, _) in refused {
        let status = answered.unwrap_err();
        assert_eq!(describe(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
        assert!(status.message().contains("participant slow"), "{}", status.message());
    }
}

/// Participants that never answer take their shares of what the others leave: a healthy one has all its work admitted
/// beside two of them, and beside three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_several_that_never_answer_leave_places_to_the_healthy() {
    for shares in [&[210, 63][..], &[210, 63, 19]] {
        let mut config = on_sqlite();
        config.transactions_max = 300;
        config.call_timeout = Period::secs(600);
        let world = World::start(config).await;
        let mut waiting = tokio::task::JoinSet::new();
        for (number, share) in shares.iter().enumerate() {
            let (name, remote) = (format!("hangs-{number}"), Scripted::default());
            register(&world, &name, &remote.serve().await).await;
            remote.set_mood(Mood::Hanging);
            let refused = Arc::new(AtomicUsize::new(0));
            for n in 0..share + 20 {
                let request = at(&name, &format!("{name}-{n}"), "ok", 600_000);
                let (mut client, refused) = (world.client(), Arc::clone(&refused));
                waiting.spawn(async move {
                    let status = client.submit_transaction(request).await.expect_err("a refusal");
                    assert_eq!(describe(&status).1, "OVERLOADED");
                    refused.fetch_add(1, Ordering::Relaxed);
                });
            }
            until("its share to be taken", async || {
                let engine = world.running.engine();
                let taken: usize = shares[..=number].iter().sum();
                let is_taken = engine.in_flight().0 == taken;
                (is_taken && refused.load(Ordering::Relaxed) == 20).then_some(())
            })
            .await;
        }
        for round in 0..20 {
            let two = (0..2).map(|n| tcc(&format!("well-{round}-{n}"), &["ok"]));
            for (answered, _) in submit_all(&world, two).await {
                assert_eq!(answered.unwrap().outcome(), Outcome::Committed, "L3: {round}");
            }
        }
    }
}

/// Refused work is stored nowhere, and a gid that is known is answered all the same.
#[tokio::test]
async fn l3_refused_work_is_not_stored_and_known_work_is_answered() {
    let mut config = on_sqlite();
    config.phase_two_backoff = Period::secs(2);
    config.phase_two_backoff_max = Period::secs(2);
    let world = World::start(config).await;
    let remote = Scripted::default();
    register(&world, "sick", &remote.serve().await).await;
    remote.set_mood(Mood::FailingInPhaseTwo);
    let decided =
        submit_all(&world, (0..6).map(|n| at("sick", &format!("g{n}"), "ok", 5_000))).await;
    assert!(decided.iter().all(|(a, _)| a.as_ref().unwrap().outcome() == Outcome::Committed));
    let mut asked = 0;
    let status = until("it to be noticed", async || {
        asked += 1;
        world.submit(at("sick", &format!("new{asked}"), "ok", 5_000)).await.err()
    })
    .await;
    assert_eq!(describe(&status).1, "PARTICIPANT_FAILING");
    assert!(status.message().contains("out of order"), "{}", status.message());
    let status = world.submit(at("sick", "newer", "ok", 5_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let by_gid = get_transaction_request::Key::Gid("newer".into());
    let request = GetTransactionRequest { key: Some(by_gid), ..Default::default() };
    let status = world.client().get_transaction(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "nothing was stored");
    let known = world.submit(at("sick", "g1", "ok", 5_000)).await.unwrap();
    assert_eq!(known.outcome(), Outcome::Committed);
    remote.set_mood(Mood::Well);
    for n in 0..6 {
        world.get_until(&format!("g{n}"), "its end", |t| t.ended_at.is_some()).await;
    }
}

/// Requests that try nothing leave the turn to try a participant that fails to others: those whose gid is known,
/// those that name another participant that takes no work, and those that start later.
#[tokio::test]
async fn l3_requests_that_try_nothing_take_no_turn() {
    let mut config = on_sqlite();
    config.phase_two_backoff = Period::secs(1);
    config.phase_two_backoff_max = Period::secs(1);
    let world = World::start(config).await;
    let (remote, other) = (Scripted::default(), Scripted::default());
    register(&world, "sick", &remote.serve().await).await;
    register_as(&world, "tired", &other.serve().await, "life").await.unwrap();
    leave(&world, "tired", &endpoints(&world, "tired").await[0].endpoint, "life").await;
    remote.set_mood(Mood::FailingInPhaseTwo);
    for (answered, _) in
        submit_all(&world, (0..6).map(|n| at("sick", &format!("g{n}"), "ok", 5_000))).await
    {
        assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
    }
    let mut asked = 0;
    until("it to be noticed", async || {
        asked += 1;
        world.submit(at("sick", &format!("new{asked}"), "ok", 5_000)).await.err()
    })
    .await;
    for round in 0..3 {
        until("new work to be let in", async || {
            // Longer than a turn takes to come.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            for n in 0..3 {
                asked += 1;
                let known = world.submit(at("sick", &format!("g{n}"), "ok", 5_000)).await.unwrap();
                assert_eq!(known.outcome(), Outcome::Committed);
                let mut both = tcc(&format!("both{asked}"), &["ok", "ok"]);
                both.branches[0].participant = "sick".into();
                both.branches[1].participant = "tired".into();
                world.submit(both).await.unwrap_err();
            }
            let tomorrow = SubmitTransactionRequest {
                start_delay: millis(24 * 60 * 60 * 1000),
                wait_for: WaitFor::Accepted.into(),
                ..at("sick", &format!("tomorrow{asked}-{round}"), "ok", 5_000)
            };
            // Whoever asks first in a turn is let in.
            world.submit(tomorrow).await.ok()?;
            world.submit(at("sick", &format!("more{asked}-{round}"), "ok", 5_000)).await.ok()
        })
        .await;
    }
}

/// One that fails, works and fails again keeps nothing for ever, and nothing is done twice or by halves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_one_that_flaps_ends_everything() {
    let mut config = on_sqlite();
    config.call_timeout = Period::millis(100);
    let world = World::start(config).await;
    let remote = Scripted::default();
    register(&world, "flapping", &remote.serve().await).await;
    let mut stored = Vec::new();
    // It goes by chance how much is taken while it fails.
    let (mut round, started) = (0, Instant::now());
    while round < 8 || stored.len() < 20 {
        assert!(started.elapsed() < PATIENCE, "{} were taken in {round} rounds", stored.len());
        let mood = [Mood::Well, Mood::Failing, Mood::Well, Mood::Hanging][round % 4];
        remote.set_mood(mood);
        let requests = (0..10).map(|n| at("flapping", &format!("{round}-{n}"), "ok", 400));
        let answered = submit_all(&world, requests).await.into_iter();
        stored.extend(answered.filter_map(|(answered, _)| answered.ok()).map(|done| done.tx_id));
        round += 1;
    }
    remote.set_mood(Mood::Well);
    until("memory to be empty", async || (world.running.engine().in_flight().0 == 0).then_some(()))
        .await;
    for tx_id in stored {
        let calls = remote.calls(&tx_id, "a");
        assert!(!(calls.contains(&"commit") && calls.contains(&"cancel")), "S1: {calls:?}");
    }
}

/// One record that a participant cannot deal with is no reason to refuse the others.
#[tokio::test]
async fn one_transaction_that_fails_for_ever_refuses_nothing() {
    let world = World::start(on_sqlite()).await;
    let remote = Scripted::default();
    register(&world, "bank", &remote.serve().await).await;
    let poison = world.submit(at("bank", "poison", "commit-fail-1000000", 5_000)).await.unwrap();
    until("many failures", async || (remote.calls(&poison.tx_id, "a").len() > 12).then_some(()))
        .await;
    for n in 0..5 {
        let result = world.submit(at("bank", &format!("g{n}"), "ok", 5_000)).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
    }
}

/// An operator's retry is sent, whatever the participant was.
#[tokio::test]
async fn a_retry_by_an_operator_is_sent_at_once() {
    let mut config = on_sqlite();
    config.phase_two_backoff = Period::secs(1000);
    config.phase_two_backoff_max = Period::secs(1000);
    let world = World::start(config).await;
    let remote = Scripted::default();
    register(&world, "sick", &remote.serve().await).await;
    remote.set_mood(Mood::FailingInPhaseTwo);
    let results =
        submit_all(&world, (0..8).map(|n| at("sick", &format!("g{n}"), "ok", 5_000))).await;
    let mut asked = 0;
    until("it to be noticed", async || {
        asked += 1;
        world.submit(at("sick", &format!("no{asked}"), "ok", 100)).await.err()
    })
    .await;
    remote.set_mood(Mood::Well);
    for (answered, _) in results {
        let Ok(result) = answered else { continue };
        let request = unanimo_proto::v1::RetryTransactionRequest {
            tx_id: result.tx_id.clone(),
            ..Default::default()
        };
        world.operator().retry_transaction(request).await.unwrap();
    }
    until("memory to be empty", async || (world.running.engine().in_flight().0 == 0).then_some(()))
        .await;
}
