//! A database on MariaDB that lacks what it had: the server's id, and the note beside the barrier, tell (promise S11).

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlPool};
use unanimo_proto::v1::Outcome as Decided;
use unanimo_sdk::{MySql, Participant, Service};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::mariadb::{Server, is_mysql};
use unanimo_tests::wait::until;

use super::deaf::Ears;
use super::promoted_losses::{Key, lost};
use super::sweeper::{Reserve, World, eager, two_sweeps};
use crate::coordinator::tcc;

async fn bank() -> (MySqlPool, World<Service<MySql>>, Service<MySql>) {
    let url = Server::shared().database().await;
    let database = MySql::connect(&url).await.unwrap();
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let world = World::start(service.clone(), Ears::Open).await;
    (MySqlPool::connect(&url).await.unwrap(), world, service)
}

/// Commits a transaction of two branches.
async fn committed(world: &World<Service<MySql>>, gid: &str) -> String {
    let tx_id = world.submit(tcc(gid, &["ok", "ok"]), Decided::Committed).await;
    until("its end", async || world.get(&tx_id).await.ended_at.map(drop)).await;
    tx_id
}

/// Takes a transaction's rows away, and changes the note.
async fn lacks(pool: &MySqlPool, tx_id: &str, note: &str) {
    let lacks = format!(
        "START TRANSACTION; DELETE FROM unanimo_barrier WHERE tx_id = '{tx_id}';
         UPDATE unanimo_barrier_timeline SET {note}; COMMIT"
    );
    pool.execute(sqlx::raw_sql(AssertSqlSafe(lacks))).await.unwrap();
}

async fn is_noted(pool: &MySqlPool) -> Option<()> {
    let noted = "SELECT count(*) FROM unanimo_barrier_timeline
                 WHERE participant = 'p' AND system_id = /*M! @@server_id */
                    /*!80000 CAST(CONV(LEFT(REPLACE(@@server_uuid, '-', ''), 15), 16, 10) AS signed) */";
    let noted: i64 = sqlx::query_scalar(noted).fetch_one(pool).await.unwrap();
    (noted == 1).then_some(())
}

fn branches(tx_id: &str) -> BTreeSet<Key> {
    ["a", "b"].map(|branch| (tx_id.to_owned(), branch.to_owned())).into()
}

fn told(alarms: &Alarms) -> BTreeSet<Key> {
    lost(alarms).into_iter().collect()
}

/// A replica that was promoted while nobody swept has another server's note.
#[tokio::test]
async fn s11_what_a_promoted_replica_lacks_is_told() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, world, service) = bank().await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    committed(&world, "kept").await;
    let gone = committed(&world, "gone").await;
    until("the note", async || is_noted(&pool).await).await;
    two_sweeps(&sweeper).await;
    assert!(alarms.named("database_promoted").is_empty(), "nothing is missing");
    sweeper.stop().await;
    lacks(&pool, &gone, "system_id = system_id + 1").await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until("the alarms", async || (lost(&alarms).len() >= 2).then_some(())).await;
    two_sweeps(&sweeper).await;
    assert_eq!((told(&alarms), lost(&alarms).len()), (branches(&gone), 2), "each once");
    assert_eq!(alarms.named("database_promoted").len(), 1);
    sweeper.stop().await;
    // It is noted: who is started now has nothing to tell.
    is_noted(&pool).await.expect("the note");
    let last = service.sweep([world.url()], eager()).unwrap();
    two_sweeps(&last).await;
    assert_eq!((alarms.named("database_promoted").len(), lost(&alarms).len()), (1, 2));
    last.stop().await;
}

/// A snapshot that is put back under a process that has seen more.
#[tokio::test]
async fn s11_what_a_snapshot_lacks_is_told_by_who_has_seen_more() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, world, service) = bank().await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    committed(&world, "kept").await;
    let gone = committed(&world, "gone").await;
    until("the note", async || is_noted(&pool).await).await;
    two_sweeps(&sweeper).await;
    lacks(&pool, &gone, "noted_at = noted_at - INTERVAL 10 MINUTE").await;
    until("the alarms", async || (lost(&alarms).len() >= 2).then_some(())).await;
    two_sweeps(&sweeper).await;
    assert_eq!((told(&alarms), lost(&alarms).len()), (branches(&gone), 2), "each once");
    assert_eq!(alarms.named("database_promoted").len(), 1);
    sweeper.stop().await;
}

/// Two servers that take the writes in turn raise an alarm each, and not one for each turn.
#[tokio::test]
async fn s11_servers_that_take_writes_in_turn_are_told_once_each() {
    // What tells its servers apart cannot be set.
    if is_mysql() {
        return;
    }
    let (alarms, _listening) = Alarms::listen();
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let url = server.database().await;
    let database = MySql::connect(&url).await.unwrap();
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let world = World::start(service.clone(), Ears::Open).await;
    let pool = MySqlPool::connect(&url).await.unwrap();
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until("the note", async || is_noted(&pool).await).await;
    for id in [2, 1, 2, 1, 2] {
        // What is open belongs to the former server.
        let turn = format!(
            "SET GLOBAL server_id = {id};
             BEGIN NOT ATOMIC
               -- Of one that has ended meanwhile.
               DECLARE CONTINUE HANDLER FOR 1094 BEGIN END;
               FOR one IN (SELECT id FROM information_schema.processlist
                           WHERE id <> CONNECTION_ID() AND db = DATABASE()) DO
                 EXECUTE IMMEDIATE CONCAT('KILL ', one.id);
               END FOR;
             END"
        );
        let mut admin = sqlx::MySqlConnection::connect(&url).await.unwrap();
        admin.execute(sqlx::raw_sql(AssertSqlSafe(turn))).await.unwrap();
        until("it to be noted", async || {
            let noted = "SELECT system_id FROM unanimo_barrier_timeline WHERE participant = 'p'";
            let noted: i64 = sqlx::query_scalar(noted).fetch_one(&mut admin).await.unwrap();
            (noted == id).then_some(())
        })
        .await;
    }
    two_sweeps(&sweeper).await;
    let told = alarms.named("database_promoted");
    assert_eq!(told.len(), 2, "{told:#?}");
    sweeper.stop().await;
}
