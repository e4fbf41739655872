//! The barrier's table on MariaDB and SQLite: made by hand from the plain files, and upgraded from the first version.

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_migrations::participant::{MYSQL, SQLITE};
use unanimo_sdk::{Isolation, MySql, Sqlite};
use unanimo_tests::{mariadb, reaper};
use uuid::Uuid;

use super::calls::{Branch, World};
use super::handler::Job;
use super::installed::{COLUMNS, files, goes_on, make_first_version, prepared_row};

/// Content of the plain files after the first ones.
fn files_from(migrator: &Migrator, first: usize) -> sqlx::RawSql {
    let files = migrator.iter().skip(first).map(|migration| migration.sql.as_str());
    sqlx::raw_sql(AssertSqlSafe(files.collect::<String>()))
}

#[tokio::test]
async fn plain_files_are_enough_on_mariadb_and_sqlite() {
    let url = mariadb::Server::shared().database().await;
    let mut admin = sqlx::MySqlConnection::connect(&url).await.unwrap();
    admin.execute(files(&MYSQL)).await.unwrap();
    MySql::connect(&url).await.unwrap();

    let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
    let url = format!("sqlite:{}?mode=rwc", file.display());
    let mut admin = sqlx::SqliteConnection::connect(&url).await.unwrap();
    admin.execute(files(&SQLITE)).await.unwrap();
    Sqlite::open(&file).await.unwrap();
}

#[tokio::test]
async fn s7_a_table_of_the_first_version_is_upgraded_on_mariadb() {
    let url = mariadb::Server::shared().database().await;
    let mut owner = sqlx::MySqlConnection::connect(&url).await.unwrap();
    make_first_version(&MYSQL, &mut owner).await;
    let branch = Branch::tcc(&Job::default());
    let insert = format!(
        "INSERT INTO unanimo_barrier ({COLUMNS}, reason, message, created_at, changed_at)
         VALUES ({}, '7', '', '', '2020-01-01', '2020-01-01')",
        prepared_row(&branch)
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(insert))).await.unwrap();
    // As far as an upgrade came that was interrupted before it was noted.
    owner.execute(files_from(&MYSQL, 1)).await.unwrap();
    let (database, pool) =
        (MySql::connect(&url).await.unwrap(), sqlx::MySqlPool::connect(&url).await.unwrap());
    goes_on(World::with(database, pool, Isolation::ReadCommitted).await, &branch).await;
}

#[tokio::test]
async fn s7_a_table_of_the_first_version_is_upgraded_on_sqlite() {
    let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
    let url = format!("sqlite:{}?mode=rwc", file.display());
    let mut owner = sqlx::SqliteConnection::connect(&url).await.unwrap();
    make_first_version(&SQLITE, &mut owner).await;
    let branch = Branch::tcc(&Job::default());
    let insert = format!(
        "INSERT INTO unanimo_barrier ({COLUMNS}) VALUES ({}, x'37')",
        prepared_row(&branch)
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(insert))).await.unwrap();
    owner.close().await.unwrap();
    let (database, pool) =
        (Sqlite::open(&file).await.unwrap(), sqlx::SqlitePool::connect(&url).await.unwrap());
    goes_on(World::with(database, pool, Isolation::ReadCommitted).await, &branch).await;
}
