//! The connection that handlers work with, and the participant's statements on it.

use std::fmt;
use std::ops::Deref;

use bytes::BytesMut;
use deadpool_postgres::{ClientWrapper, Object};
use tokio_postgres::Client;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::handler::BoxError;
use crate::postgres::driver::{
    Connection, Error, Parameter, Row, ServerError, Value, column_error,
};
use crate::postgres::error::NO_SUCH_STATEMENT;

/// Connection of `tokio-postgres`, inside the branch's local transaction.
///
/// It gives all that a [`tokio_postgres::Client`] gives by `&self`, and the cache of statements of
/// `deadpool-postgres` (`prepare_cached`): `db.query(…)`, `db.execute(…)`. Where a function takes
/// `&impl GenericClient`, give it `&**db`.
///
/// It is no [`tokio_postgres::Transaction`], whose `commit` a handler must never call. Nor is it a client by
/// `&mut`: `Client::transaction` would begin inside the branch's transaction, and the commit of that would end
/// the branch's. Part of the work can be undone with `SAVEPOINT` and `ROLLBACK TO SAVEPOINT`.
///
/// ```
/// use unanimo_sdk::{Call, Json, Postgres, PrepareError, TokioConnection, TokioPostgres, TwoPhase, refuse};
///
/// struct Debit;
///
/// impl TwoPhase<Postgres<TokioPostgres>> for Debit {
///     type Payload = Json<(String, i64)>;
///
///     async fn prepare(
///         &self,
///         db: &mut TokioConnection,
///         call: &Call<Json<(String, i64)>>,
///     ) -> Result<(), PrepareError> {
///         let (account, cents) = &*call.payload;
///         let take = "UPDATE account SET cents = cents - $2
///                     WHERE id = $1 AND cents >= $2 AND $2 > 0";
///         match db.execute(take, &[account, cents]).await? {
///             0 => refuse("INSUFFICIENT_FUNDS", format!("{account} has too little")),
///             _ => Ok(()),
///         }
///     }
/// }
/// ```
pub struct TokioConnection(Held);

enum Held {
    OfPool(Object),
    Alone(ClientWrapper),
}

impl fmt::Debug for TokioConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioConnection").finish_non_exhaustive()
    }
}

impl From<Object> for TokioConnection {
    fn from(object: Object) -> Self {
        Self(Held::OfPool(object))
    }
}

impl From<ClientWrapper> for TokioConnection {
    fn from(client: ClientWrapper) -> Self {
        Self(Held::Alone(client))
    }
}

impl Deref for TokioConnection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match &self.0 {
            Held::OfPool(object) => object,
            Held::Alone(client) => client,
        }
    }
}

impl TokioConnection {
    /// Closes it without a word to the server, which sees that and rolls back.
    pub(super) fn close_now(self) {
        match self.0 {
            Held::OfPool(object) => drop(Object::take(object)),
            Held::Alone(client) => drop(client),
        }
    }

    /// Passes an error on. If a handler has deallocated the statements, the cache believes that they are
    /// there.
    fn forgetting(&self, error: tokio_postgres::Error) -> Error {
        let error = from_tokio(error);
        if super::super::error::code(&error) == Some(NO_SUCH_STATEMENT) {
            self.statement_cache.clear();
        }
        error
    }
}

impl Connection for TokioConnection {
    async fn run(&mut self, statements: &str) -> Result<(), Error> {
        self.batch_execute(statements).await.map_err(from_tokio)
    }

    async fn query(
        &mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.prepare_cached(statement).await.map_err(from_tokio)?;
        let (parameters, client): (_, &Client) = (bound(parameters), self);
        let rows = client.query(&statement, &as_dyn(&parameters)).await;
        let rows = rows.map_err(|error| self.forgetting(error))?;
        rows.iter().map(values).collect()
    }

    async fn execute(
        &mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<u64, Error> {
        let statement = self.prepare_cached(statement).await.map_err(from_tokio)?;
        let (parameters, client): (_, &Client) = (bound(parameters), self);
        let done = client.execute(&statement, &as_dyn(&parameters)).await;
        done.map_err(|error| self.forgetting(error))
    }

    fn server_error(error: &(dyn std::error::Error + 'static)) -> Option<ServerError> {
        match error.downcast_ref::<tokio_postgres::Error>() {
            Some(error) => error.as_db_error().map(read),
            None => error.downcast_ref().map(read),
        }
    }
}

/// A parameter as `tokio-postgres` takes it.
#[derive(Debug)]
struct Bound<'a>(Parameter<'a>);

fn bound<'a>(parameters: &[Parameter<'a>]) -> Vec<Bound<'a>> {
    parameters.iter().map(|parameter| Bound(*parameter)).collect()
}

fn as_dyn<'b>(parameters: &'b [Bound<'_>]) -> Vec<&'b (dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| parameter as &(dyn ToSql + Sync)).collect()
}

impl ToSql for Bound<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        match self.0 {
            Parameter::Text(text) => text.to_sql(kind, out),
            Parameter::Bytes(bytes) => bytes.to_sql(kind, out),
            Parameter::Int(number) => number.to_sql(kind, out),
            Parameter::Uuid(id) => id.to_sql(kind, out),
            Parameter::Texts(texts) => texts.to_sql(kind, out),
            Parameter::Uuids(ids) => ids.to_sql(kind, out),
        }
    }

    /// Each statement says of which type its parameters are.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn values(row: &tokio_postgres::Row) -> Result<Row, Error> {
    let columns = row.columns().iter().enumerate();
    columns.map(|(at, column)| value(row, at, column.type_())).collect()
}

fn value(row: &tokio_postgres::Row, at: usize, kind: &Type) -> Result<Value, Error> {
    let value = match *kind {
        Type::BOOL => row.try_get(at).map(|value: Option<_>| value.map(Value::Bool)),
        Type::INT8 => row.try_get(at).map(|value: Option<_>| value.map(Value::Int)),
        Type::INT4 => row.try_get(at).map(|value: Option<i32>| value.map(|i| Value::Int(i.into()))),
        Type::TEXT | Type::VARCHAR | Type::NAME => {
            row.try_get(at).map(|value: Option<_>| value.map(Value::Text))
        }
        Type::BYTEA => row.try_get(at).map(|value: Option<_>| value.map(Value::Bytes)),
        Type::UUID => row.try_get(at).map(|value: Option<_>| value.map(Value::Uuid)),
        _ => return Err(column_error(kind)),
    };
    value.map(|value| value.unwrap_or(Value::Null)).map_err(from_tokio)
}

fn read(answer: &DbError) -> ServerError {
    ServerError {
        code: answer.code().code().to_owned(),
        message: answer.message().to_owned(),
        detail: answer.detail().map(str::to_owned),
        routine: answer.routine().map(str::to_owned),
        is_fatal: answer.parsed_severity() != Some(Severity::Error),
    }
}

pub(super) fn from_tokio(error: tokio_postgres::Error) -> Error {
    match error.as_db_error().map(read) {
        Some(answer) => Error::server(answer, error),
        None => Error::other(error),
    }
}
