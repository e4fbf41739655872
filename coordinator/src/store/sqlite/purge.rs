//! The purge on SQLite. The rules are explained beside the same statements for
//! PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use super::super::Error;
use super::super::purge::{
    Cutoffs, DELETING, PURGE_BYTES_MAX, PURGE_ROWS_MAX, Purge, PurgeTimes, RAISING, Retention,
    STEPS_ASKED_MS, STEPS_SWEPT_MS, STRIPPING, Stripped,
};
use super::super::rows::{self, Read, gid_key};
use super::Sqlite;
use super::damage::sound;
use super::transactions::{SET_ASIDE, of_ids_without_data};

pub(super) const OLD: &str = concat!(
    "
SELECT ended.tx_id, (
    SELECT sum(length(body) + coalesce(length(data), 0) + coalesce(length(history), 0))
    FROM log AS entry WHERE entry.tx_id = ended.tx_id",
    sound!("entry"),
    ")
FROM log AS ended
WHERE ended.ended_ms < $1 AND ended.stripped_ms IS NULL AND ended.kind & 64 = 0
    AND length(ended.tx_id) = 16",
    sound!("ended"),
    "
    AND NOT EXISTS (
        SELECT 1 FROM log AS later WHERE later.tx_id = ended.tx_id AND later.follows > ended.follows)
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = ended.tx_id)
    AND (
        SELECT first.kind & 32 = 0
            OR ended.ended_ms + min((ended.ended_ms - first.created_ms) / 2, $4) + $5 < $3
        FROM log AS first WHERE first.tx_id = ended.tx_id",
    sound!("first"),
    " ORDER BY follows LIMIT 1)
ORDER BY ended.ended_ms LIMIT $2 OFFSET $6"
);

const KEEP: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, stripped_ms, body)
VALUES ($1, $2, $2 + 1, $3, randomblob(16), $4, $5, $6, $7, $8)";

const RAISE_WATERMARK: &str = "
UPDATE cluster
SET purge_watermark_ms = max(purge_watermark_ms, $1), purge_clock_ms = $2
RETURNING purge_watermark_ms";

pub(super) const STRIPPED: &str = concat!(
    "
SELECT tx_id FROM log
WHERE ended_ms < $1 AND created_ms < $1 AND stripped_ms <= $3 AND length(tx_id) = 16",
    sound!("log"),
    "
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = log.tx_id)
ORDER BY ended_ms LIMIT $2 OFFSET $4"
);

/// Number of transactions that one run takes, and how many that are due before them it passes over.
#[derive(Clone, Copy, Debug)]
struct Part {
    count: i64,
    from: i64,
}

const ALL: Part = Part { count: PURGE_ROWS_MAX, from: 0 };

/// Purges one after the other, and passes over those that are on the page beside a damaged one: a page that becomes
/// empty is merged with its neighbours.
async fn singly<F>(purge: impl Fn(Part) -> F) -> Result<u64, Error>
where
    F: Future<Output = Result<u64, Error>>,
{
    let (mut purged, mut from) = (0, 0);
    for _ in 0..PURGE_ROWS_MAX {
        match purge(Part { count: 1, from }).await {
            Ok(0) => break,
            Ok(count) => purged += count,
            Err(error) if error.is_damage() => from += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(purged)
}

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
        let stripped = self.spared(Some(me), || Box::pin(self.strip_once(me, cutoffs, ALL))).await;
        match stripped {
            Err(error) if error.is_damaged() => {
                singly(|part| self.strip_once(me, cutoffs, part)).await
            }
            stripped => stripped,
        }
    }

    async fn delete(
        &self,
        me: Incarnation,
        retention: Retention,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let cutoffs = retention.cutoffs(now);
        let deleted = self.spared(Some(me), || Box::pin(self.delete_once(me, cutoffs, ALL))).await;
        match deleted {
            Err(error) if error.is_damaged() => {
                singly(|part| self.delete_once(me, cutoffs, part)).await
            }
            deleted => deleted,
        }
    }
}

impl Sqlite {
    async fn strip_once(
        &self,
        me: Incarnation,
        cutoffs: Cutoffs,
        part: Part,
    ) -> Result<u64, Error> {
        let opened = Arc::clone(&self.opened);
        self.write(STRIPPING, Some(me), move |connection| {
            Box::pin(async move {
                let old: Vec<(Uuid, i64)> = sqlx::query_as(opened.damage.sparing(OLD))
                    .bind(cutoffs.details_ms)
                    .bind(part.count)
                    .bind(cutoffs.now_ms)
                    .bind(STEPS_ASKED_MS)
                    .bind(STEPS_SWEPT_MS)
                    .bind(part.from)
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
                for one in &kept {
                    keep(connection, one, cutoffs).await?;
                }
                Ok(kept.len() as u64)
            })
        })
        .await
    }

    async fn delete_once(
        &self,
        me: Incarnation,
        cutoffs: Cutoffs,
        part: Part,
    ) -> Result<u64, Error> {
        let opened = Arc::clone(&self.opened);
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
                let due: Vec<Uuid> = sqlx::query_scalar(opened.damage.sparing(STRIPPED))
                    .bind(watermark.min(cutoffs.gids_ms))
                    .bind(part.count)
                    .bind(cutoffs.stripped_ms)
                    .bind(part.from)
                    .fetch_all(&mut *connection)
                    .await?;
                let mut deleted = 0;
                for read in of_ids_without_data(connection, &due).await? {
                    deleted += u64::from(delete_one(connection, me, &read).await?);
                }
                Ok(deleted)
            })
        })
        .await
    }
}

/// Puts one row in the place of all others of a transaction.
async fn keep(
    connection: &mut SqliteConnection,
    Stripped { tx_id, version, owner, row }: &Stripped,
    cutoffs: Cutoffs,
) -> Result<(), sqlx::Error> {
    for statement in [
        "DELETE FROM log WHERE tx_id = $1",
        "DELETE FROM parked WHERE tx_id = $1",
        "DELETE FROM locks WHERE tx_id = $1",
    ] {
        sqlx::query(statement).bind(*tx_id).execute(&mut *connection).await?;
    }
    let keep = sqlx::query(KEEP)
        .bind(*tx_id)
        .bind(*version)
        .bind(*owner)
        .bind(row.kind)
        .bind(row.created_ms)
        .bind(row.ended_ms)
        .bind(cutoffs.now_ms)
        .bind(row.body.as_slice());
    keep.execute(connection).await.map(drop)
}

/// Deletes a transaction with its gid, or not at all, and tells which. What does not tell its own gid stays.
async fn delete_one(
    connection: &mut SqliteConnection,
    me: Incarnation,
    read: &Read,
) -> Result<bool, sqlx::Error> {
    let gid = sqlx::query("DELETE FROM gids WHERE key = $1 AND tx_id = $2");
    let gid = gid.bind(gid_key(read.gid())).bind(read.tx_id);
    if gid.execute(&mut *connection).await?.rows_affected() == 0 {
        let aside = sqlx::query(SET_ASIDE).bind(read.tx_id).bind(me.0);
        aside.execute(&mut *connection).await?;
        return Ok(false);
    }
    for statement in ["DELETE FROM log WHERE tx_id = $1", "DELETE FROM parked WHERE tx_id = $1"] {
        sqlx::query(statement).bind(read.tx_id).execute(&mut *connection).await?;
    }
    Ok(true)
}
