//! Several endpoints of one participant: the work is spread, and one that fails is passed over.

use std::time::{Duration, Instant};

use unanimo_coordinator::config::Period;
use unanimo_proto::v1::Outcome;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::World;
use super::{at, dead_endpoint, endpoints, leave, on_sqlite, register_as, submit_all};

/// Three replicas of `bank`.
async fn three(world: &World) -> ([Scripted; 3], Vec<String>) {
    let replicas = [Scripted::default(), Scripted::default(), Scripted::default()];
    let mut addresses = Vec::new();
    for (n, replica) in replicas.iter().enumerate() {
        let endpoint = replica.serve().await;
        register_as(world, "bank", &endpoint, &format!("life-{n}")).await.unwrap();
        addresses.push(endpoint);
    }
    (replicas, addresses)
}

fn prepares(replica: &Scripted) -> usize {
    replica.seen().iter().filter(|seen| seen.operation == "prepare").count()
}

#[tokio::test]
async fn work_is_spread_over_replicas() {
    let world = World::start(on_sqlite()).await;
    let (replicas, _) = three(&world).await;
    for n in 0..150 {
        let result = world.submit(at("bank", &format!("g{n}"), "ok", 10_000)).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
    }
    let counts = replicas.each_ref().map(prepares);
    assert!(counts.iter().all(|count| *count >= 25), "{counts:?}");
}

/// Those that meet the one that hangs wait for one call's timeout; all others never notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_one_replica_that_hangs_is_passed_over() {
    let mut config = on_sqlite();
    config.call_timeout = Period::secs(3);
    let world = World::start(config).await;
    let (replicas, _) = three(&world).await;
    replicas[1].set_mood(Mood::Hanging);
    let many =
        |what: &'static str| (0..32).map(move |n| at("bank", &format!("{what}{n}"), "ok", 20_000));
    let took = submit_all(&world, many("first")).await;
    assert!(took.iter().all(|(a, _)| a.as_ref().unwrap().outcome() == Outcome::Committed));
    let quick = took.iter().filter(|(_, took)| *took < Duration::from_secs(2)).count();
    assert!(quick >= 16, "{quick} of 32 were quick");
    // It is known by now: whoever tries it again, it is one at a time.
    let took = submit_all(&world, many("second")).await;
    assert!(took.iter().all(|(a, _)| a.as_ref().unwrap().outcome() == Outcome::Committed));
    let quick = took.iter().filter(|(_, took)| *took < Duration::from_secs(2)).count();
    assert!(quick >= 31, "{quick} of 32 were quick");
}

/// A resend goes to another instance than the one that failed.
#[tokio::test]
async fn a_resend_prefers_another_instance() {
    let world = World::start(on_sqlite()).await;
    let (replicas, _) = three(&world).await;
    replicas[0].set_mood(Mood::Failing);
    for n in 0..30 {
        let result = world.submit(at("bank", &format!("g{n}"), "ok", 10_000)).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        for replica in &replicas {
            let calls = replica.calls(&result.tx_id, "a");
            let prepares = calls.iter().filter(|call| **call == "prepare").count();
            assert!(prepares <= 1, "{calls:?}");
        }
    }
}

/// Endpoints at which nobody listens cost no attempt: the call goes on to the next one.
#[tokio::test]
async fn dead_endpoints_cost_a_moment_only() {
    let world = World::start(on_sqlite()).await;
    for n in 0..100 {
        register_as(&world, "bank", &dead_endpoint(), &format!("dead-{n}")).await.unwrap();
    }
    let living = Scripted::default();
    register_as(&world, "bank", &living.serve().await, "living").await.unwrap();
    let mut took = Vec::new();
    for n in 0..20 {
        let started = Instant::now();
        let result = world.submit(at("bank", &format!("g{n}"), "ok", 10_000)).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed, "none lasted until its deadline");
        took.push(started.elapsed());
    }
    // One of them may have met a busy machine.
    took.sort();
    assert!(took[15] < Duration::from_secs(1), "{took:?}");
}

/// A replica that leaves while calls are under way answers them; others take what comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_under_way_outlive_the_registration() {
    let world = World::start(on_sqlite()).await;
    let (replicas, addresses) = three(&world).await;
    replicas.iter().for_each(|replica| replica.set_mood(Mood::Slow(300)));
    let requests = (0..30).map(|n| at("bank", &format!("g{n}"), "ok", 10_000));
    let leaving = async {
        until("calls", async || (prepares(&replicas[0]) > 0).then_some(())).await;
        leave(&world, "bank", &addresses[0], "life-0").await;
    };
    let (answered, ()) = tokio::join!(submit_all(&world, requests), leaving);
    assert!(answered.iter().all(|(a, _)| a.as_ref().unwrap().outcome() == Outcome::Committed));
    let resent = replicas.iter().map(prepares).sum::<usize>();
    assert_eq!(resent, 30, "none was sent again");
    assert_eq!(endpoints(&world, "bank").await.len(), 2);
}
