//! Servers that are no primary: no session stays on one.

use sqlx::{Connection, Executor, PgConnection, PgPool};
use unanimo_proto::v1::{Mode, prepare_response};
use unanimo_sdk::{DatabaseError, MySql, Participant, PostgresOptions};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::direct::{Branch, branch};
use super::over::{self, Database};
use super::sweeper::{Reserve, Write};

async fn voted(service: &unanimo_sdk::Service<Database>, of: &Branch) -> bool {
    matches!(of.prepare(service).await, Ok(prepare_response::Answer::Prepared(_)))
}

/// A switchover behind a proxy, and back: the same address is a standby for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_do_not_stay_on_a_standby() {
    let (primary, other) =
        tokio::task::spawn_blocking(|| (Server::start(), Server::start())).await.unwrap();
    let url = primary.database().await;
    // Of the same name on the other server.
    let name = url.rsplit('/').next().unwrap().to_owned();
    let mut admin = PgConnection::connect(&other.url("postgres")).await.unwrap();
    admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    admin.close().await.unwrap();
    over::connect(PostgresOptions::default(), &other.url(&name)).await.unwrap();
    tokio::task::block_in_place(|| {
        other.stop_immediately();
        other.launch_as_standby(true);
    });
    let on_standby =
        over::connect(PostgresOptions::default(), &other.url(&name)).await.unwrap_err();
    assert!(matches!(on_standby, DatabaseError::Connect(_)), "{on_standby:?}");

    let proxy = Proxy::start(primary.socket()).await;
    let options = PostgresOptions::default().prepare_connections(3).phase_two_connections(3);
    let database = over::connect(options, &proxy.url(&url)).await.unwrap();
    let service = Participant::new("p", database)
        .tcc("ok", Reserve)
        .two_phase("write", Write)
        .service()
        .unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    pool.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let in_doubt = branch(Mode::TwoPhaseCommit, "write");
    assert!(voted(&service, &in_doubt).await);

    // All sessions break, and the next ones meet the standby.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE application_name = 'unanimo-participant'";
    proxy.lead_to(other.socket());
    pool.execute(end).await.unwrap();
    for _ in 0..2 {
        assert!(!voted(&service, &branch(Mode::Tcc, "ok")).await);
        in_doubt.commit(&service).await.unwrap_err();
    }
    proxy.lead_to(primary.socket());
    until("a vote", async || voted(&service, &branch(Mode::Tcc, "ok")).await.then_some(())).await;
    until("the commit", async || in_doubt.commit(&service).await.ok()).await;
    for _ in 0..6 {
        assert!(voted(&service, &branch(Mode::Tcc, "ok")).await, "no session stayed behind");
    }
}

/// S3: a pooler that drops the settings of a connection's start, at a database whose default is to answer before the disk
/// has it: they are set afterwards, and read back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_settings_that_a_pooler_drops_are_set_and_read_back() {
    let server = Server::shared();
    let url = server.database().await;
    let name = url.rsplit('/').next().unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    pool.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let careless = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    pool.execute(sqlx::AssertSqlSafe(careless)).await.unwrap();
    let proxy = Proxy::start(server.socket()).await;
    proxy.strip_options();
    let database = over::connect(PostgresOptions::default(), &proxy.url(&url)).await.unwrap();
    let service = Participant::new("p", database).two_phase("write", Write).service().unwrap();
    let branch = branch(Mode::TwoPhaseCommit, "write");
    until("a vote", async || voted(&service, &branch).await.then_some(())).await;
    branch.commit(&service).await.unwrap();
}

/// A server that is no primary any more while sessions live there, as behind a proxy that keeps them: none is used
/// again. A real server would end them; here the database itself says that it is a standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_used_again_on_a_standby() {
    let url = Server::shared().database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    pool.execute(
        "CREATE SCHEMA mine;
         CREATE TABLE mine.standby AS SELECT false AS is_one;
         CREATE FUNCTION mine.pg_is_in_recovery() RETURNS boolean STABLE LANGUAGE sql
             AS 'SELECT is_one FROM mine.standby';
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = mine, pg_catalog, public',
                                    current_database()); END $$",
    )
    .await
    .unwrap();
    let options = PostgresOptions::default().prepare_connections(1);
    let database = over::connect(options, &url).await.unwrap();
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'unanimo-participant'";
    for _ in 0..2 {
        assert!(voted(&service, &branch(Mode::Tcc, "ok")).await);
    }
    let living: i64 = sqlx::query_scalar(sessions).fetch_one(&pool).await.unwrap();
    assert_eq!(living, 1, "it is used again");
    pool.execute("UPDATE mine.standby SET is_one = true").await.unwrap();
    assert!(!voted(&service, &branch(Mode::Tcc, "ok")).await);
    pool.execute("UPDATE mine.standby SET is_one = false").await.unwrap();
    until("a vote", async || voted(&service, &branch(Mode::Tcc, "ok")).await.then_some(())).await;
}

/// The server is made read-only under sessions that are there already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_do_not_stay_on_a_read_only_mariadb() {
    let server = tokio::task::spawn_blocking(unanimo_tests::mariadb::Server::start).await.unwrap();
    let url = server.database().await;
    let service = Participant::new("p", MySql::connect(&url).await.unwrap())
        .tcc("ok", Reserve)
        .service()
        .unwrap();
    let vote = async || branch(Mode::Tcc, "ok").prepare(&service).await;
    vote().await.unwrap();
    let admin = sqlx::MySqlPool::connect(&url).await.unwrap();
    admin.execute("SET GLOBAL read_only = 1").await.unwrap();
    vote().await.unwrap_err();
    assert!(matches!(MySql::connect(&url).await, Err(DatabaseError::Connect(_))));
    admin.execute("SET GLOBAL read_only = 0").await.unwrap();
    until("a vote", async || vote().await.ok()).await;
}
