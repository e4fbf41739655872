//! Logbook: a table in each participant's own database, in which a handler notes what it has done.
//!
//! A note is in the handler's local transaction: it is there if and only if the work is.

use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::{SqliteConnection, SqlitePool};
use unanimo_sdk::Call;

/// Table of the notes.
pub const TABLE: &str = "
CREATE TABLE IF NOT EXISTS logbook (at_ns integer NOT NULL, step text NOT NULL,
                                    kind text NOT NULL, note text NOT NULL)";

/// A note, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Time in nanoseconds since 1970.
    pub at_ns: i64,
    /// Participant that wrote it.
    pub participant: String,
    /// Step of the saga.
    pub step: String,
    /// `done`, `confirmed` or `undone`.
    pub kind: String,
    /// The work, in words.
    pub note: String,
}

/// Notes that a step is done: reserved, or done for good.
///
/// # Errors
/// The database's error.
pub async fn done<P>(
    db: &mut SqliteConnection,
    call: &Call<P>,
    note: impl Into<String>,
) -> sqlx::Result<()> {
    write(db, &call.branch.branch_id, "done", note.into()).await
}

/// Notes that a reserved step is confirmed.
///
/// # Errors
/// The database's error.
pub async fn confirmed<P>(
    db: &mut SqliteConnection,
    call: &Call<P>,
    note: impl Into<String>,
) -> sqlx::Result<()> {
    write(db, &call.branch.branch_id, "confirmed", note.into()).await
}

/// Notes that a step is undone: its reservation cancelled, or its work compensated.
///
/// # Errors
/// The database's error.
pub async fn undone<P>(
    db: &mut SqliteConnection,
    call: &Call<P>,
    note: impl Into<String>,
) -> sqlx::Result<()> {
    write(db, &call.branch.branch_id, "undone", note.into()).await
}

/// Reads the notes of a participant, in the order of writing.
///
/// # Errors
/// The database's error.
pub async fn read(pool: &SqlitePool, participant: &str) -> sqlx::Result<Vec<Note>> {
    let notes = "SELECT at_ns, step, kind, note FROM logbook ORDER BY rowid";
    let rows: Vec<(i64, String, String, String)> = sqlx::query_as(notes).fetch_all(pool).await?;
    let note = |(at_ns, step, kind, note)| {
        let participant = participant.to_owned();
        Note { at_ns, participant, step, kind, note }
    };
    Ok(rows.into_iter().map(note).collect())
}

/// Returns the time in nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}

async fn write(
    db: &mut SqliteConnection,
    step: &str,
    kind: &str,
    note: String,
) -> sqlx::Result<()> {
    let write = "INSERT INTO logbook (at_ns, step, kind, note) VALUES ($1, $2, $3, $4)";
    sqlx::query(write).bind(now_ns()).bind(step).bind(kind).bind(note).execute(db).await?;
    Ok(())
}
