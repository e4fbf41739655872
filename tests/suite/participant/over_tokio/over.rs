//! The same face as [`over`](crate::participant::over), of `tokio-postgres`.

use std::time::Duration;

use unanimo_sdk::{DatabaseError, Postgres, PostgresOptions, TokioConnection, TokioPostgres};

pub(crate) use crate::participant::over::Then;

pub(crate) type Database = Postgres<TokioPostgres>;

pub(crate) type Connection = TokioConnection;

type Error = tokio_postgres::Error;

pub(crate) const REMEMBERS_NESTED: bool = false;

pub(crate) async fn connect(
    options: PostgresOptions,
    url: &str,
) -> Result<Database, DatabaseError> {
    options.over(TokioPostgres::new(url.parse().unwrap())).await
}

pub(crate) async fn run(db: &mut Connection, sql: &str) -> Result<(), Error> {
    db.batch_execute(sql).await
}

pub(crate) async fn text(db: &mut Connection, sql: &str) -> Result<String, Error> {
    db.query_one(sql, &[]).await?.try_get(0)
}

/// There are no transactions inside a handler's own, but savepoints.
pub(crate) async fn nested(db: &mut Connection, sql: &str, then: Then) -> Result<(), Error> {
    let begin = "SAVEPOINT nested";
    if let Then::Abandon = then {
        let abandoned = tokio::time::timeout(Duration::ZERO, db.batch_execute(begin)).await;
        drop(abandoned);
        return run(db, sql).await;
    }
    run(db, begin).await?;
    run(db, sql).await?;
    match then {
        Then::Commit => run(db, "RELEASE SAVEPOINT nested").await,
        Then::Drop => run(db, "ROLLBACK TO SAVEPOINT nested").await,
        Then::Forget | Then::Abandon => Ok(()),
    }
}

pub(crate) async fn cached(db: &mut Connection, sql: &'static str) -> Result<(), Error> {
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[]).await.map(drop)
}
