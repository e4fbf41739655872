//! Transactions as they are read from the log, one after the other: one whose rows are damaged in the file harms
//! itself alone.

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use super::super::super::Key;
use super::super::super::error::is_of_data;
use super::super::super::rows::{self, Read, gid_key, select_log};

const WHOLE: &str = select_log!(data, "WHERE tx_id = $1 ORDER BY follows");
const WITHOUT_DATA: &str = select_log!("WHERE tx_id = $1 ORDER BY follows");

/// Reads all rows of these transactions.
pub(in crate::store::sqlite) async fn of_ids(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
) -> Result<Vec<Read>, sqlx::Error> {
    read(connection, WHOLE, ids).await
}

/// Reads all rows of these transactions, without their data.
pub(in crate::store::sqlite) async fn of_ids_without_data(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
) -> Result<Vec<Read>, sqlx::Error> {
    read(connection, WITHOUT_DATA, ids).await
}

async fn read(
    connection: &mut SqliteConnection,
    statement: &'static str,
    ids: &[Uuid],
) -> Result<Vec<Read>, sqlx::Error> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match sqlx::query(statement).bind(*id).fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) => found.push(Read::failed(*id, error)),
            rows => found.extend(rows::read(&rows?)),
        }
    }
    Ok(found)
}

/// Reads the transaction that has a gid, without its data. A gid without one is damage: both are written at once.
pub(in crate::store::sqlite) async fn of_holder(
    connection: &mut SqliteConnection,
    gid: &str,
) -> Result<Option<Read>, sqlx::Error> {
    by_gid(connection, WITHOUT_DATA, gid).await
}

async fn by_gid(
    connection: &mut SqliteConnection,
    statement: &'static str,
    gid: &str,
) -> Result<Option<Read>, sqlx::Error> {
    let query = sqlx::query("SELECT tx_id FROM gids WHERE key = $1").bind(gid_key(gid));
    let Some(row) = query.fetch_optional(&mut *connection).await? else { return Ok(None) };
    // A name that is none finds nothing.
    let tx_id: Uuid = row.try_get("tx_id").unwrap_or_default();
    let found = read(connection, statement, &[tx_id]).await?.pop();
    Ok(Some(found.unwrap_or_else(|| Read::without_rows(tx_id))))
}

/// Reads all rows of one transaction.
pub(super) async fn by_key(
    connection: &mut SqliteConnection,
    key: Key,
) -> Result<Option<Read>, sqlx::Error> {
    match key {
        Key::Tx(tx_id) => Ok(read(connection, WHOLE, &[tx_id.0]).await?.pop()),
        Key::Gid(gid) => by_gid(connection, WHOLE, gid.as_str()).await,
    }
}
