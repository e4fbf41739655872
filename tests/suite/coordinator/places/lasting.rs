//! Calls that are answered with errors for ever, by a participant that works: what is owed to it comes under its share,
//! so that the healthy have their places.

use std::time::Duration;

use unanimo_coordinator::config::Period;
use unanimo_proto::v1::Outcome;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::participants::register;
use super::super::{World, describe};
use super::{at, on_both};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_commits_that_fail_for_ever_are_within_their_participants_share() {
    for mut config in on_both().await {
        config.transactions_max = 10;
        config.phase_two_backoff = Period::millis(1);
        config.phase_two_backoff_max = Period::millis(10);
        let world = World::start(config).await;
        let (well, sick) = (Scripted::default(), Scripted::default());
        register(&world, "well", &well.serve().await).await;
        register(&world, "sick", &sick.serve().await).await;
        let engine = world.running.engine();
        let mut stuck = 0;
        let refusal = until("the share to be taken", async || {
            let poison =
                at("sick", &uuid::Uuid::new_v4().to_string(), "commit-fail-9999999", 5_000);
            let refused = world.submit(poison).await.map(|_| stuck += 1).err();
            // Others of it are answered well: it does not count as failing.
            for _ in 0..4 {
                let good = at("sick", &uuid::Uuid::new_v4().to_string(), "ok", 5_000);
                let _ = world.submit(good).await;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
            let healthy = at("well", &uuid::Uuid::new_v4().to_string(), "ok", 5_000);
            let result = world.submit(healthy).await;
            assert_eq!(result.unwrap().outcome(), Outcome::Committed, "L3: after {stuck}");
            refused.filter(|status| describe(status).1 == "OVERLOADED")
        })
        .await;
        assert!(refusal.message().contains("participant sick"), "{refusal}");
        assert!(
            (8..=10).contains(&stuck),
            "one more than its share, and those that were on their way: {stuck}"
        );
        until("them to be set aside", async || (engine.without_place() == stuck).then_some(()))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_one_that_answers_slowly_keeps_its_share_beside_one_that_fails() {
    for mut config in on_both().await {
        config.transactions_max = 10;
        config.phase_two_backoff = Period::millis(1);
        config.phase_two_backoff_max = Period::millis(10);
        let world = World::start(config).await;
        let (slow, sick) = (Scripted::default(), Scripted::default());
        register(&world, "slow", &slow.serve().await).await;
        register(&world, "sick", &sick.serve().await).await;
        let engine = world.running.engine();
        slow.set_mood(Mood::WorkingInPhaseTwo(3_600_000));
        for n in 0..6 {
            world.submit(at("slow", &format!("slow-{n}"), "ok", 5_000)).await.unwrap();
        }
        until("them to be set aside", async || (engine.without_place() == 6).then_some(())).await;
        until("some to fail beside them", async || {
            let poison =
                at("sick", &uuid::Uuid::new_v4().to_string(), "commit-fail-9999999", 5_000);
            let _ = world.submit(poison).await;
            (engine.without_place() >= 9).then_some(())
        })
        .await;
        let result = world.submit(at("slow", "one-more", "ok", 5_000)).await;
        assert_eq!(result.unwrap().outcome(), Outcome::Committed, "L3: its seventh of seven");
    }
}
