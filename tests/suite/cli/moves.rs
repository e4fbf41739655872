//! Databases that are moved, copied or changed, as processes meet them.

use std::time::Duration;

use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::{Program, addresses, new_path, serve, sqlite};
use crate::store::restored::{REPLACE, RESTORE};

async fn admin() -> PgConnection {
    PgConnection::connect(&Server::shared().url("postgres")).await.unwrap()
}

async fn run(connection: &mut PgConnection, script: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(script.to_owned())).execute(connection).await.map(drop)
}

/// The process of a database that is moved, restored or removed under it ends with 3, and has written nothing
/// in what it finds there.
#[tokio::test]
async fn s3_the_process_of_a_database_that_was_moved_ends_with_3() {
    for (script, says) in [
        (REPLACE, "is not the one that was opened"),
        (RESTORE, "is not the one that was opened"),
        ("ALTER SCHEMA unanimo RENAME TO elsewhere", "does not exist"),
        ("DROP SCHEMA unanimo CASCADE", "does not exist"),
    ] {
        let url = Server::shared().database().await;
        let mut program = serve(&url, &[]);
        addresses(&mut program).await;
        let mut raw = PgConnection::connect(&url).await.unwrap();
        // A batch or a read may be under way.
        let change = format!("BEGIN; {script}; COMMIT");
        until("the tables to be changed", async || run(&mut raw, &change).await.ok()).await;
        let ran = program.end().await;
        ran.check(3).complains(&["moved, restored or removed under this process", says]);
    }
}

/// A server whose files are put back to an earlier time is at the same place, with the same tables.
#[tokio::test]
async fn s3_the_process_of_a_database_of_an_earlier_time_ends_with_3() {
    let server = Server::start();
    let url = server.database().await;
    let mut program = serve(&url, &[]);
    addresses(&mut program).await;
    server.stop_immediately();
    let backup = server.back_up();
    server.launch();
    let counter = async || {
        let mut raw = PgConnection::connect(&url).await.ok()?;
        let counter = "SELECT max(counter) FROM unanimo.heartbeats";
        sqlx::query_scalar::<_, Option<i64>>(counter).fetch_one(&mut raw).await.ok()?
    };
    let before = counter().await.unwrap();
    until("the lease to be renewed", async || (counter().await? > before).then_some(())).await;
    let ended = program.process.child().try_wait().unwrap();
    assert!(ended.is_none(), "a restart of the server is no restore: {}", program.err());
    server.stop_immediately();
    server.restore(&backup);
    server.launch();
    let says = ["moved, restored or removed under this process", "was restored to an earlier time"];
    program.end().await.check(3).complains(&says);
    let mut again = serve(&url, &[]);
    addresses(&mut again).await;
    again.process.signal(Signal::TERM);
    again.end().await.check(0);
}

#[tokio::test]
async fn s3_the_process_of_a_whole_database_that_was_replaced_ends_with_3() {
    for is_replaced in [true, false] {
        let url = Server::shared().database().await;
        let name = url.rsplit('/').next().unwrap();
        let mut program = serve(&url, &["--lease", "10s"]);
        addresses(&mut program).await;
        let mut admin = admin().await;
        until("the database to be free", async || {
            let cut = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            );
            run(&mut admin, &cut).await.unwrap();
            run(&mut admin, &format!("ALTER DATABASE {name} RENAME TO {name}_old")).await.ok()
        })
        .await;
        if is_replaced {
            // Under its name once it is whole.
            let copy = format!("CREATE DATABASE {name}_new TEMPLATE {name}_old");
            run(&mut admin, &copy).await.unwrap();
            let rename = format!("ALTER DATABASE {name}_new RENAME TO {name}");
            run(&mut admin, &rename).await.unwrap();
        }
        let ran = program.end().await;
        let says = if is_replaced { "is not the one that was opened" } else { "does not exist" };
        ran.check(3).complains(&["moved, restored or removed under this process", says]);
        if is_replaced {
            let again = serve(&url, &[]).end().await;
            again.check(1).complains(&["start once with --moved;", "start once with --copy"]);
            let mut moved = serve(&url, &["--moved"]);
            addresses(&mut moved).await;
            moved.process.signal(Signal::TERM);
            moved.end().await.check(0);
        }
    }
}

/// A flag that a unit file keeps accepts one move, and not the next one; a named place accepts that one.
#[tokio::test]
async fn s7_a_flag_that_was_left_behind_accepts_no_later_move() {
    let path = new_path(".db");
    let stops = async |mut program: Program| {
        addresses(&mut program).await;
        program.process.signal(Signal::TERM);
        let ran = program.end().await;
        ran.check(0);
        ran
    };
    stops(serve(&sqlite(&path), &[])).await;
    let moves = |from: &std::path::Path| {
        let to = new_path(".db");
        std::fs::copy(from, &to).unwrap();
        std::fs::remove_file(from).unwrap();
        to
    };
    let first = moves(&path);
    serve(&sqlite(&first), &[]).end().await.check(1).complains(&["start once with --moved;"]);
    stops(serve(&sqlite(&first), &["--moved"])).await;
    let again = stops(serve(&sqlite(&first), &["--moved"])).await;
    again.complains(&["--moved has nothing to do"]);

    let second = moves(&first);
    let refused = serve(&sqlite(&second), &["--moved"]).end().await;
    refused.check(1).complains(&["may have been left behind", "start once with --moved=inode="]);
    let word = refused.err.split("with --moved=").nth(1).unwrap().split(';').next().unwrap();
    let named = format!("--moved={word}");
    for _ in 0..2 {
        stops(serve(&sqlite(&second), &[&named])).await;
    }
    let third = moves(&second);
    let refused = serve(&sqlite(&third), &[&named]).end().await;
    refused.check(1).complains(&["names another place", "start once with --moved=inode="]);
    // A start without the flag tells that it was taken out: but none has succeeded since.
    serve(&sqlite(&third), &["--moved", "--copy"]).end().await.check(2);
    stops(serve(&sqlite(&third), &["--moved"])).await;
}

/// A standby of this version, in tables that a later version has changed meanwhile.
#[tokio::test]
async fn s5_a_standby_of_an_older_version_ends_with_1() {
    let url = Server::shared().database().await;
    let mut first = serve(&url, &["--node", "first"]);
    addresses(&mut first).await;
    let mut standby = serve(&url, &["--node", "second"]);
    standby.until_err("waits as a standby").await;
    let mut raw = PgConnection::connect(&url).await.unwrap();
    let newer = "BEGIN; UPDATE unanimo.cluster SET incarnations = incarnations + 1;
        INSERT INTO unanimo.unanimo_migrations
            SELECT 9999, description, installed_on, success, checksum, execution_time
            FROM unanimo.unanimo_migrations WHERE version = 1;
        COMMIT";
    run(&mut raw, newer).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), standby.end()).await.unwrap();
    ended.check(1).complains(&[
        "its schema has version 9999",
        "start the version of unanimo that wrote it, or a later one",
    ]);
    first.process.signal(Signal::TERM);
    first.end().await.check(0);
}
