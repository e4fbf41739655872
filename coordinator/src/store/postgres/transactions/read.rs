//! Transactions as they are read from the log: many at once, and one after the other where the database gives up
//! on what it reads. So one whose rows are damaged on the disk harms itself alone.

use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::super::super::Key;
use super::super::super::error::is_of_data;
use super::super::super::rows::{self, Begin, Read, gid_key, select_log};
use super::super::names::Known;

const WHOLE: &str = select_log!(data, "WHERE tx_id = ANY($1) ORDER BY tx_id, follows");
const WITHOUT_DATA: &str = select_log!("WHERE tx_id = ANY($1) ORDER BY tx_id, follows");
const NEWEST_FIRST: &str = select_log!("WHERE tx_id = ANY($1) ORDER BY tx_id DESC, follows");
/// First rows, each with the kind of the transaction's last one where `$2` asks for it.
const BEGINS: &str = "
SELECT tx_id, follows, version, owner, stripped_ms, body, CASE WHEN $2 THEN (
    SELECT kind FROM log AS last WHERE last.tx_id = entry.tx_id ORDER BY follows DESC LIMIT 1) END AS kind
FROM log AS entry WHERE tx_id = ANY($1) AND created_ms IS NOT NULL";
const BY_TX_ID: &str = select_log!(data, "WHERE tx_id = $1 ORDER BY follows");
/// Answers with a row though the log has none. Looks in these epochs.
const BY_GID: &str = select_log!(
    data,
    "RIGHT JOIN gids USING (tx_id) WHERE epoch = ANY($2) AND key = $1 ORDER BY follows"
);
/// The same, in all epochs.
const BY_GID_ANYWHERE: &str = select_log!(
    data,
    "RIGHT JOIN (SELECT tx_id FROM epochs JOIN gids USING (epoch) WHERE key = $1) AS named
    USING (tx_id) ORDER BY follows"
);
const ID_OF_GID: &str = "SELECT tx_id FROM epochs JOIN gids USING (epoch) WHERE key = $1";

/// Reads all rows of these transactions.
pub(in crate::store::postgres) async fn of_ids(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<Read>, sqlx::Error> {
    read(connection, WHOLE, ids).await
}

/// Reads all rows of these transactions, without their data.
pub(in crate::store::postgres) async fn of_ids_without_data(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<Read>, sqlx::Error> {
    read(connection, WITHOUT_DATA, ids).await
}

/// Reads all rows of these transactions, the newest first, without their data.
pub(super) async fn for_list(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<Read>, sqlx::Error> {
    read(connection, NEWEST_FIRST, ids).await
}

/// Reads the first rows of these transactions, and the phases of their last ones where that is asked for. Nothing where
/// the database gives up on one of them: whoever reads all their rows finds out which.
pub(super) async fn begins(
    connection: &mut PgConnection,
    ids: &[Uuid],
    with_phases: bool,
) -> Result<Vec<Begin>, sqlx::Error> {
    match sqlx::query(BEGINS).bind(ids).bind(with_phases).fetch_all(connection).await {
        Err(error) if is_of_data(&error) => Ok(Vec::new()),
        rows => Ok(rows::begins(&rows?)),
    }
}

async fn read(
    connection: &mut PgConnection,
    statement: &'static str,
    ids: &[Uuid],
) -> Result<Vec<Read>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    match sqlx::query(statement).bind(ids).fetch_all(&mut *connection).await {
        Err(error) if is_of_data(&error) => {}
        rows => return Ok(rows::read(&rows?)),
    }
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match sqlx::query(statement).bind(&[*id][..]).fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) => found.push(Read::failed(*id, error)),
            rows => found.extend(rows::read(&rows?)),
        }
    }
    Ok(found)
}

/// Reads the rows of one transaction. A gid is looked for where it may be, and then everywhere: the epochs that are known
/// may not be those of the database.
async fn rows_of(
    connection: &mut PgConnection,
    key: &Key,
    epochs: Option<&Known>,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let gid = match key {
        Key::Tx(tx_id) => {
            return sqlx::query(BY_TX_ID).bind(tx_id.0).fetch_all(connection).await;
        }
        Key::Gid(gid) => gid_key(gid.as_str()),
    };
    if let Some(known) = epochs {
        let query = sqlx::query(BY_GID).bind(gid).bind(known.epochs_of(gid));
        let rows = query.fetch_all(&mut *connection).await?;
        if !rows.is_empty() {
            return Ok(rows);
        }
    }
    sqlx::query(BY_GID_ANYWHERE).bind(gid).fetch_all(connection).await
}

/// Reads all rows of one transaction. Whoever asks by a gid that is stored without a transaction is told so.
pub(super) async fn by_key(
    connection: &mut PgConnection,
    key: Key,
    epochs: Option<&Known>,
) -> Result<Option<Read>, sqlx::Error> {
    let error = match rows_of(connection, &key, epochs).await {
        Err(error) if is_of_data(&error) => error,
        rows => return Ok(rows::read(&rows?).pop()),
    };
    let tx_id = match &key {
        Key::Tx(tx_id) => Some(tx_id.0),
        Key::Gid(gid) => {
            let query = sqlx::query_scalar(ID_OF_GID).bind(gid_key(gid.as_str()));
            query.fetch_optional(connection).await?
        }
    };
    Ok(tx_id.map(|tx_id| Read::failed(tx_id, error)))
}
