//! The tables' own schema and history, beside what others have in the database.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr};
use unanimo_coordinator::Builder;
use unanimo_coordinator::store::{self, Error, PostgresOptions};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::migration::{check, rows, up_to};
use crate::coordinator::config;

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn run(connection: &mut PgConnection, script: &str) {
    sqlx::raw_sql(AssertSqlSafe(script.to_owned())).execute(connection).await.unwrap();
}

async fn text(connection: &mut PgConnection, query: &'static str) -> String {
    sqlx::query_scalar(query).fetch_one(connection).await.unwrap()
}

fn options(schema: &str) -> PostgresOptions {
    PostgresOptions { schema: schema.to_owned(), ..PostgresOptions::default() }
}

/// Database with the tables of an earlier version, in the schema of everybody.
async fn earlier(version: i64) -> String {
    let url = Server::shared().database().await;
    let mut connection = connect(&url).await;
    up_to(version, &unanimo_migrations::coordinator::POSTGRES).run(&mut connection).await.unwrap();
    let id = format!("'{}'", super::migration::TX_ID);
    run(&mut connection, &rows(|hex| format!("decode('{hex}', 'hex')"), &id, "false")).await;
    url
}

/// Migrations of another program in the same database.
fn theirs(versions: &[i64]) -> Migrator {
    let one = |version: &i64| {
        let sql = format!("CREATE TABLE public.theirs_{version} (x int)");
        let kind = MigrationType::Simple;
        let name = Cow::Borrowed("theirs");
        Migration::new(*version, name, kind, AssertSqlSafe(sql).into_sql_str(), false)
    };
    Migrator::with_migrations(versions.iter().map(one).collect())
}

/// Where the tables are, and where which history is.
async fn places(connection: &mut PgConnection) -> String {
    text(
        connection,
        "SELECT string_agg(schemaname || '.' || tablename, ' ' ORDER BY schemaname, tablename)
         FROM pg_tables WHERE tablename IN
             ('transactions', 'locks', 'events', 'unanimo_migrations', '_sqlx_migrations')",
    )
    .await
}

#[tokio::test]
async fn tables_of_an_earlier_version_are_moved_with_their_rows() {
    for version in [1, 2, 3] {
        let url = earlier(version).await;
        let mut connection = connect(&url).await;
        let id = text(&mut connection, "SELECT cluster_id FROM cluster").await;
        check(&url).await;
        assert_eq!(
            places(&mut connection).await,
            "unanimo.events unanimo.locks unanimo.unanimo_migrations"
        );
        // A program of that version would begin a second coordinator group: it finds its place taken.
        let older = up_to(version, &unanimo_migrations::coordinator::POSTGRES);
        older.run(&mut connection).await.expect_err("S9: an older program makes no tables anew");
        let again = store::open(&url, &PostgresOptions::default()).await.unwrap();
        assert_eq!(again.cluster_id(), id);
    }
}

/// An earlier version shared its history with whatever migrated in the same database.
#[tokio::test]
async fn the_history_of_others_stays_with_them() {
    let url = earlier(3).await;
    let mut connection = connect(&url).await;
    run(
        &mut connection,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (20260101, 'theirs', true, 'x', 0)",
    )
    .await;
    check(&url).await;
    let left = "SELECT string_agg(version::text, ' ') FROM public._sqlx_migrations";
    assert_eq!(text(&mut connection, left).await, "20260101");
    let own =
        "SELECT string_agg(version::text, ' ' ORDER BY version) FROM unanimo.unanimo_migrations";
    assert!(text(&mut connection, own).await.starts_with("1 2 3 "));
}

#[tokio::test]
async fn others_migrate_and_have_tables_of_the_same_names() {
    let url = Server::shared().database().await;
    // The role has the schema's name, and would find that schema first.
    let mut connection = connect(&format!("{url}?options=-csearch_path%3Dpublic")).await;
    theirs(&[1, 2]).run(&mut connection).await.unwrap();
    run(
        &mut connection,
        "CREATE TABLE public.events (x int); CREATE TABLE public.transactions (x int);
         CREATE TABLE public.cluster (x int)",
    )
    .await;
    store::open(&url, &PostgresOptions::default()).await.unwrap();
    theirs(&[1, 2, 3]).run(&mut connection).await.unwrap();
    store::open(&url, &PostgresOptions::default()).await.unwrap();
    let theirs = "SELECT count(*)::text FROM public.events";
    assert_eq!(text(&mut connection, theirs).await, "0");

    let error = store::open(&url, &options("public")).await.unwrap_err();
    assert!(matches!(error, Error::TableTaken(_)), "{error:?}");
    assert!(error.to_string().contains("database-schema"), "{error}");
}

#[tokio::test]
async fn each_schema_is_a_coordinator_group() {
    let url = Server::shared().database().await;
    let one = store::open(&url, &options("group_1")).await.unwrap();
    let two = store::open(&url, &options("group_2")).await.unwrap();
    assert_ne!(one.cluster_id(), two.cluster_id());
    super::create(&one, "node").await;
    super::create(&two, "node").await;
    assert_eq!(one.incarnations().list().await.unwrap().live.len(), 1);
    let again = store::open(&url, &options("group_1")).await.unwrap();
    assert_eq!(again.cluster_id(), one.cluster_id());
}

#[tokio::test]
async fn tables_of_an_earlier_version_are_not_left_behind() {
    let url = earlier(3).await;
    let error = store::open(&url, &options("elsewhere")).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::OtherSchema { .. }), "{text}");
    assert!(text.contains("set database-schema to public"), "{text}");
    let before = "public._sqlx_migrations public.events public.locks public.transactions";
    let mut connection = connect(&url).await;
    assert_eq!(places(&mut connection).await, before, "nothing has changed");
    store::open(&url, &options("public")).await.unwrap();
    assert_eq!(
        places(&mut connection).await,
        "public.events public.locks public.unanimo_migrations"
    );
    store::open(&url, &options("public")).await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_make_no_schema_uses_one_that_is_made() {
    let url = Server::shared().database().await;
    let mut admin = connect(&url).await;
    let role = format!("role_{}", uuid::Uuid::new_v4().simple());
    run(&mut admin, &format!("CREATE ROLE {role} LOGIN")).await;
    let as_role = url.replace("postgres://unanimo@", &format!("postgres://{role}@"));
    let error = store::open(&as_role, &PostgresOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NoSchema { .. }), "{error:?}");
    assert!(error.to_string().contains("CREATE SCHEMA unanimo AUTHORIZATION"), "{error}");
    run(&mut admin, &format!("CREATE SCHEMA unanimo AUTHORIZATION {role}")).await;
    store::open(&as_role, &PostgresOptions::default()).await.unwrap();
    store::open(&as_role, &PostgresOptions::default()).await.unwrap();
}

/// Nothing is changed under a node of an earlier version that is alive; once it is silent, it is fenced
/// first.
#[tokio::test]
async fn s5_tables_are_migrated_after_the_fence() {
    let url = earlier(3).await;
    let mut old = connect(&url).await;
    run(
        &mut old,
        "UPDATE cluster SET incarnations = 4; INSERT INTO fences (incarnation, node) VALUES (4, 'old');
         INSERT INTO heartbeats (incarnation) VALUES (4)",
    )
    .await;
    let error = store::open(&url, &PostgresOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::StillWritten { .. }), "{error:?}");

    let starting = tokio::spawn(Builder::new(config(&url)).start());
    for _ in 0..25 {
        run(&mut old, "UPDATE public.heartbeats SET counter = counter + 1").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!starting.is_finished(), "it waits");
    assert_eq!(
        places(&mut old).await,
        "public._sqlx_migrations public.events public.locks public.transactions"
    );
    let running = tokio::time::timeout(Duration::from_secs(30), starting).await.unwrap();
    let running = running.unwrap().unwrap();
    let fenced = "SELECT fenced_by FROM unanimo.fences WHERE incarnation = 4 AND fenced";
    assert!(text(&mut old, fenced).await.contains("found it silent"));
    assert!(running.incarnation().0 > 5, "a birth that had looked before would have failed");
    running.stop().await.unwrap();
}

/// A node of an earlier version and of the same name is fenced at once.
#[tokio::test]
async fn a_restart_with_a_later_version_need_not_wait() {
    let url = earlier(3).await;
    let mut old = connect(&url).await;
    run(
        &mut old,
        "UPDATE cluster SET incarnations = 1; INSERT INTO fences (incarnation, node) VALUES (1, 'one');
         INSERT INTO heartbeats (incarnation) VALUES (1)",
    )
    .await;
    let mut config = config(&url);
    config.lease = unanimo_coordinator::config::Period::secs(60);
    let starting = Builder::new(config).start();
    let running = tokio::time::timeout(Duration::from_secs(20), starting).await.unwrap().unwrap();
    running.stop().await.unwrap();
}

/// Readers of a table, such as a dump, are waited for, and the wait holds up nobody for long.
#[tokio::test]
async fn a_migration_waits_for_those_who_use_the_tables() {
    let url = earlier(3).await;
    let mut reader = connect(&url).await;
    run(&mut reader, "BEGIN; SELECT * FROM transactions").await;
    let starting = tokio::spawn(Builder::new(config(&url)).start());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!starting.is_finished(), "it waits, and does not fail");
    // Its place in the queue is not for ever: others read meanwhile.
    let mut other = connect(&url).await;
    until("another reader to have its turn", async || {
        let read = "SET lock_timeout = '5s'; SELECT * FROM transactions";
        sqlx::raw_sql(read).execute(&mut other).await.is_ok().then_some(())
    })
    .await;
    run(&mut reader, "COMMIT").await;
    let running = tokio::time::timeout(Duration::from_secs(30), starting).await.unwrap();
    running.unwrap().unwrap().stop().await.unwrap();
}
