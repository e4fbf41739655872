//! The statement that writes a batch, and the columns that it takes.

use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use unanimo_core::{Event, Incarnation};
use uuid::Uuid;

use super::super::super::Write;
use super::super::super::rows::{Encoded, NOBODY, ms_to_column, number_to_column};
use super::super::names::Known;
use super::super::session::settings_of_session;

/// The fence is locked first: a rival that fences waits for the batch, or the batch for the rival. It is
/// looked for in the table that was opened alone: nothing is written in others that are in its place by now.
/// Rows are driven by what was really inserted. A move is inserted only after the row that it follows, which must
/// be this incarnation's. The last SELECT answers with the applied ones, unless all are, and a row without a
/// transaction if the fence was there: it tells how many were applied, and what the statement was made under.
///
/// Statements on `parked` begin there (`IS TRUE` keeps the planner from a join with all that was written), and a
/// column of nothing but NULL goes as an empty array: both cost what they find.
///
/// A mark of what has ended that somebody holds is left: no end waits for it, and parking sweeps it. One that says more, a time or a
/// reason, is waited for: nobody else takes it away.
///
/// Names are inserted under the epoch that the process knows, if that is the last one, unless they are in one of the
/// places that are looked at: see [`super::super::names`].
///
/// Columns are taken apart in a SELECT, where the server does it value by value; in FROM it would store each of them first.
///
/// Once without a look for rows that are there already, which costs a quarter more; and again with it, after such
/// a row was met.
macro_rules! batch {
    ($names:literal, $rows:literal) => {
        concat!(
            "
WITH fence AS MATERIALIZED (
    SELECT parks_before, parks_from, (epoch = $43 AND epoch_nonce = $44) IS TRUE AS is_of_epoch FROM fences
    WHERE incarnation = $1 AND nonce = $30 AND NOT fenced AND tableoid = ($29::text)::oid
    FOR SHARE
), named AS MATERIALIZED (
    INSERT INTO gids (epoch, key, tx_id)
    SELECT $43, key, tx_id FROM (SELECT unnest($2::uuid[]) AS key, unnest($3::uuid[]) AS tx_id) AS new
    WHERE EXISTS (SELECT 1 FROM fence WHERE is_of_epoch) AND (key IN (
        SELECT maybe.key FROM UNNEST($45::int4[], $46::uuid[]) AS maybe (epoch, key)
        CROSS JOIN LATERAL (
            SELECT 1 FROM gids AS earlier WHERE earlier.epoch = maybe.epoch AND earlier.key = maybe.key LIMIT 1
        ) AS earlier)) IS NOT TRUE ",
            $names,
            " RETURNING tx_id
), begun AS (
    INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, body, data,
        history, stripped_ms)
    SELECT new.tx_id, 0, version, $1, write_id, kind, created_ms, ended_ms, body, data, history, stripped_ms
    FROM (SELECT unnest($3::uuid[]) AS tx_id, unnest($4::int8[]) AS version, unnest($5::uuid[]) AS write_id,
        unnest($6::int2[]) AS kind, unnest($7::int8[]) AS created_ms, unnest($8::int8[]) AS ended_ms,
        unnest($9::bytea[]) AS body, unnest($10::bytea[]) AS data, unnest($36::bytea[]) AS history,
        unnest($38::int8[]) AS stripped_ms) AS new
    JOIN named USING (tx_id) WHERE true ",
            $rows,
            " RETURNING tx_id
), moved AS (
    INSERT INTO log (tx_id, follows, version, owner, write_id, kind, ended_ms, body, data, history, stripped_ms)
    SELECT tx_id, follows, version, $1, write_id, kind, ended_ms, body, data, history, stripped_ms
    FROM (SELECT unnest($11::uuid[]) AS tx_id, unnest($12::int8[]) AS follows, unnest($13::int8[]) AS version,
        unnest($14::uuid[]) AS write_id, unnest($15::int2[]) AS kind, unnest($16::int8[]) AS ended_ms,
        unnest($17::bytea[]) AS body, unnest($18::bytea[]) AS data, unnest($35::int8[]) AS former,
        unnest($37::bytea[]) AS history, unnest($39::int8[]) AS stripped_ms) AS new
    WHERE EXISTS (SELECT 1 FROM fence) AND (
        SELECT before.version = new.follows AND before.owner = new.former FROM log AS before
        WHERE before.tx_id = new.tx_id AND before.follows < new.follows
        ORDER BY before.follows DESC LIMIT 1) ",
            $rows,
            " RETURNING tx_id
), applied AS MATERIALIZED (
    SELECT tx_id FROM begun UNION ALL SELECT tx_id FROM moved
), parks AS (
    INSERT INTO parked (tx_id, owner, wake_ms, reasons, initiator, bytes)
    SELECT new.tx_id, coalesce(new.owner, $1), wake_ms, reasons, initiator, bytes
    FROM (SELECT unnest($19::uuid[]) AS tx_id, unnest($20::int8[]) AS wake_ms, unnest($21::int2[]) AS reasons,
        unnest($41::text[]) AS initiator, unnest($42::int8[]) AS bytes, unnest($47::int8[]) AS owner) AS new
    JOIN applied ON applied.tx_id = new.tx_id
    UNION ALL
    SELECT new.tx_id, $1, NULL, 0, NULL, NULL FROM (SELECT unnest($22::uuid[]) AS tx_id) AS new
    JOIN begun ON begun.tx_id = new.tx_id
    JOIN fence ON true
    WHERE new.tx_id < fence.parks_before OR new.tx_id >= fence.parks_from
    ON CONFLICT (tx_id) DO UPDATE
    SET owner = excluded.owner, wake_ms = excluded.wake_ms, reasons = excluded.reasons,
        initiator = excluded.initiator, bytes = excluded.bytes
), unparks AS (
    DELETE FROM parked
    WHERE parked.tx_id = ANY($23) AND (parked.tx_id IN (SELECT tx_id FROM applied)) IS TRUE
        AND (wake_ms IS NOT NULL OR reasons <> 0 OR parked.tx_id = ANY(ARRAY(
            SELECT mark.tx_id FROM parked AS mark
            WHERE mark.tx_id = ANY($23) AND (mark.tx_id IN (SELECT tx_id FROM applied)) IS TRUE
                AND mark.wake_ms IS NULL AND mark.reasons = 0
            FOR UPDATE SKIP LOCKED)))
), plain AS (
    UPDATE parked SET wake_ms = NULL, reasons = 0
    WHERE parked.tx_id = ANY($24) AND (parked.tx_id IN (SELECT tx_id FROM moved)) IS TRUE
        AND (wake_ms IS NOT NULL OR reasons <> 0)
), acts AS (
    INSERT INTO events (tx_id, version, ordinal, at_ms, kind, branch, detail, audit)
    SELECT new.*, true FROM (SELECT unnest($25::uuid[]) AS tx_id, unnest($26::int8[]) AS version, unnest($27::int2[]) AS ordinal,
        unnest($31::int8[]) AS at_ms, unnest($32::text[]) AS kind, unnest($33::int2[]) AS branch,
        unnest($34::text[]) AS detail) AS new
    WHERE new.tx_id IN (SELECT tx_id FROM applied)
), no_locks AS (
    DELETE FROM locks WHERE tx_id IN (
        SELECT ended.tx_id FROM (SELECT unnest($28::uuid[]) AS tx_id) AS ended
        WHERE ended.tx_id IN (SELECT tx_id FROM applied))
)
SELECT tx_id, NULL AS settings, NULL AS synchronous, NULL AS number, NULL AS count,
    NULL AS is_of_epoch FROM applied
WHERE (SELECT count(*) FROM applied) <> $40
UNION ALL SELECT NULL, ",
            settings_of_session!(),
            ", current_setting('synchronous_standby_names') <> '', txid_current(),
    (SELECT count(*) FROM applied), is_of_epoch FROM fence"
        )
    };
}

const BATCH: &str = batch!("", "");
const BATCH_NAMES: &str = batch!("ON CONFLICT DO NOTHING", "");
const BATCH_AGAIN: &str = batch!("ON CONFLICT DO NOTHING", "ON CONFLICT DO NOTHING");

/// Rows that are looked for before one like them is inserted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    /// None: the statement fails as a whole if one of its rows is there.
    Nothing,
    /// Names of clients.
    Names,
    /// All.
    All,
}

pub(super) type Query<'a> = QueryAs<'a, sqlx::Postgres, Row, PgArguments>;

/// A row of the statement's answer.
#[derive(Debug, Default, sqlx::FromRow)]
pub(super) struct Row {
    /// A transaction that was written; `None` in the row that stands for the fence.
    pub(super) tx_id: Option<Uuid>,
    pub(super) settings: Option<String>,
    pub(super) synchronous: Option<bool>,
    /// Number of the transaction that has written the batch.
    pub(super) number: Option<i64>,
    /// Number of the transactions that were written.
    pub(super) count: Option<i64>,
    /// The epoch under which names were to be inserted is the last one.
    pub(super) is_of_epoch: Option<bool>,
}

impl Row {
    /// The row of a transaction that was written.
    pub(super) fn of(tx_id: Uuid) -> Self {
        Self { tx_id: Some(tx_id), ..Self::default() }
    }
}

/// A row of the log, with its name.
struct New {
    tx_id: Uuid,
    follows: i64,
    version: i64,
    write_id: Uuid,
    /// Owner of the row that it follows, if it is another one than the writer.
    former: Option<Incarnation>,
    row: Encoded,
}

/// A row of `parked`: its name, its time, why a person has to look at it, whose it is if it sleeps, and its owner if that is
/// not the writer.
type Parks = (Uuid, Option<i64>, i16, Option<(String, i64)>, Option<i64>);

/// The batch, column by column, as the statement takes it.
#[derive(Default)]
pub(super) struct Columns<'a> {
    begun: Vec<New>,
    moved: Vec<New>,
    /// Those that sleep, need a person, or follow a row that their owner may not have parked.
    parks: Vec<Parks>,
    /// Those that begin and stay open, and are not among them.
    opened: Vec<Uuid>,
    /// Those that have ended and need nobody.
    unparks: Vec<Uuid>,
    /// Those that go on, are awake and need nobody.
    plain: Vec<Uuid>,
    acts: Vec<(Uuid, i64, i16, &'a Event)>,
    releases: Vec<Uuid>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(batch: &'a [Write]) -> Self {
        let mut columns = Self::default();
        for Write { write_id, base, former, transition, .. } in batch {
            let (tx_id, version) = (transition.tx_id.0, transition.version.0);
            let mut row = Encoded::of(transition);
            let begins = row.gid_key.is_some();
            let is_open = row.ended_ms.is_none();
            // The owner of one that is not its writer's, or was lost, may not have parked it.
            if row.reasons != 0 || row.wake_ms.is_some() || (is_open && former.is_some()) {
                let owner = (!is_open).then_some(NOBODY);
                columns.parks.push((tx_id, row.wake_ms, row.reasons, row.sleeper.take(), owner));
            } else if !is_open {
                columns.unparks.push(tx_id);
            } else if begins {
                columns.opened.push(tx_id);
            } else {
                columns.plain.push(tx_id);
            }
            let follows = if begins { 0 } else { base.0 };
            let new = New { tx_id, follows, version, write_id: *write_id, former: *former, row };
            if begins {
                columns.begun.push(new);
            } else {
                columns.moved.push(new);
            }
            let acts = (0..).zip(&transition.events).filter(|(_, event)| event.kind.is_audit());
            columns.acts.extend(acts.map(|(ordinal, event)| (tx_id, version, ordinal, event)));
            if transition.releases_locks {
                columns.releases.push(tx_id);
            }
        }
        // One order for everybody: two batches that meet wait for each other instead of deadlocking.
        columns.begun.sort_by_key(|new| new.row.gid_key);
        columns.moved.sort_by_key(|new| new.tx_id);
        columns.parks.sort_unstable();
        columns.opened.sort_unstable();
        columns
    }

    /// Tells whether there are names to insert.
    pub(super) fn has_begins(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Returns the statement, with all columns bound. The epochs are those of names, if there are any.
    pub(super) fn query(
        &self,
        me: Incarnation,
        tables: &str,
        nonce: Uuid,
        look: Look,
        names: Option<&Known>,
    ) -> Query<'_> {
        let Self { begun, moved, parks, opened, unparks, plain, acts, releases } = self;
        let statement = match look {
            Look::Nothing => BATCH,
            Look::Names => BATCH_NAMES,
            Look::All => BATCH_AGAIN,
        };
        let keys = begun.iter().filter_map(|new| new.row.gid_key);
        let (maybe_epochs, maybe_keys) =
            names.map(|names| names.looked_for(keys)).unwrap_or_default();
        sqlx::query_as(statement)
            .bind(me.0)
            .bind(column(begun, |new| new.row.gid_key))
            .bind(column(begun, |new| new.tx_id))
            .bind(column(begun, |new| new.version))
            .bind(column(begun, |new| new.write_id))
            .bind(column(begun, |new| new.row.kind))
            .bind(column(begun, |new| new.row.created_ms))
            .bind(seldom(begun, |new| new.row.ended_ms))
            .bind(column(begun, |new| new.row.body.as_slice()))
            .bind(seldom(begun, |new| new.row.data.as_deref()))
            .bind(column(moved, |new| new.tx_id))
            .bind(column(moved, |new| new.follows))
            .bind(column(moved, |new| new.version))
            .bind(column(moved, |new| new.write_id))
            .bind(column(moved, |new| new.row.kind))
            .bind(seldom(moved, |new| new.row.ended_ms))
            .bind(column(moved, |new| new.row.body.as_slice()))
            .bind(seldom(moved, |new| new.row.data.as_deref()))
            .bind(column(parks, |row| row.0))
            .bind(column(parks, |row| row.1))
            .bind(column(parks, |row| row.2))
            .bind(opened)
            .bind(unparks)
            .bind(plain)
            .bind(column(acts, |row| row.0))
            .bind(column(acts, |row| row.1))
            .bind(column(acts, |row| row.2))
            .bind(releases)
            .bind(tables.to_owned())
            .bind(nonce)
            .bind(column(acts, |row| ms_to_column(row.3.at)))
            .bind(column(acts, |row| row.3.kind.as_str()))
            .bind(column(acts, |row| row.3.number.map(number_to_column)))
            .bind(column(acts, |row| row.3.detail.as_str()))
            .bind(column(moved, |new| new.former.unwrap_or(me).0))
            .bind(seldom(begun, |new| new.row.history.as_deref()))
            .bind(seldom(moved, |new| new.row.history.as_deref()))
            .bind(seldom(begun, |new| new.row.stripped_ms))
            .bind(seldom(moved, |new| new.row.stripped_ms))
            .bind(i64::try_from(begun.len() + moved.len()).unwrap_or(i64::MAX))
            .bind(seldom(parks, |row| row.3.as_ref().map(|(initiator, _)| initiator.as_str())))
            .bind(seldom(parks, |row| row.3.as_ref().map(|(_, bytes)| *bytes)))
            .bind(names.map(|names| names.epoch))
            .bind(names.map(|names| names.nonce))
            .bind(maybe_epochs)
            .bind(maybe_keys)
            .bind(seldom(parks, |row| row.4))
    }
}

fn column<'a, R, T>(rows: &'a [R], field: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}

/// A column that few rows have; empty if none has it, which stands for as many NULLs.
fn seldom<'a, R, T>(rows: &'a [R], field: impl Fn(&'a R) -> Option<T>) -> Vec<Option<T>> {
    let column = column(rows, field);
    if column.iter().any(Option::is_some) { column } else { Vec::new() }
}
