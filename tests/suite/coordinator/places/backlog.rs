//! Backlog of a participant that comes back: it is sent little by little (promise L3).

use std::time::{Duration, Instant};

use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{Outcome, WaitFor};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::http::http_get;
use super::super::{World, tcc};
use super::{at, on_sqlite, register_as, submit_all};

/// Commits that a participant got.
fn commits(remote: &Scripted) -> usize {
    remote.seen().iter().filter(|seen| seen.operation == "commit").count()
}

/// So many calls have come in the time since then, beside those that may go at once.
#[track_caller]
fn assert_few(calls: usize, at_once: f64, a_second: f64, since: Instant) {
    let elapsed = since.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "a few calls")]
    let few = calls as f64 <= at_once + a_second * elapsed.as_secs_f64();
    assert!(few, "{calls} calls in {elapsed:?}");
}

/// Returns how long 50 transactions of another participant take, the quickest first.
async fn times_of_others(world: &World, name: &str) -> Vec<Duration> {
    let mut times = Vec::new();
    for n in 0..50 {
        let started = Instant::now();
        world.submit(tcc(&format!("{name}-{n}"), &["ok"])).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times
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
    let mut config = on_sqlite();
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
    let (before, since) = (commits(&remote), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let probes = commits(&remote) - before;
    assert_few(probes, 0.0, 10.0, since);
    let undisturbed = times_of_others(&world, "before").await;

    let (before, since) = (commits(&remote), Instant::now());
    remote.set_mood(Mood::Well);
    register_as(&world, "bank", &endpoint, "life-2").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_few(commits(&remote) - before, 64.0, 372.0, since);
    // On a machine with much else to do, everybody's work takes as long, and some of it longer.
    let most = Duration::from_secs(1).max(undisturbed[49] * 3);
    let times = times_of_others(&world, "after").await;
    assert!(times[44] < most, "others' work: {times:?}, and {undisturbed:?} before");
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
    let (before, started) = (commits(&remote), Instant::now());
    while started.elapsed() < Duration::from_secs(2) {
        for instance in ["life-1", "life-2"] {
            register_as(&world, "bank", &endpoint, instance).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_few(commits(&remote) - before, 0.0, 10.0, started);
}

/// Transactions that a start adopts go little by little, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_what_is_adopted_goes_little_by_little() {
    let (p, remote) = (Scripted::default(), Scripted::default());
    let (world, _) = owed(600, &p, &remote, patient()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    remote.set_mood(Mood::Well);
    let (before, since) = (commits(&remote), Instant::now());
    let world = world.crash_and_restart().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The calls under way at the crash come on top.
    assert_few(commits(&remote) - before, 200.0, 372.0, since);
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
    for n in 0..30 {
        let mut request = at("bank", &format!("g{n}"), "working-1000000", 300_000);
        request.wait_for = WaitFor::Accepted.into();
        accepted.push(world.submit(request).await.unwrap().tx_id);
    }
    let many = |from: usize| {
        let remote = &remote;
        async move {
            until("many answers", async || (remote.seen().len() > from + 1_000).then_some(()))
                .await;
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

/// A participant that wants to be asked again in an hour is not asked before, whoever registers: a new replica
/// would be flooded with steps that are under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_what_is_under_way_is_left_alone_by_a_new_instance() {
    let remote = Scripted::default();
    let world = World::start(patient()).await;
    let endpoint = remote.serve().await;
    register_as(&world, "bank", &endpoint, "life-1").await.unwrap();
    for n in 0..100 {
        let mut request = at("bank", &format!("g{n}"), "later-1", 300_000);
        request.wait_for = WaitFor::Accepted.into();
        world.submit(request).await.unwrap();
    }
    until("all to be asked", async || (remote.seen().len() == 100).then_some(())).await;
    // What has failed is sent to it.
    remote.set_mood(Mood::FailingInPhaseOne);
    let mut request = at("bank", "failed", "ok", 300_000);
    request.wait_for = WaitFor::Accepted.into();
    world.submit(request).await.unwrap();
    until("it to be asked", async || (remote.seen().len() > 100).then_some(())).await;
    remote.set_mood(Mood::Well);
    register_as(&world, "bank", &endpoint, "life-2").await.unwrap();
    world.get_until("failed", "its end", |t| t.ended_at.is_some()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let others = remote.seen().iter().filter(|seen| seen.operation == "prepare").count();
    assert!(others < 120, "{others} were asked, and a hundred wanted to be asked later");
}
