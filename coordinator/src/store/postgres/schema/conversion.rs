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
    CHUNK_BYTES_MAX, CHUNK_MAX, DROP_EARLIER, Details, Earlier, KEEP_EARLIER, SELECT_EARLIER,
    SELECT_EARLIER_DETAILS, SELECT_EARLIER_IDS, SELECT_EARLIER_ONE, add_details, tell_broken,
};

const BYTES: &str = "
SELECT (coalesce((SELECT sum(octet_length(payload)) FROM branches WHERE tx_id BETWEEN $1 AND $2), 0)
    + coalesce((SELECT sum(octet_length(output)) FROM outputs WHERE tx_id BETWEEN $1 AND $2), 0)
    + coalesce((SELECT sum(octet_length(entry)) FROM history WHERE tx_id BETWEEN $1 AND $2), 0))::int8";

const INSERT: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, stripped_ms, body, data,
    history)
SELECT tx_id, 0, version, owner, gen_random_uuid(), kind, created_ms, ended_ms, stripped_ms, body, data, history
FROM UNNEST($1::uuid[], $2::int8[], $3::int8[], $4::int2[], $5::int8[], $6::int8[], $7::int8[], $8::bytea[],
    $9::bytea[], $10::bytea[])
    AS new (tx_id, version, owner, kind, created_ms, ended_ms, stripped_ms, body, data, history)";
const NAME: &str = "
INSERT INTO gids (key, tx_id) SELECT * FROM UNNEST($1::bytea[], $2::uuid[])";
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
    let (mut after, mut count, mut broken) = (Uuid::nil(), 0, 0);
    loop {
        let chunk = read(connection, after).await?;
        let Some(last) = chunk.last() else { break };
        after = last.tx_id;
        insert(connection, &chunk).await?;
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

/// Reads the next transactions. Where the server gives up on what it reads, they are read one by one.
async fn read(connection: &mut PgConnection, after: Uuid) -> Result<Vec<Earlier>, sqlx::Error> {
    sqlx::raw_sql("SAVEPOINT chunk").execute(&mut *connection).await?;
    let read = read_chunk(connection, after).await;
    if !read.as_ref().is_err_and(is_of_data) {
        sqlx::raw_sql("RELEASE SAVEPOINT chunk").execute(connection).await?;
        return read;
    }
    sqlx::raw_sql("ROLLBACK TO SAVEPOINT chunk").execute(&mut *connection).await?;
    let ids = sqlx::query_scalar(SELECT_EARLIER_IDS).persistent(false).bind(after).bind(CHUNK_MAX);
    let ids: Vec<Uuid> = ids.fetch_all(&mut *connection).await?;
    let mut read = Vec::with_capacity(ids.len());
    for id in ids {
        read.extend(read_one(connection, id).await?);
    }
    Ok(read)
}

async fn read_chunk(
    connection: &mut PgConnection,
    after: Uuid,
) -> Result<Vec<Earlier>, sqlx::Error> {
    let query = sqlx::query(SELECT_EARLIER).persistent(false).bind(after).bind(CHUNK_MAX);
    let mut transactions = query.fetch_all(&mut *connection).await?;
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
    let mut details: Details<PgRow> = Details::new();
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

/// Reads what the server can read of a transaction.
async fn read_one(
    connection: &mut PgConnection,
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
    let mut details: [Vec<PgRow>; 4] = Default::default();
    for (kind, statement) in SELECT_EARLIER_DETAILS.into_iter().enumerate() {
        match try_read(connection, statement, tx_id).await? {
            Some(rows) => details[kind] = rows,
            None => is_broken = true,
        }
    }
    Ok(Some(Earlier::of(&transaction, &details, is_broken)))
}

/// Reads rows of one transaction; `None` if the server gives up on them.
async fn try_read(
    connection: &mut PgConnection,
    statement: &'static str,
    tx_id: Uuid,
) -> Result<Option<Vec<PgRow>>, sqlx::Error> {
    sqlx::raw_sql("SAVEPOINT one").execute(&mut *connection).await?;
    let mut query = sqlx::query(statement).persistent(false).bind(tx_id);
    if statement.contains("$2") {
        query = query.bind(tx_id);
    }
    match query.fetch_all(&mut *connection).await {
        Err(error) if is_of_data(&error) => {
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT one").execute(connection).await?;
            Ok(None)
        }
        rows => {
            sqlx::raw_sql("RELEASE SAVEPOINT one").execute(connection).await?;
            rows.map(Some)
        }
    }
}

async fn insert(connection: &mut PgConnection, chunk: &[Earlier]) -> Result<(), sqlx::Error> {
    let all: Vec<&Earlier> = chunk.iter().collect();
    sqlx::query(INSERT)
        .persistent(false)
        .bind(column(&all, |earlier| earlier.tx_id))
        .bind(column(&all, |earlier| earlier.version))
        .bind(column(&all, |earlier| earlier.owner))
        .bind(column(&all, |earlier| earlier.row.kind))
        .bind(column(&all, |earlier| earlier.row.created_ms))
        .bind(column(&all, |earlier| earlier.row.ended_ms))
        .bind(column(&all, |earlier| earlier.stripped_ms))
        .bind(column(&all, |earlier| earlier.row.body.as_slice()))
        .bind(column(&all, |earlier| earlier.row.data.as_deref()))
        .bind(column(&all, |earlier| earlier.row.history.as_deref()))
        .execute(&mut *connection)
        .await?;
    let named: Vec<&Earlier> = chunk.iter().filter(|e| e.row.gid_key.is_some()).collect();
    sqlx::query(NAME)
        .persistent(false)
        .bind(column(&named, |earlier| earlier.row.gid_key.as_deref()))
        .bind(column(&named, |earlier| earlier.tx_id))
        .execute(&mut *connection)
        .await?;
    let parked: Vec<&Earlier> = chunk.iter().filter(|earlier| earlier.is_parked()).collect();
    sqlx::query(PARK)
        .persistent(false)
        .bind(column(&parked, |earlier| earlier.tx_id))
        .bind(column(&parked, |earlier| earlier.owner))
        .bind(column(&parked, |earlier| earlier.row.wake_ms))
        .bind(column(&parked, |earlier| earlier.row.reasons))
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

fn column<'a, T>(rows: &[&'a Earlier], field: impl Fn(&'a Earlier) -> T) -> Vec<T> {
    rows.iter().map(|row| field(row)).collect()
}
