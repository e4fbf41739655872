//! The purge on SQLite. The rules are explained beside the same statements for
//! PostgreSQL.
//!
//! A search for what is due is made on a connection that reads: while one writes, the journal waits. What was found is purged
//! only as it was then.

mod reached;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use sqlx::query::QueryAs;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use self::reached::{OLDEST, Reached};
use super::super::Error;
use super::super::purge::{
    Cutoffs, DELETING, PURGE_BYTES_MAX, Purge, PurgeTimes, RAISING, Retention, STEPS_ASKED_MS,
    STEPS_SWEPT_MS, STRIPPING, Stripped,
};
use super::super::rows::{self, Read, gid_key};
use super::Sqlite;
use super::damage::sound;
use super::transactions::{SET_ASIDE, of_ids_without_data};

/// Transactions that one run takes for each of its two steps. Few: while it writes, the journal waits.
const ROWS_MAX: i64 = 500;

pub(super) const OLD: &str = concat!(
    "
SELECT ended.tx_id, ended.version, ended.ended_ms, (
    SELECT sum(length(body) + coalesce(length(data), 0) + coalesce(length(history), 0))
    FROM log AS entry WHERE entry.tx_id = ended.tx_id",
    sound!("entry"),
    ")
FROM log AS ended
WHERE ended.ended_ms < $1 AND ended.ended_ms >= $7 AND ended.stripped_ms IS NULL AND ended.kind & 64 = 0
    AND length(ended.tx_id) = 16",
    sound!("ended"),
    "
    AND NOT EXISTS (
        SELECT 1 FROM log AS later WHERE later.tx_id = ended.tx_id AND later.follows > ended.follows)
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = ended.tx_id)
    AND NOT EXISTS (
        SELECT 1 FROM feed CROSS JOIN log AS entry LEFT JOIN feed_cursors ON incarnation = entry.owner
        WHERE entry.tx_id = ended.tx_id AND entry.kind & 128 <> 0
            AND entry.write_id < x'00000001000000000000000000000000' AND entry.owner >= done_before
            AND (next_write IS NULL OR entry.write_id >= next_write
                OR instr(open_writes, entry.write_id) > 0)",
    sound!("entry"),
    ")
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
SELECT tx_id, version, ended_ms, 0 FROM log
WHERE ended_ms < $1 AND ended_ms >= $5 AND created_ms < $1 AND stripped_ms <= $3 AND length(tx_id) = 16",
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

const ALL: Part = Part { count: ROWS_MAX, from: 0 };

/// Numbers of transactions that a run found, and of what became of them.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    due: u64,
    purged: u64,
    /// They are not due any more.
    set_aside: u64,
}

/// Number of those that are due, and that purges one by one have passed over since they began with the first one.
#[derive(Debug, Default)]
pub(super) struct Passed {
    strips: AtomicI64,
    deletes: AtomicI64,
}

/// Progress of the searches, by their steps.
#[derive(Debug, Default)]
pub(super) struct Searched {
    strips: Reached,
    deletes: Reached,
}

/// One that is due: its name, its last version, when it ended, and the bytes of its rows.
type Due = (Uuid, i64, i64, i64);

/// Purges one after the other, and passes over those that are on the page beside a damaged one: a page that becomes
/// empty is merged with its neighbours. It goes on where the last run ended, so that those which fail are not all that
/// it ever comes to. Where nothing can be purged, and something would have to be, that is an error.
async fn singly<F>(passed: &AtomicI64, purge: impl Fn(Part) -> F) -> Result<u64, Error>
where
    F: Future<Output = Result<Taken, Error>>,
{
    let mut from = passed.swap(0, Ordering::Relaxed);
    let mut begins_anew = from > 0;
    let (mut purged, mut failed) = (0, None);
    for _ in 0..ROWS_MAX {
        match purge(Part { count: 1, from }).await {
            Ok(Taken { due: 0, .. }) => {
                from = 0;
                if !std::mem::take(&mut begins_anew) {
                    break;
                }
            }
            Ok(taken) => {
                purged += taken.purged;
                let rest = taken.due.saturating_sub(taken.purged + taken.set_aside);
                from += i64::try_from(rest).unwrap_or_default();
            }
            Err(error) if error.is_damage() => {
                from += 1;
                failed = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    passed.store(from, Ordering::Relaxed);
    match failed {
        Some(error) if purged == 0 => Err(error.with_damage()),
        _ => Ok(purged),
    }
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
                let passed = &self.opened.damage.passed.strips;
                singly(passed, |part| self.strip_once(me, cutoffs, part)).await
            }
            stripped => stripped.map(|taken| taken.purged),
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
                let passed = &self.opened.damage.passed.deletes;
                singly(passed, |part| self.delete_once(me, cutoffs, part)).await
            }
            deleted => deleted.map(|taken| taken.purged),
        }
    }
}

impl Sqlite {
    /// Looks for what is due, and waits for no writer. All of it is looked for from the oldest on, or where the last search was.
    async fn search(
        &self,
        doing: &'static str,
        reached: impl Fn(&Searched) -> &Reached,
        (before, part): (i64, Part),
        query: impl FnOnce(&Self, i64) -> QueryAs<'static, sqlx::Sqlite, Due, SqliteArguments>,
    ) -> Result<Vec<Due>, Error> {
        let (is_all, began) = (part.count == ALL.count, Instant::now());
        let reached = reached(&self.opened.searched);
        let from = if is_all { reached.from() } else { OLDEST };
        let due = self.rows(doing, query(self, from)).await?;
        if is_all {
            reached.note((from, before), began, due.first().map(|(_, _, ended_ms, _)| *ended_ms));
        }
        Ok(due)
    }

    async fn strip_once(
        &self,
        me: Incarnation,
        cutoffs: Cutoffs,
        part: Part,
    ) -> Result<Taken, Error> {
        let query = |this: &Self, from| {
            sqlx::query_as(this.opened.damage.sparing(OLD))
                .bind(cutoffs.details_ms)
                .bind(part.count)
                .bind(cutoffs.now_ms)
                .bind(STEPS_ASKED_MS)
                .bind(STEPS_SWEPT_MS)
                .bind(part.from)
                .bind(from)
        };
        let limits = (cutoffs.details_ms, part);
        let due = self.search(STRIPPING, |searched| &searched.strips, limits, query).await?;
        if due.is_empty() {
            return Ok(Taken::default());
        }
        let sized: Vec<(Uuid, i64)> =
            due.iter().map(|(tx_id, _, _, bytes)| (*tx_id, *bytes)).collect();
        let old = rows::fitting(&sized, PURGE_BYTES_MAX);
        let versions = versions(&due);
        self.write(STRIPPING, Some(me), move |connection| {
            Box::pin(async move {
                let found = of_ids_without_data(connection, &old).await?;
                let (mut kept, unreadable) = Stripped::of(found);
                // Somebody may have written it meanwhile.
                kept.retain(|one| versions.get(&one.tx_id) == Some(&one.version));
                // What cannot be read is set aside, and no longer in the way of what can be.
                for tx_id in &unreadable {
                    let aside = sqlx::query(SET_ASIDE).bind(*tx_id).bind(me.0);
                    aside.execute(&mut *connection).await?;
                }
                for one in &kept {
                    keep(connection, one, cutoffs).await?;
                }
                let set_aside = unreadable.len() as u64;
                Ok(Taken { due: old.len() as u64, purged: kept.len() as u64, set_aside })
            })
        })
        .await
    }

    async fn delete_once(
        &self,
        me: Incarnation,
        cutoffs: Cutoffs,
        part: Part,
    ) -> Result<Taken, Error> {
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
        let before = watermark.min(cutoffs.gids_ms).min(cutoffs.deleted_ms());
        let query = |this: &Self, from| {
            sqlx::query_as(this.opened.damage.sparing(STRIPPED))
                .bind(before)
                .bind(part.count)
                .bind(cutoffs.stripped_ms)
                .bind(part.from)
                .bind(from)
        };
        let due =
            self.search(DELETING, |searched| &searched.deletes, (before, part), query).await?;
        if due.is_empty() {
            return Ok(Taken::default());
        }
        let versions = versions(&due);
        self.write(DELETING, Some(me), move |connection| {
            Box::pin(async move {
                let mut taken = Taken { due: due.len() as u64, ..Taken::default() };
                let ids: Vec<Uuid> = due.iter().map(|(tx_id, ..)| *tx_id).collect();
                for read in of_ids_without_data(connection, &ids).await? {
                    let is_same = versions.get(&read.tx_id) == Some(&read.content.written().0);
                    if read.is_whole() && !is_same {
                        continue;
                    }
                    match delete_one(connection, me, &read).await? {
                        true => taken.purged += 1,
                        false => taken.set_aside += 1,
                    }
                }
                Ok(taken)
            })
        })
        .await
    }
}

fn versions(due: &[Due]) -> HashMap<Uuid, i64> {
    due.iter().map(|(tx_id, version, ..)| (*tx_id, *version)).collect()
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
        "DELETE FROM waits WHERE tx_id = $1",
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

#[cfg(test)]
mod tests;
