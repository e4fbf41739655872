//! The purge on PostgreSQL.

mod parts;
mod reached;

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

pub(super) use self::reached::Reached;
use super::super::Error;
use super::super::purge::{
    Cutoffs, DELETING, PURGE_BYTES_MAX, Purge, PurgeTimes, RAISING, Retention, STEPS_ASKED_MS,
    STEPS_SWEPT_MS, STRIPPING, Stripped,
};
use super::super::rows::{self, gid_key};
use super::Postgres;
use super::damage::{Damage, Step, in_halves};
use super::names::Known;
use super::transactions::{Aside, SET_ASIDE, of_ids_without_data, set_failed_aside};

/// Transactions that one run takes for each of its two steps. Its rows are in nobody's way: the journal only writes new
/// ones. A run asks eight times and waits for three commits, and on a busy machine each of these waits for its turn: so
/// one run takes as many as go into a fraction of a second. Where the database does not do them in time, it is fewer.
const ROWS_MAX: i64 = 2_000;

/// Transactions that ended before the cutoff, are not heuristic or were forgotten: the last row of each tells. An
/// operator's acts stay, and so does a saga whose participants may not have asked about their steps yet, and what the
/// feed does not have yet, of which another row may be the last one. A write that is not the journal's has an identifier
/// of chance, above all of those that begin with an incarnation. The first row tells when it was begun, and its mode.
///
/// It looks at the fence without a lock, because it may take long and writes nothing; so does that for what is to be deleted.
///
/// `OFFSET 0` keeps the planner from the index of the feed's rows: it would read all that was written lately for each of
/// these. The feed's one row is read once: beside a snapshot that is held open it has as many versions as it was written
/// since, and they would be passed over for each of these.
macro_rules! old {
    ($ended:literal) => {
        concat!(
            "
WITH passed AS MATERIALIZED (SELECT done_before FROM feed)
SELECT ended.tx_id, (
    SELECT sum(length(body) + coalesce(length(data), 0) + coalesce(length(history), 0))::int8
    FROM log AS entry WHERE entry.tx_id = ended.tx_id), ended_ms
FROM ",
            $ended,
            "
CROSS JOIN LATERAL (
    SELECT kind, created_ms FROM log AS entry WHERE entry.tx_id = ended.tx_id ORDER BY follows LIMIT 1) AS first
CROSS JOIN LATERAL (
    SELECT kind, version FROM log AS entry
    WHERE entry.tx_id = ended.tx_id ORDER BY follows DESC LIMIT 1) AS last
WHERE ended.ended_ms < $2 AND ended.ended_ms >= $8 AND ended.stripped_ms IS NULL
    AND last.version = ended.version
    AND last.kind & 64 = 0
    AND (first.kind & 32 = 0
        OR ended_ms + least((ended_ms - first.created_ms) / 2, $5) + $6 < $4)
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = ended.tx_id)
    AND (
        SELECT count(*) FROM passed CROSS JOIN (
            SELECT owner, kind, write_id FROM log AS entry WHERE entry.tx_id = ended.tx_id OFFSET 0) AS entry
        LEFT JOIN feed_cursors ON incarnation = entry.owner
        WHERE entry.kind & 128 <> 0
            AND entry.write_id < '00000001-0000-0000-0000-000000000000' AND entry.owner >= done_before
            AND (next_write IS NULL OR entry.write_id >= next_write
                OR position(uuid_send(entry.write_id) IN open_writes) > 0)) = 0
    AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $7 AND NOT fenced)
ORDER BY ended_ms LIMIT $3"
        )
    };
}

const OLD: &str = old!("log AS ended");

/// Of these, by their names: no row of another one is read.
const OLD_OF: &str = old!(
    "UNNEST($9::uuid[]) AS named (tx_id)
CROSS JOIN LATERAL (
    SELECT * FROM log WHERE log.tx_id = named.tx_id ORDER BY follows DESC LIMIT 1) AS ended"
);

/// Puts one row in the place of all others of each transaction. It follows the version that was read: if
/// somebody has written it meanwhile, the key is taken, and it is left alone.
const STRIP: &str = concat!(
    "
WITH ",
    fence!("$10"),
    ", kept AS MATERIALIZED (
    INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, stripped_ms, body)
    SELECT tx_id, version, version + 1, owner, gen_random_uuid(), kind, created_ms, ended_ms, $9, body
    FROM UNNEST($2::uuid[], $3::int8[], $4::int8[], $5::int2[], $6::int8[], $7::int8[], $8::bytea[])
        AS new (tx_id, version, owner, kind, created_ms, ended_ms, body)
    WHERE EXISTS (SELECT 1 FROM fence) AND EXISTS (
        SELECT 1 FROM log AS last WHERE last.tx_id = new.tx_id AND last.version = new.version)
    ON CONFLICT DO NOTHING
    RETURNING tx_id
), no_log AS (
    DELETE FROM log USING kept WHERE log.tx_id = kept.tx_id
), no_mark AS (
    DELETE FROM parked USING kept WHERE parked.tx_id = kept.tx_id
), no_locks AS (
    DELETE FROM locks USING kept WHERE locks.tx_id = kept.tx_id
), no_waits AS (
    DELETE FROM waits USING kept WHERE waits.tx_id = kept.tx_id
)
SELECT tx_id FROM kept"
);

/// Durable before anything is deleted: whoever misses a transaction finds out why. The row about the group is locked
/// before the fence, as where an epoch of names is closed.
const RAISE_WATERMARK: &str = concat!(
    "
WITH held AS MATERIALIZED (
    SELECT 1 FROM cluster FOR NO KEY UPDATE
), ",
    fence!("$4", "EXISTS (SELECT 1 FROM held)"),
    "
UPDATE cluster
SET purge_watermark_ms = greatest(purge_watermark_ms, $2), purge_clock_ms = $3
WHERE EXISTS (SELECT 1 FROM fence)
RETURNING purge_watermark_ms"
);

/// Only what both began and ended before the watermark: a transaction whose id was made by a clock
/// ahead of the others would otherwise be taken for one that was never seen.
macro_rules! stripped {
    ($log:literal) => {
        concat!(
            "
SELECT ended.tx_id, 0::int8, ended_ms FROM ",
            $log,
            "
WHERE ended_ms < $2 AND ended_ms >= $6 AND created_ms < $2 AND stripped_ms <= $4
    AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $5 AND NOT fenced)
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = ended.tx_id)
ORDER BY ended_ms LIMIT $3"
        )
    };
}

const STRIPPED: &str = stripped!("log AS ended");
const STRIPPED_OF: &str = stripped!(
    "UNNEST($7::uuid[]) AS named (tx_id)
CROSS JOIN LATERAL (
    SELECT * FROM log WHERE log.tx_id = named.tx_id ORDER BY follows DESC LIMIT 1) AS ended"
);

/// A transaction goes with its gid, or not at all: a gid that is left alone would be nobody's for ever. One that was
/// adopted since has one more row.
macro_rules! delete {
    ($old:literal) => {
        concat!(
            "
WITH ",
            fence!("$4"),
            ", named AS MATERIALIZED (
    DELETE FROM gids USING ",
            $old,
            "
    WHERE gids.epoch = old.epoch AND gids.key = old.key AND gids.tx_id = old.tx_id AND EXISTS (SELECT 1 FROM fence)
    RETURNING gids.tx_id
), gone AS (
    DELETE FROM log USING named WHERE log.tx_id = named.tx_id
), no_mark AS (
    DELETE FROM parked USING named WHERE parked.tx_id = named.tx_id
)
SELECT tx_id FROM named"
        )
    };
}

/// Looks for each name in the epochs in which it may be.
const DELETE: &str =
    delete!("UNNEST($2::uuid[], $3::uuid[], $5::int4[]) AS old (tx_id, key, epoch)");

/// Looks for each name in all of them: those that are known may not be those of the database.
const DELETE_ANYWHERE: &str = delete!(
    "(SELECT tx_id, key, epoch FROM UNNEST($2::uuid[], $3::uuid[]) AS new (tx_id, key) CROSS JOIN epochs) AS old"
);

/// Those that are not there any more were deleted by somebody else.
const STILL_THERE: &str = "SELECT DISTINCT tx_id FROM log WHERE tx_id = ANY($1)";

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
        let (cutoffs, nonce) = (retention.cutoffs(now), self.nonces.nonce(me));
        let known = (self.damage.clone(), self.reached.clone());
        let strip = self.run(STRIPPING, move |connection| {
            Box::pin(async move {
                let (right, mut aside) = ((me, nonce), Aside::default());
                let (old, unread) = old(connection, &known, right, cutoffs).await?;
                set_failed_aside(connection, right, unread, &mut aside).await?;
                let old = rows::fitting(&old, PURGE_BYTES_MAX);
                let found = of_ids_without_data(connection, &old).await?;
                let (mut kept, unreadable) = Stripped::of(found);
                set_aside(connection, me, nonce, unreadable).await?;
                kept.sort_unstable_by_key(|row| row.tx_id);
                let ids = column(&kept, |row| row.tx_id);
                let strip = |part: &[Uuid]| {
                    let rows = kept.iter().filter(|row| part.binary_search(&row.tx_id).is_ok());
                    let rows: Vec<&Stripped> = rows.collect();
                    sqlx::query_as::<_, (Uuid,)>(STRIP)
                        .bind(me.0)
                        .bind(column(&rows, |row| row.tx_id))
                        .bind(column(&rows, |row| row.version))
                        .bind(column(&rows, |row| row.owner))
                        .bind(column(&rows, |row| row.row.kind))
                        .bind(column(&rows, |row| row.row.created_ms))
                        .bind(column(&rows, |row| row.row.ended_ms))
                        .bind(column(&rows, |row| row.row.body.clone()))
                        .bind(cutoffs.now_ms)
                        .bind(nonce)
                };
                let stripped = in_halves(connection, &ids, strip).await?;
                set_failed_aside(connection, right, stripped.failed, &mut aside).await?;
                purged(stripped.done.len(), stripped.cut, aside)
            })
        });
        self.reached.timed(Step::Strip, strip.await)
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
        let before = watermark.min(cutoffs.gids_ms).min(cutoffs.deleted_ms());
        let known = (self.damage.clone(), self.reached.clone());
        let epochs = self.names.known();
        let delete = self.run(DELETING, move |connection| {
            Box::pin(async move {
                let (right, mut aside) = ((me, nonce), Aside::default());
                let (due, unread) = stripped(connection, &known, right, before, cutoffs).await?;
                set_failed_aside(connection, right, unread, &mut aside).await?;
                if due.is_empty() {
                    return purged(0, None, aside);
                }
                let due: Vec<Uuid> = due.into_iter().map(|(tx_id, _)| tx_id).collect();
                let mut old = of_ids_without_data(connection, &due).await?;
                old.sort_unstable_by_key(|read| read.tx_id);
                let ids = column(&old, |read| read.tx_id);
                let keys_of = |part: &[Uuid]| {
                    let rows = old.iter().filter(|read| part.binary_search(&read.tx_id).is_ok());
                    rows.map(|read| (read.tx_id, gid_key(read.gid()))).collect::<Vec<_>>()
                };
                let (mut deleted, mut cut) = (HashSet::new(), None);
                for epochs in [epochs.as_deref(), None] {
                    let is_left = |id: &&Uuid| !deleted.contains(*id);
                    let left: Vec<Uuid> = ids.iter().filter(is_left).copied().collect();
                    let delete = |part: &[Uuid]| delete_of((me, nonce), keys_of(part), epochs);
                    let made = in_halves(connection, &left, delete).await?;
                    set_failed_aside(connection, right, made.failed, &mut aside).await?;
                    deleted.extend(made.done.into_iter().map(|(tx_id,)| tx_id));
                    cut = made.cut;
                    if cut.is_some() || epochs.is_none() || deleted.len() == ids.len() {
                        break;
                    }
                }
                // What does not tell its own gid stays, and a person has to look at it.
                let is_refused = |id: &Uuid| aside.refused.iter().any(|(refused, _)| refused == id);
                let left: Vec<Uuid> = due
                    .into_iter()
                    .filter(|tx_id| !deleted.contains(tx_id) && !is_refused(tx_id))
                    .collect();
                if !left.is_empty() && cut.is_none() {
                    let there = sqlx::query_scalar(STILL_THERE).bind(left);
                    let there: Vec<Uuid> = there.fetch_all(&mut *connection).await?;
                    set_aside(connection, me, nonce, there).await?;
                }
                purged(deleted.len(), cut, aside)
            })
        });
        self.reached.timed(Step::Delete, delete.await)
    }
}

/// Returns what is due to be stripped, with the bytes of each one's rows, and what of that cannot be read.
async fn old(
    connection: &mut PgConnection,
    known: &(Damage, Reached),
    (me, nonce): (Incarnation, Uuid),
    cutoffs: Cutoffs,
) -> Result<parts::Due, sqlx::Error> {
    let query = |statement: &'static str, from: i64, before: i64, limit: i64| {
        sqlx::query_as(statement)
            .bind(me.0)
            .bind(before)
            .bind(limit)
            .bind(cutoffs.now_ms)
            .bind(STEPS_ASKED_MS)
            .bind(STEPS_SWEPT_MS)
            .bind(nonce)
            .bind(from)
    };
    let in_range = |from, before, limit| query(OLD, from, before, limit);
    let of_names =
        |names: &[Uuid]| query(OLD_OF, 0, cutoffs.details_ms, ROWS_MAX).bind(names.to_vec());
    let limits = (Step::Strip, cutoffs.details_ms);
    parts::due(connection, known, limits, in_range, of_names).await
}

/// Returns what is due to be deleted, and what of that cannot be read.
async fn stripped(
    connection: &mut PgConnection,
    known: &(Damage, Reached),
    (me, nonce): (Incarnation, Uuid),
    before: i64,
    cutoffs: Cutoffs,
) -> Result<parts::Due, sqlx::Error> {
    let query = |statement: &'static str, from: i64, before: i64, limit: i64| {
        let query = sqlx::query_as(statement).bind(me.0).bind(before).bind(limit);
        query.bind(cutoffs.stripped_ms).bind(nonce).bind(from)
    };
    let in_range = |from, before, limit| query(STRIPPED, from, before, limit);
    let of_names = |names: &[Uuid]| query(STRIPPED_OF, 0, before, ROWS_MAX).bind(names.to_vec());
    parts::due(connection, known, (Step::Delete, before), in_range, of_names).await
}

/// Makes the statement that deletes these names, with what they are names of. It looks for them where they may be, if that
/// is known.
fn delete_of(
    (me, nonce): (Incarnation, Uuid),
    names: Vec<(Uuid, Uuid)>,
    epochs: Option<&Known>,
) -> QueryAs<'static, sqlx::Postgres, (Uuid,), PgArguments> {
    let Some(known) = epochs else {
        let (ids, keys): (Vec<Uuid>, Vec<Uuid>) = names.into_iter().unzip();
        return sqlx::query_as(DELETE_ANYWHERE).bind(me.0).bind(ids).bind(keys).bind(nonce);
    };
    let (mut ids, mut keys, mut epochs) = (Vec::new(), Vec::new(), Vec::new());
    for (tx_id, key) in names {
        for epoch in known.epochs_of(key) {
            ids.push(tx_id);
            keys.push(key);
            epochs.push(epoch);
        }
    }
    sqlx::query_as(DELETE).bind(me.0).bind(ids).bind(keys).bind(nonce).bind(epochs)
}

/// Counts what is done; where that is nothing although some could be read, the error says why.
fn purged(done: usize, cut: Option<sqlx::Error>, aside: Aside) -> Result<u64, sqlx::Error> {
    match cut.or_else(|| aside.refused.into_iter().next().map(|(_, error)| error)) {
        Some(error) if done == 0 => Err(error),
        _ => Ok(done as u64),
    }
}

/// Sets aside what cannot be read: it is no longer in the way of what can be.
async fn set_aside(
    connection: &mut PgConnection,
    me: Incarnation,
    nonce: Uuid,
    unreadable: Vec<Uuid>,
) -> Result<(), sqlx::Error> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(SET_ASIDE).bind(me.0).bind(unreadable).bind(nonce);
    query.execute(connection).await.map(drop)
}

fn column<R, T>(rows: &[R], field: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}
