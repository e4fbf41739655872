//! The end of a coordinator that is embedded in a process which goes on.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use unanimo_coordinator::Config;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{Mode, Outcome, SubmitTransactionRequest, Vote, WaitFor};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::{PATIENCE, until};

use super::http::{first_event, http_call};
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

/// A stop in good order waits for what is under way over HTTP, as for gRPC: a stream is read to its end, and a call that
/// waits has as long as the last requests may take. Then its connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_what_is_under_way_over_http() {
    const DRAIN: Duration = Duration::from_millis(200);
    const LAST_REQUESTS: Duration = Duration::from_secs(1);
    let mut config = config(&sqlite_url());
    config.drain_timeout = Period(DRAIN);
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    world.p.hold(true);
    let body = serde_json::json!({
        "gid": "held", "mode": "MODE_TCC", "waitFor": "WAIT_FOR_ENDED",
        "branches": [{"branchId": "a", "participant": "p", "action": "ok"}],
    });
    let body = body.to_string();
    let head = format!(
        "POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut waiting = TcpStream::connect(address).await.unwrap();
    waiting.write_all(head.as_bytes()).await.unwrap();
    until("the transaction", async || {
        let reply = http_call(address, "GET", "/v1/transactions/held", &[], b"").await;
        (reply.code == 200).then_some(())
    })
    .await;
    let (event, mut events) = first_event(address, "/v1/transactions/held:watch", &[]).await;
    assert_eq!(event.code, 200, "{event:?}");
    let began = Instant::now();
    let World { running, p, .. } = world;
    let reading = tokio::spawn(async move {
        let mut rest = String::new();
        events.read_to_string(&mut rest).await.map(|_| rest)
    });
    running.stop().await.unwrap();
    let took = began.elapsed();
    assert!(took >= DRAIN + LAST_REQUESTS, "nobody waited for the call: {took:?}");
    let rest = reading.await.unwrap().expect("the stream ends in good order");
    assert!(rest.contains("event: error\n") && rest.contains("STOPPED"), "{rest}");
    assert!(rest.ends_with("0\r\n\r\n"), "it is cut off: {rest}");
    let closed = tokio::time::timeout(PATIENCE, waiting.read_to_end(&mut Vec::new())).await;
    closed.expect("the connection is closed").ok();
    p.hold(false);
}
