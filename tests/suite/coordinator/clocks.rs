//! The system's clock is set while transactions are under way. It aborts nothing, and delays nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use unanimo_coordinator::config::Period;
use unanimo_coordinator::env::{Env, SystemEnv};
use unanimo_core::{Timestamp, TxId};
use unanimo_proto::v1::{BranchSpec, Mode, Outcome, SubmitTransactionRequest, WaitFor};
use unanimo_tests::clock::Clock as ProcessClock;
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::PATIENCE;

use super::http::http_get;
use super::process::Process;
use super::sagas::{accept, saga, step};
use super::{World, branch, config, millis, sqlite_url, tcc, until};
use crate::participant::promoted::one;
use crate::store::execute;

const HOUR_MS: i64 = 60 * 60 * 1000;

/// Clock that can be set either way.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ahead_ms: AtomicI64,
    /// Of the database's clock at a start.
    database_ahead_ms: AtomicI64,
}

impl Clock {
    pub(super) fn set(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }
}

impl Env for Clock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemEnv.now().0.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed)))
    }

    fn of_database(&self, told: Timestamp) -> Timestamp {
        Timestamp(told.0.saturating_add_signed(self.database_ahead_ms.load(Ordering::Relaxed)))
    }

    fn tx_id(&self, now: Timestamp) -> TxId {
        SystemEnv.tx_id(now)
    }
}

async fn start() -> (World, Arc<Clock>) {
    let mut config = config(&sqlite_url());
    config.call_timeout = Period::secs(1);
    config.stalled_after = Period::millis(1_500);
    let clock = Arc::new(Clock::default());
    let world = World::start_at(config, Scripted::default(), Arc::clone(&clock) as _).await;
    (world, clock)
}

/// Calls are sent again, deadlines pass and alarms are raised when they should, whatever the clock says.
#[tokio::test]
async fn l1_nothing_is_delayed_by_a_clock_that_is_set() {
    for jump in [-HOUR_MS, HOUR_MS, -10_000, 10_000, -24 * HOUR_MS] {
        let (world, clock) = start().await;
        let submit = |gid: &str, action: &str, timeout_ms| {
            let mut request = tcc(gid, &[action]);
            request.timeout = millis(timeout_ms);
            let mut client = world.client();
            tokio::spawn(async move {
                let submitted = client.submit_transaction(request);
                let submitted = tokio::time::timeout(PATIENCE, submitted).await;
                submitted.expect("it is decided").unwrap().into_inner().result.unwrap()
            })
        };
        let resent = submit("resent", "fail-9", 20_000);
        let hanging = submit("hanging", "hang-1", 20_000);
        let late = submit("late", "hang", 3_000);
        let stalled = submit("stalled", "commit-hang", 20_000);
        assert_eq!(stalled.await.unwrap().outcome(), Outcome::Committed);
        let started = Instant::now();
        clock.set(jump);
        assert_eq!(resent.await.unwrap().outcome(), Outcome::Committed, "{jump}");
        assert_eq!(hanging.await.unwrap().outcome(), Outcome::Committed, "{jump}");
        let late = late.await.unwrap();
        assert_eq!(late.outcome(), Outcome::Aborted, "{jump}");
        let took = started.elapsed();
        assert!(took > Duration::from_millis(2_000), "{jump}: aborted early, after {took:?}");
        assert!(took < Duration::from_secs(10), "{jump}: {took:?}");
        world.get_until("stalled", "its alarm", |t| t.stalled).await;
        assert!(started.elapsed() < Duration::from_secs(15), "{jump}: {:?}", started.elapsed());
    }
}

/// The process dies, and the next one has another clock: nothing is aborted too soon or too late by it. The third
/// time it is the clock of the earlier life that was ahead, and the fourth time the one of the last purge.
#[tokio::test]
async fn l1_a_restart_with_another_clock_goes_on() {
    for (before, after, last_purge) in
        [(0, HOUR_MS, 0), (0, -HOUR_MS, 0), (HOUR_MS, 0, 0), (0, 0, HOUR_MS)]
    {
        for url in [sqlite_url(), Server::shared().database().await] {
            let mut config = config(&url);
            config.call_timeout = Period::secs(2);
            config.stalled_after = Period::secs(4);
            let clock = Arc::new(Clock::default());
            clock.set(before);
            let env = || -> Arc<dyn Env> { clock.clone() };
            let world = World::start_at(config.clone(), Scripted::default(), env()).await;
            let gid = |name: &str| format!("{name}-{before}-{after}-{last_purge}");
            for (name, action, timeout_ms) in [
                ("open", "hang-3", 60_000),
                ("late", "hang", 8_000),
                ("stalled", "commit-hang", 60_000),
            ] {
                let mut request = tcc(&gid(name), &[action]);
                (request.timeout, request.wait_for) =
                    (millis(timeout_ms), WaitFor::Accepted.into());
                world.submit(request).await.unwrap();
            }
            let began = Instant::now();
            world.get_until(&gid("stalled"), "its decision", |t| t.decided_at.is_some()).await;
            until("the calls", async || (world.p.seen().len() >= 4).then_some(())).await;
            let World { running, p, .. } = world;
            drop(running);
            clock.set(after);
            if last_purge != 0 {
                let last = SystemEnv.now().0.saturating_add_signed(last_purge);
                execute(&url, &format!("UPDATE cluster SET purge_clock_ms = {last}")).await;
            }
            let world = World::start_at(config, p, env()).await;
            let open = world.get_until(&gid("open"), "its end", |t| t.ended_at.is_some()).await;
            assert_eq!(open.outcome(), Outcome::Committed, "{before} {after}");
            world.get_until(&gid("stalled"), "its alarm", |t| t.stalled).await;
            let late = world.get_until(&gid("late"), "its end", |t| t.decided_at.is_some()).await;
            assert_eq!(late.outcome(), Outcome::Aborted, "{before} {after}");
            let took = began.elapsed();
            assert!(took < Duration::from_secs(60), "{before} {after}: {took:?}");
            let alarm = http_get(&world, "/metrics").await.1;
            let line = format!("unanimo_alarms{{alarm=\"clock_skew\"}} {}", u8::from(after != 0));
            // A purge that was done by a clock ahead is an alarm of its own.
            let is_right = last_purge != 0 || alarm.lines().any(|found| found == line);
            assert!(is_right, "{before} {after}: {alarm}");
        }
    }
}

/// Transactions that begin after a start with a database whose clock is far behind go by the own clock, their
/// pauses too.
#[tokio::test]
async fn l1_what_begins_beside_a_database_that_is_behind_is_not_late() {
    let clock = Arc::new(Clock::default());
    clock.database_ahead_ms.store(-2 * HOUR_MS, Ordering::Relaxed);
    let env = Arc::clone(&clock) as _;
    let world = World::start_at(config(&sqlite_url()), Scripted::default(), env).await;
    // Longer than the five seconds after which a sleeper leaves memory: no scan would bring it back in time.
    let second = BranchSpec { delay: millis(7_000), ..step("b", "ok", &["a"]) };
    let request = SubmitTransactionRequest {
        timeout: millis(50_000),
        ..saga("g", vec![step("a", "ok", &[]), second])
    };
    let before = SystemEnv.now();
    accept(&world, request).await;
    let ended = world.get_until("g", "its end", |tx| tx.ended_at.is_some()).await;
    assert_eq!(ended.outcome(), Outcome::Committed, "{ended:?}");
    let created = ended.created_at.unwrap().seconds;
    assert!(created >= i64::try_from(before.0 / 1000).unwrap(), "{created} is before {before:?}");
}

/// The clock of the database is used for the purge and at a start: set by an hour while transactions are under way, it aborts
/// and delays none, and the alarm tells that the clocks differ. What began before it is still there afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_nothing_is_delayed_by_a_database_whose_clock_is_set() {
    let clock = ProcessClock::new();
    let server = tokio::task::block_in_place(|| Server::with_clock(&clock));
    let url = server.database().await;
    let mut config = config(&url);
    config.call_timeout = Period::secs(1);
    config.stalled_after = Period::millis(1_500);
    config.purge_interval = Period::millis(200);
    let world = World::start(config).await;
    for (n, jump) in [-3600, 3600].into_iter().enumerate() {
        let submit = |name: &str, action: &str, timeout_ms| {
            let mut request = tcc(&format!("{name}-{n}"), &[action]);
            request.timeout = millis(timeout_ms);
            let mut client = world.client();
            tokio::spawn(async move {
                let submitted = client.submit_transaction(request);
                let submitted = tokio::time::timeout(PATIENCE, submitted).await;
                submitted.expect("it is decided").unwrap().into_inner().result.unwrap()
            })
        };
        let stalled = submit("stalled", "commit-hang", 20_000);
        assert_eq!(stalled.await.unwrap().outcome(), Outcome::Committed);
        let (resent, late) = (submit("resent", "fail-9", 20_000), submit("late", "hang", 3_000));
        let started = Instant::now();
        clock.set_off_by(jump);
        // The test is of nothing as long as the database has not followed.
        let seconds = "SELECT extract(epoch FROM clock_timestamp())::int8";
        until("the database's clock to be set", async || {
            let own = i64::try_from(SystemEnv.now().0 / 1000).unwrap();
            ((one(&url, seconds).await - own - jump).abs() < 100).then_some(())
        })
        .await;
        assert_eq!(resent.await.unwrap().outcome(), Outcome::Committed, "{jump}");
        assert_eq!(late.await.unwrap().outcome(), Outcome::Aborted, "{jump}");
        assert!(started.elapsed() > Duration::from_secs(2), "{jump}: aborted early");
        assert!(started.elapsed() < Duration::from_secs(20), "{jump}: {:?}", started.elapsed());
        world.get_until(&format!("stalled-{n}"), "its alarm", |t| t.stalled).await;
        until("the alarm", async || {
            let metrics = http_get(&world, "/metrics").await.1;
            let line = "unanimo_alarms{alarm=\"clock_skew\"} 1";
            metrics.lines().any(|found| found == line).then_some(())
        })
        .await;
        let new = world.submit(tcc(&format!("new-{n}"), &["ok"])).await.unwrap();
        assert_eq!(new.outcome(), Outcome::Committed, "{jump}");
        assert_eq!(world.get(&format!("late-{n}")).await.outcome(), Outcome::Aborted, "{jump}");
        clock.set_off_by(0);
    }
}

/// A transaction that begins after the clock was set is no other: its deadline is so far ahead as it should be, by the
/// clocks of participants, which were not set.
#[tokio::test]
async fn what_begins_after_a_jump_keeps_the_time_of_day() {
    for jump in [-HOUR_MS, HOUR_MS] {
        let (world, clock) = start().await;
        world.submit(tcc("before", &["ok"])).await.unwrap();
        clock.set(jump);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = world.begin("g", Mode::Tcc).await.unwrap();
        let deadline = begun.deadline.unwrap();
        let ahead = deadline.seconds - i64::try_from(SystemEnv.now().0 / 1000).unwrap();
        assert!((18..=21).contains(&ahead), "{jump}: {ahead} s");
        world.execute(&begun.tx_id, branch("a", "fail-3")).await.unwrap();
        let listed = [("a", unanimo_proto::v1::Vote::Unspecified)];
        let committed = world.commit(&begun.tx_id, &listed).await.unwrap();
        assert_eq!(committed.outcome(), Outcome::Committed, "{jump}");
    }
}

/// Nothing that is to start next week starts because the clock was wrong for a moment, in memory or not, and begun
/// before or meanwhile.
#[tokio::test]
async fn a_clock_that_is_ahead_for_a_moment_starts_nothing() {
    for url in [sqlite_url(), Server::shared().database().await] {
        let clock = Arc::new(Clock::default());
        let env = Arc::clone(&clock) as _;
        let world = World::start_at(config(&url), Scripted::default(), env).await;
        let now = i64::try_from(SystemEnv.now().0 / 1000).unwrap();
        let later = |gid: &str, secs: i64, at: bool| {
            let (delay, time) =
                (millis(secs * 1000), prost_types::Timestamp { seconds: now + secs, nanos: 0 });
            SubmitTransactionRequest {
                start_delay: delay.filter(|_| !at),
                start_at: at.then_some(time),
                wait_for: WaitFor::Accepted.into(),
                ..tcc(gid, &["ok"])
            }
        };
        let all = |when: &str| {
            let mut requests = Vec::new();
            for (what, secs) in [("week", 7 * 24 * 3600), ("hours", 2 * 3600), ("soon", 600)] {
                for at in [true, false] {
                    requests.push(later(&format!("{when}-{what}-{at}"), secs, at));
                }
            }
            requests
        };
        for request in all("before") {
            world.submit(request).await.unwrap();
        }
        clock.set(8 * 24 * HOUR_MS);
        for request in all("meanwhile") {
            world.submit(request).await.unwrap();
        }
        // Longer than two scans.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.p.seen(), [], "what starts next week was started");
        clock.set(0);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(world.p.seen(), []);
        for (gid, ahead) in
            [("before-week-true", 7 * 24 * 3600), ("meanwhile-week-false", 7 * 24 * 3600)]
        {
            let start = world.get(gid).await.start_at.unwrap().seconds;
            assert!((start - now - ahead).abs() < 30, "{gid}: {} s", start - now);
        }
    }
}

/// Sleepers leave memory, and what is due soon stays there and is sent, whatever the clock says for a moment.
#[tokio::test]
async fn l5_a_clock_that_is_wrong_for_a_moment_keeps_no_sleeper_and_wakes_none() {
    for jump in [-24 * HOUR_MS, 8 * 24 * HOUR_MS] {
        let (world, clock) = start().await;
        clock.set(jump);
        let two = |gid: &str, second: BranchSpec| SubmitTransactionRequest {
            timeout: millis(24 * HOUR_MS),
            ..saga(gid, vec![step("a", "ok", &[]), second])
        };
        let delayed = |ms| BranchSpec { delay: millis(ms), ..step("b", "ok", &["a"]) };
        accept(&world, two("far", delayed(12 * HOUR_MS))).await;
        super::until("the sleeper to leave memory", async || {
            (world.running.engine().in_flight().0 == 0 && world.p.seen().len() == 1).then_some(())
        })
        .await;
        let near = accept(&world, two("near", delayed(10 * 60 * 1000))).await;
        // Longer than two scans.
        for _ in 0..25 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(world.running.engine().in_flight().0, 1, "{jump}");
        }
        let shown = world.get("near").await;
        assert!(shown.timeline.iter().all(|line| line.event != "adopted"), "{:?}", shown.timeline);
        world.rollback(&near).await.unwrap();

        let at = i64::try_from(SystemEnv.now().0 / 1000).unwrap() + 3;
        let at = prost_types::Timestamp { seconds: at, nanos: 0 };
        let soon = BranchSpec { start_at: Some(at), ..step("b", "ok", &["a"]) };
        let request = SubmitTransactionRequest { timeout: millis(10_000), ..two("soon", soon) };
        let result = world.submit(request).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed, "{jump}");
    }
}

/// Transactions that start while the clock is behind have a deadline that lies ahead by the clocks of participants, which
/// were not set, and start when they should.
#[tokio::test]
async fn what_starts_by_a_clock_that_is_behind_is_not_late() {
    for jump in [-HOUR_MS, HOUR_MS, -24 * HOUR_MS] {
        for before in [true, false] {
            let (world, clock) = start().await;
            let now = || i64::try_from(SystemEnv.now().0).unwrap();
            if !before {
                clock.set(jump);
            }
            let began = now();
            let at = began + 1_500;
            let nanos = i32::try_from(at % 1000).unwrap() * 1_000_000;
            let start_at = Some(prost_types::Timestamp { seconds: at / 1000, nanos });
            for request in [
                SubmitTransactionRequest {
                    start_delay: millis(1_500),
                    ..tcc("delay", &["fail-3"])
                },
                SubmitTransactionRequest { start_at, ..tcc("at", &["fail-3"]) },
            ] {
                let request =
                    SubmitTransactionRequest { wait_for: WaitFor::Accepted.into(), ..request };
                world.submit(request).await.unwrap();
            }
            clock.set(jump);
            for gid in ["delay", "at"] {
                let shown = world.get_until(gid, "its end", |t| t.ended_at.is_some()).await;
                assert_eq!(shown.outcome(), Outcome::Committed, "{jump} {before} {gid}");
                let deadline = shown.deadline.unwrap().seconds * 1000;
                let ahead = deadline - began;
                assert!((19_000..=24_000).contains(&ahead), "{jump} {before} {gid}: {ahead} ms");
            }
            let took = now() - began;
            assert!((1_400..10_000).contains(&took), "{jump} {before}: {took} ms");
        }
    }
}

/// The same with a real process, whose clock a library sets.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_process_whose_clock_is_set_goes_on() {
    for jump in [-3600, 3600] {
        let clock = ProcessClock::new();
        let mut environment = clock.variables();
        // It is set while transactions are under way, and not up to a second later.
        environment.push(("FAKETIME_NO_CACHE", "1".to_owned()));
        let more = ["--call-timeout=1s", "--stalled-after=2s"].map(str::to_owned);
        let process = Process::start_with(&sqlite_url(), &more, &environment).await;
        let submit = |gid: &str, action: &str, timeout_ms| {
            let mut request = tcc(gid, &[action]);
            request.timeout = millis(timeout_ms);
            let mut client = process.client();
            tokio::spawn(async move {
                let submitted = client.submit_transaction(request);
                let submitted = tokio::time::timeout(PATIENCE, submitted).await;
                submitted.expect("it is decided").unwrap().into_inner().result.unwrap()
            })
        };
        let hanging = submit("hanging", "hang-2", 20_000);
        let late = submit("late", "hang", 4_000);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let started = Instant::now();
        clock.set_off_by(jump);
        let resent = submit("resent", "fail-9", 20_000);
        assert_eq!(resent.await.unwrap().outcome(), Outcome::Committed, "{jump}");
        assert_eq!(hanging.await.unwrap().outcome(), Outcome::Committed, "{jump}");
        assert_eq!(late.await.unwrap().outcome(), Outcome::Aborted, "{jump}");
        let took = started.elapsed();
        assert!(
            took > Duration::from_secs(3) && took < Duration::from_secs(12),
            "{jump}: {took:?}"
        );
        let request = unanimo_proto::v1::BeginTransactionRequest {
            gid: "begun".into(),
            mode: Mode::Tcc.into(),
            ..Default::default()
        };
        let begun = process.client().begin_transaction(request).await;
        let deadline = begun.unwrap().into_inner().deadline.unwrap().seconds;
        let ahead = deadline - i64::try_from(SystemEnv.now().0 / 1000).unwrap();
        assert!((55..=61).contains(&ahead), "{jump}: {ahead} s");
    }
}
