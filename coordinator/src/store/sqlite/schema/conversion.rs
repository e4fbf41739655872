//! Transactions of an earlier version of the tables: they go to the log.
//!
//! All of it is in the transaction of the migration, in chunks: memory holds one at a time, and a process that
//! is killed has changed nothing.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::super::super::Error;
use super::super::super::error::is_of_data;
use super::super::super::rows::{
    Brought, CHUNK_BYTES_MAX, CHUNK_MAX, Details, Earlier, Lost, SELECT_EARLIER,
    SELECT_EARLIER_DETAILS, SELECT_EARLIER_ONE, add_details, gid_key,
};

/// Names that are none belong to transactions that nobody can ask for: see [`reserve`].
const IDS: &str = "
SELECT tx_id FROM transactions WHERE tx_id > $1 AND length(tx_id) = 16 ORDER BY tx_id LIMIT $2";

/// Reads no payload and no output, so that a damaged one is no hindrance.
const BYTES: &str = "
SELECT coalesce((SELECT sum(length(payload)) FROM branches WHERE tx_id BETWEEN $1 AND $2), 0)
    + coalesce((SELECT sum(length(output)) FROM outputs WHERE tx_id BETWEEN $1 AND $2), 0)
    + coalesce((SELECT sum(length(entry)) FROM history WHERE tx_id BETWEEN $1 AND $2), 0)";

const INSERT: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, stripped_ms, body, data, history)
VALUES ($1, $2, $3, $4, randomblob(16), $5, $6, $7, $8, $9, $10, $11)";

const NAMELESS: &str = "SELECT gid FROM transactions WHERE length(tx_id) IS NOT 16";

/// Moves what is in the tables of the earlier version, if they are there, and drops them. If something in them cannot
/// be read, they are kept under other names.
pub(super) async fn convert(connection: &mut SqliteConnection) -> Result<(), Error> {
    let converted = convert_all(connection).await;
    converted.map_err(Error::database("bring the transactions to the tables of this version"))
}

async fn convert_all(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let is_there = super::has_table(connection, "transactions").await;
    if !is_there.map_err(|error| sqlx::Error::Protocol(error.to_string()))? {
        return Ok(());
    }
    let (mut after, mut brought) = (Uuid::nil(), Brought::default());
    loop {
        let ids = next(connection, after).await?;
        let Some(last) = ids.last() else { break };
        after = *last;
        let chunk = match read_chunk(connection, &ids).await {
            Err(error) if is_of_data(&error) => read_each(connection, &ids).await?,
            chunk => chunk?,
        };
        for earlier in &chunk {
            insert(connection, earlier).await?;
        }
        brought.add(&chunk);
        crash_point!("conversion-after-chunk");
    }
    brought.broken += reserve(connection).await?;
    sqlx::raw_sql(AssertSqlSafe(brought.end().to_owned())).execute(connection).await?;
    brought.tell();
    Ok(())
}

/// Reserves the gids of transactions whose names are none, and returns their number: nothing else begins under them,
/// and a person sees them under a new name.
async fn reserve(connection: &mut SqliteConnection) -> Result<usize, sqlx::Error> {
    let nameless = sqlx::query(NAMELESS).persistent(false).fetch_all(&mut *connection).await?;
    for row in &nameless {
        let tx_id = Uuid::new_v4();
        let gid = row.try_get::<String, _>("gid").ok();
        if let Some(gid) = &gid {
            let name =
                sqlx::query("INSERT INTO gids (key, tx_id) VALUES ($1, $2) ON CONFLICT DO NOTHING");
            name.bind(gid_key(gid)).bind(tx_id).execute(&mut *connection).await?;
        }
        let aside = sqlx::query("INSERT INTO aside (tx_id, incarnation) VALUES ($1, 0)");
        aside.bind(tx_id).execute(&mut *connection).await?;
        tracing::error!(
            %tx_id,
            gid,
            "a stored transaction of an earlier version has a name that is none; it is not brought to this \
             version, and its gid is reserved under this new name"
        );
    }
    Ok(nameless.len())
}

/// Returns the names of the next transactions that are read at once: so many as have few bytes. Where a page that tells
/// is damaged, it is one.
async fn next(connection: &mut SqliteConnection, after: Uuid) -> Result<Vec<Uuid>, sqlx::Error> {
    let ids = sqlx::query_scalar(IDS).persistent(false).bind(after).bind(CHUNK_MAX);
    let mut ids: Vec<Uuid> = ids.fetch_all(&mut *connection).await?;
    while ids.len() > 1 {
        let bytes =
            sqlx::query_scalar(BYTES).persistent(false).bind(ids[0]).bind(ids[ids.len() - 1]);
        match bytes.fetch_one(&mut *connection).await {
            Ok(bytes) if bytes <= CHUNK_BYTES_MAX => break,
            Err(error) if !is_of_data(&error) => return Err(error),
            Ok::<i64, _>(_) | Err(_) => ids.truncate(ids.len() / 2),
        }
    }
    Ok(ids)
}

async fn read_chunk(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
) -> Result<Vec<Earlier>, sqlx::Error> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(Vec::new()) };
    let query = sqlx::query(SELECT_EARLIER).persistent(false).bind(*first).bind(*last);
    let mut transactions = query.fetch_all(&mut *connection).await?;
    transactions.retain(|row| row.try_get::<Uuid, _>("tx_id").is_ok());
    let mut details: Details<SqliteRow> = Details::new();
    for (kind, statement) in SELECT_EARLIER_DETAILS.into_iter().enumerate() {
        let query = sqlx::query(statement).persistent(false).bind(*first).bind(*last);
        add_details(&mut details, kind, query.fetch_all(&mut *connection).await?);
    }
    let chunk = transactions.iter().map(|transaction| {
        let tx_id: Uuid = transaction.try_get("tx_id").unwrap_or_default();
        Earlier::of(transaction, &details.remove(&tx_id).unwrap_or_default(), Lost::default())
    });
    Ok(chunk.collect())
}

/// Reads transactions one by one: some page of the file is damaged.
async fn read_each(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
) -> Result<Vec<Earlier>, sqlx::Error> {
    let mut read = Vec::with_capacity(ids.len());
    for id in ids {
        read.push(read_one(connection, *id).await?);
    }
    Ok(read)
}

/// Reads what can be read of a transaction.
async fn read_one(connection: &mut SqliteConnection, tx_id: Uuid) -> Result<Earlier, sqlx::Error> {
    let (mut lost, mut transaction) = (Lost::default(), None);
    for statement in SELECT_EARLIER_ONE {
        match try_read(connection, statement, tx_id).await? {
            Some(rows) => transaction = rows.into_iter().next(),
            None => lost.part = true,
        }
        if transaction.is_some() {
            break;
        }
    }
    let Some(transaction) = transaction else {
        // Nothing is left out silently: the migration fails, and nothing is changed.
        return Err(sqlx::Error::Protocol(format!("transaction {tx_id} cannot be read at all")));
    };
    let mut details: [Vec<SqliteRow>; 4] = Default::default();
    for (kind, statement) in SELECT_EARLIER_DETAILS.into_iter().enumerate() {
        match try_read(connection, statement, tx_id).await? {
            Some(rows) => details[kind] = rows,
            None => lost.note(kind),
        }
    }
    Ok(Earlier::of(&transaction, &details, lost))
}

/// Reads rows of one transaction; `None` if they are damaged.
async fn try_read(
    connection: &mut SqliteConnection,
    statement: &'static str,
    tx_id: Uuid,
) -> Result<Option<Vec<SqliteRow>>, sqlx::Error> {
    let mut query = sqlx::query(statement).persistent(false).bind(tx_id);
    if statement.contains("$2") {
        query = query.bind(tx_id);
    }
    match query.fetch_all(connection).await {
        Err(error) if is_of_data(&error) => Ok(None),
        rows => rows.map(Some),
    }
}

async fn insert(connection: &mut SqliteConnection, earlier: &Earlier) -> Result<(), sqlx::Error> {
    let Earlier { tx_id, owner, set_aside_by, .. } = earlier;
    for row in &earlier.rows {
        sqlx::query(INSERT)
            .bind(tx_id)
            .bind(row.follows)
            .bind(row.version)
            .bind(owner)
            .bind(earlier.kind)
            .bind(row.created_ms)
            .bind(row.ended_ms)
            .bind(row.stripped_ms)
            .bind(row.body.as_slice())
            .bind(row.data.as_deref())
            .bind(row.history.as_deref())
            .execute(&mut *connection)
            .await?;
    }
    if let Some(key) = earlier.gid_key {
        sqlx::query("INSERT INTO gids (key, tx_id) VALUES ($1, $2)")
            .bind(key)
            .bind(tx_id)
            .execute(&mut *connection)
            .await?;
    }
    if earlier.is_parked() {
        sqlx::query("INSERT INTO parked (tx_id, owner, wake_ms, reasons) VALUES ($1, $2, $3, $4)")
            .bind(tx_id)
            .bind(earlier.parked_owner())
            .bind(earlier.wake_ms)
            .bind(earlier.reasons)
            .execute(&mut *connection)
            .await?;
    }
    if let Some(incarnation) = set_aside_by {
        sqlx::query("INSERT INTO aside (tx_id, incarnation) VALUES ($1, $2)")
            .bind(tx_id)
            .bind(incarnation)
            .execute(connection)
            .await?;
    }
    Ok(())
}
