//! The end of a coordinator that is embedded in a process which goes on.

use std::time::Duration;

use unanimo_coordinator::Config;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{Mode, Outcome, SubmitTransactionRequest, Vote, WaitFor};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::participants::register;
use super::places::{at, submit_all};
use super::{World, branch, config, sqlite_url, tcc};

/// S5: nothing is sent by a coordinator that has stopped, or that was dropped: neither what waits for a slot nor what
/// waits for a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_nothing_is_sent_after_a_stop() {
    for (mood, stops) in [(Mood::Hanging, true), (Mood::Slow(700), true), (Mood::Slow(700), false)]
    {
        let mut config = config(&sqlite_url());
        config.lease = Period::secs(15);
        config.drain_timeout = Period::millis(200);
        config.participant_slots = 2;
        config.call_timeout = Period::secs(1);
        let world = World::start(config).await;
        let remote = Scripted::default();
        register(&world, "bank", &remote.serve().await).await;
        remote.set_mood(mood);
        let accepted = (0..20).map(|n| SubmitTransactionRequest {
            wait_for: WaitFor::Accepted.into(),
            ..at("bank", &format!("g{n}"), "ok", 60_000)
        });
        // The last ones may find out that it hangs.
        let accepted = submit_all(&world, accepted).await;
        assert!(accepted.iter().filter(|(answered, _)| answered.is_ok()).count() > 5);
        until("the slots to be full", async || (remote.seen().len() >= 2).then_some(())).await;
        match stops {
            true => world.running.stop().await.unwrap(),
            false => drop(world.running),
        }
        // What was on its way has arrived.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = remote.seen().len();
        assert!(before < 20, "{before}: the others wait for a slot");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(remote.seen().len(), before, "{mood:?}: calls went on after the stop");
    }
}

/// A stop in good order hands over: the next node, of whatever name, takes the transactions at once, and waits for no
/// lease.
#[tokio::test]
async fn l2_a_graceful_stop_hands_over_at_once() {
    let url = Server::shared().database().await;
    let mut first = config(&url);
    first.lease = Period::secs(60);
    first.drain_timeout = Period::millis(100);
    let world = World::start(first.clone()).await;
    let open = world.begin("open", Mode::Tcc).await.unwrap().tx_id;
    world.execute(&open, branch("a", "ok")).await.unwrap();
    world.p.hold(true);
    world.submit(tcc("decided", &["ok"])).await.unwrap();
    let World { running, p, .. } = world;
    running.stop().await.unwrap();
    p.hold(false);
    let started = std::time::Instant::now();
    let world = World::start_with(Config { node: "two".parse().unwrap(), ..first }, p).await;
    // The first request for it may come before its adoption.
    let result = world.commit(&open, &[("a", Vote::Unspecified)]).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    let shown = world.get_until("decided", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(shown.outcome(), Outcome::Committed);
    assert!(started.elapsed() < Duration::from_secs(20), "L2: {:?}", started.elapsed());
}
