//! Transactions of an earlier version of the tables: they go to the log.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::super::super::Error;
use super::super::super::rows::{DROP_EARLIER, Earlier, SELECT_EARLIER, SELECT_EARLIER_DETAILS};

/// Transactions that are read at once.
const CHUNK: i64 = 256;

const INSERT: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, stripped_ms, body, data, history)
VALUES ($1, 0, $2, $3, gen_random_uuid(), $4, coalesce($5, 0), $6, $7, $8, $9, $10)";

/// Moves what is in the tables of the earlier version, if they are there, and drops them: in the transaction of the
/// migration.
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
    let mut after = Uuid::nil();
    loop {
        let query = sqlx::query(SELECT_EARLIER).persistent(false).bind(after).bind(CHUNK);
        let transactions = query.fetch_all(&mut *connection).await?;
        let Some(last) = transactions.last() else { break };
        after = last.try_get("tx_id")?;
        for transaction in &transactions {
            let tx_id: Uuid = transaction.try_get("tx_id")?;
            let mut details: [Vec<PgRow>; 4] = Default::default();
            for (rows, statement) in details.iter_mut().zip(SELECT_EARLIER_DETAILS) {
                *rows = sqlx::query(statement).bind(tx_id).fetch_all(&mut *connection).await?;
            }
            insert(connection, &Earlier::of(transaction, &details)).await?;
        }
    }
    let drop_all = sqlx::raw_sql(AssertSqlSafe(DROP_EARLIER.to_owned()));
    drop_all.execute(connection).await.map(drop)
}

async fn insert(connection: &mut PgConnection, earlier: &Earlier) -> Result<(), sqlx::Error> {
    let Earlier { tx_id, owner, version, stripped_ms, set_aside_by, row } = earlier;
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
