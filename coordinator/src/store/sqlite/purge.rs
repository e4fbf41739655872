//! The purge on SQLite. The rules are explained beside the same statements for
//! PostgreSQL.

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use super::super::purge::{
    DELETING, PURGE_ROWS_MAX, Purge, PurgeTimes, RAISING, Retention, STEPS_ASKED_MS,
    STEPS_SWEPT_MS, STRIPPING,
};
use super::super::{Error, rows};
use super::Sqlite;

const STRIP: &str = "
UPDATE transactions
SET stripped = 1, stripped_ms = $3, progress = '[]', metadata = '{}', trace = '{}',
    more = '', version = version + 1, write_id = randomblob(16)
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE ended_ms < $1
        AND NOT stripped AND (heuristic = 'none' OR forgotten)
        AND (mode IS NOT 'saga'
            OR ended_ms + min((ended_ms - created_ms) / 2, $4) + $5 < $3)
    ORDER BY ended_ms LIMIT $2)
RETURNING tx_id";

const RAISE_WATERMARK: &str = "
UPDATE cluster
SET purge_watermark_ms = max(purge_watermark_ms, $1), purge_clock_ms = $2
RETURNING purge_watermark_ms";

const DELETE: &str = "
DELETE FROM transactions
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE ended_ms < $1 AND created_ms < $1 AND stripped AND coalesce(stripped_ms, 0) <= $3
    ORDER BY ended_ms LIMIT $2)
RETURNING tx_id";

#[async_trait]
impl Purge for Sqlite {
    async fn watermark(&self) -> Result<Timestamp, Error> {
        let query = sqlx::query_as("SELECT purge_watermark_ms FROM cluster");
        let (ms,) = self.row("read the purge watermark", query).await?;
        Ok(rows::ms_from_column(ms))
    }

    async fn times(&self) -> Result<PurgeTimes, Error> {
        let query = sqlx::query_as(
            "SELECT CAST(unixepoch('subsec') * 1000 AS integer), purge_clock_ms FROM cluster",
        );
        let (database, last): (i64, Option<i64>) =
            self.row("read the clocks of the purge", query).await?;
        let last = last.map(rows::ms_from_column);
        Ok(PurgeTimes { database: rows::ms_from_column(database), last })
    }

    async fn strip(
        &self,
        me: Incarnation,
        retention: Retention,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let cutoffs = retention.cutoffs(now);
        self.write(STRIPPING, Some(me), move |connection| {
            Box::pin(async move {
                let stripped: Vec<Uuid> = sqlx::query_scalar(STRIP)
                    .bind(cutoffs.details_ms)
                    .bind(PURGE_ROWS_MAX)
                    .bind(cutoffs.now_ms)
                    .bind(STEPS_ASKED_MS)
                    .bind(STEPS_SWEPT_MS)
                    .fetch_all(&mut *connection)
                    .await?;
                for statement in [
                    "DELETE FROM branches WHERE tx_id = $1",
                    "DELETE FROM outputs WHERE tx_id = $1",
                    "DELETE FROM events WHERE tx_id = $1 AND NOT audit",
                    "DELETE FROM history WHERE tx_id = $1",
                    "DELETE FROM locks WHERE tx_id = $1",
                ] {
                    for tx_id in &stripped {
                        sqlx::query(statement).bind(*tx_id).execute(&mut *connection).await?;
                    }
                }
                Ok(stripped.len() as u64)
            })
        })
        .await
    }

    async fn delete(
        &self,
        me: Incarnation,
        retention: Retention,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let cutoffs = retention.cutoffs(now);
        let raise = self.write(RAISING, Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query_scalar(RAISE_WATERMARK)
                    .bind(cutoffs.gids_ms)
                    .bind(cutoffs.now_ms)
                    .fetch_one(connection)
                    .await
            })
        });
        let watermark: i64 = raise.await?;
        self.write(DELETING, Some(me), move |connection| {
            Box::pin(async move {
                let deleted: Vec<Uuid> = sqlx::query_scalar(DELETE)
                    .bind(watermark.min(cutoffs.gids_ms))
                    .bind(PURGE_ROWS_MAX)
                    .bind(cutoffs.stripped_ms)
                    .fetch_all(connection)
                    .await?;
                Ok(deleted.len() as u64)
            })
        })
        .await
    }
}
