//! The durable state of the coordinator, on PostgreSQL and on SQLite.
//!
//! [`Store`] gives access to what is kept, each by a trait of its own: [`Incarnations`],
//! [`Transactions`], [`Waits`], [`Locks`], [`Endpoints`], [`Audit`], [`Feed`],
//! [`Webhooks`], [`Purge`]. Transitions are written by the [`journal`] alone,
//! through [`Store::batch_writer`].
//!
//! Two rules hold for all of it. A write names its [`Incarnation`] and has no effect once that
//! is fenced (promise S5). And a write whose acknowledgement was lost is neither done nor failed:
//! [`BatchError::Indeterminate`] is a variant of its own, and only the journal, which resends
//! it, may deal with it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use unanimo_core::Incarnation;

mod audit;
mod batch;
mod counts;
mod endpoints;
mod error;
mod feed;
mod incarnations;
pub mod journal;
mod listing;
mod locks;
mod nonces;
mod opening;
mod postgres;
mod purge;
mod rows;
mod sqlite;
mod transactions;
mod waits;
mod webhooks;

pub use audit::{Audit, AuditEnds, AuditLink, AuditRange, AuditRow};
pub use batch::{BatchError, BatchWriter, Cause, Earlier, GidHolder, Life, Write, Written};
pub use counts::PhaseCount;
pub use endpoints::{Endpoints, Registration};
pub use error::Error;
pub use feed::{
    Feed, FeedCursor, FeedEnds, FeedPage, FeedRow, NewEvent, News, NewsFound, NewsOf, Standing,
};
pub use incarnations::{IncarnationList, Incarnations, KnownIncarnation, LiveIncarnation};
pub use locks::{LockTake, LockTaken, Locks};
pub use opening::{Opening, Relocation, Start};
pub use postgres::{Postgres, PostgresOptions, SessionError};
pub(crate) use postgres::{is_shown, passed_over, unverified as unverified_servers};
pub use purge::{Purge, PurgeTimes, Purged, Retention};
pub use sqlite::Sqlite;
pub use transactions::{
    ASLEEP_PAGE_MAX, AsleepOf, AsleepPage, AttentionCount, Claim, Claimed, Filter, Found, Key,
    Page, PhaseName, Stored, Transactions, Unreadable,
};
pub use waits::{Asleep, WAITS_COUNT_MAX, Wait, Waits};
pub use webhooks::{Again, DeadLetter, MadeDue, WebhookPlace, Webhooks};

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

    /// Participants that transactions out of memory wait for.
    fn waits(&self) -> &dyn Waits;

    /// Locks that transactions hold against each other.
    fn locks(&self) -> &dyn Locks;

    /// Participants' endpoints.
    fn endpoints(&self) -> &dyn Endpoints;

    /// Acts of operators, and what else is audited.
    fn audit(&self) -> &dyn Audit;

    /// Numbered events of all transactions.
    fn feed(&self) -> &dyn Feed;

    /// Places of webhooks in the feed, and what their receivers did not take.
    fn webhooks(&self) -> &dyn Webhooks;

    /// Removal of old transactions.
    fn purge(&self) -> &dyn Purge;

    /// Opens a connection for batches, and makes a write of its own on it: what it reads from then
    /// on is at least as durable as that.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the incarnation is fenced.
    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error>;

    /// Opens a connection for batches that wait for the locks of others for a moment only, where the store knows such
    /// locks: whoever writes for many does not wait for one.
    ///
    /// # Errors
    /// As those of [`Store::batch_writer`].
    async fn hasty_batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        self.batch_writer(me).await
    }

    /// Counts the servers that were found to have taken the place of the one before. Such a one may lack what was
    /// acknowledged. `None` where no other server can take its place.
    fn generation(&self) -> Option<u64> {
        None
    }

    /// Returns the size of the database's write-ahead log, where that is a file of this process.
    fn log_bytes(&self) -> Option<u64> {
        None
    }

    /// Closes what is open, and waits for it.
    async fn close(&self);
}

/// Connects to the database that a URL names, `postgres://…` or `sqlite:PATH`, and changes nothing in
/// it. `start` has an operator's word if it is in another place than it was.
///
/// # Errors
/// The database cannot be reached, is of a later version or in another place, or is in use by another
/// process.
pub async fn connect(
    url: &str,
    options: &PostgresOptions,
    start: Start,
) -> Result<Box<dyn Opening>, Error> {
    match url.split_once(':') {
        Some(("postgres" | "postgresql", _)) => {
            Ok(Box::new(postgres::Opening::connect(url, options, start).await?))
        }
        Some(("sqlite", path)) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(Box::new(sqlite::Opening::connect(path.as_ref(), start).await?))
        }
        _ => Err(Error::Url("must begin with postgres:// or sqlite:".to_owned())),
    }
}

/// Connects to the database that a URL names, and opens its store.
///
/// # Errors
/// See [`connect`] and [`Opening::open`].
pub async fn open(url: &str, options: &PostgresOptions) -> Result<Arc<dyn Store>, Error> {
    connect(url, options, Start::default()).await?.open().await
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
/// a line number in PostgreSQL's source code, which means nothing to an operator, is the SQLSTATE instead; of SQLite it is the result code.
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
            // SQLite's codes are numbers, of which none is as long.
            let whose = |code: &str| if code.len() < 5 { "SQLite" } else { "SQLSTATE" };
            let code = answer
                .code()
                .map_or_else(String::new, |code| format!(" ({} {code})", whose(&code)));
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
