//! Driver of PostgreSQL outside of the SDK: the shortest one, for those who write another one.
//!
//! It has no pool. Each session is a connection that is opened for one use, and closed behind it. So nothing
//! that one handler leaves behind can meet another one, and [`Care::is_fit`] and [`Care::clean`] have nothing
//! to do; a driver with a pool runs them.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls};
use unanimo_sdk::driver::{
    ACQUIRE_TIMEOUT, Care, Connection, Driver, Error, Parameter, Pool, Row, ServerError, Session,
    Value,
};

/// Driver that connects by this configuration.
#[derive(Clone, Debug)]
pub struct Plain(pub Config);

impl Driver for Plain {
    type Connection = PlainConnection;
    type Pool = PlainPool;

    async fn connect(&self, settings: &[(&str, String)]) -> Result<PlainConnection, Error> {
        let mut config = self.0.clone();
        // The user's own, such as `-c search_path=shop`, come first: of two the last one holds.
        let given = config.get_options().unwrap_or_default().to_owned();
        let options = settings.iter().map(|(name, value)| {
            // A space in the value would end it.
            format!("-c {name}={}", value.replace('\\', r"\\").replace(' ', r"\ "))
        });
        let options: Vec<_> = std::iter::once(given).chain(options).collect();
        config.options(options.join(" ").trim_start());
        config.keepalives_idle(Duration::from_secs(10));
        let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
        let task = tokio::spawn(async move {
            // Whoever is at work on it gets the error, too.
            let _ = connection.await;
        });
        Ok(PlainConnection { client, task })
    }

    fn pool(&self, sessions_max: u32, care: Care) -> PlainPool {
        let free = Arc::new(Semaphore::new(sessions_max as usize));
        PlainPool { driver: self.clone(), care, free }
    }
}

/// Sessions, of which some may be open at once.
#[derive(Clone, Debug)]
pub struct PlainPool {
    driver: Plain,
    care: Care,
    free: Arc<Semaphore>,
}

impl PlainPool {
    async fn open(&self) -> Result<PlainSession, Error> {
        let free = Arc::clone(&self.free).acquire_owned().await.map_err(Error::other)?;
        let mut connection = self.driver.connect(self.care.settings()).await?;
        self.care.set_up(&mut connection).await?;
        Ok(PlainSession { connection, _free: free })
    }
}

impl Pool for PlainPool {
    type Connection = PlainConnection;
    type Session = PlainSession;

    async fn acquire(&self) -> Result<PlainSession, Error> {
        match timeout(ACQUIRE_TIMEOUT, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::other("no session is free, or the server does not answer")),
        }
    }
}

/// Session for one use.
#[derive(Debug)]
pub struct PlainSession {
    connection: PlainConnection,
    _free: OwnedSemaphorePermit,
}

impl Session for PlainSession {
    type Connection = PlainConnection;

    fn connection(&mut self) -> &mut PlainConnection {
        &mut self.connection
    }

    async fn begin(&mut self, statements: &str) -> Result<(), Error> {
        self.connection.run(statements).await
    }

    async fn commit(&mut self) -> Result<(), Error> {
        self.connection.run("COMMIT").await
    }

    /// The connection is closed, and the server rolls back what is open.
    fn release(self) {}
}

/// Connection that handlers work with, by `&Client`: that offers no transaction.
#[derive(Debug)]
pub struct PlainConnection {
    client: Client,
    task: JoinHandle<()>,
}

impl Drop for PlainConnection {
    fn drop(&mut self) {
        // The server sees it at once, whatever is still under way.
        self.task.abort();
    }
}

impl std::ops::Deref for PlainConnection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Connection for PlainConnection {
    async fn run(&mut self, statements: &str) -> Result<(), Error> {
        self.client.batch_execute(statements).await.map_err(failed)
    }

    async fn query(
        &mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        let bound: Vec<_> = parameters.iter().copied().map(Bound).collect();
        let bound: Vec<_> = bound.iter().map(|bound| bound as &(dyn ToSql + Sync)).collect();
        let rows = self.client.query(statement, &bound).await.map_err(failed)?;
        rows.iter().map(|row| (0..row.len()).map(|at| value(row, at)).collect()).collect()
    }

    async fn execute(
        &mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<u64, Error> {
        let bound: Vec<_> = parameters.iter().copied().map(Bound).collect();
        let bound: Vec<_> = bound.iter().map(|bound| bound as &(dyn ToSql + Sync)).collect();
        self.client.execute(statement, &bound).await.map_err(failed)
    }

    fn server_error(error: &(dyn std::error::Error + 'static)) -> Option<ServerError> {
        let whole = error.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.as_db_error());
        // A wrapper that is transparent, such as anyhow, shows what the error holds in its place.
        whole.or_else(|| error.downcast_ref::<DbError>()).map(answer)
    }
}

/// A parameter of the participant's, as the crate takes it.
#[derive(Debug)]
struct Bound<'a>(Parameter<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0 {
            Parameter::Text(text) => text.to_sql(kind, out),
            Parameter::Bytes(bytes) => bytes.to_sql(kind, out),
            Parameter::Int(number) => number.to_sql(kind, out),
            Parameter::Uuid(id) => id.to_sql(kind, out),
            Parameter::Texts(texts) => texts.to_sql(kind, out),
            Parameter::Uuids(ids) => ids.to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn value(row: &tokio_postgres::Row, at: usize) -> Result<Value, Error> {
    let value = match *row.columns()[at].type_() {
        Type::BOOL => row.try_get(at).map(|value: Option<_>| value.map(Value::Bool)),
        Type::INT8 => row.try_get(at).map(|value: Option<_>| value.map(Value::Int)),
        Type::TEXT => row.try_get(at).map(|value: Option<_>| value.map(Value::Text)),
        Type::BYTEA => row.try_get(at).map(|value: Option<_>| value.map(Value::Bytes)),
        Type::UUID => row.try_get(at).map(|value: Option<_>| value.map(Value::Uuid)),
        ref other => return Err(Error::other(format!("a column has the type {other}"))),
    };
    value.map(|value| value.unwrap_or(Value::Null)).map_err(failed)
}

/// An error of the crate: the server's answer, or anything else.
fn failed(error: tokio_postgres::Error) -> Error {
    match error.as_db_error().map(answer) {
        Some(answer) => Error::server(answer, error),
        None => Error::other(error),
    }
}

fn answer(answer: &DbError) -> ServerError {
    ServerError {
        code: answer.code().code().to_owned(),
        message: answer.message().to_owned(),
        detail: answer.detail().map(str::to_owned),
        routine: answer.routine().map(str::to_owned),
        is_fatal: answer.parsed_severity() != Some(Severity::Error),
    }
}
