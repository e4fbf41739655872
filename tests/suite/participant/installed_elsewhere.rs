//! The barrier's table on MariaDB and SQLite: made by hand from the plain files, and upgraded from the first version.

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_migrations::participant::{MYSQL, SQLITE};
use unanimo_sdk::{DatabaseError, Isolation, MySql, Sqlite};
use unanimo_tests::{mariadb, reaper};
use uuid::Uuid;

use super::calls::{Branch, End, World};
use super::handler::Job;
use super::installed::{COLUMNS, files, goes_on, make_first_version, make_versions, prepared_row};

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

/// An owner has made the table by an earlier version, and this one may not upgrade it.
#[tokio::test]
async fn an_account_that_may_make_nothing_uses_the_table_of_an_earlier_version() {
    let url = mariadb::Server::shared().database().await;
    let mut owner = sqlx::MySqlConnection::connect(&url).await.unwrap();
    make_versions(&MYSQL, 3, &mut owner).await;
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    let database = url.split('/').nth(3).and_then(|rest| rest.split('?').next()).unwrap();
    let account = format!("a{}", &Uuid::now_v7().simple().to_string()[..24]);
    let grants = format!(
        "CREATE USER {account}@localhost;
         GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {account}@localhost"
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await.unwrap();
    let limited = url.replace("root@", &format!("{account}@"));
    let world =
        World::with(MySql::connect(&limited).await.unwrap(), pool, Isolation::ReadCommitted).await;
    let branch = Branch::tcc(&Job::default());
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(world.committed(&branch).await, End::Done);
    // Where columns are missing there is nothing to go on with.
    owner.execute("ALTER TABLE unanimo_barrier DROP COLUMN output_type").await.unwrap();
    let error = MySql::connect(&limited).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Migrate(_)), "{error:?}");
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
