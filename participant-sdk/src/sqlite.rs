//! Participants whose data is in an SQLite file of one process.

mod block;
mod sweep;

use std::path::Path;
use std::time::{Duration, SystemTime};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use unanimo_migrations::participant::SQLITE as MIGRATIONS;

use self::block::SqliteBlocks;
use crate::action::Registered;
use crate::barrier;
use crate::refusal::Refusal;
use crate::resource::{
    Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource, Slots, Voted, sealed,
};
use crate::schema::{self, Error};

/// Longest wait of an operation for another one's local transaction: there is one at a time.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Operations that may wait for their turn, of each phase.
const SLOTS: u32 = 4;

/// A participant's SQLite file, with its barrier.
///
/// It has connections of its own, apart from the service's: handlers run on them. SQLite runs one
/// writing transaction at a time, so a handler that takes long keeps all others waiting.
#[derive(Clone, Debug)]
pub struct Sqlite {
    prepare: SqlitePool,
    phase_two: SqlitePool,
}

impl Sqlite {
    /// Opens or creates the file, and creates or upgrades its table `unanimo_barrier`.
    ///
    /// # Errors
    /// The file cannot be used, or its table is of a later version.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut connection =
            SqliteConnection::connect_with(&connect).await.map_err(Error::Connect)?;
        let found = schema::find!(connection, "prepare_until_ms");
        if schema::is_to_be_made(&MIGRATIONS, found)? {
            schema::migrate(&MIGRATIONS, &mut connection).await?;
        }
        connection.close().await.map_err(Error::Connect)?;
        let pool = || {
            SqlitePoolOptions::new()
                .max_connections(SLOTS)
                // A handler that ended its transaction by itself leaves sqlx believing in it, and no
                // other one could begin here.
                .after_release(|connection, _| {
                    Box::pin(async move {
                        connection.ping().await?;
                        Ok(!connection.is_in_transaction())
                    })
                })
                .connect_lazy_with(connect.clone())
        };
        Ok(Self { prepare: pool(), phase_two: pool() })
    }
}

impl sealed::Sealed for Sqlite {}

impl Resource for Sqlite {
    type Connection = SqliteConnection;

    fn slots(&self) -> Slots {
        Slots { prepare: SLOTS as usize, phase_two: SLOTS as usize }
    }

    async fn prepare(
        &self,
        call: &RawCall,
        until: Option<SystemTime>,
        action: &Registered<SqliteConnection>,
    ) -> Result<Voted, Fault> {
        barrier::try_(&SqliteBlocks { pool: &self.prepare }, call, until, action).await
    }

    async fn refuse(&self, call: &RawCall, refusal: Refusal) -> Result<Voted, Fault> {
        barrier::refuse(&SqliteBlocks { pool: &self.prepare }, call, refusal).await
    }

    async fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        call: &RawCall,
        action: Option<&Registered<SqliteConnection>>,
    ) -> Result<PhaseTwoAnswer, Fault> {
        barrier::phase_two(&SqliteBlocks { pool: &self.phase_two }, operation, call, action).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_may_move_between_threads() {
        fn is_send(_: impl Send) {}
        is_send(Sqlite::open("never"));
    }
}
