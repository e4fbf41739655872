//! The purge on PostgreSQL.

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use super::super::purge::{
    DELETING, PURGE_ROWS_MAX, Purge, PurgeTimes, RAISING, Retention, STEPS_ASKED_MS,
    STEPS_SWEPT_MS, STRIPPING,
};
use super::super::{Error, rows};
use super::Postgres;

/// Details of transactions that ended before the cutoff, are not heuristic or were forgotten. An
/// operator's acts stay, and so does a saga whose participants may not have asked about their steps yet.
const STRIP: &str = concat!(
    "
WITH ",
    fence!("$7"),
    ", old AS MATERIALIZED (
    SELECT tx_id FROM transactions
    WHERE ended_ms < $2
        AND NOT stripped AND (heuristic = 'none' OR forgotten)
        AND (mode IS DISTINCT FROM 'saga'
            OR ended_ms + least((ended_ms - created_ms) / 2, $5) + $6 < $4)
        AND EXISTS (SELECT 1 FROM fence)
    ORDER BY ended_ms LIMIT $3
    FOR NO KEY UPDATE SKIP LOCKED
), no_branches AS (
    DELETE FROM branches WHERE tx_id IN (SELECT tx_id FROM old)
), no_outputs AS (
    DELETE FROM outputs WHERE tx_id IN (SELECT tx_id FROM old)
), no_events AS (
    DELETE FROM events WHERE tx_id IN (SELECT tx_id FROM old) AND NOT audit
), no_history AS (
    DELETE FROM history WHERE tx_id IN (SELECT tx_id FROM old)
), no_locks AS (
    DELETE FROM locks WHERE tx_id IN (SELECT tx_id FROM old)
)
UPDATE transactions
SET stripped = true, stripped_ms = $4, progress = '[]', metadata = '{}', trace = '{}',
    more = '', version = version + 1, write_id = gen_random_uuid()
WHERE tx_id IN (SELECT tx_id FROM old)
RETURNING tx_id"
);

/// Durable before anything is deleted: whoever misses a transaction finds out why.
const RAISE_WATERMARK: &str = concat!(
    "
WITH ",
    fence!("$4"),
    "
UPDATE cluster
SET purge_watermark_ms = greatest(purge_watermark_ms, $2), purge_clock_ms = $3
WHERE EXISTS (SELECT 1 FROM fence)
RETURNING purge_watermark_ms"
);

/// Only what both began and ended before the watermark: a transaction whose id was made by a clock
/// ahead of the others would otherwise be taken for one that was never seen.
const DELETE: &str = concat!(
    "
WITH ",
    fence!("$5"),
    ", old AS MATERIALIZED (
    SELECT tx_id FROM transactions
    WHERE ended_ms < $2 AND created_ms < $2 AND stripped AND coalesce(stripped_ms, 0) <= $4
        AND EXISTS (SELECT 1 FROM fence)
    ORDER BY ended_ms LIMIT $3
    FOR UPDATE SKIP LOCKED
)
DELETE FROM transactions WHERE tx_id IN (SELECT tx_id FROM old)
RETURNING tx_id"
);

#[async_trait]
impl Purge for Postgres {
    async fn watermark(&self) -> Result<Timestamp, Error> {
        let query = sqlx::query_as("SELECT purge_watermark_ms FROM cluster");
        let (ms,) = self.row("read the purge watermark", query).await?;
        Ok(rows::ms_from_column(ms))
    }

    async fn times(&self) -> Result<PurgeTimes, Error> {
        let query = sqlx::query_as(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8, purge_clock_ms FROM cluster",
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
        let query = sqlx::query_as(STRIP)
            .bind(me.0)
            .bind(cutoffs.details_ms)
            .bind(PURGE_ROWS_MAX)
            .bind(cutoffs.now_ms)
            .bind(STEPS_ASKED_MS)
            .bind(STEPS_SWEPT_MS)
            .bind(self.nonces.nonce(me));
        let stripped: Vec<(Uuid,)> = self.rows(STRIPPING, query).await?;
        Ok(stripped.len() as u64)
    }

    async fn delete(
        &self,
        me: Incarnation,
        retention: Retention,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let (cutoffs, nonce) = (retention.cutoffs(now), self.nonces.nonce(me));
        let raise = sqlx::query_as(RAISE_WATERMARK)
            .bind(me.0)
            .bind(cutoffs.gids_ms)
            .bind(cutoffs.now_ms)
            .bind(nonce);
        let raised: Vec<(i64,)> = self.rows(RAISING, raise).await?;
        let (watermark,) = raised.into_iter().next().ok_or(Error::Fenced(me))?;
        let delete = sqlx::query_as(DELETE)
            .bind(me.0)
            .bind(watermark.min(cutoffs.gids_ms))
            .bind(PURGE_ROWS_MAX)
            .bind(cutoffs.stripped_ms)
            .bind(nonce);
        let deleted: Vec<(Uuid,)> = self.rows(DELETING, delete).await?;
        Ok(deleted.len() as u64)
    }
}
