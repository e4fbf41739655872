//! The store on PostgreSQL.
//!
//! Every statement is a transaction of its own: nothing here says BEGIN, so nothing can leave a
//! connection inside a transaction. Reads and rare writes use a pool, each in a task that nobody
//! cancels; journals have connections of their own ([`batch`]). A statement that outlives its time
//! closes its connection: the server may have vanished without a word.

mod batch;
mod endpoints;
mod incarnations;
mod locks;
mod purge;
mod schema;
mod transactions;

pub(in crate::store) use self::schema::Opening;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::QueryAs;
use unanimo_core::Incarnation;

use super::{BatchWriter, Endpoints, Error, Incarnations, Locks, Purge, Store, Transactions};

/// Longest wait of a statement for a lock. Short: a journal behind a lock holds up everybody, and
/// whatever waited is tried again.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// Options of the connections to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresOptions {
    /// Connections for reads and rare writes. The journal's come on top.
    pub pool_connections: u32,
    /// Longest time of a statement on the server.
    pub statement_timeout: Duration,
    /// Schema of the tables.
    pub schema: String,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            pool_connections: 8,
            statement_timeout: Duration::from_secs(10),
            schema: schema::SCHEMA_DEFAULT.to_owned(),
        }
    }
}

impl PostgresOptions {
    /// Longest wait for an answer. Longer than the server takes to give up, so that a slow
    /// statement is known to have failed, and only a silent server makes one indeterminate.
    fn answer_timeout(&self) -> Duration {
        self.statement_timeout + Duration::from_secs(5)
    }
}

/// The store on PostgreSQL.
#[derive(Clone, Debug)]
pub struct Postgres {
    pool: PgPool,
    /// One connection, for renewals alone: they never queue behind a slow read.
    heartbeat: PgPool,
    connect: PgConnectOptions,
    answer_timeout: Duration,
    cluster_id: String,
}

impl Postgres {
    /// Opens the store on tables of this version.
    async fn open(given: PgConnectOptions, options: &PostgresOptions) -> Result<Self, Error> {
        let connect = given.options(session_settings(options));
        let pool = |connections| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(options.answer_timeout())
                .connect_lazy_with(connect.clone())
        };
        let mut store = Self {
            pool: pool(options.pool_connections),
            heartbeat: pool(1),
            connect: connect.clone(),
            answer_timeout: options.answer_timeout(),
            cluster_id: String::new(),
        };
        let read = sqlx::query_as("SELECT cluster_id FROM cluster");
        (store.cluster_id,) = store.row("read the cluster's id", read).await?;
        Ok(store)
    }

    /// Runs one statement, and returns its rows.
    async fn rows<T>(
        &self,
        doing: &'static str,
        query: QueryAs<'static, sqlx::Postgres, T, PgArguments>,
    ) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        self.run(doing, |connection| Box::pin(query.fetch_all(connection))).await
    }

    /// Runs one statement, and returns its only row.
    async fn row<T>(
        &self,
        doing: &'static str,
        query: QueryAs<'static, sqlx::Postgres, T, PgArguments>,
    ) -> Result<T, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        self.run(doing, |connection| Box::pin(query.fetch_one(connection))).await
    }

    /// Runs one or more statements on a pooled connection, in a task of their own: a caller that
    /// goes away cancels nothing.
    async fn run<T, F>(&self, doing: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        self.run_on(&self.pool, doing, work).await
    }

    async fn run_on<T, F>(&self, pool: &PgPool, doing: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        let (pool, answer_timeout) = (pool.clone(), self.answer_timeout);
        let task = tokio::spawn(async move {
            let mut connection = pool.acquire().await?;
            match tokio::time::timeout(answer_timeout, work(&mut connection)).await {
                Ok(result) => result,
                Err(_) => {
                    drop(connection.detach());
                    Err(no_answer())
                }
            }
        });
        task.await.unwrap_or(Err(sqlx::Error::WorkerCrashed)).map_err(Error::database(doing))
    }
}

type BoxFuture<'c, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "the database did not answer in time",
    ))
}

/// Settings of every session, whatever the server's or the role's defaults are.
fn session_settings(options: &PostgresOptions) -> Vec<(&'static str, String)> {
    let ms = |duration: Duration| duration.as_millis().to_string();
    vec![
        // Nobody else's table is ever met.
        ("search_path", options.schema.clone()),
        ("statement_timeout", ms(options.statement_timeout)),
        ("lock_timeout", ms(LOCK_TIMEOUT)),
        // No statement of ours leaves a transaction open; should one ever, it must not hold locks.
        ("idle_in_transaction_session_timeout", ms(options.statement_timeout)),
        ("synchronous_commit", "on".to_owned()),
        ("default_transaction_isolation", "read committed".to_owned()),
        ("default_transaction_read_only", "off".to_owned()),
        // A coordinator that vanished must not leave its locks behind for hours.
        ("tcp_keepalives_idle", "10".to_owned()),
        ("tcp_keepalives_interval", "5".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
        // Statements join arrays of a few hundred keys with tables of millions of rows. The planner
        // does not know that and must not scan a table while its statistics are young.
        ("enable_seqscan", "off".to_owned()),
        // With that, a plan that cannot do without a scan has a cost above the limit for compiling,
        // and is compiled each time: milliseconds for a statement of a fraction of one.
        ("jit", "off".to_owned()),
    ]
}

#[async_trait]
impl Store for Postgres {
    fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    fn incarnations(&self) -> &dyn Incarnations {
        self
    }

    fn transactions(&self) -> &dyn Transactions {
        self
    }

    fn locks(&self) -> &dyn Locks {
        self
    }

    fn endpoints(&self) -> &dyn Endpoints {
        self
    }

    fn purge(&self) -> &dyn Purge {
        self
    }

    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        let connecting = batch::Writer::connect(self.connect.clone(), me, self.answer_timeout);
        Ok(Box::new(connecting.await?))
    }

    async fn close(&self) {
        self.pool.close().await;
        self.heartbeat.close().await;
    }
}
