//! Database transactions of this process, and their failures.
//!
//! They are begun and ended by plain statements. The driver counts transactions by itself, and after one
//! that SQLite has rolled back by itself, as it does on a full disk, its count would be wrong for ever.

use sqlx::sqlite::SqliteConnection;

use super::BoxFuture;

/// Runs work in a transaction that takes SQLite's write lock up front. `None` from it, or an error, means
/// that nothing of it is kept.
pub(super) async fn transact<T: Send>(
    connection: &mut SqliteConnection,
    work: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Option<T>> + Send,
) -> Result<Option<T>, sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let Some(done) = work(connection).await? else { return Ok(None) };
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(Some(done))
}

/// Rolls back what is open, and tells whether that is proven: either this has undone it, or nothing was open
/// any more, because SQLite had rolled it back at an error.
pub(super) async fn roll_back(connection: &mut SqliteConnection) -> bool {
    match sqlx::query("ROLLBACK").execute(connection).await {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) => error.message().contains("no transaction is active"),
        Err(_) => false,
    }
}

/// Tells whether there was no space for a write.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    code(error).is_some_and(super::super::error::is_full)
}

/// Tells whether a connection that only reads cannot read this file: somebody has to write it first.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code & 0xff == 8)
}

/// Returns SQLite's extended result code (<https://www.sqlite.org/rescode.html>). Its low byte is the primary
/// one.
pub(super) fn code(error: &sqlx::Error) -> Option<i32> {
    let sqlx::Error::Database(error) = error else { return None };
    error.code()?.parse().ok()
}
