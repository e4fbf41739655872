//! Names that are registered without end, and what they cost.

use tonic::Code;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{ListParticipantsRequest, Outcome};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::http::http_get;
use super::super::{World, config, describe, sqlite_url, tcc};
use super::{at, dead_endpoint, on_both, on_sqlite, register_as};
use crate::store::execute;

#[tokio::test]
async fn l5_names_are_bounded() {
    for mut config in on_both().await {
        config.participants_max = 5;
        let world = World::start(config).await;
        let endpoint = dead_endpoint();
        // `p` is one of them.
        for n in 0..4 {
            register_as(&world, &format!("n{n}"), &endpoint, "life").await.unwrap();
        }
        let status = register_as(&world, "one-more", &endpoint, "life").await.unwrap_err();
        let expected = (Code::ResourceExhausted, "OVERLOADED".into(), vec!["participant".into()]);
        assert_eq!(describe(&status), expected);
        register_as(&world, "n3", &endpoint, "life").await.unwrap();
        let world = world.crash_and_restart().await;
        let status = register_as(&world, "one-more", &endpoint, "life").await.unwrap_err();
        assert_eq!(describe(&status), expected);
        register_as(&world, "n3", &endpoint, "life").await.unwrap();
    }
}

#[tokio::test]
async fn l5_a_name_that_is_long_gone_makes_place() {
    let mut config = config(&sqlite_url());
    config.participants_max = 3;
    config.keep_alive_interval = Period::millis(10);
    let world = World::start(config).await;
    let endpoint = dead_endpoint();
    for name in ["a", "b"] {
        register_as(&world, name, &endpoint, "life").await.unwrap();
    }
    until("a place", async || {
        register_as(&world, "b", &endpoint, "life").await.unwrap();
        register_as(&world, "c", &endpoint, "life").await.ok()
    })
    .await;
    let status = world.submit(at("a", "g", "ok", 1000)).await.unwrap_err();
    assert_eq!(describe(&status).1, "PARTICIPANT_UNKNOWN");
    world.submit(tcc("p", &["ok"])).await.unwrap();
}

/// Invented names cost neither descriptors nor series of metrics without end.
#[tokio::test]
async fn l5_invented_names_cost_little() {
    let world = World::start(on_sqlite()).await;
    let remote = Scripted::default();
    let endpoint = remote.serve().await;
    let before = descriptors();
    for n in 0..300 {
        register_as(&world, &format!("invented-{n}"), &endpoint, "life").await.unwrap();
    }
    let registered = descriptors();
    assert!(registered < before + 100, "{before} and {registered}: nothing is dialled yet");
    for n in 0..300 {
        let request = at(&format!("invented-{n}"), &format!("g{n}"), "ok", 5_000);
        assert_eq!(world.submit(request).await.unwrap().outcome(), Outcome::Committed);
    }
    let (_, metrics) = http_get(&world, "/metrics").await;
    let series =
        metrics.lines().filter(|line| line.starts_with("unanimo_participant_calls_total{"));
    assert!(series.count() <= 2 * 201);
}

/// A name of which nothing is registered any more is listed as long as something is owed to it, and counts as failing.
#[tokio::test]
async fn l4_a_name_that_is_only_owed_something_is_known() {
    for config in on_both().await {
        let url = config.database_url.expose().to_owned();
        let world = World::start(config).await;
        let remote = Scripted::default();
        register_as(&world, "lost", &remote.serve().await, "life").await.unwrap();
        remote.set_mood(Mood::FailingInPhaseTwo);
        let result = world.submit(at("lost", "g", "ok", 5_000)).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        let World { running, p, config, .. } = world;
        drop(running);
        execute(&url, "DELETE FROM endpoints; DELETE FROM participants").await;
        let world = World::start_with(config, p).await;
        until("it to be listed", async || {
            let request = ListParticipantsRequest::default();
            let listed = world.directory().list_participants(request).await.unwrap().into_inner();
            let lost = listed.participants.into_iter().find(|listed| listed.name == "lost")?;
            assert_eq!(lost.endpoints, []);
            Some(())
        })
        .await;
        let (_, metrics) = http_get(&world, "/metrics").await;
        assert!(metrics.contains("unanimo_participants_failing 1"), "{metrics}");
        // Once it is back, it ends.
        remote.set_mood(Mood::Well);
        register_as(&world, "lost", &remote.serve().await, "life").await.unwrap();
        world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
        let (_, metrics) = http_get(&world, "/metrics").await;
        assert!(metrics.contains("unanimo_participants_failing 0"), "{metrics}");
    }
}

/// Descriptors of this process, which runs other tests as well.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
