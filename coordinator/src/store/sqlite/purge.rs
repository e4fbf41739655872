//! The purge on SQLite. The rules are explained beside the same statements for
//! PostgreSQL.

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use super::super::Error;
use super::super::purge::{
    DELETING, PURGE_BYTES_MAX, PURGE_ROWS_MAX, Purge, PurgeTimes, RAISING, Retention,
    STEPS_ASKED_MS, STEPS_SWEPT_MS, STRIPPING, Stripped,
};
use super::super::rows::{self, gid_key};
use super::Sqlite;
use super::transactions::{SET_ASIDE, of_ids_without_data};

pub(super) const OLD: &str = "
SELECT ended.tx_id, (
    SELECT sum(length(body) + coalesce(length(data), 0) + coalesce(length(history), 0))
    FROM log AS entry WHERE entry.tx_id = ended.tx_id)
FROM log AS ended
WHERE ended.ended_ms < $1 AND ended.stripped_ms IS NULL AND ended.kind & 64 = 0
    AND length(ended.tx_id) = 16
    AND NOT EXISTS (
        SELECT 1 FROM log AS later WHERE later.tx_id = ended.tx_id AND later.follows > ended.follows)
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = ended.tx_id)
    AND (
        SELECT first.kind & 32 = 0
            OR ended.ended_ms + min((ended.ended_ms - first.created_ms) / 2, $4) + $5 < $3
        FROM log AS first WHERE first.tx_id = ended.tx_id ORDER BY follows LIMIT 1)
ORDER BY ended.ended_ms LIMIT $2";

const KEEP: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, stripped_ms, body)
VALUES ($1, $2, $2 + 1, $3, randomblob(16), $4, $5, $6, $7, $8)";

const RAISE_WATERMARK: &str = "
UPDATE cluster
SET purge_watermark_ms = max(purge_watermark_ms, $1), purge_clock_ms = $2
RETURNING purge_watermark_ms";

pub(super) const STRIPPED: &str = "
SELECT tx_id FROM log
WHERE ended_ms < $1 AND created_ms < $1 AND stripped_ms <= $3 AND length(tx_id) = 16
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = log.tx_id)
ORDER BY ended_ms LIMIT $2";

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
                let old: Vec<(Uuid, i64)> = sqlx::query_as(OLD)
                    .bind(cutoffs.details_ms)
                    .bind(PURGE_ROWS_MAX)
                    .bind(cutoffs.now_ms)
                    .bind(STEPS_ASKED_MS)
                    .bind(STEPS_SWEPT_MS)
                    .fetch_all(&mut *connection)
                    .await?;
                let old = rows::fitting(&old, PURGE_BYTES_MAX);
                let found = of_ids_without_data(connection, &old).await?;
                let (kept, unreadable) = Stripped::of(found);
                // What cannot be read is set aside, and no longer in the way of what can be.
                for tx_id in unreadable {
                    let aside = sqlx::query(SET_ASIDE).bind(tx_id).bind(me.0);
                    aside.execute(&mut *connection).await?;
                }
                for Stripped { tx_id, version, owner, row } in &kept {
                    for statement in [
                        "DELETE FROM log WHERE tx_id = $1",
                        "DELETE FROM parked WHERE tx_id = $1",
                        "DELETE FROM locks WHERE tx_id = $1",
                    ] {
                        sqlx::query(statement).bind(*tx_id).execute(&mut *connection).await?;
                    }
                    sqlx::query(KEEP)
                        .bind(*tx_id)
                        .bind(*version)
                        .bind(*owner)
                        .bind(row.kind)
                        .bind(row.created_ms)
                        .bind(row.ended_ms)
                        .bind(cutoffs.now_ms)
                        .bind(row.body.as_slice())
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(kept.len() as u64)
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
                let due: Vec<Uuid> = sqlx::query_scalar(STRIPPED)
                    .bind(watermark.min(cutoffs.gids_ms))
                    .bind(PURGE_ROWS_MAX)
                    .bind(cutoffs.stripped_ms)
                    .fetch_all(&mut *connection)
                    .await?;
                let mut deleted = 0;
                for read in of_ids_without_data(connection, &due).await? {
                    // With its gid, or not at all. What does not tell its own gid stays.
                    let gid = sqlx::query("DELETE FROM gids WHERE key = $1 AND tx_id = $2");
                    let gid = gid.bind(gid_key(read.gid())).bind(read.tx_id);
                    if gid.execute(&mut *connection).await?.rows_affected() == 0 {
                        let aside = sqlx::query(SET_ASIDE).bind(read.tx_id).bind(me.0);
                        aside.execute(&mut *connection).await?;
                        continue;
                    }
                    for statement in
                        ["DELETE FROM log WHERE tx_id = $1", "DELETE FROM parked WHERE tx_id = $1"]
                    {
                        sqlx::query(statement).bind(read.tx_id).execute(&mut *connection).await?;
                    }
                    deleted += 1;
                }
                Ok(deleted)
            })
        })
        .await
    }
}
