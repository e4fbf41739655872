//! The store on SQLite: one file, one process.
//!
//! A lock on a file beside the database keeps other processes out, and the [files] are looked at before and
//! after each write: they must be those that were opened. The database file itself must
//! not be locked, or even opened and closed, by anything but SQLite: POSIX drops all of a process's
//! locks on a file when any descriptor of it is closed. Writers take SQLite's write lock up front
//! (BEGIN IMMEDIATE): a busy database then means that nothing ran.

mod audit;
mod batch;
mod damage;
mod earlier;
mod endpoints;
mod feed;
mod files;
mod frames;
mod incarnations;
mod left;
mod locks;
mod log;
mod opened;
mod purge;
mod schema;
mod transactions;
mod waits;
mod webhooks;
mod work;
mod writers;

pub(in crate::store) use self::schema::Opening;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::query::{Query, QueryAs};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions,
    SqliteRow,
};
use unanimo_core::Incarnation;
use uuid::Uuid;

use self::opened::Opened;
use super::nonces::Nonces;
use super::{
    Audit, BatchWriter, Endpoints, Error, Feed, Incarnations, Locks, Purge, Store, Transactions,
    Waits, Webhooks,
};

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
    /// One for the heartbeat: it waits for its turn to write, and for no connection.
    heartbeat: SqlitePool,
    connect: SqliteConnectOptions,
    cluster_id: String,
    nonces: Nonces,
    opened: Arc<Opened>,
}

type BoxFuture<'c, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

/// Number and nonce of an incarnation, of which a statement needs both.
#[derive(Clone, Copy, Debug)]
struct Right {
    me: Incarnation,
    nonce: Uuid,
}

impl Sqlite {
    /// Opens the store on tables of this version.
    fn open(connect: SqliteConnectOptions, cluster_id: String, opened: Opened) -> Self {
        let options = |connections| {
            let options = SqlitePoolOptions::new().max_connections(connections);
            // One that is open has the file that was opened.
            let options = options.idle_timeout(None).max_lifetime(None);
            options.acquire_timeout(ACQUIRE_TIMEOUT)
        };
        let pool = |options: SqlitePoolOptions| options.connect_lazy_with(connect.clone());
        Self {
            reads: pool(options(READ_CONNECTIONS)),
            writes: pool(options(1)),
            heartbeat: pool(log::counting(options(1))),
            connect,
            cluster_id,
            nonces: Nonces::default(),
            opened: Arc::new(opened),
        }
    }

    fn right(&self, me: Incarnation) -> Right {
        Right { me, nonce: self.nonces.nonce(me) }
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

    /// Reads, in a task of its own: a caller that goes away cancels nothing. What was read counts only if it
    /// is of the file that was opened.
    async fn read<T, F>(&self, doing: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        let (pool, opened) = (self.reads.clone(), Arc::clone(&self.opened));
        let task = tokio::spawn(async move {
            let read = async { work(&mut *pool.acquire().await?).await };
            let read = read.await.map_err(Error::database(doing));
            opened.check().await.and(read)
        });
        task.await.unwrap_or_else(|_| Err(Error::database(doing)(sqlx::Error::WorkerCrashed)))
    }

    /// Writes in one transaction, in a task of its own. With an incarnation: only if that is not
    /// fenced.
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
        let (pool, opened) = (pool.clone(), Arc::clone(&self.opened));
        let right = me.map(|me| self.right(me));
        let task = tokio::spawn(async move {
            opened.check().await?;
            let written = write_once(&pool, &opened, right, work).await;
            // After the commit: whoever is told of it finds it in the file.
            opened.check().await?;
            written.map_err(Error::database(doing))
        });
        let written = task.await;
        let written =
            written.unwrap_or_else(|_| Err(Error::database(doing)(sqlx::Error::WorkerCrashed)))?;
        written.ok_or_else(|| Error::Fenced(me.unwrap_or(Incarnation(0))))
    }
}

/// Writes in one transaction; `None` if the incarnation is fenced.
async fn write_once<T, F>(
    pool: &SqlitePool,
    opened: &Opened,
    right: Option<Right>,
    work: F,
) -> Result<Option<T>, sqlx::Error>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, T> + Send + 'static,
{
    let mut connection = pool.acquire().await?;
    log::set_pages(&mut connection, opened.log.pages()).await?;
    let turn = opened.turn.lock().await;
    let written = work::transact(&mut connection, |connection| {
        Box::pin(async move {
            if let Some(right) = right
                && !is_unfenced(connection, right).await?
            {
                return Ok(None);
            }
            work(connection).await.map(Some)
        })
    });
    let written = written.await;
    if matches!(written, Ok(Some(_))) {
        drop(turn);
        log::look_after(opened, &mut connection).await;
        return written;
    }
    let is_rolled_back = work::roll_back(&mut connection).await;
    drop(turn);
    if !is_rolled_back {
        let _ = connection.close().await;
    } else if written.as_ref().is_err_and(work::is_full) {
        log::make_space(opened, &mut connection).await;
    }
    written
}

async fn is_unfenced(connection: &mut SqliteConnection, right: Right) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2 AND NOT fenced)",
    )
    .bind(right.me.0)
    .bind(right.nonce)
    .fetch_one(connection)
    .await
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
        let opened = Arc::clone(&self.opened);
        Ok(Box::new(batch::Writer::connect(&self.connect, opened, self.right(me)).await?))
    }

    fn log_bytes(&self) -> Option<u64> {
        Some(self.opened.log_bytes())
    }

    async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
        self.heartbeat.close().await;
        self.opened.close().await;
    }
}
