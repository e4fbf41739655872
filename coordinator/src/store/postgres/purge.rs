//! The purge on PostgreSQL.

mod held;
mod parts;
mod reached;
mod search;

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use self::held::make;
pub(super) use self::reached::Reached;
use self::search::{old, stripped};
use super::super::Error;
use super::super::purge::{
    Cutoffs, DELETING, PURGE_BYTES_MAX, Purge, PurgeTimes, RAISING, Retention, STRIPPING, Stripped,
};
use super::super::rows::{self, gid_key};
use super::Postgres;
use super::damage::Step;
use super::names::Known;
use super::transactions::{Aside, SET_ASIDE, of_ids_without_data, set_failed_aside};

/// Transactions that one run takes for each of its two steps. Its rows are in nobody's way: the journal only writes new
/// ones. A run asks eight times and waits for three commits, and on a busy machine each of these waits for its turn: so
/// one run takes as many as go into a fraction of a second. Where the database does not do them in time, it is fewer.
const ROWS_MAX: i64 = 2_000;

/// Runs that are made one after the other while they find nothing but what somebody holds.
const HELD_RUNS_MAX: u32 = 8;

/// Puts one row in the place of all others of each transaction. What is deleted is named by an array: of names that are
/// joined the planner, where it has no statistics of the log yet, takes each for that of thousands of rows, and reads them all. It follows the version that was read: if
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
    DELETE FROM log WHERE tx_id = ANY(ARRAY(SELECT tx_id FROM kept))
), no_mark AS (
    DELETE FROM parked WHERE tx_id = ANY(ARRAY(SELECT tx_id FROM kept))
), no_locks AS (
    DELETE FROM locks WHERE tx_id = ANY(ARRAY(SELECT tx_id FROM kept))
), no_waits AS (
    DELETE FROM waits WHERE tx_id = ANY(ARRAY(SELECT tx_id FROM kept))
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
    DELETE FROM log WHERE tx_id = ANY(ARRAY(SELECT tx_id FROM named))
), no_mark AS (
    DELETE FROM parked WHERE tx_id = ANY(ARRAY(SELECT tx_id FROM named))
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
        let (cutoffs, right) = (retention.cutoffs(now), (me, self.nonces.nonce(me)));
        self.past_held(Step::Strip, || self.strip_once(right, cutoffs)).await
    }

    async fn delete(
        &self,
        me: Incarnation,
        retention: Retention,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let (cutoffs, right) = (retention.cutoffs(now), (me, self.nonces.nonce(me)));
        let raise = sqlx::query_as(RAISE_WATERMARK)
            .bind(me.0)
            .bind(cutoffs.gids_ms)
            .bind(cutoffs.now_ms)
            .bind(right.1);
        let raised: Vec<(i64,)> = self.rows(RAISING, raise).await?;
        let (watermark,) = raised.into_iter().next().ok_or(Error::Fenced(me))?;
        let before = watermark.min(cutoffs.gids_ms).min(cutoffs.deleted_ms());
        self.past_held(Step::Delete, || self.delete_once(right, cutoffs, before)).await
    }
}

/// Numbers of transactions that a run has purged, and that somebody held.
#[derive(Clone, Copy, Debug)]
struct Ran {
    purged: u64,
    held: usize,
}

impl Postgres {
    /// Makes a run, and more of them while all that they come to is held: what is behind that is purged all the same.
    async fn past_held<F>(&self, step: Step, run: impl Fn() -> F) -> Result<u64, Error>
    where
        F: Future<Output = Result<Ran, Error>>,
    {
        let mut runs = 1;
        loop {
            let ran = self.reached.timed(step, run().await)?;
            if ran.purged > 0 || ran.held == 0 || runs == HELD_RUNS_MAX {
                return Ok(ran.purged);
            }
            runs += 1;
        }
    }

    async fn strip_once(
        &self,
        right @ (me, nonce): (Incarnation, Uuid),
        cutoffs: Cutoffs,
    ) -> Result<Ran, Error> {
        let known = (self.damage.clone(), self.reached.clone());
        self.run(STRIPPING, move |connection| {
            Box::pin(async move {
                let mut aside = Aside::default();
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
                let held = &known.1.held;
                let made = make(connection, right, held, &ids, |_| Vec::new(), strip).await?;
                set_failed_aside(connection, right, made.failed, &mut aside).await?;
                ran(made.done.len(), made.held.len(), made.cut, aside)
            })
        })
        .await
    }

    async fn delete_once(
        &self,
        right @ (me, nonce): (Incarnation, Uuid),
        cutoffs: Cutoffs,
        before: i64,
    ) -> Result<Ran, Error> {
        let known = (self.damage.clone(), self.reached.clone());
        let epochs = self.names.known();
        self.run(DELETING, move |connection| {
            Box::pin(async move {
                let mut aside = Aside::default();
                let (due, unread) = stripped(connection, &known, right, before, cutoffs).await?;
                set_failed_aside(connection, right, unread, &mut aside).await?;
                if due.is_empty() {
                    return ran(0, 0, None, aside);
                }
                let due: Vec<Uuid> = due.into_iter().map(|(tx_id, _)| tx_id).collect();
                let mut old = of_ids_without_data(connection, &due).await?;
                old.sort_unstable_by_key(|read| read.tx_id);
                let ids = column(&old, |read| read.tx_id);
                let keys_of = |part: &[Uuid]| {
                    let rows = old.iter().filter(|read| part.binary_search(&read.tx_id).is_ok());
                    rows.map(|read| (read.tx_id, gid_key(read.gid()))).collect::<Vec<_>>()
                };
                let (mut deleted, mut held, mut cut) = (HashSet::new(), HashSet::new(), None);
                for epochs in [epochs.as_deref(), None] {
                    let is_left = |id: &&Uuid| !deleted.contains(*id) && !held.contains(*id);
                    let left: Vec<Uuid> = ids.iter().filter(is_left).copied().collect();
                    let delete = |part: &[Uuid]| delete_of(right, keys_of(part), epochs);
                    let keys = |part: &[Uuid]| column(&keys_of(part), |(_, key)| *key);
                    let made = make(connection, right, &known.1.held, &left, keys, delete).await?;
                    set_failed_aside(connection, right, made.failed, &mut aside).await?;
                    deleted.extend(made.done);
                    held.extend(made.held);
                    cut = made.cut;
                    if cut.is_some() || epochs.is_none() || deleted.len() + held.len() == ids.len()
                    {
                        break;
                    }
                }
                // What does not tell its own gid stays, and a person has to look at it.
                let is_refused = |id: &Uuid| aside.refused.iter().any(|(refused, _)| refused == id);
                let left: Vec<Uuid> = due
                    .into_iter()
                    .filter(|id| !deleted.contains(id) && !held.contains(id) && !is_refused(id))
                    .collect();
                if !left.is_empty() && cut.is_none() {
                    let there = sqlx::query_scalar(STILL_THERE).bind(left);
                    let there: Vec<Uuid> = there.fetch_all(&mut *connection).await?;
                    set_aside(connection, me, nonce, there).await?;
                }
                ran(deleted.len(), held.len(), cut, aside)
            })
        })
        .await
    }
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
fn ran(
    done: usize,
    held: usize,
    cut: Option<sqlx::Error>,
    aside: Aside,
) -> Result<Ran, sqlx::Error> {
    match cut.or_else(|| aside.refused.into_iter().next().map(|(_, error)| error)) {
        Some(error) if done == 0 => Err(error),
        _ => Ok(Ran { purged: done as u64, held }),
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
