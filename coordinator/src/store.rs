//! Where transactions survive: one trait, on PostgreSQL and on SQLite.
//!
//! Two rules run through all of it. A write names its [`Incarnation`] and touches no row once that
//! is fenced (promise S5). And a write whose acknowledgement was lost is neither done nor failed:
//! [`BatchError::Indeterminate`] is a variant of its own, and only the [`journal`], which resends
//! it, may deal with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::{
    BranchId, Digest, Event, Gid, Incarnation, ParticipantName, Record, Timestamp, Transition,
    TxId, Version,
};
use uuid::Uuid;

pub mod journal;
mod postgres;
mod rows;
mod sqlite;

pub use postgres::{Postgres, PostgresOptions};
pub use sqlite::Sqlite;

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The incarnation has lost its right to write.
    #[error("incarnation {0} is fenced")]
    Fenced(Incarnation),
    /// The database did not do it, or did not say that it did.
    #[error("{doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the database or its driver said.
        #[source]
        source: sqlx::Error,
    },
    /// The schema could not be brought to this version.
    #[error("migrate the database's schema")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The schema is of a later version of the program.
    #[error(
        "open the database: its schema has version {found}, this program knows up to {known}; \
         start the version of unanimo that wrote it, or a later one"
    )]
    NewerSchema {
        /// The database's version.
        found: i64,
        /// The latest version that this program knows.
        known: i64,
    },
    /// Another process has the SQLite file open.
    #[error(
        "lock {path}: another process serves this database file; SQLite is for one process, use \
         PostgreSQL for more"
    )]
    InUse {
        /// The lock file.
        path: String,
    },
    /// The lock file, or the folder that it is in, cannot be used.
    #[error("open {path}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A stored row makes no sense.
    #[error("read {what}: the stored value {value:?} is none that this program writes")]
    Corrupt {
        /// Which column or table.
        what: &'static str,
        /// What is in it.
        value: String,
    },
    /// The address of the database cannot be understood.
    #[error("read the database URL: {0}")]
    Url(String),
}

impl Error {
    fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}

/// One transition of one transaction on its way into the store.
#[derive(Clone, Debug)]
pub struct Write {
    /// Tells this write from every other, also from one with the same version.
    pub write_id: Uuid,
    /// The version that the row must have; the write gives it `transition.version`. A transition
    /// that begins a transaction has none: its gid must be new instead.
    pub base: Version,
    /// What is written.
    pub transition: Transition,
}

/// What became of a write in a batch that the database has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is durable.
    Applied,
    /// Somebody else holds the row: it was not touched, try again.
    Busy,
    /// Its gid belongs to another transaction.
    GidHeld(GidHolder),
    /// The row is not as this writer left it: somebody else owns it, or wrote it.
    Lost,
}

/// The transaction that holds a gid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GidHolder {
    /// Its name.
    pub tx_id: TxId,
    /// What was asked for under the gid.
    pub digest: Digest,
}

/// What an error was caused by.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a batch was not written as a whole.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Nothing was written: the writer is fenced.
    #[error("incarnation {0} is fenced")]
    Fenced(Incarnation),
    /// Nothing was written, and some row is to blame: it must not hold up the others.
    #[error("write a batch: a row is refused")]
    Refused(#[source] Cause),
    /// Nothing was written: a lock was not had in time.
    #[error("write a batch: a lock was not had in time")]
    LockTimeout(#[source] Cause),
    /// Nothing was written, through no fault of a row: try again.
    #[error("write a batch")]
    Failed(#[source] Cause),
    /// Whether anything was written is not known. This writer must not be used again.
    #[error("learn whether a batch was written")]
    Indeterminate(#[source] Cause),
    /// Whether anything was written is not known, and reading it back would prove nothing: the
    /// process must end and recover.
    #[error("write to the database file; the process must restart and recover")]
    Fatal(#[source] Cause),
}

/// The journal's own way into the database: one connection, outside any pool.
#[async_trait]
pub trait BatchWriter: Send + fmt::Debug {
    /// Writes all in one database transaction, and says for each what became of it. A write whose
    /// id is found on its row counts as applied: it was, by an earlier connection that did not live
    /// to tell, and is durable, since this connection began with a write of its own.
    ///
    /// # Errors
    /// See [`BatchError`]; after any but `Indeterminate` and `Fatal` nothing of the batch is
    /// written.
    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError>;
}

/// An incarnation that may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveIncarnation {
    /// Which.
    pub incarnation: Incarnation,
    /// Its node's name.
    pub node: String,
    /// Its heartbeat's counter.
    pub counter: i64,
}

/// All incarnations that may write, and how many were ever born.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnations {
    /// How many were ever born: what a birth compares.
    pub created: i64,
    /// Those that are not fenced.
    pub live: Vec<LiveIncarnation>,
}

/// Which transactions to take over.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// Unended ones of fenced incarnations, at most so many.
    OfFenced(u32),
    /// This one, if it still has this owner and version. The owner must be the claimant itself or
    /// fenced.
    One(TxId, Incarnation, Version),
}

/// A transaction's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The coordinator's.
    Tx(TxId),
    /// The client's.
    Gid(Gid),
}

/// A transaction as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its content; without branches where they were purged or not asked for.
    pub record: Record,
    /// Who may write it.
    pub owner: Incarnation,
    /// Its details are purged.
    pub stripped: bool,
}

impl Stored {
    /// Its branches were read at another moment than its state.
    fn is_torn(&self) -> bool {
        !self.stripped && self.record.branches.len() != self.record.state.branches.len()
    }
}

/// Which transactions to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one of these phases, by stored name; none means all.
    pub phases: Vec<PhaseName>,
    /// Only those that need a person.
    pub attention: bool,
    /// Only gids that begin so.
    pub gid_prefix: String,
    /// Only those with a branch there.
    pub participant: Option<ParticipantName>,
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_until: Option<Timestamp>,
    /// Older than this one: the last of the page before.
    pub before: Option<TxId>,
    /// At most so many.
    pub limit: u32,
}

/// A phase and its decision, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhaseName {
    /// Not decided.
    Active,
    /// COMMIT, not ended.
    Committing,
    /// ABORT, not ended.
    Aborting,
    /// COMMIT, ended.
    Committed,
    /// ABORT, ended.
    Aborted,
}

/// How long what has ended is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Branches, outputs and history.
    pub details: Duration,
    /// Gid, digest and outcome: for so long the same gid means the same transaction.
    pub gids: Duration,
}

/// What a purge took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Transactions whose details are gone.
    pub stripped: u64,
    /// Transactions that are gone.
    pub deleted: u64,
}

/// How many transactions need a person, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionCount {
    /// Phase two takes too long.
    pub stalled: i64,
    /// Branches ended against the decision, or cannot tell.
    pub heuristic: i64,
}

/// An endpoint that a participant registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The participant.
    pub name: ParticipantName,
    /// Where it answers; `None` if it has left every endpoint.
    pub endpoint: Option<String>,
    /// When it said so last.
    pub last_seen: Timestamp,
}

/// A branch whose fate is asked for.
pub type BranchKey = (TxId, BranchId);

/// Durable state. Every future runs to its end in a task that nobody cancels, or its connection is
/// thrown away: see [`Postgres`].
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The name of the database, given at its first migration.
    fn cluster_id(&self) -> &str;

    /// A journal's connection.
    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error>;

    /// Who may write.
    async fn incarnations(&self) -> Result<Incarnations, Error>;

    /// Ends the right of an incarnation to write, for ever. Commits alone.
    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error>;

    /// A new incarnation, if exactly `born` were born before; `None` if somebody else was faster.
    async fn create_incarnation(
        &self,
        node: &str,
        created: i64,
    ) -> Result<Option<Incarnation>, Error>;

    /// Moves the heartbeat.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn renew(&self, me: Incarnation) -> Result<(), Error>;

    /// Who fenced this incarnation, in words; `None` if nobody has.
    async fn fenced_by(&self, incarnation: Incarnation) -> Result<Option<String>, Error>;

    /// Takes transactions over: rewrites each durably with `me` as its owner and the next version,
    /// and only then answers with it.
    async fn claim(&self, me: Incarnation, claim: Claim) -> Result<Vec<Record>, Error>;

    /// Unended transactions of this owner, by id.
    async fn open_of(&self, owner: Incarnation) -> Result<Vec<(TxId, Version)>, Error>;

    /// Reads a transaction.
    async fn find(&self, key: &Key) -> Result<Option<Stored>, Error>;

    /// Reads a transaction's events, oldest first.
    async fn events(&self, tx_id: TxId) -> Result<Vec<Event>, Error>;

    /// Reads a page of transactions without their branches.
    async fn list(&self, filter: &Filter) -> Result<Vec<Stored>, Error>;

    /// How many transactions need a person.
    async fn attention(&self) -> Result<AttentionCount, Error>;

    /// Transactions with an id of before this may have been purged.
    async fn purge_watermark(&self) -> Result<Timestamp, Error>;

    /// Takes a bounded number of transactions whose time is over (promises S4, S10, S11).
    async fn purge(&self, me: Incarnation, retention: Retention) -> Result<Purged, Error>;

    /// Keeps a participant's endpoint, or moves its time.
    async fn register(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Takes an endpoint away; the name stays known.
    async fn deregister(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
    ) -> Result<(), Error>;

    /// Every participant's endpoints.
    async fn registrations(&self) -> Result<Vec<Registration>, Error>;

    /// Closes what is open, and waits for it.
    async fn close(&self);
}

/// Opens the store that a URL names, and brings its schema to this version: `postgres://…` or
/// `sqlite:PATH`.
///
/// # Errors
/// The database cannot be reached, is of a later version, or is in use by another process.
pub async fn open(url: &str, options: &PostgresOptions) -> Result<Arc<dyn Store>, Error> {
    match url.split_once(':') {
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(Postgres::open(url, options).await?)),
        Some(("sqlite", path)) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(Arc::new(Sqlite::open(path.as_ref()).await?))
        }
        _ => Err(Error::Url("must begin with postgres:// or sqlite:".to_owned())),
    }
}

/// What a migration's end means.
fn migrated(
    migrator: &sqlx::migrate::Migrator,
    result: Result<(), sqlx::migrate::MigrateError>,
) -> Result<(), Error> {
    use sqlx::migrate::MigrateError;
    let known = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    result.map_err(|error| match error {
        MigrateError::VersionMissing(found) if found > known => Error::NewerSchema { found, known },
        other => Error::Migrate(other),
    })
}

/// An error and its causes, in one line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
