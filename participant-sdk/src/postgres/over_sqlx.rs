//! The driver of sqlx.

use std::sync::Arc;

use sqlx::postgres::{
    PgArguments, PgConnectOptions, PgConnection, PgDatabaseError, PgPool, PgPoolOptions, PgRow,
    PgSeverity,
};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Column, Connection as _, Postgres as Db, Row as _, TypeInfo};

use super::driver::{
    self, Care, Connection, Driver, Error, Parameter, Pool, ServerError, Session, Value,
    column_error,
};
use super::error::NO_SUCH_STATEMENT;
use super::own::Given;
use crate::causes;
use crate::resource::{ACQUIRE_TIMEOUT, Local};

/// Driver of sqlx. [`Postgres::connect`](crate::Postgres::connect) and its siblings make it.
#[derive(Clone, Debug)]
pub struct Sqlx {
    given: Arc<Given>,
}

impl Sqlx {
    pub(super) fn new(given: Given) -> Self {
        Self { given: Arc::new(given) }
    }

    pub(super) fn given(&self) -> &Arc<Given> {
        &self.given
    }
}

impl Driver for Sqlx {
    type Connection = PgConnection;
    type Pool = SqlxPool;

    async fn connect(&self, settings: &[(&str, String)]) -> Result<PgConnection, Error> {
        self.given.connect(settings).await
    }

    fn pool(&self, sessions_max: u32, care: Care) -> SqlxPool {
        let [for_new, for_again, for_used] = [(); 3].map(|()| care.clone());
        let pool = PgPoolOptions::new()
            .max_connections(sessions_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                let care = for_new.clone();
                Box::pin(async move { care.set_up(connection).await.map_err(into_sqlx) })
            })
            // Asked of every session that is taken up again, instead of a mere ping.
            .test_before_acquire(false)
            .before_acquire(move |connection, _| {
                let care = for_again.clone();
                Box::pin(async move { care.is_fit(connection).await.map_err(into_sqlx) })
            })
            // What a handler has set must not meet the next one.
            .after_release(move |connection, _| {
                let care = for_used.clone();
                Box::pin(async move { clean(connection, &care).await })
            })
            .connect_lazy_with(self.given.for_sessions());
        SqlxPool(pool)
    }
}

/// Makes a session as it was; answers whether it may be used again.
async fn clean(connection: &mut PgConnection, care: &Care) -> sqlx::Result<bool> {
    // A handler may have left a transaction open inside its own: sqlx then ended that one only.
    if connection.is_in_transaction() {
        return Ok(false);
    }
    match care.clean(connection).await {
        Ok(()) => Ok(true),
        // It is closed without another word to the server.
        Err(error) if error.is_silent() => Err(into_sqlx(error)),
        Err(_) => Ok(false),
    }
}

/// Pool of sqlx.
#[derive(Clone, Debug)]
pub struct SqlxPool(PgPool);

impl SqlxPool {
    pub(super) fn set_connect_options(&self, options: PgConnectOptions) {
        self.0.set_connect_options(options);
    }
}

impl Pool for SqlxPool {
    type Connection = PgConnection;
    type Session = SqlxSession;

    async fn acquire(&self) -> Result<SqlxSession, Error> {
        Local::acquire(&self.0).await.map(SqlxSession).map_err(from_sqlx)
    }
}

/// Session of a pool of sqlx.
#[derive(Debug)]
pub struct SqlxSession(Local<Db>);

impl Session for SqlxSession {
    type Connection = PgConnection;

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.0
    }

    async fn begin(&mut self, statements: &str) -> Result<(), Error> {
        self.0.start(AssertSqlSafe(statements)).await.map_err(from_sqlx)
    }

    async fn commit(&mut self) -> Result<(), Error> {
        self.0.commit_and_keep().await.map_err(from_sqlx)
    }

    fn release(self) {
        self.0.release();
    }
}

impl Connection for PgConnection {
    async fn run(&mut self, statements: &str) -> Result<(), Error> {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements));
        statements.execute(self).await.map(drop).map_err(from_sqlx)
    }

    async fn query(
        &mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<driver::Row>, Error> {
        let rows = bound(statement, parameters).fetch_all(&mut *self).await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return Err(forgetting(self, error).await),
        };
        rows.iter().map(values).collect()
    }

    async fn execute(
        &mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<u64, Error> {
        match bound(statement, parameters).execute(&mut *self).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(error) => Err(forgetting(self, error).await),
        }
    }

    fn server_error(error: &(dyn std::error::Error + 'static)) -> Option<ServerError> {
        let held = causes::answer(error).and_then(|answer| answer.try_downcast_ref());
        held.or_else(|| error.downcast_ref()).map(read)
    }

    async fn close(self) {
        // Nothing depends on how the connection ends.
        let _ = sqlx::Connection::close(self).await;
    }
}

fn bound<'q>(statement: &str, parameters: &'q [Parameter<'q>]) -> Query<'q, Db, PgArguments> {
    let query = sqlx::query(AssertSqlSafe(statement));
    parameters.iter().fold(query, |query, parameter| match *parameter {
        Parameter::Text(text) => query.bind(text),
        Parameter::Bytes(bytes) => query.bind(bytes),
        Parameter::Int(number) => query.bind(number),
        Parameter::Uuid(id) => query.bind(id),
        Parameter::Texts(texts) => query.bind(texts),
        Parameter::Uuids(ids) => query.bind(ids),
    })
}

/// Passes an error on. If a handler has deallocated the statements, sqlx believes that they are there.
async fn forgetting(connection: &mut PgConnection, error: sqlx::Error) -> Error {
    let error = from_sqlx(error);
    if super::error::code(&error) == Some(NO_SUCH_STATEMENT) {
        // If this fails, so will the connection's return to its pool.
        let _ = connection.clear_cached_statements().await;
    }
    error
}

fn values(row: &PgRow) -> Result<driver::Row, Error> {
    let columns = row.columns().iter().enumerate();
    columns.map(|(at, column)| value(row, at, column.type_info().name())).collect()
}

fn value(row: &PgRow, at: usize, kind: &str) -> Result<Value, Error> {
    let value = match kind {
        "BOOL" => row.try_get(at).map(|value: Option<_>| value.map(Value::Bool)),
        "INT8" => row.try_get(at).map(|value: Option<_>| value.map(Value::Int)),
        "INT4" => row.try_get(at).map(|value: Option<i32>| value.map(|i| Value::Int(i.into()))),
        "TEXT" | "VARCHAR" | "NAME" => {
            row.try_get(at).map(|value: Option<_>| value.map(Value::Text))
        }
        "BYTEA" => row.try_get(at).map(|value: Option<_>| value.map(Value::Bytes)),
        "UUID" => row.try_get(at).map(|value: Option<_>| value.map(Value::Uuid)),
        other => return Err(column_error(other)),
    };
    value.map(|value| value.unwrap_or(Value::Null)).map_err(from_sqlx)
}

fn answer(error: &sqlx::Error) -> Option<ServerError> {
    error.as_database_error()?.try_downcast_ref().map(read)
}

fn read(answer: &PgDatabaseError) -> ServerError {
    ServerError {
        code: answer.code().to_owned(),
        message: answer.message().to_owned(),
        detail: answer.detail().map(str::to_owned),
        routine: answer.routine().map(str::to_owned),
        is_fatal: !matches!(answer.severity(), PgSeverity::Error),
    }
}

pub(super) fn from_sqlx(error: sqlx::Error) -> Error {
    match answer(&error) {
        Some(answer) => Error::server(answer, error),
        None => Error::other(error),
    }
}

fn into_sqlx(error: Error) -> sqlx::Error {
    if error.is_silent() {
        return sqlx::Error::PoolTimedOut;
    }
    error.into_sqlx().unwrap_or_else(|error| sqlx::Error::Configuration(Box::new(error)))
}
