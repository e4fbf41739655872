//! The store on SQLite: one file, one process.
//!
//! A lock on a file beside the database keeps other processes out. The database file itself must
//! not be locked, or even opened and closed, by anything but SQLite: POSIX drops all of a process's
//! locks on a file when any descriptor of it is closed. Writers take SQLite's write lock up front
//! (BEGIN IMMEDIATE): a busy database then means that nothing ran.

mod batch;
mod cluster;
mod participants;
mod purge;
mod read;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use unanimo_core::{Event, Incarnation, ParticipantName, Record, Timestamp, TxId, Version};

use super::{
    AttentionCount, BatchWriter, Claim, Error, Filter, Incarnations, Key, Purged, Registration,
    Retention, Store, Stored,
};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/coordinator/sqlite");

/// How long a writer waits for another one of this process. A batch takes milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections for reads: they run beside the writer (WAL).
const READ_CONNECTIONS: u32 = 4;

/// The store on SQLite.
#[derive(Clone, Debug)]
pub struct Sqlite {
    reads: SqlitePool,
    /// One connection for everything that writes and is not the journal.
    writes: SqlitePool,
    connect: SqliteConnectOptions,
    cluster_id: String,
    /// Keeps other processes out for as long as any handle lives.
    _lock: Arc<File>,
}

type BoxFuture<'c, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

impl Sqlite {
    /// Opens or creates the file, and migrates.
    ///
    /// # Errors
    /// The file cannot be used, another process has it, or its schema is of a later version.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let lock = lock_beside(path)?;
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut connection = SqliteConnection::connect_with(&connect)
            .await
            .map_err(Error::database("open the database file"))?;
        let result = MIGRATIONS.run(&mut connection).await;
        super::migrated(&MIGRATIONS, result)?;
        let cluster_id = sqlx::query_scalar("SELECT cluster_id FROM cluster")
            .fetch_one(&mut connection)
            .await
            .map_err(Error::database("read the cluster's id"))?;
        connection.close().await.map_err(Error::database("close the database file"))?;

        let pool = |connections| {
            SqlitePoolOptions::new().max_connections(connections).connect_lazy_with(connect.clone())
        };
        Ok(Self {
            reads: pool(READ_CONNECTIONS),
            writes: pool(1),
            connect: connect.clone(),
            cluster_id,
            _lock: Arc::new(lock),
        })
    }

    /// Reads, in a task of its own: a caller that goes away cancels nothing.
    async fn read<T, F>(&self, doing: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        let pool = self.reads.clone();
        let task = tokio::spawn(async move {
            let mut connection = pool.acquire().await?;
            work(&mut connection).await
        });
        task.await.unwrap_or(Err(sqlx::Error::WorkerCrashed)).map_err(Error::database(doing))
    }

    /// Writes in one transaction, in a task of its own. With an incarnation: only if that is not
    /// fenced; `None` if it is.
    async fn write<T, F>(
        &self,
        doing: &'static str,
        me: Option<Incarnation>,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        let pool = self.writes.clone();
        let task = tokio::spawn(async move {
            let mut connection = pool.acquire().await?;
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            if let Some(me) = me
                && !is_unfenced(&mut transaction, me).await?
            {
                return Ok(None);
            }
            let result = work(&mut transaction).await?;
            transaction.commit().await?;
            Ok(Some(result))
        });
        let result = task.await.unwrap_or(Err(sqlx::Error::WorkerCrashed));
        match (result.map_err(Error::database(doing))?, me) {
            (Some(result), _) => Ok(result),
            (None, me) => Err(Error::Fenced(me.unwrap_or(Incarnation(0)))),
        }
    }
}

async fn is_unfenced(
    connection: &mut SqliteConnection,
    me: Incarnation,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND NOT fenced)")
        .bind(me.0)
        .fetch_one(connection)
        .await
}

/// Locks the file `PATH.lock`, and makes the folder if it is not there.
fn lock_beside(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let shown = lock_path.display().to_string();
    let failed = |source| Error::File { path: shown.clone(), source };
    if let Some(folder) = lock_path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::InUse { path: shown }),
        Err(std::fs::TryLockError::Error(source)) => Err(Error::File { path: shown, source }),
    }
}

#[async_trait]
impl Store for Sqlite {
    fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        Ok(Box::new(batch::Writer::connect(&self.connect, me).await?))
    }

    async fn incarnations(&self) -> Result<Incarnations, Error> {
        self.read_incarnations().await
    }

    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error> {
        self.write_fence(incarnation, by.to_owned()).await
    }

    async fn create_incarnation(
        &self,
        node: &str,
        created: i64,
    ) -> Result<Option<Incarnation>, Error> {
        self.insert_incarnation(node.to_owned(), created).await
    }

    async fn renew(&self, me: Incarnation) -> Result<(), Error> {
        self.write_heartbeat(me).await
    }

    async fn fenced_by(&self, incarnation: Incarnation) -> Result<Option<String>, Error> {
        self.read_fenced_by(incarnation).await
    }

    async fn claim(&self, me: Incarnation, claim: Claim) -> Result<Vec<Record>, Error> {
        self.write_claim(me, claim).await
    }

    async fn open_of(&self, owner: Incarnation) -> Result<Vec<(TxId, Version)>, Error> {
        self.read_open_of(owner).await
    }

    async fn find(&self, key: &Key) -> Result<Option<Stored>, Error> {
        self.read_transaction(key.clone()).await
    }

    async fn events(&self, tx_id: TxId) -> Result<Vec<Event>, Error> {
        self.read_events(tx_id).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Stored>, Error> {
        self.read_page(filter.clone()).await
    }

    async fn attention(&self) -> Result<AttentionCount, Error> {
        self.read_attention().await
    }

    async fn purge_watermark(&self) -> Result<Timestamp, Error> {
        self.read_watermark().await
    }

    async fn purge(&self, me: Incarnation, retention: Retention) -> Result<Purged, Error> {
        self.write_purge(me, retention).await
    }

    async fn register(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.write_registration(me, name.clone(), endpoint.to_owned(), now).await
    }

    async fn deregister(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
    ) -> Result<(), Error> {
        self.delete_registration(me, name.clone(), endpoint.to_owned()).await
    }

    async fn registrations(&self) -> Result<Vec<Registration>, Error> {
        self.read_registrations().await
    }

    async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
    }
}
