//! Many transactions in flight, and a process that is killed.

use std::fmt;
use std::time::{Duration, Instant};

use unanimo_proto::v1::{Outcome, WaitFor};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Mood;

use super::http::http_call;
use super::process::Process;
use super::{millis, sqlite_url, tcc};

/// Requests under way at once.
const AT_ONCE: usize = 64;

/// Longest time in which all of them are back.
const BACK_MAX: Duration = Duration::from_secs(10);

/// Times of a recovery, from the start of the next process on.
struct Recovery {
    /// Until it serves.
    serves: Duration,
    /// Until all are its own, and in memory.
    back: Duration,
    /// Until a new transaction is committed that was begun as soon as it served.
    new: Duration,
    /// Until all have ended.
    ended: Duration,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { serves, back, new, ended } = self;
        write!(
            f,
            "it serves after {serves:.2?}, all are back after {back:.2?}, a new one is committed after {new:.2?}, "
        )?;
        write!(f, "and all have ended after {ended:.2?}")
    }
}

/// Value of a metric; nothing while there is none.
async fn metric(process: &Process, name: &str) -> Option<usize> {
    let metrics = http_call(process.admin_address(), "GET", "/metrics", &[], b"").await.body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// Waits until a metric has this value, or as much again as `patience`.
async fn until_metric(process: &Process, name: &str, wanted: usize, patience: Duration) {
    let started = Instant::now();
    loop {
        let found = metric(process, name).await;
        if found == Some(wanted) {
            return;
        }
        assert!(started.elapsed() < patience, "{name}: {found:?} instead of {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Begins so many transactions of two branches, whose participant answers nothing; kills the process; and starts it again
/// with a participant that answers.
async fn recover(url: &str, count: usize) -> Recovery {
    let places = (2 * count).to_string();
    let arguments =
        [["--transactions-max", &places], ["--participant-share", "100"], ["--call-timeout", "5m"]];
    let arguments: Vec<String> = arguments.as_flattened().iter().map(ToString::to_string).collect();
    let mut process = Process::start(url, &arguments).await;
    process.p.set_mood(Mood::Hanging);
    let mut submits = tokio::task::JoinSet::new();
    for n in 0..count {
        let mut client = process.client();
        let mut request = tcc(&format!("flight-{n}"), &["ok", "ok"]);
        (request.timeout, request.wait_for) = (millis(3_600_000), WaitFor::Accepted.into());
        submits.spawn(async move { client.submit_transaction(request).await.unwrap() });
        if submits.len() >= AT_ONCE {
            submits.join_next().await.unwrap().unwrap();
        }
    }
    submits.join_all().await;
    assert_eq!(metric(&process, "unanimo_transactions_live ").await, Some(count), "all in flight");
    process.kill();
    drop(process);

    let started = Instant::now();
    let process = Process::start(url, &arguments).await;
    let serves = started.elapsed();
    let mut client = process.client();
    let begun = tokio::spawn(async move {
        let new = client.submit_transaction(tcc("new", &["ok", "ok"])).await.unwrap();
        assert_eq!(new.into_inner().result.unwrap().outcome(), Outcome::Committed);
        started.elapsed()
    });
    until_metric(&process, "unanimo_adopted_total ", count, 60 * BACK_MAX).await;
    let back = started.elapsed();
    let new = begun.await.unwrap();
    until_metric(&process, "unanimo_transactions_live ", 0, 120 * BACK_MAX).await;
    let ended = started.elapsed();
    for n in [0, count / 2, count - 1] {
        let mut again = tcc(&format!("flight-{n}"), &["ok", "ok"]);
        again.timeout = millis(3_600_000);
        let again = process.client().submit_transaction(again).await.unwrap().into_inner();
        assert_eq!(again.result.unwrap().outcome(), Outcome::Committed);
    }
    Recovery { serves, back, new, ended }
}

/// L1: what is in flight is back after a kill, all of it, ends as it was to end, and new work is served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_what_is_in_flight_is_back_after_a_kill() {
    for url in [Server::shared().database().await, sqlite_url()] {
        let recovery = recover(&url, 1_000).await;
        // How long it takes is measured below: here other tests have the processor.
        assert!(recovery.back <= recovery.ended, "{url}: {recovery}");
    }
}

/// The same with 100,000, on PostgreSQL; prints the times. `TEST_IN_FLIGHT` sets their number, and `TEST_STORE=sqlite`
/// the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and measures: TEST_IN_FLIGHT sets the number"]
#[expect(clippy::print_stdout, reason = "it measures, for a person")]
async fn l2_very_many_in_flight_are_back_soon_after_a_kill() {
    let count = std::env::var("TEST_IN_FLIGHT").map_or(100_000, |n| n.parse().unwrap());
    // It runs as long as this is held.
    let server = Server::durable();
    let url = match std::env::var("TEST_STORE").as_deref() {
        Ok("sqlite") => sqlite_url(),
        _ => server.database().await,
    };
    let recovery = recover(&url, count).await;
    println!("{count} in flight: {recovery}");
    assert!(recovery.back < BACK_MAX, "{recovery}");
}
