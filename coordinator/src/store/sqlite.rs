//! The store on SQLite: one file, one process.
//!
//! A lock on a file beside the database keeps other processes out. The database file itself must
//! not be locked, or even opened and closed, by anything but SQLite: POSIX drops all of a process's
//! locks on a file when any descriptor of it is closed. Writers take SQLite's write lock up front
//! (BEGIN IMMEDIATE): a busy database then means that nothing ran.

mod batch;
mod endpoints;
mod incarnations;
mod locks;
mod purge;
mod schema;
mod transactions;

pub(in crate::store) use self::schema::Opening;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::query::{Query, QueryAs};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions,
    SqliteRow,
};
use sqlx::{Connection, FromRow};
use unanimo_core::Incarnation;

use super::{BatchWriter, Endpoints, Error, Incarnations, Locks, Purge, Store, Transactions};

/// Longest wait of a writer for another one of this process. A batch takes milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a connection of a pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections for reads: they run beside the writer (WAL).
const READ_CONNECTIONS: u32 = 4;

/// The store on SQLite.
#[derive(Clone, Debug)]
pub struct Sqlite {
    reads: SqlitePool,
    /// One connection for everything that writes and is not the journal.
    writes: SqlitePool,
    /// One for the heartbeat: it never queues behind a long write.
    heartbeat: SqlitePool,
    connect: SqliteConnectOptions,
    cluster_id: String,
    /// Keeps other processes out for as long as any handle lives.
    _lock: Arc<File>,
}

type BoxFuture<'c, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

impl Sqlite {
    /// Opens the store on tables of this version.
    fn open(connect: &SqliteConnectOptions, cluster_id: String, lock: Arc<File>) -> Self {
        let pool = |connections| {
            let options = SqlitePoolOptions::new().max_connections(connections);
            options.acquire_timeout(ACQUIRE_TIMEOUT).connect_lazy_with(connect.clone())
        };
        Self {
            reads: pool(READ_CONNECTIONS),
            writes: pool(1),
            heartbeat: pool(1),
            connect: connect.clone(),
            cluster_id,
            _lock: lock,
        }
    }

    /// Runs one statement, and returns its rows.
    async fn rows<T>(
        &self,
        doing: &'static str,
        query: QueryAs<'static, sqlx::Sqlite, T, SqliteArguments>,
    ) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin + 'static,
    {
        self.read(doing, |connection| Box::pin(query.fetch_all(connection))).await
    }

    /// Runs one statement, and returns its only row.
    async fn row<T>(
        &self,
        doing: &'static str,
        query: QueryAs<'static, sqlx::Sqlite, T, SqliteArguments>,
    ) -> Result<T, Error>
    where
        T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin + 'static,
    {
        self.read(doing, |connection| Box::pin(query.fetch_one(connection))).await
    }

    /// Runs one statement, and returns its rows as they came: one that makes no sense is one of them
    /// only.
    async fn look(
        &self,
        doing: &'static str,
        query: Query<'static, sqlx::Sqlite, SqliteArguments>,
    ) -> Result<Vec<SqliteRow>, Error> {
        self.read(doing, |connection| Box::pin(query.fetch_all(connection))).await
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
        self.write_on(&self.writes, doing, me, work).await
    }

    async fn write_on<T, F>(
        &self,
        pool: &SqlitePool,
        doing: &'static str,
        me: Option<Incarnation>,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        let pool = pool.clone();
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
        Ok(Box::new(batch::Writer::connect(&self.connect, me).await?))
    }

    async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
        self.heartbeat.close().await;
    }
}
