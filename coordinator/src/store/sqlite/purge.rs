//! The purge on SQLite. The rules are explained beside the same statements for
//! PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

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
    async fn strip_once(
        &self,
        me: Incarnation,
        cutoffs: Cutoffs,
        part: Part,
    ) -> Result<Taken, Error> {
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
                    .bind(watermark.min(cutoffs.gids_ms).min(cutoffs.deleted_ms()))
                    .bind(part.count)
                    .bind(cutoffs.stripped_ms)
                    .bind(part.from)
                    .fetch_all(&mut *connection)
                    .await?;
                let mut taken = Taken { due: due.len() as u64, ..Taken::default() };
                for read in of_ids_without_data(connection, &due).await? {
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
mod tests {
    use std::borrow::Cow;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("database disk image is malformed")]
    struct Malformed;

    impl DatabaseError for Malformed {
        fn message(&self) -> &str {
            "database disk image is malformed"
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some("11".into())
        }
        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn malformed() -> Error {
        Error::database("purge")(sqlx::Error::Database(Box::new(Malformed)))
    }

    #[tokio::test]
    async fn those_that_fail_are_not_all_that_it_ever_comes_to() {
        // The first 600 fail.
        let (passed, left) = (AtomicI64::new(0), AtomicI64::new(100));
        let purge = |part: Part| {
            let left = &left;
            async move {
                if part.from < 600 {
                    return Err(malformed());
                }
                if left.load(Ordering::Relaxed) == 0 {
                    return Ok(Taken::default());
                }
                left.fetch_sub(1, Ordering::Relaxed);
                Ok(Taken { due: 1, purged: 1, set_aside: 0 })
            }
        };
        let first = singly(&passed, purge).await;
        assert!(matches!(first, Err(Error::Damaged { .. })), "{first:?}");
        assert_eq!(singly(&passed, purge).await.expect("some are purged"), 100);
        for _ in 0..3 {
            let later = singly(&passed, purge).await;
            assert!(matches!(later, Err(Error::Damaged { .. })), "{later:?}");
        }
    }

    #[tokio::test]
    async fn one_that_is_set_aside_is_not_the_last_that_is_due() {
        let (passed, taken) = (AtomicI64::new(0), AtomicI64::new(0));
        let purge = |part: Part| {
            let number = taken.fetch_add(1, Ordering::Relaxed);
            async move {
                assert_eq!(part.from, 0, "what is set aside is not due any more");
                Ok(match number {
                    0 => Taken { due: 1, purged: 0, set_aside: 1 },
                    1 => Taken { due: 1, purged: 1, set_aside: 0 },
                    _ => Taken::default(),
                })
            }
        };
        assert_eq!(singly(&passed, purge).await.expect("it goes on"), 1);
    }
}
