//! The durable state of the coordinator, on PostgreSQL and on SQLite.
//!
//! [`Store`] gives access to what is kept, each by a trait of its own: [`Incarnations`],
//! [`Transactions`], [`Locks`], [`Endpoints`], [`Purge`]. Transitions are written by the [`journal`] alone,
//! through [`Store::batch_writer`].
//!
//! Two rules hold for all of it. A write names its [`Incarnation`] and has no effect once that
//! is fenced (promise S5). And a write whose acknowledgement was lost is neither done nor failed:
//! [`BatchError::Indeterminate`] is a variant of its own, and only the journal, which resends
//! it, may deal with it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use unanimo_core::{Incarnation, TxId};

mod batch;
mod endpoints;
mod incarnations;
pub mod journal;
mod locks;
mod opening;
mod postgres;
mod purge;
mod rows;
mod sqlite;
mod transactions;

pub use batch::{BatchError, BatchWriter, Cause, GidHolder, Life, Write, Written};
pub use endpoints::{Endpoints, Registration};
pub use incarnations::{IncarnationList, Incarnations, LiveIncarnation};
pub use locks::{LockTake, LockTaken, Locks};
pub use opening::{Opening, Relocation};
pub use postgres::{Postgres, PostgresOptions, SessionError};
pub use purge::{Purge, PurgeTimes, Purged, Retention};
pub use sqlite::Sqlite;
pub use transactions::{
    AttentionCount, COUNT_MAX, Claim, Claimed, Filter, Found, Key, PhaseCount, PhaseName, Stored,
    Transactions, Unreadable,
};

/// Durable state, by what is kept. Every request runs to its end in a task that nobody cancels, or
/// its connection is thrown away: see [`Postgres`].
///
/// The parts are methods and not supertraits, so that a store that wraps another one replaces one
/// part and forwards no single request.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Returns the name of the database, given at its first migration.
    fn cluster_id(&self) -> &str;

    /// The right to write.
    fn incarnations(&self) -> &dyn Incarnations;

    /// Transactions, read and adopted.
    fn transactions(&self) -> &dyn Transactions;

    /// Locks that transactions hold against each other.
    fn locks(&self) -> &dyn Locks;

    /// Participants' endpoints.
    fn endpoints(&self) -> &dyn Endpoints;

    /// Removal of old transactions.
    fn purge(&self) -> &dyn Purge;

    /// Opens a connection for batches, and makes a write of its own on it: what it reads from then
    /// on is at least as durable as that.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the incarnation is fenced.
    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error>;

    /// Closes what is open, and waits for it.
    async fn close(&self);
}

/// Connects to the database that a URL names, `postgres://…` or `sqlite:PATH`, and changes nothing in
/// it. `told` is an operator's word if it is in another place than it was.
///
/// # Errors
/// The database cannot be reached, is of a later version or in another place, or is in use by another
/// process.
pub async fn connect(
    url: &str,
    options: &PostgresOptions,
    told: Option<Relocation>,
) -> Result<Box<dyn Opening>, Error> {
    match url.split_once(':') {
        Some(("postgres" | "postgresql", _)) => {
            Ok(Box::new(postgres::Opening::connect(url, options, told).await?))
        }
        Some(("sqlite", path)) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(Box::new(sqlite::Opening::connect(path.as_ref(), told).await?))
        }
        _ => Err(Error::Url("must begin with postgres:// or sqlite:".to_owned())),
    }
}

/// Connects to the database that a URL names, and opens its store.
///
/// # Errors
/// See [`connect`] and [`Opening::open`].
pub async fn open(url: &str, options: &PostgresOptions) -> Result<Arc<dyn Store>, Error> {
    connect(url, options, None).await?.open().await
}

/// Failure of a request to the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The incarnation has lost its right to write.
    #[error("incarnation {0} is fenced")]
    Fenced(Incarnation),
    /// The transaction takes no more locks: it is decided, or another incarnation's.
    #[error("take locks for transaction {0}: it is decided, or another incarnation owns it")]
    NotOpen(TxId),
    /// The database did not do it, or did not say that it did.
    #[error("{doing}")]
    Database {
        /// The request, in words that fit after "failed to".
        doing: &'static str,
        /// Answer of the database or its driver.
        #[source]
        source: sqlx::Error,
    },
    /// The server is not one that is worked on, or did not prove what it acknowledged.
    #[error("{doing}")]
    Session {
        /// The request, in words that fit after "failed to".
        doing: &'static str,
        /// Fault of the session.
        #[source]
        source: Box<SessionError>,
    },
    /// The rows of one transaction make no sense. Others are not concerned.
    #[error(transparent)]
    Unreadable(Box<Unreadable>),
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
    /// The tables are of an earlier version, and an incarnation may write into them.
    #[error(
        "migrate the database's schema: node {node} may still write into it; it is fenced first, or \
         has to stop"
    )]
    StillWritten {
        /// Its node's name.
        node: String,
    },
    /// The database is not where it was.
    #[error(
        "open the database: it is not where it was used last ({known}), but in another place \
         ({found}){hint}; if it was moved or restored, and nobody serves the original any more, start once \
         with {moved}; if it is a copy, and the original goes on, start once with --copy, which gives \
         it a cluster id of its own and forgets the endpoints of participants"
    )]
    Elsewhere {
        /// The stored place.
        known: String,
        /// The place that it is in.
        found: String,
        /// More about it, as a part of the sentence.
        hint: &'static str,
        /// The flag that says that it was moved.
        moved: String,
    },
    /// The tables have changed since this process has opened them: their version, or their cluster id.
    #[error("use the database: its tables have changed since they were opened")]
    Changed,
    /// The database is where it was, and an operator calls it a copy.
    #[error(
        "make this database a copy: it is where it was used last, as far as it can tell; if it is a \
         clone of a whole server or disk, start once with --copy={cluster_id}, which names the cluster \
         id that it is to lose; otherwise leave --copy out"
    )]
    NoCopy {
        /// Its cluster id.
        cluster_id: String,
    },
    /// Tables of an earlier version are there, in another schema than the one to use.
    #[error(
        "use schema {schema}: the tables of this database are in schema {found}, where an earlier \
         version made them; start once with the default of database-schema, {default}, which moves \
         them there, or set database-schema to {found}"
    )]
    OtherSchema {
        /// The schema to use.
        schema: String,
        /// The schema in which they are.
        found: String,
        /// The default.
        default: &'static str,
    },
    /// The schema cannot be made.
    #[error(
        "make schema {schema}: the role may not; let the database's owner run CREATE SCHEMA {schema} \
         AUTHORIZATION the_role, or set database-schema to a schema that it may use"
    )]
    NoSchema {
        /// The schema.
        schema: String,
        /// Answer of the database.
        #[source]
        source: sqlx::Error,
    },
    /// Somebody else's table has the name of one of ours.
    #[error(
        "make the tables: one of that name is there, and is not ours; give the coordinator a database, \
         a schema (database-schema) or a file of its own"
    )]
    TableTaken(#[source] sqlx::migrate::MigrateError),
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
        /// Answer of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A stored row makes no sense.
    #[error("read {what}: the stored value {value:?} is not one that this program writes")]
    Corrupt {
        /// The column or table.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// Stored JSON is not what this program writes.
    #[error("read {what}: the stored JSON is not what this program writes: {why}")]
    CorruptJson {
        /// The column.
        what: &'static str,
        /// Fault of the JSON.
        why: String,
    },
    /// The address of the database cannot be understood.
    #[error("read the database URL: {0}")]
    Url(String),
}

impl Error {
    fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }

    /// Tells whether somebody else held what was needed: asked again, it may be free.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        use sqlx::migrate::MigrateError;
        if let Self::Session { source, .. } = self {
            // The standbys are behind: what is asked again may be proven.
            return matches!(**source, SessionError::Unproven);
        }
        let (Self::Database { source, .. }
        | Self::NoSchema { source, .. }
        | Self::Migrate(
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _),
        )) = self
        else {
            return false;
        };
        let sqlx::Error::Database(error) = source else { return false };
        // PostgreSQL: lock timeout, statement timeout, deadlock, serialization, starting up or no
        // connection left. SQLite: busy.
        let codes = ["55P03", "57014", "40P01", "40001", "57P03", "53300", "5", "517"];
        error.code().is_some_and(|code| codes.contains(&&*code))
    }
}

impl Error {
    /// Tells whether the same question will have the same answer until somebody does something: waiting
    /// does not help.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        let is_refusal = matches!(
            self,
            Self::NewerSchema { .. }
                | Self::Elsewhere { .. }
                | Self::NoCopy { .. }
                | Self::OtherSchema { .. }
                | Self::NoSchema { .. }
                | Self::TableTaken(_)
                | Self::Changed
                | Self::Url(_)
        );
        is_refusal || self.is_elsewhere()
    }

    /// Tells whether the server answered from another place than the one where the tables were opened.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        let Self::Session { source, .. } = self else { return false };
        matches!(**source, SessionError::Elsewhere { .. })
    }

    /// Tells whether the server answered that the tables, their schema or the whole database are not
    /// there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let Self::Database { source: sqlx::Error::Database(error), .. } = self else {
            return false;
        };
        // Undefined table, column, schema, database.
        let codes = ["42P01", "42703", "3F000", "3D000"];
        error.code().is_some_and(|code| codes.contains(&&*code))
    }
}

/// Turns the result of a migration into this module's error.
fn migrated(
    migrator: &sqlx::migrate::Migrator,
    result: Result<(), sqlx::migrate::MigrateError>,
) -> Result<(), Error> {
    use sqlx::migrate::MigrateError;
    let known = latest(migrator);
    result.map_err(|error| match error {
        MigrateError::VersionMissing(found) if found > known => Error::NewerSchema { found, known },
        MigrateError::ExecuteMigration(ref source, _) if is_taken(source) => {
            Error::TableTaken(error)
        }
        other => Error::Migrate(other),
    })
}

/// Returns the version to which this program brings the tables.
fn latest(migrator: &sqlx::migrate::Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Tells whether a table or an index of that name is there.
fn is_taken(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let postgres = error.code().is_some_and(|code| code == "42P07");
    postgres || error.message().ends_with(" already exists")
}

/// Runs the migrations of the files that have not been run, in the caller's transaction, which has a
/// lock. Their history is kept in [`opening::HISTORY`].
async fn run_migrations<C: sqlx::migrate::Migrate>(
    migrator: &sqlx::migrate::Migrator,
    connection: &mut C,
) -> Result<(), Error> {
    let mut own = sqlx::migrate::Migrator::with_migrations(migrator.iter().cloned().collect());
    own.dangerous_set_table_name(opening::HISTORY);
    own.set_locking(false);
    // Not `run`: its bounds keep the compiler from seeing that the future may move between threads.
    migrated(migrator, own.run_direct(None, connection, false).await)
}

/// An error and its causes, in one line. What an error says of its own cause is not said twice, and
/// a line number in PostgreSQL's source code, which means nothing to an operator, is the SQLSTATE instead.
#[must_use]
pub fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for error in std::iter::successors(Some(error), |error| error.source()) {
        let said = error.to_string();
        if text.is_empty() {
            text = said;
        } else if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        if let Some(sqlx::Error::Database(answer)) = error.downcast_ref() {
            let code = answer.code().map_or_else(String::new, |code| format!(" (SQLSTATE {code})"));
            let plain = format!("{}{code}", answer.message());
            text = text.replace(&answer.to_string(), &plain);
            // Its cause is the same answer once more.
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Says(&'static str, #[source] Option<Box<Says>>);

    #[test]
    fn each_cause_is_said_once() {
        let says = |text, cause| Box::new(Says(text, cause));
        let refused = || Some(says("Connection refused", None));
        for (error, expected) in [
            (says("renew the lease", None), "renew the lease"),
            (says("renew the lease", refused()), "renew the lease: Connection refused"),
            (
                says("renew the lease", Some(says("no answer: Connection refused", refused()))),
                "renew the lease: no answer: Connection refused",
            ),
        ] {
            assert_eq!(in_full(&*error), expected);
        }
    }
}
