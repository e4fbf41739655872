//! The purge on SQLite. The rules are explained beside the same statements for
//! PostgreSQL.

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use super::super::purge::{
    PURGE_ROWS_MAX, Purge, Purged, Retention, STEPS_ASKED_MS, STEPS_SWEPT_MS,
};
use super::super::{Error, rows};
use super::Sqlite;

const STRIP: &str = "
UPDATE transactions
SET stripped = 1, progress = '[]', metadata = '{}', trace = '{}', initiator = '',
    more = '', version = version + 1, write_id = randomblob(16)
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE ended_ms < CAST(unixepoch('subsec') * 1000 AS integer) - $1
        AND NOT stripped AND (heuristic = 'none' OR forgotten)
        AND (mode IS NOT 'saga'
            OR ended_ms + min((ended_ms - created_ms) / 2, $3) + $4
                < CAST(unixepoch('subsec') * 1000 AS integer))
    ORDER BY ended_ms LIMIT $2)
RETURNING tx_id";

const RAISE_WATERMARK: &str = "
UPDATE cluster
SET purge_watermark_ms =
    max(purge_watermark_ms, CAST(unixepoch('subsec') * 1000 AS integer) - $1)
RETURNING purge_watermark_ms";

const DELETE: &str = "
DELETE FROM transactions
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE ended_ms < $1 AND created_ms < $1 AND stripped
    ORDER BY ended_ms LIMIT $2)
RETURNING tx_id";

#[async_trait]
impl Purge for Sqlite {
    async fn watermark(&self) -> Result<Timestamp, Error> {
        let query = sqlx::query_as("SELECT purge_watermark_ms FROM cluster");
        let (ms,) = self.row("read the purge watermark", query).await?;
        Ok(rows::ms_from_column(ms))
    }

    async fn run(&self, me: Incarnation, retention: Retention) -> Result<Purged, Error> {
        let (details_ms, gids_ms) = retention.as_ms();
        self.write("purge transactions", Some(me), move |connection| {
            Box::pin(async move {
                let stripped: Vec<Uuid> = sqlx::query_scalar(STRIP)
                    .bind(details_ms)
                    .bind(PURGE_ROWS_MAX)
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
                let watermark: i64 = sqlx::query_scalar(RAISE_WATERMARK)
                    .bind(gids_ms)
                    .fetch_one(&mut *connection)
                    .await?;
                let deleted: Vec<Uuid> = sqlx::query_scalar(DELETE)
                    .bind(watermark)
                    .bind(PURGE_ROWS_MAX)
                    .fetch_all(connection)
                    .await?;
                Ok(Purged { stripped: stripped.len() as u64, deleted: deleted.len() as u64 })
            })
        })
        .await
    }
}
