//! Transactions of an earlier version of the tables: they go to the log.
//!
//! All of it is in the transaction of the migration, in chunks: memory holds one at a time, and a process that
//! is killed has changed nothing.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::super::super::Error;
use super::super::super::error::is_of_data;
use super::super::super::rows::{
    Brought, CHUNK_BYTES_MAX, CHUNK_MAX, Details, Earlier, EarlierRow, Lost, SELECT_EARLIER,
    SELECT_EARLIER_DETAILS, SELECT_EARLIER_ONE, add_details,
};

const IDS: &str = "SELECT tx_id FROM transactions WHERE tx_id > $1 ORDER BY tx_id LIMIT $2";

/// Reads no value, so that a damaged one is no hindrance.
const BYTES: &str = "
SELECT (coalesce((SELECT sum(octet_length(payload)) FROM branches WHERE tx_id BETWEEN $1 AND $2), 0)
    + coalesce((SELECT sum(octet_length(output)) FROM outputs WHERE tx_id BETWEEN $1 AND $2), 0)
    + coalesce((SELECT sum(octet_length(entry)) FROM history WHERE tx_id BETWEEN $1 AND $2), 0))::int8";

const INSERT: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, stripped_ms, body, data,
    history)
SELECT tx_id, follows, version, owner, gen_random_uuid(), kind, created_ms, ended_ms, stripped_ms, body, data, history
FROM UNNEST($1::uuid[], $2::int8[], $3::int8[], $4::int2[], $5::int8[], $6::int8[], $7::int8[], $8::bytea[],
    $9::bytea[], $10::bytea[], $11::int8[])
    AS new (tx_id, version, owner, kind, created_ms, ended_ms, stripped_ms, body, data, history, follows)";
const NAME: &str = "
INSERT INTO gids (epoch, key, tx_id)
SELECT epoch, key, tx_id FROM cluster CROSS JOIN UNNEST($1::uuid[], $2::uuid[]) AS new (key, tx_id)";
const PARK: &str = "
INSERT INTO parked (tx_id, owner, wake_ms, reasons)
SELECT * FROM UNNEST($1::uuid[], $2::int8[], $3::int8[], $4::int2[])";
const SET_ASIDE: &str = "
INSERT INTO aside (tx_id, incarnation) SELECT * FROM UNNEST($1::uuid[], $2::int8[])";

/// Tables that are dropped or changed at the end.
const TABLES: [&str; 5] = ["transactions", "branches", "outputs", "history", "events"];

/// Locks the tables of an earlier version that there are: whoever holds one of them is met now, and not after all
/// of the work. A start that waits in vain tries again.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<(), Error> {
    let doing = "lock the tables of an earlier version";
    for table in TABLES {
        let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(table)
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::database(doing))?;
        if is_there {
            let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
            super::execute(connection, &lock, doing).await?;
        }
    }
    Ok(())
}

/// Moves what is in the tables of the earlier version, if they are there, and drops them. If something in them cannot
/// be read, they are kept under other names.
pub(super) async fn convert(connection: &mut PgConnection) -> Result<(), Error> {
    let converted = convert_all(connection).await;
    converted.map_err(Error::database("bring the transactions to the tables of this version"))
}

async fn convert_all(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass('transactions') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Ok(());
    }
    let (mut after, mut brought) = (Uuid::nil(), Brought::default());
    loop {
        let ids = next(connection, after).await?;
        let Some(last) = ids.last() else { break };
        after = *last;
        let chunk = read(connection, &ids).await?;
        insert(connection, &chunk).await?;
        brought.add(&chunk);
        crash_point!("conversion-after-chunk");
    }
    sqlx::raw_sql(AssertSqlSafe(brought.end().to_owned())).execute(&mut *connection).await?;
    // Without statistics the planner takes each name for that of thousands of rows.
    sqlx::raw_sql("ANALYZE log; ANALYZE parked; ANALYZE gids").execute(connection).await?;
    brought.tell();
    Ok(())
}

/// Begins what may meet a value that the server cannot read.
async fn attempt(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("SAVEPOINT attempt").execute(connection).await.map(drop)
}

/// Ends it; `None` if the server gave up on what it read. After another error no statement can follow, and that
/// error is the one that counts.
async fn conclude<T>(
    connection: &mut PgConnection,
    done: Result<T, sqlx::Error>,
) -> Result<Option<T>, sqlx::Error> {
    let (end, concluded) = match done {
        Ok(read) => ("RELEASE SAVEPOINT attempt", Some(read)),
        Err(error) if is_of_data(&error) => {
            ("ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt", None)
        }
        Err(error) => return Err(error),
    };
    sqlx::raw_sql(end).execute(connection).await?;
    Ok(concluded)
}

/// Returns the names of the next transactions that are read at once: so many as have few bytes. Where the server cannot
/// tell, it is one.
async fn next(connection: &mut PgConnection, after: Uuid) -> Result<Vec<Uuid>, sqlx::Error> {
    let ids = sqlx::query_scalar(IDS).persistent(false).bind(after).bind(CHUNK_MAX);
    let mut ids: Vec<Uuid> = ids.fetch_all(&mut *connection).await?;
    while ids.len() > 1 {
        attempt(connection).await?;
        let bytes =
            sqlx::query_scalar(BYTES).persistent(false).bind(ids[0]).bind(ids[ids.len() - 1]);
        let bytes = bytes.fetch_one(&mut *connection).await;
        let bytes: Option<i64> = conclude(connection, bytes).await?;
        if bytes.is_some_and(|bytes| bytes <= CHUNK_BYTES_MAX) {
            break;
        }
        ids.truncate(ids.len() / 2);
    }
    Ok(ids)
}

/// Reads transactions. Where the server gives up on what it reads, they are read one by one.
async fn read(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Earlier>, sqlx::Error> {
    attempt(connection).await?;
    let chunk = read_chunk(connection, ids).await;
    if let Some(chunk) = conclude(connection, chunk).await? {
        return Ok(chunk);
    }
    let mut read = Vec::with_capacity(ids.len());
    for id in ids {
        read.push(read_one(connection, *id).await?);
    }
    Ok(read)
}

async fn read_chunk(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<Earlier>, sqlx::Error> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(Vec::new()) };
    let query = sqlx::query(SELECT_EARLIER).persistent(false).bind(*first).bind(*last);
    let transactions = query.fetch_all(&mut *connection).await?;
    let mut details: Details<PgRow> = Details::new();
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

/// Reads what the server can read of a transaction.
async fn read_one(connection: &mut PgConnection, tx_id: Uuid) -> Result<Earlier, sqlx::Error> {
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
    let mut details: [Vec<PgRow>; 4] = Default::default();
    for (kind, statement) in SELECT_EARLIER_DETAILS.into_iter().enumerate() {
        match try_read(connection, statement, tx_id).await? {
            Some(rows) => details[kind] = rows,
            None => lost.note(kind),
        }
    }
    Ok(Earlier::of(&transaction, &details, lost))
}

/// Reads rows of one transaction; `None` if the server gives up on them.
async fn try_read(
    connection: &mut PgConnection,
    statement: &'static str,
    tx_id: Uuid,
) -> Result<Option<Vec<PgRow>>, sqlx::Error> {
    attempt(connection).await?;
    let mut query = sqlx::query(statement).persistent(false).bind(tx_id);
    if statement.contains("$2") {
        query = query.bind(tx_id);
    }
    let rows = query.fetch_all(&mut *connection).await;
    conclude(connection, rows).await
}

async fn insert(connection: &mut PgConnection, chunk: &[Earlier]) -> Result<(), sqlx::Error> {
    let rows: Vec<(&Earlier, &EarlierRow)> = chunk
        .iter()
        .flat_map(|earlier| earlier.rows.iter().map(move |row| (earlier, row)))
        .collect();
    sqlx::query(INSERT)
        .persistent(false)
        .bind(column(&rows, |(earlier, _)| earlier.tx_id))
        .bind(column(&rows, |(_, row)| row.version))
        .bind(column(&rows, |(earlier, _)| earlier.owner))
        .bind(column(&rows, |(earlier, _)| earlier.kind))
        .bind(column(&rows, |(_, row)| row.created_ms))
        .bind(column(&rows, |(_, row)| row.ended_ms))
        .bind(column(&rows, |(_, row)| row.stripped_ms))
        .bind(column(&rows, |(_, row)| row.body.as_slice()))
        .bind(column(&rows, |(_, row)| row.data.as_deref()))
        .bind(column(&rows, |(_, row)| row.history.as_deref()))
        .bind(column(&rows, |(_, row)| row.follows))
        .execute(&mut *connection)
        .await?;
    let named: Vec<&Earlier> = chunk.iter().filter(|e| e.gid_key.is_some()).collect();
    sqlx::query(NAME)
        .persistent(false)
        .bind(column(&named, |earlier| earlier.gid_key))
        .bind(column(&named, |earlier| earlier.tx_id))
        .execute(&mut *connection)
        .await?;
    let parked: Vec<&Earlier> = chunk.iter().filter(|earlier| earlier.is_parked()).collect();
    sqlx::query(PARK)
        .persistent(false)
        .bind(column(&parked, |earlier| earlier.tx_id))
        .bind(column(&parked, |earlier| earlier.parked_owner()))
        .bind(column(&parked, |earlier| earlier.wake_ms))
        .bind(column(&parked, |earlier| earlier.reasons))
        .execute(&mut *connection)
        .await?;
    let aside: Vec<&Earlier> = chunk.iter().filter(|e| e.set_aside_by.is_some()).collect();
    sqlx::query(SET_ASIDE)
        .persistent(false)
        .bind(column(&aside, |earlier| earlier.tx_id))
        .bind(column(&aside, |earlier| earlier.set_aside_by))
        .execute(connection)
        .await
        .map(drop)
}

fn column<R: Copy, T>(rows: &[R], field: impl Fn(R) -> T) -> Vec<T> {
    rows.iter().map(|row| field(*row)).collect()
}
