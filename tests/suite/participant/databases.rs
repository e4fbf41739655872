//! The databases that a participant may have, behind one face.

use std::task::Poll;

use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
pub(crate) use unanimo_sdk::{MySql, Postgres, Sqlite};
use unanimo_sdk::{Resource, TokioPostgres};
use unanimo_tests::plain_driver::Plain;
use unanimo_tests::{mariadb, postgres, reaper};
use uuid::Uuid;

/// End of a transaction inside a handler's own.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Then {
    Commit,
    Drop,
    Forget,
}

/// A participant's database: one of its own for each test.
///
/// Statements have their values in them: placeholders are not written alike everywhere.
pub(crate) trait Database: Resource + Clone {
    /// Connections of the test's own.
    type Pool: Clone + Send + Sync;

    /// Error of a handler's statement.
    type Error: std::error::Error + Send + Sync + 'static;

    /// A new database.
    async fn open() -> (Self, Self::Pool);

    /// Runs statements in a handler.
    fn run(
        db: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Begins a transaction inside a handler's own, and drops that half way, after this number of steps.
    fn abandon(db: &mut Self::Connection, steps: usize) -> impl Future<Output = ()> + Send;

    /// Runs statements in a transaction inside the handler's own, and ends that so.
    fn nested(
        db: &mut Self::Connection,
        sql: String,
        then: Then,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Runs statements from outside.
    async fn run_outside(pool: &Self::Pool, sql: String);

    /// The one number that a query finds.
    async fn number(pool: &Self::Pool, sql: String) -> i64;

    /// The text that a query finds.
    async fn text(pool: &Self::Pool, sql: String) -> Option<String>;
}

/// Drops a future that has not ended in this number of steps.
pub(crate) async fn drop_at<T>(work: impl Future<Output = T> + Send, steps: usize) {
    let (mut work, mut left) = (Box::pin(work), steps);
    std::future::poll_fn(|context| {
        left -= 1;
        if work.as_mut().poll(context).is_ready() || left == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// PostgreSQL over `tokio-postgres`.
pub(crate) type OverTokio = Postgres<TokioPostgres>;

/// PostgreSQL over a driver that is none of the SDK's.
pub(crate) type OverPlain = Postgres<Plain>;

macro_rules! database {
    ($resource:ty, $pool:ty, $open:expr) => {
        database!(
            $resource,
            $pool,
            $open,
            sqlx::Error,
            |db, sql| { Ok(sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await?.rows_affected()) },
            |db| sqlx::Connection::begin(db),
            |db, sql, then| {
                let mut nested = sqlx::Connection::begin(db).await?;
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *nested).await?;
                match then {
                    Then::Commit => nested.commit().await,
                    Then::Drop => Ok(drop(nested)),
                    Then::Forget => Ok(std::mem::forget(nested)),
                }
            }
        );
    };
    (
        $resource:ty,
        $pool:ty,
        $open:expr,
        $error:ty,
        |$db:ident, $sql:ident| $run:block,
        |$within:ident| $begin:expr,
        |$outer:ident, $inner:ident, $then:ident| $nested:block
    ) => {
        impl Database for $resource {
            type Pool = $pool;
            type Error = $error;

            async fn open() -> (Self, $pool) {
                let open: (Self, $pool) = $open.await;
                open
            }

            async fn run($db: &mut Self::Connection, $sql: String) -> Result<u64, $error> {
                $run
            }

            async fn abandon($within: &mut Self::Connection, steps: usize) {
                drop_at($begin, steps).await;
            }

            async fn nested(
                $outer: &mut Self::Connection,
                $inner: String,
                $then: Then,
            ) -> Result<(), $error> {
                $nested
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

database!(Postgres, sqlx::PgPool, async {
    let url = postgres::Server::shared().database().await;
    (Postgres::connect(&url).await.unwrap(), sqlx::PgPool::connect(&url).await.unwrap())
});

database!(MySql, sqlx::MySqlPool, async {
    let url = mariadb::Server::shared().database().await;
    (MySql::connect(&url).await.unwrap(), sqlx::MySqlPool::connect(&url).await.unwrap())
});

database!(Sqlite, sqlx::SqlitePool, async {
    let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
    let resource = Sqlite::open(&file).await.unwrap();
    let pool = sqlx::SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    (resource, pool)
});

database!(
    OverTokio,
    sqlx::PgPool,
    async {
        let url = postgres::Server::shared().database().await;
        let driver = TokioPostgres::new(url.parse().unwrap());
        (Postgres::over(driver).await.unwrap(), sqlx::PgPool::connect(&url).await.unwrap())
    },
    tokio_postgres::Error,
    |db, sql| { db.batch_execute(&sql).await.map(|()| 0) },
    |db| db.batch_execute("SAVEPOINT nested"),
    |db, sql, then| {
        db.batch_execute(&format!("SAVEPOINT nested; {sql}")).await?;
        match then {
            Then::Commit => db.batch_execute("RELEASE SAVEPOINT nested").await,
            Then::Drop => db.batch_execute("ROLLBACK TO SAVEPOINT nested").await,
            Then::Forget => Ok(()),
        }
    }
);

database!(
    OverPlain,
    sqlx::PgPool,
    async {
        let url = postgres::Server::shared().database().await;
        let driver = Plain(url.parse().unwrap());
        (Postgres::over(driver).await.unwrap(), sqlx::PgPool::connect(&url).await.unwrap())
    },
    tokio_postgres::Error,
    |db, sql| { db.batch_execute(&sql).await.map(|()| 0) },
    |db| db.batch_execute("SAVEPOINT nested"),
    |db, sql, then| {
        db.batch_execute(&format!("SAVEPOINT nested; {sql}")).await?;
        match then {
            Then::Commit => db.batch_execute("RELEASE SAVEPOINT nested").await,
            Then::Drop => db.batch_execute("ROLLBACK TO SAVEPOINT nested").await,
            Then::Forget => Ok(()),
        }
    }
);
