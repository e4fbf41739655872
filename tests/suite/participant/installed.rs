//! The barrier's table, made by hand from the plain files.

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_migrations::participant::{MYSQL, POSTGRES, SQLITE};
use unanimo_sdk::{DatabaseError, MySql, Postgres, Sqlite};
use unanimo_tests::{mariadb, postgres, reaper};
use uuid::Uuid;

/// Content of the plain files.
fn files(migrator: &Migrator) -> sqlx::RawSql {
    let files = migrator.iter().map(|migration| migration.sql.as_str());
    sqlx::raw_sql(AssertSqlSafe(files.collect::<String>()))
}

/// An owner makes the table; the service's own role may use it and make nothing.
#[tokio::test]
async fn a_role_that_may_make_nothing_uses_what_is_there() {
    let url = postgres::Server::shared().database().await;
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    let role = format!("r{}", Uuid::now_v7().simple());
    owner.execute(files(&POSTGRES)).await.unwrap();
    let grants = format!(
        "CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM public;
         GRANT SELECT, INSERT, UPDATE, DELETE ON unanimo_barrier TO {role}"
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await.unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let limited = format!("postgres://{role}@{host}");
    Postgres::connect(&limited).await.unwrap();

    // The same after the owner's own service has made it by a call.
    owner.execute("DROP TABLE unanimo_barrier").await.unwrap();
    Postgres::connect(&url).await.unwrap();
    let grants = format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON unanimo_barrier TO {role};
         GRANT SELECT ON unanimo_barrier_migrations TO {role}"
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await.unwrap();
    Postgres::connect(&limited).await.unwrap();
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
async fn a_table_that_lacks_something_is_told() {
    let url = postgres::Server::shared().database().await;
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    owner.execute("CREATE TABLE unanimo_barrier (tx_id uuid)").await.unwrap();
    let error = Postgres::connect(&url).await.unwrap_err();
    assert!(matches!(error, DatabaseError::ByHand { known: 1 }), "{error:?}");
    assert!(error.to_string().contains("lacks columns of version 1"), "{error}");
}
