//! Driver that tests on PostgreSQL run over: sqlx. Each module that asks this one for its database is there once
//! more in [`over_tokio`](super::over_tokio), with another driver behind the same face.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection};
use unanimo_sdk::{DatabaseError, Postgres, PostgresOptions};

pub(crate) type Database = Postgres;

/// Connection that handlers work with.
pub(crate) type Connection = PgConnection;

type Error = sqlx::Error;

/// The driver believes that a transaction is open inside, which a handler has forgotten.
pub(crate) const REMEMBERS_NESTED: bool = true;

/// End of a transaction inside a handler's own.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    Commit,
    Drop,
    Forget,
    /// Ends the future that begins it, half way.
    Abandon,
}

pub(crate) async fn connect(
    options: PostgresOptions,
    url: &str,
) -> Result<Database, DatabaseError> {
    options.connect(url).await
}

/// Runs statements in a handler.
pub(crate) async fn run(db: &mut Connection, sql: &str) -> Result<(), Error> {
    db.execute(AssertSqlSafe(sql)).await.map(drop)
}

/// Returns the text that a statement finds in a handler.
pub(crate) async fn text(db: &mut Connection, sql: &str) -> Result<String, Error> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await
}

/// Runs statements in a transaction inside the handler's own, and ends that so.
pub(crate) async fn nested(db: &mut Connection, sql: &str, then: Then) -> Result<(), Error> {
    if let Then::Abandon = then {
        let abandoned = tokio::time::timeout(Duration::ZERO, db.begin()).await;
        drop(abandoned);
        return run(db, sql).await;
    }
    let mut nested = db.begin().await?;
    nested.execute(AssertSqlSafe(sql)).await?;
    match then {
        Then::Commit => nested.commit().await?,
        Then::Drop => drop(nested),
        Then::Forget => std::mem::forget(nested),
        Then::Abandon => unreachable!("it is no transaction"),
    }
    Ok(())
}

/// Runs a statement that stays prepared for as long as the connection lives.
pub(crate) async fn cached(db: &mut Connection, sql: &'static str) -> Result<(), Error> {
    sqlx::query(sql).fetch_all(db).await.map(drop)
}
