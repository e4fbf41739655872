//! Endpoints and instances over restarts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unanimo_coordinator::config::Period;
use unanimo_proto::v1::Outcome;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

use super::super::sagas::times::Clock;
use super::super::{World, describe};
use super::{at, dead_endpoint, endpoints, leave, on_both, register_as};

/// Behind one address there may be several instances: one that leaves takes only itself, also after a
/// restart.
#[tokio::test]
async fn one_instance_that_leaves_takes_only_itself() {
    for config in on_both().await {
        let mut world = World::start(config).await;
        let balanced = Scripted::default();
        let endpoint = balanced.serve().await;
        for instance in ["one", "two", "three"] {
            register_as(&world, "bank", &endpoint, instance).await.unwrap();
        }
        leave(&world, "bank", &endpoint, "three").await;
        let result = world.submit(at("bank", "g1", "ok", 5_000)).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        world = world.crash_and_restart().await;
        leave(&world, "bank", &endpoint, "one").await;
        leave(&world, "bank", &endpoint, "stranger").await;
        assert_eq!(endpoints(&world, "bank").await.len(), 1);
        let result = world.submit(at("bank", "g2", "ok", 5_000)).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        leave(&world, "bank", &endpoint, "two").await;
        assert!(endpoints(&world, "bank").await.is_empty());
        let status = world.submit(at("bank", "g3", "ok", 5_000)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        world = world.crash_and_restart().await;
        assert!(endpoints(&world, "bank").await.is_empty());
    }
}

/// An endpoint that was gone before a restart is gone after it: 300 dead endpoints do not hold up the one that lives.
#[tokio::test]
async fn a_restart_believes_nobody_alive_who_was_gone() {
    for mut config in on_both().await {
        config.keep_alive_interval = Period::secs(5);
        let clock = Arc::new(Clock::default());
        let p = Scripted::default();
        let world = World::start_at(config.clone(), p.clone(), Arc::clone(&clock) as _).await;
        let dead = dead_endpoint();
        let port: u16 = dead.rsplit_once(':').unwrap().1.parse().unwrap();
        for n in 0..200 {
            // Addresses of their own, at which nobody listens.
            let endpoint = format!("http://127.1.{}.{}:{port}", n / 100, 1 + n % 100);
            register_as(&world, "bank", &endpoint, &format!("dead-{n}")).await.unwrap();
        }
        clock.set_ahead(60_000);
        let living = Scripted::default();
        let address = living.serve().await;
        register_as(&world, "bank", &address, "living").await.unwrap();
        drop(world);
        clock.set_ahead(90_000);
        let world = World::start_at(config, p, Arc::clone(&clock) as _).await;
        let listed = endpoints(&world, "bank").await;
        let alive: Vec<_> = listed.iter().filter(|endpoint| endpoint.alive).collect();
        assert_eq!(alive.len(), 1, "it was alive when the coordinator stopped");
        assert_eq!(alive[0].endpoint, address);
        for n in 0..10 {
            let started = Instant::now();
            let result = world.submit(at("bank", &format!("g{n}"), "ok", 5_000)).await.unwrap();
            assert_eq!(result.outcome(), Outcome::Committed);
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        }
    }
}

/// An address of which nothing was heard for long may be somebody else's: it is forgotten, in the store,
/// too.
#[tokio::test]
async fn what_is_long_gone_is_forgotten() {
    for mut config in on_both().await {
        config.keep_alive_interval = Period::millis(20);
        let world = World::start(config).await;
        register_as(&world, "bank", &dead_endpoint(), "life").await.unwrap();
        assert_eq!(endpoints(&world, "bank").await.len(), 1);
        let is_empty = async || endpoints(&world, "bank").await.is_empty().then_some(());
        until("it to be forgotten", is_empty).await;
        let status = world.submit(at("bank", "g", "ok", 5_000)).await.unwrap_err();
        assert_eq!(describe(&status).1, "PARTICIPANT_GONE", "its name is known");
        let world = world.crash_and_restart().await;
        assert!(endpoints(&world, "bank").await.is_empty());
    }
}
