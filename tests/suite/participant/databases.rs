//! The databases that a participant may have, behind one face.

use sqlx::{AssertSqlSafe, MySqlConnection, PgConnection, SqliteConnection};
use unanimo_sdk::{MySql, Postgres, Resource, Sqlite};
use unanimo_tests::{mariadb, postgres, reaper};
use uuid::Uuid;

/// A participant's database: one of its own for each test.
///
/// Statements have their values in them: placeholders are not written alike everywhere.
pub(crate) trait Database: Resource + Clone {
    /// Connections of the test's own.
    type Pool: Clone + Send + Sync;

    /// A new database.
    async fn open() -> (Self, Self::Pool);

    /// Runs statements in a handler.
    fn run(
        db: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Runs statements from outside.
    async fn run_outside(pool: &Self::Pool, sql: String);

    /// The one number that a query finds.
    async fn number(pool: &Self::Pool, sql: String) -> i64;

    /// The text that a query finds.
    async fn text(pool: &Self::Pool, sql: String) -> Option<String>;
}

macro_rules! database {
    ($resource:ty, $connection:ty, $pool:ty, $open:expr) => {
        impl Database for $resource {
            type Pool = $pool;

            async fn open() -> (Self, $pool) {
                let open: (Self, $pool) = $open.await;
                open
            }

            async fn run(db: &mut $connection, sql: String) -> sqlx::Result<u64> {
                Ok(sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await?.rows_affected())
            }

            async fn run_outside(pool: &$pool, sql: String) {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
            }

            async fn number(pool: &$pool, sql: String) -> i64 {
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap()
            }

            async fn text(pool: &$pool, sql: String) -> Option<String> {
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(pool).await.unwrap()
            }
        }
    };
}

database!(Postgres, PgConnection, sqlx::PgPool, async {
    let url = postgres::Server::shared().database().await;
    (Postgres::connect(&url).await.unwrap(), sqlx::PgPool::connect(&url).await.unwrap())
});

database!(MySql, MySqlConnection, sqlx::MySqlPool, async {
    let url = mariadb::Server::shared().database().await;
    (MySql::connect(&url).await.unwrap(), sqlx::MySqlPool::connect(&url).await.unwrap())
});

database!(Sqlite, SqliteConnection, sqlx::SqlitePool, async {
    let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
    let resource = Sqlite::open(&file).await.unwrap();
    let pool = sqlx::SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    (resource, pool)
});
