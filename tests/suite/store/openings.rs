//! Tables that are not opened yet: the same rules hold for who may be fenced, and when. And stores that
//! were opened before the tables changed: a standby takes no place in what it does not know.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use unanimo_coordinator::Builder;
use unanimo_coordinator::cluster::birth::Candidate;
use unanimo_coordinator::config::Period;
use unanimo_coordinator::store::{self, Error, Opening, PostgresOptions, Store};
use unanimo_core::Incarnation;
use unanimo_migrations::coordinator::POSTGRES as MIGRATIONS;
use unanimo_proto::v1::GetServerInfoRequest;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::migration::up_to;
use super::{Fixture, LEASE, create};
use crate::coordinator::config;

async fn run(connection: &mut PgConnection, script: &str) {
    sqlx::raw_sql(AssertSqlSafe(script.to_owned())).execute(connection).await.unwrap();
}

/// Database with the tables of an earlier version: in the schema of everybody, or in its own.
async fn tables_of(version: i64) -> (String, PgConnection) {
    let url = Server::shared().database().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let known = up_to(version, &MIGRATIONS);
    if version <= 3 {
        known.run(&mut connection).await.unwrap();
    } else {
        run(&mut connection, "CREATE SCHEMA unanimo; SET search_path = unanimo").await;
        let mut own = Migrator::with_migrations(known.iter().cloned().collect());
        own.dangerous_set_table_name("unanimo_migrations");
        own.run(&mut connection).await.unwrap();
    }
    (url, connection)
}

/// Makes an incarnation past the store; with the length of its lease where there is a place for that.
async fn live(connection: &mut PgConnection, number: i64, node: &str, lease_ms: Option<i64>) {
    let heartbeat = match lease_ms {
        Some(ms) => format!("(incarnation, lease_ms) VALUES ({number}, {ms})"),
        None => format!("(incarnation) VALUES ({number})"),
    };
    let script = format!(
        "UPDATE cluster SET incarnations = {number};
         INSERT INTO fences (incarnation, node) VALUES ({number}, '{node}');
         INSERT INTO heartbeats {heartbeat}"
    );
    run(connection, &script).await;
}

async fn open(url: &str) -> Box<dyn Opening> {
    store::connect(url, &PostgresOptions::default(), store::Start::default()).await.unwrap()
}

const BEAT: &str = "UPDATE heartbeats SET counter = counter + 1 WHERE incarnation = 1";

#[tokio::test]
async fn s5_before_the_opening_only_the_silent_are_fenced() {
    for version in [1, 3, 10, 12] {
        let (url, mut raw) = tables_of(version).await;
        live(&mut raw, 1, "old", None).await;
        let opening = open(&url).await;
        assert!(opening.needs_turn(), "{version}");
        let seen = opening.live().await.unwrap().remove(0);
        run(&mut raw, BEAT).await;
        let fenced = opening.fence_silent(seen.incarnation, seen.counter, "a rival").await;
        assert!(!fenced.unwrap(), "{version}: it has moved");
        let seen = opening.live().await.unwrap().remove(0);
        let fenced = opening.fence_silent(seen.incarnation, seen.counter, "a rival").await;
        assert!(fenced.unwrap(), "{version}");
        assert_eq!(opening.live().await.unwrap(), [], "{version}");
        opening.open().await.unwrap();
    }
}

/// A renewal that waits for a fence does not succeed after it, in the tables of any version.
#[tokio::test]
async fn s5_before_the_opening_a_fence_and_a_renewal_meet() {
    for version in [3, 12] {
        let (url, mut raw) = tables_of(version).await;
        live(&mut raw, 1, "old", None).await;
        let opening = open(&url).await;
        let seen = opening.live().await.unwrap().remove(0);
        // The renewal has its row, and is not committed yet.
        run(&mut raw, &format!("BEGIN; {BEAT}")).await;
        let fencing = opening.fence_silent(seen.incarnation, seen.counter, "a rival");
        let committing = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            run(&mut raw, "COMMIT").await;
        };
        let (fenced, ()) = tokio::join!(fencing, committing);
        assert!(!fenced.unwrap(), "{version}: the renewal was first");
        // The other way round: the statement of a renewal of the earliest version begins before the fence
        // is there, and waits for the row.
        let mut renewing = PgConnection::connect(&url).await.unwrap();
        run(&mut renewing, "SET search_path = unanimo, public").await;
        let mark = if version >= 10 { " AND NOT fenced" } else { "" };
        let renew = format!(
            "UPDATE heartbeats SET counter = counter + 1 WHERE incarnation = 1
             AND EXISTS (SELECT 1 FROM fences WHERE incarnation = 1 AND NOT fenced){mark}"
        );
        let (fenced, renewed) = until("the fence to have an answer", async || {
            let seen = opening.live().await.unwrap().remove(0);
            run(&mut raw, "BEGIN; SELECT 1 FROM heartbeats FOR UPDATE").await;
            let fencing = opening.fence_silent(seen.incarnation, seen.counter, "a rival");
            let renewing = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let renewed = sqlx::query(AssertSqlSafe(renew.clone())).execute(&mut renewing);
                let freeing = async {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    run(&mut raw, "COMMIT").await;
                };
                tokio::join!(renewed, freeing).0.unwrap().rows_affected()
            };
            // The fence's wait may outlive its `lock_timeout` on a busy machine: then nothing has happened.
            let (fenced, renewed) = tokio::join!(fencing, renewing);
            Some((fenced.ok()?, renewed))
        })
        .await;
        assert_eq!(renewed == 0, fenced, "{version}: one of the two wins");
    }
}

#[tokio::test]
async fn s5_before_the_opening_a_rival_goes_by_the_lease_of_the_other_one() {
    let quick = Duration::from_secs(1);
    for (lease, own) in [(Duration::from_secs(4), quick), (quick, Duration::from_secs(60))] {
        let (url, mut raw) = tables_of(12).await;
        let lease_ms = i64::try_from(lease.as_millis()).unwrap();
        live(&mut raw, 1, "old", Some(lease_ms)).await;
        let started = Instant::now();
        let rival = Candidate { node: "rival", lease: own, told: &|_| {} };
        rival.open(&*open(&url).await).await.unwrap();
        let took = started.elapsed();
        assert!(took >= lease && took < lease + Duration::from_secs(5), "{took:?} for {lease:?}");
    }
}

/// Processes of one name do not fence each other in turn, in tables that are not opened either.
#[tokio::test]
async fn before_the_opening_one_that_was_displaced_waits() {
    let (url, mut raw) = tables_of(12).await;
    live(&mut raw, 1, "one", None).await;
    run(&mut raw, "UPDATE fences SET fenced = true, displaced = true").await;
    live(&mut raw, 2, "one", None).await;
    let opening = open(&url).await;
    let again = Candidate { node: "one", lease: Duration::from_secs(60), told: &|_| {} };
    let waiting = tokio::time::timeout(Duration::from_secs(3), again.open(&*opening)).await;
    waiting.expect_err("it waits as a standby");
    assert_eq!(opening.live().await.unwrap().len(), 1, "nobody was fenced");
}

/// A process waits for its turn to change the tables, and another one does it. What was found at first does
/// not count any more: it waits as any standby.
#[tokio::test]
async fn s5_one_that_waits_for_its_turn_sees_that_another_one_had_it() {
    let (url, mut raw) = tables_of(12).await;
    live(&mut raw, 1, "old", Some(1_500)).await;
    let mut waits = config(&url);
    waits.node = "waits".parse().unwrap();
    let waiting = tokio::spawn(Builder::new(waits).without_network().start());
    for _ in 0..10 {
        run(&mut raw, BEAT).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!waiting.is_finished());
    // A restart of the old node, with this version, takes its place at once.
    let mut same = config(&url);
    same.node = "old".parse().unwrap();
    same.lease = Period::secs(3);
    let mut serves = Builder::new(same).without_network().start().await.unwrap();
    let served = tokio::time::timeout(Duration::from_secs(6), serves.ended()).await;
    served.expect_err("it was not fenced");
    assert!(!waiting.is_finished(), "it waits as a standby");
    serves.stop().await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    next.unwrap().unwrap().stop().await.unwrap();
}

/// Moves the heartbeat of a fixture until it is told to stop.
fn beating(store: &Arc<dyn Store>, me: Incarnation) -> tokio::task::JoinHandle<()> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        while store.incarnations().renew(me, LEASE).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
}

/// Change of the tables by a later version: it counts a birth, as every migration.
const NEWER: &str = "
BEGIN;
UPDATE unanimo.cluster SET incarnations = incarnations + 1;
INSERT INTO unanimo.unanimo_migrations
    SELECT 9999, description, installed_on, success, checksum, execution_time
    FROM unanimo.unanimo_migrations WHERE version = 1;
COMMIT";

/// S5: a standby of this version takes no place in tables that a later version has changed.
#[tokio::test]
async fn s5_nobody_is_created_in_tables_of_a_later_version() {
    let fixture = Fixture::postgres().await;
    let incarnations = fixture.store.incarnations();
    incarnations.fence(fixture.me, "a test").await.unwrap();
    let before = incarnations.list().await.unwrap().created;
    super::execute(&fixture.url, NEWER).await;
    for created in [before, before + 1] {
        let new = incarnations.create("older", created, LEASE).await.unwrap();
        assert_eq!(new, None, "created with {created}");
    }
    assert!(matches!(incarnations.list().await, Err(Error::Changed)));
    let told: &(dyn Fn(String) + Send + Sync) = &|_| {};
    let older = Candidate { node: "older", lease: LEASE, told };
    let error = older.create(&*fixture.store).await.unwrap_err();
    assert!(matches!(error, Error::Changed), "{error:?}");
}

/// The same of a whole process: it ends with both versions, while the other one lives and after it.
#[tokio::test]
async fn s5_a_standby_ends_when_a_later_version_has_changed_the_tables() {
    let fixture = Fixture::postgres().await;
    let beat = beating(&fixture.store, fixture.me);
    let mut standby = config(&fixture.url);
    standby.node = "standby".parse().unwrap();
    let waiting = tokio::spawn(Builder::new(standby).without_network().start());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished());
    super::execute(&fixture.url, NEWER).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it ends");
    let error = ended.unwrap().unwrap_err().to_string();
    assert!(error.contains("its schema has version 9999"), "{error}");
    beat.abort();
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let fenced: bool = sqlx::query_scalar("SELECT bool_or(fenced) FROM unanimo.fences")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    assert!(!fenced, "it has fenced nobody");
}

/// The database becomes another coordinator group while a standby waits: it is one of that group then.
#[tokio::test]
async fn s12_a_standby_reads_again_which_group_it_is_of() {
    let fixture = Fixture::postgres().await;
    let beat = beating(&fixture.store, fixture.me);
    let mut standby = config(&fixture.url);
    standby.node = "standby".parse().unwrap();
    let waiting = tokio::spawn(Builder::new(standby).start());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let copied = "UPDATE unanimo.cluster SET cluster_id = 'cfeedfeedfeed'";
    super::execute(&fixture.url, copied).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished(), "it goes on as a standby");
    beat.abort();
    let _ = beat.await;
    super::execute(&fixture.url, "UPDATE unanimo.fences SET fenced = true").await;
    let running = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    let running = running.unwrap().unwrap();
    let address = format!("http://{}", running.grpc_address().unwrap());
    let mut client = until("a connection", async || {
        CoordinatorServiceClient::connect(address.clone()).await.ok()
    })
    .await;
    let info = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.cluster_id, "cfeedfeedfeed");
    running.stop().await.unwrap();
}

/// A birth that was not proven, since the standbys were behind, is tried again and not the end of a start. What
/// it has left in the tables is nobody, and not waited for as the process of another one.
#[tokio::test]
async fn a_birth_that_is_not_proven_is_tried_again() {
    let server = Server::start();
    let url = server.database().await;
    let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
    create(&store, "one").await;
    // Processes of this name wait for each other.
    super::execute(&url, "UPDATE unanimo.fences SET fenced = true, displaced = true").await;
    super::standbys::wait_for(&server, "nobody").await;
    let canceller = super::standbys::Canceller::start(&server);
    let mut own = config(&url);
    (own.lease, own.statement_timeout) = (Period::secs(60), Period::secs(2));
    let starting = tokio::spawn(Builder::new(own).without_network().start());
    let mut raw = PgConnection::connect(&url).await.unwrap();
    until("a birth that is not proven", async || {
        let created = "SELECT incarnations FROM unanimo.cluster";
        let created: i64 = sqlx::query_scalar(created).fetch_one(&mut raw).await.unwrap();
        (created > 1).then_some(())
    })
    .await;
    // Each try is proven for as long as a statement may take.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!starting.is_finished(), "it waits");
    assert!(canceller.stop() > 0);
    super::standbys::wait_for(&server, "").await;
    let running = tokio::time::timeout(Duration::from_secs(30), starting).await.unwrap();
    running.unwrap().unwrap().stop().await.unwrap();
}
