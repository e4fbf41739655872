//! A standby of a participant's database that is promoted under load.
//!
//! With synchronous replication no promise is broken. With asynchronous replication votes are lost, and each
//! Commit that comes for one is a hazard. What had ended before is the subject of `promoted_losses`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use unanimo_proto::v1::{Heuristic, Mode, Outcome as Decided, RetryTransactionRequest};
use unanimo_sdk::client::Heuristic as Deviation;
use unanimo_sdk::{Client, Outcome, Participant, PostgresOptions, Serve};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::deaf::Ears;
use super::over::{self, Database};
use super::promoted_losses::{Rows, each_is_told};
use super::sweeper::{Reserve, World, Write, eager};
use crate::coordinator::tcc;

/// Initiators at once.
const INITIATORS: usize = 8;

const COMMITTED: &str = "SELECT count(*) FROM unanimo_barrier WHERE state = 'committed'";

pub(crate) async fn one(url: &str, question: &str) -> i64 {
    let mut raw = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(question.to_owned())).fetch_one(&mut raw).await.unwrap()
}

/// Starts or stops a server beside the test's own thread: the coordinator runs on that, and would lose its lease.
pub(crate) async fn apart<T: Send + 'static>(server: &Arc<Server>, act: fn(&Server) -> T) -> T {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || act(&server)).await.unwrap()
}

/// A primary with a standby that follows it, and the address of a database on both.
pub(crate) async fn pair() -> (Arc<Server>, Arc<Server>, String, String) {
    let primary = tokio::task::spawn_blocking(Server::start).await.map(Arc::new).unwrap();
    let url = primary.database().await;
    let name = url.rsplit('/').next().unwrap().to_owned();
    let pool = PgPool::connect(&url).await.unwrap();
    pool.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let standby = Arc::new(apart(&primary, Server::standby).await);
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    until("the standby to follow", async || (one(&url, streams).await == 1).then_some(())).await;
    let there = standby.url(&name);
    (primary, standby, url, there)
}

pub(super) async fn participant(proxied: &str) -> Participant<Database> {
    let options = PostgresOptions::default().prepare_connections(8).phase_two_connections(8);
    let database = over::connect(options, proxied).await.unwrap();
    Participant::new("p", database).tcc("ok", Reserve).two_phase("write", Write)
}

pub(crate) async fn promote(standby: &str) {
    let mut raw = PgConnection::connect(standby).await.unwrap();
    raw.execute("SELECT pg_promote()").await.unwrap();
    until("the promotion", async || {
        (one(standby, "SELECT pg_is_in_recovery()::int::bigint").await == 0).then_some(())
    })
    .await;
}

/// Submits one transaction after the other, each again until it is answered; tells their gids.
async fn load(client: Client, number: usize, stop: Arc<AtomicBool>) -> Vec<(String, bool)> {
    let mut gids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let by_two_phase = gids.len() % 2 == 1;
        let gid = format!("load-{number}-{}", gids.len());
        let draft = if by_two_phase { client.two_phase(&gid) } else { client.tcc(&gid) };
        let action = if by_two_phase { "write" } else { "ok" };
        let payload = || bytes::Bytes::from_static(b"x");
        let draft = draft.timeout(Duration::from_secs(5));
        let draft = draft.branch("a", "p", action, payload()).branch("b", "p", action, payload());
        while draft.clone().submit().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gids.push((gid, by_two_phase));
    }
    gids
}

/// Waits for the end of a transaction; tells its id, what ended against the decision, and whether it is committed.
async fn ended(client: &Client, gid: &str) -> (String, Deviation, bool) {
    until("its end", async || match client.find(gid).await.ok()? {
        Outcome::Committed(told) if told.ended => Some((told.tx_id, told.heuristic, true)),
        Outcome::Aborted(told) if told.ended => Some((told.tx_id, told.heuristic, false)),
        _ => None,
    })
    .await
}

/// Checks that a decision holds on the new primary, wholly or not at all.
async fn check(client: &Client, there: &str, gid: &str, by_two_phase: bool) -> bool {
    let (tx_id, heuristic, is_committed) = ended(client, gid).await;
    assert_eq!(heuristic, Deviation::None, "S11: {gid}");
    let count = if by_two_phase {
        format!("SELECT count(*) FROM effect WHERE tx_id = '{tx_id}'")
    } else {
        format!(
            "SELECT count(*) FROM unanimo_barrier WHERE tx_id = '{tx_id}' AND state = 'committed'"
        )
    };
    let expected = if is_committed { 2 } else { 0 };
    assert_eq!(one(there, &count).await, expected, "S2, S7: {gid}");
    is_committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_s7_s11_hold_when_a_synchronous_standby_is_promoted_under_load() {
    let (primary, standby, url, there) = pair().await;
    let admin = PgPool::connect(&primary.url("postgres")).await.unwrap();
    admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until("it to be waited for", async || (one(&url, synchronous).await == 1).then_some(())).await;
    let proxy = Proxy::start(primary.socket()).await;
    let coordinator = Coordinator::start().await.unwrap();
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).sweep(eager());
    let mut serving = participant(&proxy.url(&url)).await.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    let client = coordinator.client().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut loads = tokio::task::JoinSet::new();
    for number in 0..INITIATORS {
        loads.spawn(load(client.clone(), number, Arc::clone(&stop)));
    }
    until("the load to run", async || (one(&url, COMMITTED).await > 100).then_some(())).await;
    drop(admin);
    apart(&primary, Server::stop_immediately).await;
    promote(&there).await;
    // Commits of the new primary wait for nobody: there is no standby of its own.
    let mut raw = PgConnection::connect(&there).await.unwrap();
    raw.execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    raw.execute("SELECT pg_reload_conf()").await.unwrap();
    proxy.switch_to(standby.socket());
    let before = one(&there, COMMITTED).await;
    until("the load to go on", async || {
        (one(&there, COMMITTED).await > before + 100).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let (mut yes, mut no) = (0, 0);
    for gids in loads.join_all().await {
        for (gid, by_two_phase) in gids {
            if check(&client, &there, &gid, by_two_phase).await { yes += 1 } else { no += 1 }
        }
    }
    assert!(yes > 100, "{yes} committed, {no} aborted");
    assert_eq!(one(&there, "SELECT count(*) FROM pg_prepared_xacts").await, 0, "L4");
    let open =
        "SELECT count(*) FROM unanimo_barrier WHERE state IN ('prepared', 'running', 'lost')";
    assert_eq!(one(&there, open).await, 0, "L4");
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// S11: what an asynchronous standby lacks that is promoted under load is told, branch by branch.
#[tokio::test]
async fn s11_what_an_asynchronous_standby_lacks_is_told() {
    let (alarms, _listening) = Alarms::listen();
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let coordinator = Coordinator::start().await.unwrap();
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).sweep(eager());
    let mut serving = participant(&proxy.url(&url)).await.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    let client = coordinator.client().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut loads = tokio::task::JoinSet::new();
    for number in 0..INITIATORS {
        loads.spawn(load(client.clone(), number, Arc::clone(&stop)));
    }
    let more_than = async |url: &str, rows: i64| {
        until("the load to run", async || (one(url, COMMITTED).await > rows).then_some(())).await;
    };
    more_than(&there, 50).await;
    let note = "SELECT count(*) FROM unanimo_barrier_timeline";
    until("the note", async || (one(&there, note).await == 1).then_some(())).await;
    // It falls behind, the primary dies, and it takes the writes.
    apart(&standby, Server::stop_immediately).await;
    let kept = one(&url, COMMITTED).await;
    more_than(&url, kept + 50).await;
    apart(&primary, Server::stop_immediately).await;
    apart(&standby, Server::launch).await;
    promote(&there).await;
    proxy.switch_to(standby.socket());
    more_than(&there, kept + 50).await;
    stop.store(true, Ordering::Relaxed);
    let mut expected = BTreeSet::new();
    for (gid, _) in loads.join_all().await.into_iter().flatten() {
        let told = ended(&client, &gid).await;
        if let (tx_id, Deviation::None, true) = told {
            expected.extend(["a", "b"].map(|branch| (tx_id.clone(), branch.to_owned())));
        }
    }
    // The sweeper ends what is prepared there: the coordinator has said how.
    let prepared = "SELECT count(*) FROM pg_prepared_xacts";
    until("what is in doubt to end", async || (one(&there, prepared).await == 0).then_some(()))
        .await;
    let mut raw = PgConnection::connect(&there).await.unwrap();
    let here = "SELECT tx_id::text, branch_id, state FROM unanimo_barrier";
    let here: Vec<(String, String, String)> =
        sqlx::query_as(here).fetch_all(&mut raw).await.unwrap();
    let here: Rows =
        here.into_iter().map(|(tx_id, branch_id, state)| ((tx_id, branch_id), state)).collect();
    each_is_told(&alarms, &expected, &here).await;
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// The standby lacks the votes: it was away when they were given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_votes_that_an_asynchronous_standby_lacks_are_hazards() {
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let service = participant(&proxy.url(&url)).await.service().unwrap();
    let world = World::start(service.clone(), Ears::Deaf).await;
    apart(&standby, Server::stop_immediately).await;
    let by_two_phase = unanimo_proto::v1::SubmitTransactionRequest {
        mode: Mode::TwoPhaseCommit.into(),
        ..tcc("two-phase", &["write", "write"])
    };
    // At once: a participant that does not hear gets no new work.
    let owed = tokio::join!(
        world.submit(tcc("tcc", &["ok", "ok"]), Decided::Committed),
        world.submit(by_two_phase, Decided::Committed),
    );
    let owed = [owed.0, owed.1];
    apart(&primary, Server::stop_immediately).await;
    apart(&standby, Server::launch).await;
    promote(&there).await;
    proxy.switch_to(standby.socket());
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    world.p.set(Ears::Open);
    for tx_id in &owed {
        let ended = until("its end", async || {
            let told = world.get(tx_id).await;
            if told.ended_at.is_some() {
                return Some(told);
            }
            // This coordinator sends nothing twice by itself, and a call may come while sessions are opened anew.
            let request = RetryTransactionRequest {
                tx_id: tx_id.clone(),
                operator: "ann".into(),
                ..Default::default()
            };
            // It may have ended meanwhile.
            let _ = world.operator().retry_transaction(request).await;
            None
        })
        .await;
        assert_eq!(ended.heuristic(), Heuristic::Hazard, "S11: {ended:?}");
        assert!(ended.attention, "a person has to look at it");
    }
    assert_eq!(one(&there, "SELECT count(*) FROM effect").await, 0);
    sweeper.stop().await;
}
