//! Statements that find what is due to be purged.

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::purge::{Cutoffs, STEPS_ASKED_MS, STEPS_SWEPT_MS};
use super::super::damage::{Damage, Step};
use super::parts::{self, Due};
use super::{ROWS_MAX, Reached};

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
    AND ended.tx_id <> ALL($9) AND last.version = ended.version
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
    "UNNEST($10::uuid[]) AS named (tx_id)
CROSS JOIN LATERAL (
    SELECT * FROM log WHERE log.tx_id = named.tx_id ORDER BY follows DESC LIMIT 1) AS ended"
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
WHERE ended_ms < $2 AND ended_ms >= $6 AND created_ms < $2 AND stripped_ms <= $4 AND ended.tx_id <> ALL($7)
    AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $5 AND NOT fenced)
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = ended.tx_id)
ORDER BY ended_ms LIMIT $3"
        )
    };
}

const STRIPPED: &str = stripped!("log AS ended");
const STRIPPED_OF: &str = stripped!(
    "UNNEST($8::uuid[]) AS named (tx_id)
CROSS JOIN LATERAL (
    SELECT * FROM log WHERE log.tx_id = named.tx_id ORDER BY follows DESC LIMIT 1) AS ended"
);

/// Returns what is due to be stripped, with the bytes of each one's rows, and what of that cannot be read.
pub(super) async fn old(
    connection: &mut PgConnection,
    known: &(Damage, Reached),
    (me, nonce): (Incarnation, Uuid),
    cutoffs: Cutoffs,
) -> Result<Due, sqlx::Error> {
    let held = known.1.held.names();
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
            .bind(held.clone())
    };
    let in_range = |from, before, limit| query(OLD, from, before, limit);
    let of_names =
        |names: &[Uuid]| query(OLD_OF, 0, cutoffs.details_ms, ROWS_MAX).bind(names.to_vec());
    let limits = (Step::Strip, cutoffs.details_ms);
    parts::due(connection, known, limits, in_range, of_names).await
}

/// Returns what is due to be deleted, and what of that cannot be read.
pub(super) async fn stripped(
    connection: &mut PgConnection,
    known: &(Damage, Reached),
    (me, nonce): (Incarnation, Uuid),
    before: i64,
    cutoffs: Cutoffs,
) -> Result<Due, sqlx::Error> {
    let held = known.1.held.names();
    let query = |statement: &'static str, from: i64, before: i64, limit: i64| {
        let query = sqlx::query_as(statement).bind(me.0).bind(before).bind(limit);
        query.bind(cutoffs.stripped_ms).bind(nonce).bind(from).bind(held.clone())
    };
    let in_range = |from, before, limit| query(STRIPPED, from, before, limit);
    let of_names = |names: &[Uuid]| query(STRIPPED_OF, 0, before, ROWS_MAX).bind(names.to_vec());
    parts::due(connection, known, (Step::Delete, before), in_range, of_names).await
}
