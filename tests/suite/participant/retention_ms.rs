//! Rows that a participant purges on the databases whose rows have their bound in milliseconds.

use sqlx::Executor;
use unanimo_proto::v1::{Mode, Outcome};
use unanimo_sdk::{MySql, Participant, Service, Sqlite};
use unanimo_tests::mariadb;
use unanimo_tests::wait::until;

use super::deaf::Ears;
use super::retention::{RETENTION, late_messages};
use super::sweeper::{Reserve, World, eager};
use crate::coordinator::{sqlite_url, tcc};

const AGE: &str = "UPDATE unanimo_barrier SET prepare_until_ms = prepare_until_ms - 7200000";
const COUNT: &str = "SELECT count(*) FROM unanimo_barrier";

/// Messages after the purge, and a committed row.
async fn forgets_at_the_right_time<R: unanimo_sdk::Resource>(
    service: Service<R>,
    execute: impl AsyncFn(&'static str),
    rows: impl AsyncFn() -> usize,
) {
    let world = World::start(service.clone(), Ears::Open).await;
    let age = async || execute(AGE).await;
    late_messages(&service, world.url(), Mode::Tcc, &age, &rows).await;
    execute("DELETE FROM unanimo_barrier").await;
    let tx_id = world.submit(tcc("g", &["ok"]), Outcome::Committed).await;
    until("its end", async || world.get(&tx_id).await.ended_at.map(drop)).await;
    assert_eq!(rows().await, 1);
    age().await;
    let _sweeper = service.sweep([world.url()], eager().retention(RETENTION)).unwrap();
    until("the purge", async || (rows().await == 0).then_some(())).await;
}

#[tokio::test]
async fn s8_messages_that_come_after_the_purge_of_sqlite_have_no_effect() {
    let file = sqlite_url();
    let path = file.strip_prefix("sqlite:").unwrap();
    let participant = Participant::new("p", Sqlite::open(path).await.unwrap()).tcc("ok", Reserve);
    let pool = sqlx::SqlitePool::connect(&file).await.unwrap();
    let execute = async |statement| {
        pool.execute(statement).await.unwrap();
    };
    let rows = async || {
        let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&pool).await.unwrap();
        usize::try_from(count).unwrap()
    };
    forgets_at_the_right_time(participant.service().unwrap(), execute, rows).await;
}

#[tokio::test]
async fn s8_messages_that_come_after_the_purge_of_mariadb_have_no_effect() {
    let url = mariadb::Server::shared().database().await;
    let participant = Participant::new("p", MySql::connect(&url).await.unwrap()).tcc("ok", Reserve);
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    let execute = async |statement| {
        pool.execute(statement).await.unwrap();
    };
    let rows = async || {
        let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&pool).await.unwrap();
        usize::try_from(count).unwrap()
    };
    forgets_at_the_right_time(participant.service().unwrap(), execute, rows).await;
}
