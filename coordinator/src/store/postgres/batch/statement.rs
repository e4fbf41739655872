//! The statement that writes a batch, and the columns that it takes.

use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use unanimo_core::{BranchSpec, Event, Incarnation, Payload};
use uuid::Uuid;

use super::super::super::Write;
use super::super::super::rows::{
    IdentityColumns, StateColumns, enlistment_name, history_to_column, ms_to_column,
    number_to_column, step_to_column,
};
use super::super::session::settings_of_session;

/// The fence is locked first: a rival that fences waits for the batch, or the batch for the rival. It is
/// looked for in the table that was opened alone: nothing is written in others that are in its place by now.
/// Rows are driven by what was really inserted or updated. Rows that somebody else has locked are
/// left out instead of waited for; those that are locked are where they were found, and need not be
/// looked up again. The last SELECT answers with the applied ones, and a row without a transaction if the
/// fence was there: it tells what the statement was made under.
const BATCH: &str = concat!(
    "
WITH ",
    fence!("$71", "tableoid = ($70::text)::oid"),
    ", begun AS (
    INSERT INTO transactions (
        owner, tx_id, gid, mode, drive, digest, digest_version, created_ms, deadline_ms, initiator,
        metadata, trace, begun_with, version, write_id, phase, abort_cause, abort_branch,
        decided_ms, ended_ms, heuristic, stalled, forgotten, attention, progress, more, wake_ms)
    SELECT $1, tx_id, gid, mode, drive, digest, digest_version, created_ms, deadline_ms, initiator,
        metadata, trace, begun_with, version, write_id, phase, abort_cause, abort_branch,
        decided_ms, ended_ms, heuristic, stalled, forgotten, attention, progress, more, wake_ms
    FROM UNNEST($2::uuid[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::int2[],
        $8::int8[], $9::int8[], $10::text[], $11::text[], $12::text[], $13::text[], $14::int8[],
        $15::uuid[], $16::text[], $17::text[], $18::int2[], $19::int8[], $20::int8[], $21::text[],
        $22::bool[], $23::bool[], $24::bool[], $25::text[], $26::text[], $27::int8[])
        AS new (tx_id, gid, mode, drive, digest, digest_version, created_ms, deadline_ms, initiator,
            metadata, trace, begun_with, version, write_id, phase, abort_cause, abort_branch,
            decided_ms, ended_ms, heuristic, stalled, forgotten, attention, progress, more,
            wake_ms)
    WHERE EXISTS (SELECT 1 FROM fence)
    ON CONFLICT DO NOTHING
    RETURNING tx_id
), held AS MATERIALIZED (
    SELECT old.ctid AS place, new.*
    FROM UNNEST($28::uuid[], $29::int8[], $30::int8[], $31::uuid[], $32::text[], $33::text[],
        $34::int2[], $35::int8[], $36::int8[], $37::text[], $38::bool[], $39::bool[], $40::bool[],
        $41::text[], $42::text[], $43::int8[], $72::int8[])
        AS new (tx_id, base, version, write_id, phase, abort_cause, abort_branch, decided_ms,
            ended_ms, heuristic, stalled, forgotten, attention, progress, more, wake_ms, former)
    JOIN transactions AS old ON old.tx_id = new.tx_id
    WHERE old.owner = new.former AND old.version = new.base AND EXISTS (SELECT 1 FROM fence)
    FOR NO KEY UPDATE OF old SKIP LOCKED
), moved AS (
    UPDATE transactions AS old
    SET owner = $1, version = new.version, write_id = new.write_id, phase = new.phase,
        abort_cause = new.abort_cause, abort_branch = new.abort_branch,
        decided_ms = new.decided_ms, ended_ms = new.ended_ms, heuristic = new.heuristic,
        stalled = new.stalled, forgotten = new.forgotten, attention = new.attention,
        progress = new.progress, more = new.more, wake_ms = new.wake_ms
    FROM held AS new
    WHERE old.ctid = new.place
    RETURNING old.tx_id
), applied AS MATERIALIZED (
    SELECT tx_id FROM begun UNION ALL SELECT tx_id FROM moved
), more_branches AS (
    INSERT INTO branches (tx_id, number, branch_id, participant, action, enlisted_by, payload,
        payload_type, mode, step)
    SELECT new.* FROM UNNEST($44::uuid[], $45::int2[], $46::text[], $47::text[], $48::text[],
        $49::text[], $50::bytea[], $51::text[], $52::text[], $53::text[])
        AS new (tx_id, number, branch_id, participant, action, enlisted_by, payload, payload_type,
            mode, step)
    WHERE new.tx_id IN (SELECT tx_id FROM applied)
), more_outputs AS (
    INSERT INTO outputs (tx_id, number, output, output_type)
    SELECT new.* FROM UNNEST($54::uuid[], $55::int2[], $56::bytea[], $57::text[])
        AS new (tx_id, number, output, output_type)
    WHERE new.tx_id IN (SELECT tx_id FROM applied)
), more_events AS (
    INSERT INTO events (tx_id, version, ordinal, at_ms, kind, branch, detail, audit)
    SELECT new.* FROM UNNEST($58::uuid[], $59::int8[], $60::int2[], $61::int8[], $62::text[],
        $63::int2[], $64::text[], $65::bool[])
        AS new (tx_id, version, ordinal, at_ms, kind, branch, detail, audit)
    WHERE new.tx_id IN (SELECT tx_id FROM applied)
), more_history AS (
    INSERT INTO history (tx_id, version, entry)
    SELECT new.* FROM UNNEST($66::uuid[], $67::int8[], $68::text[]) AS new (tx_id, version, entry)
    WHERE new.tx_id IN (SELECT tx_id FROM applied)
), no_locks AS (
    DELETE FROM locks WHERE tx_id IN (
        SELECT ended.tx_id FROM UNNEST($69::uuid[]) AS ended (tx_id)
        WHERE ended.tx_id IN (SELECT tx_id FROM applied))
)
SELECT tx_id, NULL AS settings, NULL AS synchronous, NULL AS number FROM applied
UNION ALL SELECT NULL, ",
    settings_of_session!(),
    ", current_setting('synchronous_standby_names') <> '', txid_current() FROM fence"
);

pub(super) type Query<'a> = QueryAs<'a, sqlx::Postgres, Row, PgArguments>;

/// A row of the statement's answer.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Row {
    /// A transaction that was written; `None` in the row that stands for the fence.
    pub(super) tx_id: Option<Uuid>,
    pub(super) settings: Option<String>,
    pub(super) synchronous: Option<bool>,
    /// Number of the transaction that has written the batch.
    pub(super) number: Option<i64>,
}

/// The batch, column by column, as the statement takes it.
#[derive(Default)]
pub(super) struct Columns<'a> {
    begun: Vec<(Uuid, IdentityColumns<'a>, i64, Uuid, StateColumns)>,
    moved: Vec<(Uuid, i64, i64, Uuid, StateColumns, Option<Incarnation>)>,
    branches: Vec<(Uuid, i16, &'a BranchSpec, &'static str, Option<String>)>,
    outputs: Vec<(Uuid, i16, &'a Payload)>,
    events: Vec<(Uuid, i64, i16, &'a Event)>,
    history: Vec<(Uuid, i64, String)>,
    releases: Vec<Uuid>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(batch: &'a [Write]) -> Self {
        let mut columns = Self::default();
        for Write { write_id, base, former, transition, .. } in batch {
            let tx_id = transition.tx_id.0;
            let version = transition.version.0;
            let state = StateColumns::of(&transition.state);
            match &transition.begins {
                Some(identity) => {
                    let identity = IdentityColumns::of(identity);
                    columns.begun.push((tx_id, identity, version, *write_id, state));
                }
                None => columns.moved.push((tx_id, base.0, version, *write_id, state, *former)),
            }
            for (number, enlistment, spec) in &transition.enlisted {
                let enlisted_by = enlistment_name(*enlistment);
                let number = number_to_column(*number);
                let step = step_to_column(&spec.step);
                columns.branches.push((tx_id, number, spec, enlisted_by, step));
            }
            for (number, output) in &transition.outputs {
                columns.outputs.push((tx_id, number_to_column(*number), output));
            }
            for (ordinal, event) in (0..).zip(&transition.events) {
                columns.events.push((tx_id, version, ordinal, event));
            }
            for entry in &transition.history {
                columns.history.push((tx_id, entry.version.0, history_to_column(entry)));
            }
            if transition.releases_locks {
                columns.releases.push(tx_id);
            }
        }
        // One order for everybody: two batches that meet wait for each other instead of deadlocking.
        columns.begun.sort_by(|a, b| a.1.gid.cmp(b.1.gid));
        columns.moved.sort_by_key(|row| row.0);
        columns
    }

    /// Returns the statement, with all columns bound.
    pub(super) fn query(&self, me: Incarnation, tables: &str, nonce: Uuid) -> Query<'_> {
        let Self { begun, moved, branches, outputs, events, history, releases } = self;
        let query = sqlx::query_as(BATCH)
            .bind(me.0)
            .bind(column(begun, |row| row.0))
            .bind(column(begun, |row| row.1.gid))
            .bind(column(begun, |row| row.1.mode))
            .bind(column(begun, |row| row.1.drive))
            .bind(column(begun, |row| row.1.digest))
            .bind(column(begun, |row| row.1.digest_version))
            .bind(column(begun, |row| row.1.created_ms))
            .bind(column(begun, |row| row.1.deadline_ms))
            .bind(column(begun, |row| row.1.initiator))
            .bind(column(begun, |row| row.1.metadata.as_str()))
            .bind(column(begun, |row| row.1.trace.as_str()))
            .bind(column(begun, |row| row.1.begun_with.as_str()))
            .bind(column(begun, |row| row.2))
            .bind(column(begun, |row| row.3));
        let query = bind_state(query, begun, |row| &row.4)
            .bind(column(moved, |row| row.0))
            .bind(column(moved, |row| row.1))
            .bind(column(moved, |row| row.2))
            .bind(column(moved, |row| row.3));
        bind_state(query, moved, |row| &row.4)
            .bind(column(branches, |row| row.0))
            .bind(column(branches, |row| row.1))
            .bind(column(branches, |row| row.2.branch_id.as_str()))
            .bind(column(branches, |row| row.2.participant.as_str()))
            .bind(column(branches, |row| row.2.action.as_str()))
            .bind(column(branches, |row| row.3))
            .bind(column(branches, |row| row.2.payload.data.as_ref()))
            .bind(column(branches, |row| row.2.payload.media_type.as_str()))
            .bind(column(branches, |row| row.2.mode.name()))
            .bind(column(branches, |row| row.4.as_deref()))
            .bind(column(outputs, |row| row.0))
            .bind(column(outputs, |row| row.1))
            .bind(column(outputs, |row| row.2.data.as_ref()))
            .bind(column(outputs, |row| row.2.media_type.as_str()))
            .bind(column(events, |row| row.0))
            .bind(column(events, |row| row.1))
            .bind(column(events, |row| row.2))
            .bind(column(events, |row| ms_to_column(row.3.at)))
            .bind(column(events, |row| row.3.kind.as_str()))
            .bind(column(events, |row| row.3.number.map(number_to_column)))
            .bind(column(events, |row| row.3.detail.as_str()))
            .bind(column(events, |row| row.3.kind.is_audit()))
            .bind(column(history, |row| row.0))
            .bind(column(history, |row| row.1))
            .bind(column(history, |row| row.2.as_str()))
            .bind(releases)
            .bind(tables.to_owned())
            .bind(nonce)
            .bind(column(moved, |row| row.5.unwrap_or(me).0))
    }
}

fn bind_state<'a, R>(
    query: Query<'a>,
    rows: &'a [R],
    state: impl Fn(&'a R) -> &'a StateColumns,
) -> Query<'a> {
    query
        .bind(column(rows, |row| state(row).phase))
        .bind(column(rows, |row| state(row).abort_cause))
        .bind(column(rows, |row| state(row).abort_branch))
        .bind(column(rows, |row| state(row).decided_ms))
        .bind(column(rows, |row| state(row).ended_ms))
        .bind(column(rows, |row| state(row).heuristic))
        .bind(column(rows, |row| state(row).stalled))
        .bind(column(rows, |row| state(row).forgotten))
        .bind(column(rows, |row| state(row).attention))
        .bind(column(rows, |row| state(row).progress.as_str()))
        .bind(column(rows, |row| state(row).more.as_str()))
        .bind(column(rows, |row| state(row).wake_ms))
}

fn column<'a, R, T>(rows: &'a [R], field: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}
