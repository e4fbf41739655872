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
    CHUNK_BYTES_MAX, CHUNK_MAX, DROP_EARLIER, Details, Earlier, KEEP_EARLIER, SELECT_EARLIER,
    SELECT_EARLIER_DETAILS, SELECT_EARLIER_IDS, SELECT_EARLIER_ONE, add_details, tell_broken,
};

const BYTES: &str = "
SELECT coalesce((SELECT sum(length(payload)) FROM branches WHERE tx_id BETWEEN $1 AND $2), 0)
    + coalesce((SELECT sum(length(output)) FROM outputs WHERE tx_id BETWEEN $1 AND $2), 0)
    + coalesce((SELECT sum(length(entry)) FROM history WHERE tx_id BETWEEN $1 AND $2), 0)";

const INSERT: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, stripped_ms, body, data, history)
VALUES ($1, 0, $2, $3, randomblob(16), $4, coalesce($5, 0), $6, $7, $8, $9, $10)";

/// Names that are none belong to transactions that nobody can ask for.
const NAMELESS: &str = "SELECT count(*) FROM transactions WHERE length(tx_id) <> 16";

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
    let nameless: i64 = sqlx::query_scalar(NAMELESS).fetch_one(&mut *connection).await?;
    let (mut after, mut count) = (Uuid::nil(), 0);
    let mut broken = usize::try_from(nameless).unwrap_or_default();
    loop {
        let chunk = match read_chunk(connection, after).await {
            Err(error) if is_of_data(&error) => read_each(connection, after).await?,
            chunk => chunk?,
        };
        let Some(last) = chunk.last() else { break };
        after = last.tx_id;
        for earlier in &chunk {
            insert(connection, earlier).await?;
        }
        count += chunk.len();
        broken += chunk.iter().filter(|earlier| earlier.is_broken).count();
    }
    let end = if broken == 0 { DROP_EARLIER } else { KEEP_EARLIER };
    sqlx::raw_sql(AssertSqlSafe(end.to_owned())).execute(connection).await?;
    tell_broken(broken);
    tracing::info!(
        transactions = count,
        "the tables of an earlier version were brought to this one"
    );
    Ok(())
}

async fn read_chunk(
    connection: &mut SqliteConnection,
    after: Uuid,
) -> Result<Vec<Earlier>, sqlx::Error> {
    let query = sqlx::query(SELECT_EARLIER).persistent(false).bind(after).bind(CHUNK_MAX);
    let mut transactions = query.fetch_all(&mut *connection).await?;
    transactions.retain(|row| row.try_get::<Uuid, _>("tx_id").is_ok());
    let range = loop {
        let (Some(first), Some(last)) = (transactions.first(), transactions.last()) else {
            return Ok(Vec::new());
        };
        let range: (Uuid, Uuid) = (first.try_get("tx_id")?, last.try_get("tx_id")?);
        let bytes = sqlx::query_scalar(BYTES).persistent(false).bind(range.0).bind(range.1);
        let bytes: i64 = bytes.fetch_one(&mut *connection).await?;
        if bytes <= CHUNK_BYTES_MAX || transactions.len() == 1 {
            break range;
        }
        transactions.truncate(transactions.len() / 2);
    };
    let mut details: Details<SqliteRow> = Details::new();
    for (kind, statement) in SELECT_EARLIER_DETAILS.into_iter().enumerate() {
        let query = sqlx::query(statement).persistent(false).bind(range.0).bind(range.1);
        add_details(&mut details, kind, query.fetch_all(&mut *connection).await?);
    }
    let chunk = transactions.iter().map(|transaction| {
        let tx_id: Uuid = transaction.try_get("tx_id").unwrap_or_default();
        Earlier::of(transaction, &details.remove(&tx_id).unwrap_or_default(), false)
    });
    Ok(chunk.collect())
}

/// Reads the next transactions one by one: some page of the file is damaged.
async fn read_each(
    connection: &mut SqliteConnection,
    after: Uuid,
) -> Result<Vec<Earlier>, sqlx::Error> {
    let ids = sqlx::query_scalar(SELECT_EARLIER_IDS).persistent(false).bind(after).bind(CHUNK_MAX);
    let ids: Vec<Vec<u8>> = ids.fetch_all(&mut *connection).await?;
    let mut read = Vec::with_capacity(ids.len());
    for id in ids.into_iter().filter_map(|id| Uuid::from_slice(&id).ok()) {
        read.extend(read_one(connection, id).await?);
    }
    Ok(read)
}

/// Reads what can be read of a transaction.
async fn read_one(
    connection: &mut SqliteConnection,
    tx_id: Uuid,
) -> Result<Option<Earlier>, sqlx::Error> {
    let (mut is_broken, mut transaction) = (false, None);
    for statement in SELECT_EARLIER_ONE {
        match try_read(connection, statement, tx_id).await? {
            Some(rows) => transaction = rows.into_iter().next(),
            None => is_broken = true,
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
            None => is_broken = true,
        }
    }
    Ok(Some(Earlier::of(&transaction, &details, is_broken)))
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
    let Earlier { tx_id, owner, version, stripped_ms, set_aside_by, row, .. } = earlier;
    sqlx::query(INSERT)
        .bind(tx_id)
        .bind(version)
        .bind(owner)
        .bind(row.kind)
        .bind(row.created_ms)
        .bind(row.ended_ms)
        .bind(stripped_ms)
        .bind(row.body.as_slice())
        .bind(row.data.as_deref())
        .bind(row.history.as_deref())
        .execute(&mut *connection)
        .await?;
    if let Some(key) = &row.gid_key {
        sqlx::query("INSERT INTO gids (key, tx_id) VALUES ($1, $2)")
            .bind(key.as_slice())
            .bind(tx_id)
            .execute(&mut *connection)
            .await?;
    }
    if earlier.is_parked() {
        sqlx::query("INSERT INTO parked (tx_id, owner, wake_ms, reasons) VALUES ($1, $2, $3, $4)")
            .bind(tx_id)
            .bind(owner)
            .bind(row.wake_ms)
            .bind(row.reasons)
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
