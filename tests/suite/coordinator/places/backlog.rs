//! Backlog of a participant that comes back: it is sent little by little (promise L3).

use std::time::{Duration, Instant};

use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{Outcome, WaitFor};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::http::http_get;
use super::super::{World, config, sqlite_url, tcc};
use super::{at, register_as, submit_all};

/// Commits that a participant got.
fn commits(remote: &Scripted) -> usize {
    remote.seen().iter().filter(|seen| seen.operation == "commit").count()
}

/// A world in which so many Commits are owed to `bank`, which fails.
async fn owed(
    count: usize,
    p: &Scripted,
    remote: &Scripted,
    config: unanimo_coordinator::Config,
) -> (World, String) {
    let world = World::start_with(config, p.clone()).await;
    let endpoint = remote.serve().await;
    register_as(&world, "bank", &endpoint, "life-1").await.unwrap();
    // Until they are all decided Commits wait, and nobody knows that they will fail.
    remote.hold(true);
    let requests = (0..count).map(|n| at("bank", &format!("g{n}"), "ok", 30_000));
    for (answered, _) in submit_all(&world, requests).await {
        assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
    }
    remote.set_mood(Mood::FailingInPhaseTwo);
    remote.hold(false);
    (world, endpoint)
}

fn patient() -> unanimo_coordinator::Config {
    let mut config = config(&sqlite_url());
    config.call_timeout = Period::secs(20);
    config.phase_two_backoff = Period::millis(100);
    config.phase_two_backoff_max = Period::millis(500);
    config.transactions_max = 2_000;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_what_is_owed_goes_little_by_little() {
    let (p, remote) = (Scripted::default(), Scripted::default());
    let (world, endpoint) = owed(600, &p, &remote, patient()).await;
    // All of them have failed once, and wait.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = commits(&remote);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let probes = commits(&remote) - before;
    assert!(probes <= 10, "{probes} calls in a second, to a participant that fails");

    let before = commits(&remote);
    remote.set_mood(Mood::Well);
    register_as(&world, "bank", &endpoint, "life-2").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let first = commits(&remote) - before;
    assert!(first <= 250, "{first} calls in half a second");
    let mut slowest = Duration::ZERO;
    for n in 0..50 {
        let started = Instant::now();
        world.submit(tcc(&format!("other-{n}"), &["ok"])).await.unwrap();
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "another participant's work took {slowest:?}");
    until("memory to be empty", async || (world.running.engine().in_flight().0 == 0).then_some(()))
        .await;
}

/// Instances that register in turn behind one address are no return: what is owed does not go out with each
/// registration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_instances_that_register_in_turn_are_no_return() {
    let (p, remote) = (Scripted::default(), Scripted::default());
    let (world, endpoint) = owed(300, &p, &remote, patient()).await;
    register_as(&world, "bank", &endpoint, "life-2").await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = commits(&remote);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        for instance in ["life-1", "life-2"] {
            register_as(&world, "bank", &endpoint, instance).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let calls = commits(&remote) - before;
    assert!(calls <= 20, "{calls} calls in two seconds");
}

/// Transactions that a start adopts go little by little, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_what_is_adopted_goes_little_by_little() {
    let (p, remote) = (Scripted::default(), Scripted::default());
    let (world, _) = owed(600, &p, &remote, patient()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    remote.set_mood(Mood::Well);
    let before = commits(&remote);
    let world = world.crash_and_restart().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let first = commits(&remote) - before;
    assert!(first <= 400, "{first} calls in half a second");
    until("memory to be empty", async || (world.running.engine().in_flight().0 == 0).then_some(()))
        .await;
}

/// Tells whether calls wait for the participant, as the metrics have it.
async fn is_waited_for(world: &World, name: &str) -> bool {
    let (_, metrics) = http_get(world, "/metrics").await;
    let series = format!("unanimo_participant_calls_waiting{{participant=\"{name}\"}}");
    metrics.lines().any(|line| line.strip_prefix(&series).is_some_and(|count| count.trim() != "0"))
}

/// WORKING is an answer: what is asked for again is no backlog, and does not wait however much of it there is.
/// So it is after a start, once what was adopted is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_participant_that_works_is_asked_as_often_as_it_wants() {
    let remote = Scripted::default();
    let world = World::start(patient()).await;
    register_as(&world, "bank", &remote.serve().await, "life-1").await.unwrap();
    let mut accepted = Vec::new();
    for n in 0..60 {
        let mut request = at("bank", &format!("g{n}"), "working-1000000", 60_000);
        request.wait_for = WaitFor::Accepted.into();
        accepted.push(world.submit(request).await.unwrap().tx_id);
    }
    let many = |from: usize| {
        let remote = &remote;
        async move {
            until("many answers", async || (remote.seen().len() > from + 1_000).then_some(())).await
        }
    };
    let never_waits = async |world: &World| {
        let from = remote.seen().len();
        while remote.seen().len() < from + 1_000 {
            assert!(!is_waited_for(world, "bank").await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    many(0).await;
    never_waits(&world).await;
    let from = remote.seen().len();
    let world = world.crash_and_restart().await;
    let asked_again = |tx_id: &String| {
        remote.seen().iter().skip(from).filter(|seen| seen.tx_id == *tx_id).count() >= 3
    };
    until("all to be asked again", async || accepted.iter().all(asked_again).then_some(())).await;
    never_waits(&world).await;
}
