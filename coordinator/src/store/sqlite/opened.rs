//! The database that was opened, as all its connections share it.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::Mutex;

use super::super::{Error, in_full};
use super::damage::Damage;
use super::files::{Files, Lock};
use super::log::Log;
use super::purge::Searched;
use super::writers::Writers;

/// Longest time in which what a deleted log holds is saved: another connection may read it, or write it, meanwhile.
const SAVED_WITHIN: Duration = Duration::from_secs(60);

/// Pause between two tries.
const SAVE_PAUSE: Duration = Duration::from_millis(50);

/// Files that stay open for as long as any handle lives.
type Held = (Arc<Lock>, Option<Arc<File>>);

/// The database that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    files: Files,
    /// The first connection. As long as one is open SQLite keeps its write-ahead log and does not make
    /// another one. It is closed last.
    first: Mutex<Option<SqliteConnection>>,
    /// An attempt was made to save what a lost log holds.
    has_saved: AtomicBool,
    /// Turn to write. SQLite's lock is asked for again and again, in no order, and whoever is unlucky waits for long: here the one
    /// that came first is the next. It is held from BEGIN to COMMIT or ROLLBACK.
    pub(super) turn: Mutex<()>,
    pub(super) writers: Writers,
    pub(super) log: Log,
    pub(super) damage: Damage,
    pub(super) searched: Searched,
    /// No other process can have the database.
    pub(super) is_alone: bool,
    /// Keeps other processes out for as long as any handle lives. So does the database file, if it was read without SQLite:
    /// closed before, it would take SQLite's locks with it.
    held: Held,
}

impl Opened {
    pub(super) fn new(files: Files, first: SqliteConnection, held: Held, is_alone: bool) -> Self {
        let (first, has_saved) = (Mutex::new(Some(first)), AtomicBool::new(false));
        let (turn, writers, log, damage, searched) = Default::default();
        Self { files, first, has_saved, turn, writers, log, damage, searched, is_alone, held }
    }

    /// Fails if the files at the paths are not those that were opened.
    pub(super) async fn check(&self) -> Result<(), Error> {
        let checked = self.files.check();
        if checked.is_err() {
            self.save().await;
        }
        checked
    }

    /// Returns the size of the write-ahead log.
    pub(super) fn log_bytes(&self) -> u64 {
        self.files.log_bytes()
    }

    /// Writes what a deleted log holds into the database file, which is where it belongs: this process alone
    /// can still read it. With anything else amiss another process may have the file, and nothing is written.
    async fn save(&self) {
        if !self.files.has_lost_log_only() {
            return;
        }
        // Whoever comes meanwhile waits until it is done: the process ends with the first error that is told.
        let mut first = self.first.lock().await;
        let Some(first) = first.as_mut() else { return };
        if self.has_saved.load(Ordering::Relaxed) {
            return;
        }
        // Noted at the end: whoever waits for this may give up meanwhile.
        let until = Instant::now() + SAVED_WITHIN;
        loop {
            let saved: Result<(i64, i64, i64), _> =
                sqlx::query_as("PRAGMA wal_checkpoint(FULL)").fetch_one(&mut *first).await;
            match saved {
                Ok((0, pages, copied)) if pages == copied => {
                    tracing::warn!(
                        pages,
                        "the write-ahead log was deleted while it was in use; all that it held is written into the \
                         database file"
                    );
                    break;
                }
                // Somebody else is about it, or reads what is not copied yet.
                _ if Instant::now() < until && self.files.has_lost_log_only() => {
                    tokio::time::sleep(SAVE_PAUSE).await;
                }
                Ok((_, pages, copied)) => {
                    tracing::error!(
                        pages,
                        copied,
                        "the write-ahead log was deleted while it was in use, and not all that it held could be \
                         written into the database file"
                    );
                    break;
                }
                Err(error) => {
                    tracing::error!(
                        error = in_full(&error),
                        "the write-ahead log was deleted while it was in use, and what it held could not be written \
                         into the database file"
                    );
                    break;
                }
            }
        }
        self.has_saved.store(true, Ordering::Relaxed);
    }

    /// Notes that an incarnation was created by whoever has the lock.
    pub(super) fn note_birth(&self) {
        self.held.0.mark();
    }

    /// Closes the first connection, once those of the journals are closed.
    pub(super) async fn close(&self) {
        self.writers.closed().await;
        if let Some(first) = self.first.lock().await.take() {
            // Nothing depends on how it ends.
            let _ = first.close().await;
        }
    }
}
