//! A start that brings the tables of an earlier version to this one, and is killed meanwhile.

use std::os::unix::process::ExitStatusExt;

use sqlx::{AssertSqlSafe, Connection};
use unanimo_migrations::coordinator::{POSTGRES, SQLITE};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::{Program, addresses, new_path, serve, serve_command, sqlite};
use crate::fixtures::now;
use crate::store::execute;
use crate::store::migration::{many, up_to};

/// Transactions: sixteen chunks, and more than SQLite keeps in memory before it writes.
const COUNT: i64 = 8_000;
/// The process is killed behind the twelfth of them.
const CRASH: &str = "conversion-after-chunk:12";
const PAYLOAD_BYTES: usize = 500;

async fn one(url: &str, query: &str) -> i64 {
    let query = AssertSqlSafe(query.to_owned());
    if let Some(path) = url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut raw).await.unwrap()
    } else {
        let mut raw = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut raw).await.unwrap()
    }
}

/// Starts a process that is killed half way through, looks, and starts another one, which has all.
async fn is_killed_half_way(url: &str, look: impl FnOnce()) {
    let mut command = serve_command(url, &[]);
    command.env(unanimo_tests::crash::VARIABLE, CRASH);
    let mut first = Program::start(command);
    let ended = async || first.process.child().try_wait().unwrap();
    let status = until("it to be killed", ended).await;
    assert_eq!(status.signal(), Some(9), "{}", first.err());
    assert_eq!(first.out(), "");
    look();
    let err = first.err();
    assert!(!err.contains("were brought to this one"), "{err}");
    assert_eq!(one(url, "SELECT count(*) FROM transactions").await, COUNT);
    for table in ["branches", "history"] {
        assert!(one(url, &format!("SELECT count(*) FROM {table}")).await >= COUNT, "{table}");
    }
    let mut second = serve(url, &[]);
    addresses(&mut second).await;
    let schema = if url.starts_with("sqlite:") { "" } else { "unanimo." };
    for table in ["log", "gids"] {
        assert_eq!(one(url, &format!("SELECT count(*) FROM {schema}{table}")).await, COUNT);
    }
    second.process.kill();
}

/// S4: the whole of it is one transaction.
#[tokio::test]
async fn s4_a_start_that_is_killed_half_way_through_an_upgrade_has_changed_nothing() {
    let url = Server::shared().database().await;
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    up_to(15, &POSTGRES).run(&mut raw).await.unwrap();
    execute(&url, &many(COUNT as usize, now().0, PAYLOAD_BYTES, false)).await;
    is_killed_half_way(&url, || ()).await;

    let path = new_path(".db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    up_to(15, &SQLITE).run(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let url = sqlite(&path);
    execute(&url, &many(COUNT as usize, now().0, PAYLOAD_BYTES, true)).await;
    let log = path.with_extension("db-wal");
    // Some of it is in the file's log, and does not count.
    let look = || assert!(std::fs::metadata(log).unwrap().len() > 1 << 20);
    is_killed_half_way(&url, look).await;
}
