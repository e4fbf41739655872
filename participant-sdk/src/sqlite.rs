//! Participants whose data is in an SQLite file of one process.

mod block;
mod own;
mod sweep;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;
use unanimo_migrations::participant::SQLITE as MIGRATIONS;

use self::block::SqliteBlocks;
use crate::action::Registered;
use crate::barrier::{self, Losses};
use crate::handler::BoxError;
use crate::refusal::Refusal;
use crate::resource::{
    Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource, SWEEP_CONNECTIONS, Slots, Voted,
    sealed,
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
    sweep: SqlitePool,
    losses: Arc<Losses>,
    set_up: Arc<SetUp>,
}

/// Set-up of the database, which comes once.
#[derive(Debug)]
struct SetUp {
    options: SqliteConnectOptions,
    database_id: Arc<OnceLock<String>>,
    is_made: OnceLock<()>,
    /// Open as long as the participant: whoever closes the last connection empties the log of the file,
    /// and the next one makes it again.
    _keeper: Mutex<SqliteConnection>,
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
            .disable_statement_logging();
        Self::connect_with(connect).await
    }

    /// Opens the file with these options, as [`open`](Self::open) does. What the participant relies on is
    /// set over them: the journal mode WAL, full synchronisation, foreign keys, and the longest wait.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub async fn connect_with(options: SqliteConnectOptions) -> Result<Self, Error> {
        own::is_a_file(options.get_filename())?;
        let connect = options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let mut keeper = SqliteConnection::connect_with(&connect).await.map_err(Error::Connect)?;
        reads_back(&mut keeper).await.map_err(Error::Connect)?;
        // It is there now. One that is made where it was removed would know of no branch.
        let connect = connect.create_if_missing(false);
        let database_id = Arc::new(OnceLock::new());
        let pool = |connections| {
            let id = Arc::clone(&database_id);
            SqlitePoolOptions::new().max_connections(connections).after_connect(
                move |connection, _| {
                    let id = Arc::clone(&id);
                    Box::pin(async move {
                        reads_back(connection).await?;
                        is_the_same(connection, &id).await
                    })
                },
            )
        };
        // A handler may set what no statement sets back. So each of its connections is used once.
        let once = || pool(SLOTS).after_release(|_, _| Box::pin(std::future::ready(Ok(false))));
        let sqlite = Self {
            prepare: once().connect_lazy_with(connect.clone()),
            phase_two: once().connect_lazy_with(connect.clone()),
            sweep: pool(SWEEP_CONNECTIONS).connect_lazy_with(connect.clone()),
            losses: Arc::default(),
            set_up: Arc::new(SetUp {
                options: connect,
                database_id,
                is_made: OnceLock::new(),
                _keeper: Mutex::new(keeper),
            }),
        };
        match sqlite.make_table().await {
            Ok(()) | Err(Error::InUse { .. }) => Ok(sqlite),
            Err(error) => Err(error),
        }
    }

    /// Makes or upgrades the table, and learns its database's id.
    async fn make_table(&self) -> Result<(), Error> {
        let mut connection = self.to_set_up().await?;
        let found = schema::find!(connection, "prepare_until_ms");
        if schema::is_to_be_made(&MIGRATIONS, found)? {
            let made = schema::migrate(&MIGRATIONS, &mut connection).await;
            made.map_err(|error| match error {
                Error::Migrate(
                    MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
                ) if block::is_locked_out(&error) => Error::InUse { waited: BUSY_TIMEOUT },
                other => other,
            })?;
        }
        if let Some(id) = schema::read_id!(connection) {
            self.set_up.database_id.get_or_init(|| id);
        }
        connection.close().await.map_err(Error::Connect)?;
        self.set_up.is_made.get_or_init(|| ());
        Ok(())
    }
}

/// Fails if a connection does not have what it relies on.
async fn reads_back(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let mut read_back = Vec::new();
    for pragma in ["PRAGMA synchronous", "PRAGMA foreign_keys", "PRAGMA query_only"] {
        let setting: i64 = sqlx::query_scalar(pragma).fetch_one(&mut *connection).await?;
        read_back.push(setting);
    }
    let journal: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    if read_back == [2, 1, 0] && journal == "wal" {
        return Ok(());
    }
    let text = format!(
        "a connection of this file does not keep its settings: synchronous, foreign_keys and query_only are \
         {read_back:?} instead of [2, 1, 0], and journal_mode is {journal} instead of wal"
    );
    Err(sqlx::Error::Configuration(text.into()))
}

/// Fails if the file is another database than at the start: each operation opens it by its name.
async fn is_the_same(
    connection: &mut SqliteConnection,
    known: &OnceLock<String>,
) -> sqlx::Result<()> {
    let Some(known) = known.get() else { return Ok(()) };
    let found = sqlx::query_scalar(schema::READ_ID).fetch_optional(connection).await;
    let found: Option<String> = match found {
        Err(error) if block::is_unknown_table(&error) => None,
        found => found?,
    };
    match found {
        Some(found) if found == *known => Ok(()),
        found => {
            let found = found.unwrap_or_else(|| "another one, without a barrier".to_owned());
            let text =
                format!("the file was the database {known} at the start, and is {found} now");
            Err(sqlx::Error::Configuration(text.into()))
        }
    }
}

impl sealed::Sealed for Sqlite {}

impl Resource for Sqlite {
    type Connection = SqliteConnection;

    fn slots(&self) -> Slots {
        Slots { prepare: SLOTS as usize, phase_two: SLOTS as usize }
    }

    fn database_id(&self) -> Option<&str> {
        self.set_up.database_id.get().map(String::as_str)
    }

    async fn place(&self) -> Result<Option<String>, Fault> {
        Ok(own::place(self.set_up.options.get_filename()))
    }

    fn losses(&self) -> &Losses {
        &self.losses
    }

    async fn record_losses(&self) -> bool {
        barrier::record_all(&SqliteBlocks { pool: &self.phase_two }, &self.losses).await
    }

    fn for_sweeper(&self) -> Self {
        let sweep = self.sweep.clone();
        Self { prepare: sweep.clone(), phase_two: sweep, ..self.clone() }
    }

    fn is_made(&self) -> bool {
        self.set_up.is_made.get().is_some()
    }

    async fn make(&self) -> Result<(), Error> {
        if self.is_made() { Ok(()) } else { self.make_table().await }
    }

    async fn to_set_up(&self) -> Result<SqliteConnection, Error> {
        SqliteConnection::connect_with(&self.set_up.options).await.map_err(Error::Connect)
    }

    fn is_locked_out(error: &BoxError) -> bool {
        block::is_locked_out(error.as_ref())
    }

    async fn is_there(&self) -> Result<(), Fault> {
        for pool in [&self.prepare, &self.phase_two] {
            pool.acquire().await.map_err(block::fault("open a session"))?;
        }
        Ok(())
    }

    async fn prepare(
        &self,
        call: &RawCall,
        until: Option<SystemTime>,
        action: &Registered<SqliteConnection>,
    ) -> Result<Voted, Fault> {
        let blocks = SqliteBlocks { pool: &self.prepare };
        barrier::recorded_before(&blocks, &self.losses, call).await?;
        let voted = barrier::try_(&blocks, call, until, action).await;
        barrier::recorded(&blocks, &self.losses, call, voted).await
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
        let blocks = SqliteBlocks { pool: &self.phase_two };
        barrier::recorded_before(&blocks, &self.losses, call).await?;
        let ended = barrier::phase_two(&blocks, operation, call, action).await;
        barrier::recorded_end(&blocks, &self.losses, call, ended).await
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
