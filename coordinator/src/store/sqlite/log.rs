//! The write-ahead log: what keeps it short, and what is done when a reader keeps it long.
//!
//! Usually SQLite copies the log into the database file every [`PAGES`] pages, at a commit, and writes it from
//! its beginning again. A reader that has begun long ago holds that up: the log grows with each write, and
//! each attempt to copy it takes longer, because all of it is looked through. So beyond [`BYTES_MAX`] no
//! commit tries that by itself. One try is made from time to time, of a kind that waits for nobody
//! (PASSIVE), and takes a small part of the time only.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnection, SqlitePoolOptions};

use super::super::in_full;
use super::opened::Opened;

/// Pages after which a commit copies the log: SQLite's default.
pub(super) const PAGES: u32 = 1000;

/// Size to which the log is cut when it is begun anew. The largest batch fits; above it is too long.
pub(super) const BYTES_MAX: u64 = 64 << 20;

/// Size of which somebody is told.
const BYTES_WARNED: u64 = 256 << 20;

/// Between two warnings.
const WARN_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Shortest pause between two tries to copy a log that is too long.
const TRY_PAUSE: Duration = Duration::from_secs(1);

/// Part of the time that such tries may take.
const TRY_PARTS: u32 = 20;

/// The log's state, as it was seen last.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_long: bool,
    /// When it may be tried again.
    next_try: Option<Instant>,
    /// When somebody was told that it is long.
    warned: Option<Instant>,
    /// When somebody was told that it could not be copied.
    warned_of_failure: Option<Instant>,
}

impl Log {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the pages after which the next commit is to copy the log; 0 for none.
    pub(super) fn pages(&self) -> u32 {
        if self.state().is_long { 0 } else { PAGES }
    }

    /// Notes the size, and tells whether it is time to try to copy the log: if it is too long, or there is no space for
    /// more of it.
    fn is_due(&self, bytes: u64, is_full: bool, now: Instant) -> bool {
        let mut state = self.state();
        state.is_long = bytes > BYTES_MAX;
        (state.is_long || is_full) && state.next_try.is_none_or(|at| at <= now)
    }

    fn has_tried(&self, took: Duration, now: Instant) {
        self.state().next_try = Some(now + (took * TRY_PARTS).max(TRY_PAUSE));
    }

    /// Tells whether it is time to tell somebody.
    fn warns(&self, bytes: u64, now: Instant) -> bool {
        let mut state = self.state();
        bytes > BYTES_WARNED && is_next(&mut state.warned, now)
    }

    /// The same of a copy that has failed.
    fn warns_of_failure(&self, now: Instant) -> bool {
        is_next(&mut self.state().warned_of_failure, now)
    }
}

fn is_next(warned: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = warned.is_none_or(|at| now.duration_since(at) >= WARN_PAUSE);
    if is_due {
        *warned = Some(now);
    }
    is_due
}

/// Sets after how many pages the commits of a connection copy the log.
pub(super) async fn set_pages(
    connection: &mut SqliteConnection,
    pages: u32,
) -> Result<(), sqlx::Error> {
    let set = format!("PRAGMA wal_autocheckpoint = {pages}");
    sqlx::query(sqlx::AssertSqlSafe(set)).execute(connection).await.map(drop)
}

/// Lets each commit of a connection that [writes page 1](write_first_page) add 1 to the change counter in it. A connection counts
/// from the page as it has read it, and alone in the file it would not read it again.
pub(super) fn counting(pool: SqlitePoolOptions) -> SqlitePoolOptions {
    pool.before_acquire(|connection, _| {
        Box::pin(async move {
            let forget = sqlx::query("PRAGMA shrink_memory");
            forget.execute(connection).await.map(|_| true)
        })
    })
}

/// Writes page 1, within a transaction, so that its change counter tells a log from those of other times
/// (see [`frames`](super::frames)).
///
/// # Errors
/// The database fails.
pub(super) async fn write_first_page(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    // Nothing reads this number. It is written whatever it was.
    let write = sqlx::query("PRAGMA user_version = 1");
    write.execute(connection).await.map(drop)
}

/// Looks at the log after a commit.
pub(super) async fn look_after(opened: &Opened, connection: &mut SqliteConnection) {
    copy(opened, connection, false).await;
}

/// Looks at the log after a write that found no space, and was rolled back. No commit will copy the log now, and once it is
/// copied it is used from its beginning, which needs no space.
pub(super) async fn make_space(opened: &Opened, connection: &mut SqliteConnection) {
    copy(opened, connection, true).await;
}

async fn copy(opened: &Opened, connection: &mut SqliteConnection, is_full: bool) {
    let (log, bytes, started) = (&opened.log, opened.log_bytes(), Instant::now());
    if !log.is_due(bytes, is_full, started) {
        return;
    }
    let tried: Result<(i64, i64, i64), _> =
        sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(connection).await;
    let now = Instant::now();
    log.has_tried(started.elapsed(), now);
    let (pages, copied) = match tried {
        Ok((_, pages, copied)) => (pages, copied),
        Err(error) => {
            if log.warns_of_failure(now) {
                tracing::warn!(
                    error = in_full(&error),
                    mebibytes = bytes >> 20,
                    "failed to copy the write-ahead log into the database file; it grows with each write until it \
                     can be copied"
                );
            }
            return;
        }
    };
    if copied < pages && log.warns(bytes, now) {
        tracing::warn!(
            mebibytes = bytes >> 20,
            pages,
            copied,
            "the write-ahead log of the database file grows with each write, because a reader holds it: an \
             SQLite shell, a copy or a backup whose transaction was begun long ago and is still open; end \
             it, and the log is used from its beginning again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_tried_from_time_to_time_and_told_of_once_in_a_while() {
        let (log, start) = (Log::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!log.is_due(BYTES_MAX, false, start));
        assert!(log.is_due(1, true, start), "there is no space for more");
        assert_eq!(log.pages(), PAGES);
        assert!(log.is_due(BYTES_MAX + 1, false, start));
        assert_eq!(log.pages(), 0, "no commit tries by itself");
        log.has_tried(Duration::from_millis(1), start);
        assert!(!log.is_due(BYTES_MAX + 1, false, start));
        assert!(log.is_due(BYTES_MAX + 1, false, at(1)));
        log.has_tried(Duration::from_millis(500), at(1));
        assert!(!log.is_due(1, true, at(10)), "no more often because there is no space");
        assert!(!log.is_due(BYTES_MAX + 1, false, at(10)), "a slow one is tried seldom");
        assert!(log.is_due(BYTES_MAX + 1, false, at(11)));

        assert!(!log.warns(BYTES_WARNED, start));
        assert!(log.warns(BYTES_WARNED + 1, start));
        assert!(!log.warns(BYTES_WARNED + 1, at(599)));
        assert!(log.warns(BYTES_WARNED + 1, at(600)));
        assert!(log.warns_of_failure(at(600)));
        assert!(!log.warns_of_failure(at(1199)));
        assert!(log.warns_of_failure(at(1200)));
        log.is_due(1, false, at(600));
        assert_eq!(log.pages(), PAGES);
    }
}
