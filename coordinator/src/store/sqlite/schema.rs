//! Tables in an SQLite file before the store is open: found, and brought to this version.
//!
//! The lock beside the file keeps other processes out, so nobody else can write: nobody has to be
//! waited for.

mod conversion;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row};
use unanimo_core::Incarnation;
use unanimo_migrations::coordinator::SQLITE as MIGRATIONS;

use super::super::opening::{HISTORY, Itself, Nodes, Place, PlaceChange, Start};
use super::super::{Error, LiveIncarnation, Store, latest, run_migrations};
use super::files::{Files, Lock, Names};
use super::opened::Opened;
use super::{BUSY_TIMEOUT, Sqlite, left, log, work};

/// History of an earlier version: the library's default.
const OLD_HISTORY: &str = "_sqlx_migrations";

/// An SQLite file that was connected to.
#[derive(Debug)]
pub(in crate::store) struct Opening {
    names: Names,
    connect: SqliteConnectOptions,
    start: Start,
    /// There was no file.
    is_absent: bool,
    is_new: bool,
    /// Keeps other processes out for as long as any handle lives.
    lock: Arc<Lock>,
    /// The database file, if it was read without SQLite.
    read: Option<Arc<File>>,
}

impl Opening {
    pub(in crate::store) async fn connect(path: &Path, start: Start) -> Result<Self, Error> {
        let names = Names::of(path)?;
        let lock = Arc::new(Lock::take(&names)?);
        let is_absent = !names.is_there()?;
        let connect = SqliteConnectOptions::new()
            .filename(&names.real)
            .create_if_missing(false)
            .synchronous(SqliteSynchronous::Full)
            .pragma("journal_size_limit", log::BYTES_MAX.to_string())
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let (looking, connect) = (connect.clone(), connect.journal_mode(SqliteJournalMode::Wal));
        let (is_new, read) = (is_absent, None);
        let mut opening = Self { names, connect, start, is_absent, is_new, lock, read };
        if !is_absent {
            opening.names.check_only_name()?;
            opening.read = left::check_log(&opening.names)?.map(Arc::new);
            let looked = opening.look_first(looking).await;
            opening.is_new = looked.map_err(|error| opening.names.explain(error))?;
        }
        if !opening.is_alone() {
            tracing::warn!(
                file = %opening.names.real.display(),
                "there was no lock file beside this database, or none under which it was served: if somebody has \
                 deleted that one, another process may still serve the database; an incarnation of another node is \
                 waited for until it is silent"
            );
        }
        Ok(opening)
    }

    /// Tells whether no other process can have the database: each takes the lock.
    fn is_alone(&self) -> bool {
        self.is_new || self.lock.has_served
    }

    async fn connection(&self) -> Result<SqliteConnection, Error> {
        let connecting = SqliteConnection::connect_with(&self.connect);
        connecting.await.map_err(Error::database("open the database file"))
    }

    /// Looks at the tables, and changes nothing: a start that is refused leaves file and log as they were. Whoever closes the
    /// last connection that may write copies the log into the file.
    async fn look_first(&self, options: SqliteConnectOptions) -> Result<bool, Error> {
        if !left::has_log(&self.names) {
            return self.look_with(&options).await;
        }
        match self.look_with(&options.clone().read_only(true)).await {
            // A transaction of another mode has to be rolled back first.
            Err(Error::Database { source, .. }) if work::is_read_only(&source) => {
                self.look_with(&options).await
            }
            looked => looked,
        }
    }

    async fn look_with(&self, options: &SqliteConnectOptions) -> Result<bool, Error> {
        let connecting = SqliteConnection::connect_with(options);
        let mut connection = connecting.await.map_err(Error::database("open the database file"))?;
        let looked = self.look(&mut connection).await;
        let _ = connection.close().await;
        looked
    }

    /// Makes the file if there was none at the first look. One that has vanished since is not made anew.
    async fn first_connection(&self) -> Result<SqliteConnection, Error> {
        if !self.is_absent {
            return self.connection().await;
        }
        left::keep(&self.names)?;
        self.names.make()?;
        let connect = self.connect.clone().create_if_missing(true);
        let connecting = SqliteConnection::connect_with(&connect);
        connecting.await.map_err(Error::database("make the database file"))
    }

    /// Checks version and place, and tells whether there are no tables of ours.
    async fn look(&self, connection: &mut SqliteConnection) -> Result<bool, Error> {
        let known = latest(&MIGRATIONS);
        let found = version(connection).await?;
        match found {
            Some(found) if found > known => Err(Error::NewerSchema { found, known }),
            Some(_) => self.compare_place(connection).await.map(|_| false),
            None => Ok(true),
        }
    }

    /// Compares where the file says that it is with where it is.
    async fn compare_place(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<(Itself, PlaceChange), Error> {
        let doing = "read where the database is";
        // Not kept prepared: a migration on this connection changes the columns.
        let row = sqlx::query("SELECT * FROM cluster")
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(Error::database(doing))?;
        // Tables of an earlier version lack the later columns.
        let place = |column| {
            let text: Option<Option<String>> = row.try_get(column).ok();
            text.flatten().map(|text| Place::from_column(&text))
        };
        let itself = Itself {
            cluster_id: row.try_get("cluster_id").map_err(Error::database(doing))?,
            place: place("place"),
            copied_at: place("copied_at"),
            moved_by: Nodes::from_column(row.try_get("moved_by").unwrap_or_default()),
        };
        let change = itself.compare_place(&here(&self.names.real)?, &self.start)?;
        Ok((itself, change))
    }

    /// Brings the tables to this version, in one transaction.
    async fn migrate(&self, connection: &mut SqliteConnection) -> Result<String, Error> {
        let begun = connection.begin_with("BEGIN IMMEDIATE").await;
        let mut block = begun.map_err(Error::database("begin a migration"))?;
        self.look(&mut block).await?;
        take_history(&mut block).await?;
        let found = version(&mut block).await?;
        if found != Some(latest(&MIGRATIONS)) {
            run_migrations(&MIGRATIONS, &mut *block).await?;
            conversion::convert(&mut block).await?;
        }
        if found.is_none() {
            sqlx::raw_sql(
                "UPDATE cluster SET purge_clock_ms = CAST(unixepoch('subsec') * 1000 AS integer)",
            )
            .execute(&mut *block)
            .await
            .map_err(Error::database("begin the purge's time"))?;
        }
        let (itself, change) = self.compare_place(&mut block).await?;
        if change != PlaceChange::Stay {
            keep_place(&mut block, &here(&self.names.real)?, &change).await?;
        }
        if let Some(moved_by) = itself.new_flags(&self.start, &change) {
            sqlx::query("UPDATE cluster SET moved_by = $1")
                .bind(moved_by.to_column())
                .execute(&mut *block)
                .await
                .map_err(Error::database("store that the database was called moved"))?;
        }
        let cluster_id = sqlx::query_scalar("SELECT cluster_id FROM cluster")
            .fetch_one(&mut *block)
            .await
            .map_err(Error::database("read the cluster's id"))?;
        block.commit().await.map_err(Error::database("commit a migration"))?;
        Ok(cluster_id)
    }
}

#[async_trait]
impl super::super::Opening for Opening {
    fn is_new(&self) -> bool {
        self.is_new
    }

    fn needs_turn(&self) -> bool {
        false
    }

    async fn live(&self) -> Result<Vec<LiveIncarnation>, Error> {
        Ok(Vec::new())
    }

    async fn fence(&self, _: Incarnation, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn fence_silent(&self, _: Incarnation, _: i64, _: &str) -> Result<bool, Error> {
        Ok(true)
    }

    async fn has_displaced(&self, _: &LiveIncarnation) -> Result<bool, Error> {
        Ok(false)
    }

    async fn open(&self) -> Result<Arc<dyn Store>, Error> {
        self.open_store().await.map_err(|error| self.names.explain(error))
    }
}

impl Opening {
    async fn open_store(&self) -> Result<Arc<dyn Store>, Error> {
        let mut first = self.first_connection().await?;
        let cluster_id = match self.migrate(&mut first).await {
            Ok(cluster_id) => cluster_id,
            Err(error) => {
                let _ = first.close().await;
                return Err(error);
            }
        };
        // It has written: its files are there.
        let files = Files::opened(&self.names, &self.lock)?;
        if self.is_absent {
            tracing::warn!(
                file = %self.names.real.display(),
                "there was no database file, and a new, empty one was made; if you expect transactions in it, \
                 stop, and look whether database-url names the right file and its volume is mounted"
            );
        }
        let (lock, read) = (Arc::clone(&self.lock), self.read.clone());
        let opened = Opened::new(files, first, (lock, read), self.is_alone());
        Ok(Arc::new(Sqlite::open(self.connect.clone(), cluster_id, opened)))
    }
}

/// Returns the version of the tables; `None` if there are none.
async fn version(connection: &mut SqliteConnection) -> Result<Option<i64>, Error> {
    let doing = "look for the tables";
    for (history, statement) in [
        (HISTORY, "SELECT max(version) FROM unanimo_migrations WHERE success"),
        (
            OLD_HISTORY,
            "SELECT max(version) FROM _sqlx_migrations
             WHERE success AND EXISTS (
                 SELECT 1 FROM pragma_table_info('cluster') WHERE name = 'cluster_id')",
        ),
    ] {
        if has_table(connection, history).await? {
            let version: Option<i64> = sqlx::query_scalar(statement)
                .fetch_one(&mut *connection)
                .await
                .map_err(Error::database(doing))?;
            if version.is_some() {
                return Ok(version);
            }
        }
    }
    Ok(None)
}

async fn has_table(connection: &mut SqliteConnection, name: &str) -> Result<bool, Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1)",
    )
    .bind(name.to_owned())
    .fetch_one(connection)
    .await
    .map_err(Error::database("look for the tables"))
}

/// Takes the history of an earlier version over, whose place was the library's default.
async fn take_history(connection: &mut SqliteConnection) -> Result<(), Error> {
    if has_table(connection, HISTORY).await? || version(connection).await?.is_none() {
        return Ok(());
    }
    sqlx::raw_sql("ALTER TABLE _sqlx_migrations RENAME TO unanimo_migrations")
        .execute(connection)
        .await
        .map(drop)
        .map_err(Error::database("move the history of migrations"))
}

/// Returns the place of a file: its number in the file system, and the time when it was made, where the
/// file system knows that. A copy has others; a file that was renamed has not.
fn here(path: &Path) -> Result<Place, Error> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).map_err(|source| {
        let path = path.display().to_string();
        Error::File { path, source }
    })?;
    let made = file.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let made = made.map(|since| since.as_nanos().to_string());
    Ok(Place::new([("inode", Some(file.ino().to_string())), ("made", made)]))
}

async fn keep_place(
    connection: &mut SqliteConnection,
    here: &Place,
    change: &PlaceChange,
) -> Result<(), Error> {
    let doing = "store where the database is";
    let is_copy = *change == PlaceChange::Copy;
    let cluster_id: String = sqlx::query_scalar(
        "UPDATE cluster SET place = $1,
             copied_at = CASE WHEN $2 THEN $1 ELSE copied_at END,
             cluster_id = CASE
                 WHEN $2 THEN 'c' || lower(hex(randomblob(6))) ELSE cluster_id END
         RETURNING cluster_id",
    )
    .bind(here.to_string())
    .bind(is_copy)
    .fetch_one(&mut *connection)
    .await
    .map_err(Error::database(doing))?;
    if is_copy {
        sqlx::query("DELETE FROM endpoints")
            .execute(connection)
            .await
            .map_err(Error::database(doing))?;
        tracing::warn!(
            cluster_id,
            "this database is a copy: it has a new cluster id, and knows no endpoint of a participant"
        );
    }
    Ok(())
}
