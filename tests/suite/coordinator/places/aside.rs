//! Transactions that wait for nobody but a participant that fails hold no place, until they go on.

use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    BranchSpec, ChildTransaction, Compensation, Mode, Outcome, SubmitTransactionRequest, WaitFor,
};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::participants::register;
use super::super::sagas::{accept, saga, step};
use super::super::{World, branch, describe, tcc};
use super::{at, on_both, on_sqlite, submit_all};

/// A TCC of a branch at each of two participants.
fn both(gid: &str) -> SubmitTransactionRequest {
    let mut request = tcc(gid, &["ok", "ok"]);
    request.branches[0].participant = "well".into();
    request.branches[1].participant = "sick".into();
    request
}

/// They take nothing from the healthy participants of the same transactions either. Once they go on they
/// count again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_healthy_participant_gets_its_share_back() {
    for mut config in on_both().await {
        config.transactions_max = 10;
        let world = World::start(config).await;
        let (well, sick) = (Scripted::default(), Scripted::default());
        register(&world, "well", &well.serve().await).await;
        register(&world, "sick", &sick.serve().await).await;
        sick.set_mood(Mood::FailingInPhaseTwo);
        for (answered, _) in submit_all(&world, (0..7).map(|n| both(&format!("b{n}")))).await {
            assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
        }
        let engine = world.running.engine();
        until("them to be set aside", async || (engine.without_place() == 7).then_some(())).await;
        let all = submit_all(&world, (0..7).map(|n| at("well", &format!("w{n}"), "ok", 5_000)));
        for (answered, _) in all.await {
            assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
        }
        sick.set_mood(Mood::Slow(1_000));
        until("them to count again", async || {
            (engine.without_place() == 0 && engine.in_flight().0 > 1).then_some(())
        })
        .await;
        until("memory to be empty", async || (engine.in_flight().0 == 0).then_some(())).await;
    }
}

/// A participant that has voted has its share back while the transaction waits for the votes of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_one_that_has_voted_has_its_share_while_others_are_awaited() {
    for mut config in on_both().await {
        config.transactions_max = 10;
        config.call_timeout = Period::secs(600);
        let world = World::start(config).await;
        let (well, sick) = (Scripted::default(), Scripted::default());
        register(&world, "well", &well.serve().await).await;
        register(&world, "sick", &sick.serve().await).await;
        sick.set_mood(Mood::Hanging);
        let mut stuck = Vec::new();
        for n in 0..7 {
            let mut request = both(&format!("b{n}"));
            request.wait_for = WaitFor::Accepted.into();
            stuck.push(world.submit(request).await.unwrap().tx_id);
        }
        let more = world.submit(both("b7")).await.unwrap_err();
        assert_eq!(describe(&more).1, "OVERLOADED", "the sick one's share is taken");
        until("the votes of the healthy", async || {
            stuck.iter().all(|tx_id| well.calls(tx_id, "a").len() == 1).then_some(())
        })
        .await;
        for n in 0..10 {
            let result = world.submit(at("well", &format!("w{n}"), "ok", 5_000)).await;
            assert_eq!(result.unwrap().outcome(), Outcome::Committed, "L3: {n}");
        }
    }
}

/// A transaction that waits for a healthy participant as well is set aside once that has answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_the_answer_of_the_last_healthy_one_sets_aside() {
    let mut config = on_sqlite();
    // Each is a probe too seldom to be looked at for that.
    config.phase_two_backoff = Period::secs(5);
    config.phase_two_backoff_max = Period::secs(5);
    let world = World::start(config).await;
    let (well, sick) = (Scripted::default(), Scripted::default());
    register(&world, "well", &well.serve().await).await;
    register(&world, "sick", &sick.serve().await).await;
    sick.set_mood(Mood::FailingInPhaseTwo);
    well.hold(true);
    submit_all(&world, (0..20).map(|n| both(&format!("b{n}")))).await;
    let engine = world.running.engine();
    until("it to be noticed", async || {
        world.submit(at("sick", &format!("r{}", uuid::Uuid::new_v4()), "ok", 100)).await.err()
    })
    .await;
    let others = engine.in_flight().0 - 20;
    assert!(engine.without_place() <= others, "twenty wait for one that is well");
    well.hold(false);
    until("all to be set aside", async || {
        (engine.without_place() == engine.in_flight().0).then_some(())
    })
    .await;
    sick.set_mood(Mood::Well);
    until("memory to be empty", async || (engine.in_flight().0 == 0).then_some(())).await;
}

/// Only the answer of a pivot that was sent decides, so a saga waits for it without a deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_saga_whose_pivot_cannot_be_reached_is_set_aside() {
    let world = World::start(on_sqlite()).await;
    let sick = Scripted::default();
    register(&world, "sick", &sick.serve().await).await;
    world.p.hold(true);
    let compensation = Compensation::None.into();
    let pivot = BranchSpec {
        pivot: true,
        compensation,
        participant: "sick".into(),
        ..step("pay", "ok", &["a"])
    };
    let mut request = saga("saga", vec![step("a", "gated", &[]), pivot]);
    request.timeout = super::super::millis(600_000);
    accept(&world, request).await;
    sick.set_mood(Mood::FailingInPhaseOne);
    submit_all(&world, (0..6).map(|n| at("sick", &format!("s{n}"), "ok", 300))).await;
    let refused = until("it to be noticed", async || {
        let others = (0..6).map(|_| at("sick", &uuid::Uuid::new_v4().to_string(), "ok", 300));
        submit_all(&world, others).await.into_iter().find_map(|(answered, _)| answered.err())
    })
    .await;
    assert_eq!(describe(&refused).1, "PARTICIPANT_FAILING");
    let engine = world.running.engine();
    until("the others to end", async || (engine.in_flight().0 == 1).then_some(())).await;
    assert_eq!(engine.without_place(), 0, "it waits for a step at a participant that is well");
    world.p.hold(false);
    until("it to be set aside", async || (engine.without_place() == 1).then_some(())).await;
    sick.set_mood(Mood::Well);
    let shown = world.get_until("saga", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(shown.outcome(), Outcome::Committed);
    until("memory to be empty", async || (engine.in_flight().0 == 0).then_some(())).await;
    assert_eq!(engine.without_place(), 0);
}

/// A parent that waits for nothing but a child that is set aside holds no place either, however deep the child is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_parents_are_set_aside_with_their_children() {
    let world = World::start(on_sqlite()).await;
    let sick = Scripted::default();
    register(&world, "sick", &sick.serve().await).await;
    sick.set_mood(Mood::FailingInPhaseTwo);
    let around = |child: ChildTransaction| BranchSpec {
        branch_id: "in".into(),
        child: Some(child),
        ..Default::default()
    };
    let family = |n: usize| {
        let owes = BranchSpec { participant: "sick".into(), ..branch("x", "ok") };
        let (mode, branches) = (Mode::Tcc.into(), vec![owes]);
        let inner = ChildTransaction { mode, branches, ..Default::default() };
        let (mode, branches) = (Mode::Saga.into(), vec![around(inner)]);
        let outer = ChildTransaction { mode, branches, ..Default::default() };
        let mut request = saga(&format!("g{n}"), vec![around(outer)]);
        request.wait_for = WaitFor::Decided.into();
        request
    };
    for (answered, _) in submit_all(&world, (0..6).map(family)).await {
        assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
    }
    let engine = world.running.engine();
    until("all to be set aside", async || (engine.without_place() == 18).then_some(())).await;
    assert_eq!(engine.in_flight().0, 18);
    sick.set_mood(Mood::Well);
    until("memory to be empty", async || (engine.in_flight().0 == 0).then_some(())).await;
    assert_eq!(engine.without_place(), 0);
}
