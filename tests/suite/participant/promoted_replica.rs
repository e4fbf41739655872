//! A replica of a participant's MariaDB that is promoted under load, behind the servers' own replication. Of an
//! asynchronous one it is told what it lacks, branch by branch (promise S11); one that is waited for lacks nothing.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, Row};
use tokio::task::JoinSet;
use unanimo_sdk::client::Heuristic;
use unanimo_sdk::{Client, MySql, Outcome, Participant, Serve, Serving};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::mariadb::{MYSQLD, Server};
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::promoted_losses::{Rows, each_is_told, lost};
use super::sweeper::{Reserve, eager};
use super::xa::sweeper::Write;

/// Initiators at once.
const INITIATORS: usize = 4;

const COMMITTED: &str = "SELECT count(*) FROM unanimo_barrier WHERE state = 'committed'";

pub(super) async fn run(url: &str, statements: &str) {
    let mut raw = MySqlConnection::connect(url).await.unwrap();
    raw.execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))).await.unwrap();
}

pub(super) async fn one(url: &str, question: &str) -> Option<i64> {
    let mut raw = MySqlConnection::connect(url).await.ok()?;
    sqlx::query_scalar(AssertSqlSafe(question.to_owned())).fetch_one(&mut raw).await.ok()
}

pub(super) async fn beside<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

/// A primary with a replica that follows it, and the address of a database on both.
pub(super) async fn pair() -> (Arc<Server>, Arc<Server>, String, String) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let primary = beside(move || {
        Server::start_with(&[
            "--skip-networking=0",
            "--bind-address=127.0.0.1",
            &format!("--port={free}"),
            "--server-id=1",
            "--log-bin=changes",
        ])
    });
    let replica = beside(|| Server::start_with(&["--server-id=2"]));
    let (primary, replica) = (Arc::new(primary.await), Arc::new(replica.await));
    let follower = "CREATE USER follower; GRANT REPLICATION SLAVE ON *.* TO follower";
    run(&primary.url("mysql"), follower).await;
    let follow = format!(
        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {free}, MASTER_USER = 'follower',
             MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = slave_pos;
         START SLAVE"
    );
    run(&replica.url("mysql"), &follow).await;
    let url = primary.database().await;
    let name = url.split('/').nth(3).and_then(|rest| rest.split('?').next()).unwrap();
    let there = replica.url(name);
    until("the replica to follow", async || one(&there, "SELECT 1").await).await;
    (primary, replica, url, there)
}

/// Submits one transaction after the other, each again until it is answered; tells their gids.
async fn load(client: Client, number: usize, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut gids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let gid = format!("load-{number}-{}", gids.len());
        let payload = || bytes::Bytes::from_static(b"x");
        let by_two_phase = gids.len() % 2 == 1;
        let draft = if by_two_phase { client.two_phase(&gid) } else { client.tcc(&gid) };
        let action = if by_two_phase { "write" } else { "ok" };
        let draft = draft.timeout(Duration::from_secs(5));
        let draft = draft.branch("a", "p", action, payload()).branch("b", "p", action, payload());
        while draft.clone().submit().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gids.push(gid);
    }
    gids
}

/// Names of prepared transactions.
async fn prepared(url: &str) -> Vec<Vec<u8>> {
    let mut raw = MySqlConnection::connect(url).await.unwrap();
    let rows = sqlx::raw_sql("XA RECOVER").fetch_all(&mut raw).await.unwrap();
    rows.iter().map(|row| row.get::<Vec<u8>, _>("data")).collect()
}

/// Its id, what ended against its decision, and whether it is committed.
async fn ended(client: &Client, gid: &str) -> (String, Heuristic, bool) {
    until("its end", async || match client.find(gid).await.ok()? {
        Outcome::Committed(told) if told.ended => Some((told.tx_id, told.heuristic, true)),
        Outcome::Aborted(told) if told.ended => Some((told.tx_id, told.heuristic, false)),
        _ => None,
    })
    .await
}

/// The id of one that is committed without a word of anything else.
async fn committed(client: &Client, gid: &str) -> Option<String> {
    let (tx_id, heuristic, is_committed) = ended(client, gid).await;
    (is_committed && heuristic == Heuristic::None).then_some(tx_id)
}

/// A bank under load, whose database is reached by a proxy.
struct Busy {
    proxy: Proxy,
    coordinator: Coordinator,
    serving: Serving,
    client: Client,
    stop: Arc<AtomicBool>,
    loads: JoinSet<Vec<String>>,
}

impl Busy {
    async fn start(primary: &Server, url: &str) -> Self {
        let proxy = Proxy::start(primary.socket()).await;
        let coordinator = Coordinator::start().await.unwrap();
        let database = MySql::connect(&proxy.mariadb_url(url)).await.unwrap();
        let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).sweep(eager());
        run(url, "CREATE TABLE effect (tx_id char(36), branch_id varchar(128))").await;
        let bank = Participant::new("p", database).tcc("ok", Reserve).two_phase("write", Write);
        let mut serving = bank.serve(serve).await.unwrap();
        serving.registered().await.unwrap();
        let client = coordinator.client().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut loads = JoinSet::new();
        for number in 0..INITIATORS {
            loads.spawn(load(client.clone(), number, Arc::clone(&stop)));
        }
        Self { proxy, coordinator, serving, client, stop, loads }
    }
}

/// Waits until more rows than these are committed.
async fn more_than(url: &str, rows: i64) -> i64 {
    until("the load to run", async || one(url, COMMITTED).await.filter(|here| *here > rows)).await
}

#[tokio::test]
async fn s11_what_a_replica_that_is_promoted_under_load_lacks_is_told() {
    if std::env::var_os(MYSQLD).is_some() {
        // Its statements of replication are others.
        return;
    }
    let (alarms, _listening) = Alarms::listen();
    let (primary, replica, url, there) = pair().await;
    let Busy { proxy, coordinator, serving, client, stop, loads } =
        Busy::start(&primary, &url).await;
    more_than(&there, 50).await;
    let note = "SELECT count(*) FROM unanimo_barrier_timeline WHERE system_id = 1";
    until("the note", async || one(&there, note).await.filter(|notes| *notes == 1)).await;
    // It falls behind, the primary dies, and it takes the writes.
    run(&there, "STOP SLAVE").await;
    let kept = one(&there, COMMITTED).await.unwrap();
    more_than(&url, kept + 50).await;
    beside(move || primary.kill()).await;
    run(&there, "RESET SLAVE ALL").await;
    proxy.switch_to(replica.socket());
    more_than(&there, kept + 50).await;
    stop.store(true, Ordering::Relaxed);
    let mut expected = BTreeSet::new();
    for gid in loads.join_all().await.into_iter().flatten() {
        if let Some(tx_id) = committed(&client, &gid).await {
            expected.extend(["a", "b"].map(|branch| (tx_id.clone(), branch.to_owned())));
        }
    }
    // The sweeper ends what is prepared there: the coordinator has said how.
    until("what is in doubt to end", async || prepared(&there).await.is_empty().then_some(()))
        .await;
    let mut raw = MySqlConnection::connect(&there).await.unwrap();
    let here = "SELECT tx_id, branch_id, state FROM unanimo_barrier";
    let here: Vec<(String, String, String)> =
        sqlx::query_as(here).fetch_all(&mut raw).await.unwrap();
    let here: Rows =
        here.into_iter().map(|(tx_id, branch_id, state)| ((tx_id, branch_id), state)).collect();
    each_is_told(&alarms, &expected, &here).await;
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// The replica has each commit before that is answered: nothing is lost, and nothing is told.
#[tokio::test]
async fn s2_s7_s11_hold_when_a_semi_synchronous_replica_is_promoted_under_load() {
    if std::env::var_os(MYSQLD).is_some() {
        return;
    }
    let (alarms, _listening) = Alarms::listen();
    let (primary, replica, url, there) = pair().await;
    run(&there, "STOP SLAVE; SET GLOBAL rpl_semi_sync_slave_enabled = 1; START SLAVE").await;
    run(
        &url,
        "SET GLOBAL rpl_semi_sync_master_timeout = 1000000;
         SET GLOBAL rpl_semi_sync_master_wait_no_slave = 1;
         SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC;
         SET GLOBAL rpl_semi_sync_master_enabled = 1",
    )
    .await;
    let waited_for = "SELECT CAST(variable_value AS signed) FROM information_schema.global_status
                      WHERE variable_name = 'RPL_SEMI_SYNC_MASTER_CLIENTS'";
    until("it to be waited for", async || one(&url, waited_for).await.filter(|n| *n == 1)).await;
    let Busy { proxy, coordinator, serving, client, stop, loads } =
        Busy::start(&primary, &url).await;
    more_than(&there, 100).await;
    beside(move || primary.kill()).await;
    // What it has received it also does, before it takes writes.
    let behind = "SELECT count(*) FROM information_schema.processlist
                  WHERE state LIKE 'Slave has read all relay log%'";
    until("all to be applied", async || one(&there, behind).await.filter(|n| *n > 0)).await;
    run(&there, "STOP SLAVE; RESET SLAVE ALL").await;
    proxy.switch_to(replica.socket());
    let before = one(&there, COMMITTED).await.unwrap();
    more_than(&there, before + 100).await;
    stop.store(true, Ordering::Relaxed);
    let (mut yes, mut no) = (0, 0);
    for gid in loads.join_all().await.into_iter().flatten() {
        let (tx_id, heuristic, is_committed) = ended(&client, &gid).await;
        assert_eq!(heuristic, Heuristic::None, "S11: {gid}");
        let is_by_two_phase = gid.rsplit('-').next().unwrap().parse::<u32>().unwrap() % 2 == 1;
        let count = match is_by_two_phase {
            true => format!("SELECT count(*) FROM effect WHERE tx_id = '{tx_id}'"),
            false => format!("{COMMITTED} AND tx_id = '{tx_id}'"),
        };
        let expected = if is_committed { 2 } else { 0 };
        assert_eq!(one(&there, &count).await, Some(expected), "S2, S7: {gid}");
        if is_committed { yes += 1 } else { no += 1 }
    }
    assert!(yes > 100, "{yes} committed, {no} aborted");
    until("nothing to be prepared", async || prepared(&there).await.is_empty().then_some(())).await;
    let open =
        "SELECT count(*) FROM unanimo_barrier WHERE state IN ('prepared', 'running', 'lost')";
    assert_eq!(one(&there, open).await, Some(0), "L4");
    assert_eq!(lost(&alarms), Vec::new(), "S11: nothing is missing");
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}
