//! The store on PostgreSQL.
//!
//! Every statement is a transaction of its own: nothing here says BEGIN, so nothing can leave a
//! connection inside a transaction. Reads and rare writes use a pool ([`sessions`]), each in a task that
//! nobody cancels; journals ([`batch`]) and the [`heartbeat`] have sessions of their own. All of them
//! are opened and looked at in one place, [`session`]. A statement that outlives its time closes its
//! session: the server may have vanished without a word.

/// Part of a statement that reads the fence of incarnation `$1`, with its nonce in this parameter. It is
/// locked: a rival that fences waits for the statement, or the statement for the rival. With one more
/// condition, if there is one.
macro_rules! fence {
    ($nonce:literal) => {
        fence!($nonce, "true")
    };
    ($nonce:literal, $condition:literal) => {
        concat!(
            "fence AS MATERIALIZED (
    SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = ",
            $nonce,
            " AND NOT fenced AND ",
            $condition,
            " FOR SHARE
)"
        )
    };
}

mod address;
mod audit;
mod batch;
mod damage;
mod endpoints;
mod feed;
mod heartbeat;
mod incarnations;
mod locks;
mod names;
mod place;
mod progress;
mod proof;
mod purge;
mod schema;
mod session;
mod sessions;
mod transactions;
mod webhooks;

pub(crate) use self::address::{is_shown, passed_over, unverified};
pub(in crate::store) use self::schema::Opening;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::{Query, QueryAs};
use unanimo_core::Incarnation;

use self::heartbeat::Heartbeat;
use self::session::Connector;
pub use self::session::SessionError;
use self::sessions::{Proof, Sessions};
use super::nonces::Nonces;
use super::{
    Audit, BatchWriter, Endpoints, Error, Feed, Incarnations, Locks, Purge, Store, Transactions,
    Waits, Webhooks,
};

/// Options of the connections to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresOptions {
    /// Connections for reads and rare writes. The journal's come on top.
    pub pool_connections: u32,
    /// Longest time of a statement on the server.
    pub statement_timeout: Duration,
    /// Schema of the tables.
    pub schema: String,
    /// Clients' names under one epoch, from which on the next one begins.
    pub names_of_epoch: u64,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            pool_connections: 8,
            statement_timeout: Duration::from_secs(10),
            schema: schema::SCHEMA_DEFAULT.to_owned(),
            names_of_epoch: names::NAMES_OF_EPOCH,
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
    sessions: Sessions,
    heartbeat: Heartbeat,
    journals: batch::Connections,
    cluster_id: String,
    nonces: Nonces,
    names: names::Names,
    progress: progress::Progress,
    damage: damage::Damage,
    reached: purge::Reached,
}

impl Postgres {
    /// Opens the store on tables of this version.
    fn open(connector: Connector, options: &PostgresOptions, cluster_id: String) -> Self {
        let sessions = Sessions::new(connector.clone(), options);
        let progress = connector.progress.clone();
        let names = names::Names::new(options.names_of_epoch);
        let journals = batch::Connections::new(&connector, options.answer_timeout(), names.clone());
        let heartbeat = Heartbeat::new(connector);
        let (nonces, damage, reached) = Default::default();
        Self { sessions, heartbeat, journals, cluster_id, nonces, names, progress, damage, reached }
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

    /// Reads what a client is told of transactions: the standbys have it, or a failover would undo what was told.
    /// The rows are as they came.
    async fn told(
        &self,
        doing: &'static str,
        query: Query<'static, sqlx::Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        self.run(doing, |connection| Box::pin(query.fetch_all(connection))).await
    }

    /// Reads for people, or what is compared again before it counts: no standby needs to have it. The
    /// rows are as they came, so that one that makes no sense is one of them only.
    async fn look(
        &self,
        doing: &'static str,
        query: Query<'static, sqlx::Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        let looking =
            self.sessions.run(Proof::Needless, |connection| Box::pin(query.fetch_all(connection)));
        looking.await.map_err(|error| failed(doing, error))
    }

    /// Runs one or more statements on a pooled session, in a task of their own: a caller that goes
    /// away cancels nothing. What was written, and what was read, is where the standbys have it.
    async fn run<T, F>(&self, doing: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        self.sessions.run(Proof::Wanted, work).await.map_err(|error| failed(doing, error))
    }
}

type BoxFuture<'c, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "the database did not answer in time",
    ))
}

fn failed(doing: &'static str, error: SessionError) -> Error {
    match error {
        SessionError::Driver(source) => Error::Database { doing, source },
        source => Error::Session { doing, source: Box::new(source) },
    }
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

    fn waits(&self) -> &dyn Waits {
        self
    }

    fn locks(&self) -> &dyn Locks {
        self
    }

    fn endpoints(&self) -> &dyn Endpoints {
        self
    }

    fn audit(&self) -> &dyn Audit {
        self
    }

    fn feed(&self) -> &dyn Feed {
        self
    }

    fn webhooks(&self) -> &dyn Webhooks {
        self
    }

    fn purge(&self) -> &dyn Purge {
        self
    }

    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        let me = (me, self.nonces.nonce(me));
        Ok(Box::new(self.journals.connect(me, batch::Waits::Long).await?))
    }

    async fn hasty_batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        let me = (me, self.nonces.nonce(me));
        Ok(Box::new(self.journals.connect(me, batch::Waits::Briefly).await?))
    }

    fn generation(&self) -> Option<u64> {
        Some(self.progress.generation())
    }

    async fn close(&self) {
        self.sessions.close().await;
        self.heartbeat.close();
        self.journals.close();
    }
}
