//! Transactions as an earlier version of the program stored them, a table for each part, and what becomes of them.

use std::collections::HashMap;

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use uuid::Uuid;

use super::body::{Content, Encoded, put_state};
use super::bytes::Maker;
use super::event::EventRow;
use super::{BranchRow, NOBODY, OutputRow, TransactionRow, history};

/// Transactions that are read at once, at most.
pub(in crate::store) const CHUNK_MAX: i64 = 500;

/// Bytes of payloads, outputs and history that are read at once, if they are not those of one transaction.
pub(in crate::store) const CHUNK_BYTES_MAX: i64 = 32 << 20;

macro_rules! select_earlier {
    ($large:literal) => {
        concat!(
            "SELECT tx_id, gid, owner, version, mode, drive, digest, digest_version, created_ms, deadline_ms,
        phase, abort_cause, abort_branch, decided_ms, ended_ms, heuristic, stalled, forgotten, stripped,
        wake_ms, stripped_ms, set_aside_by, ",
            $large,
            " FROM transactions WHERE "
        )
    };
}

/// Selects a range of transactions, as [`TransactionRow`]s.
pub(in crate::store) const SELECT_EARLIER: &str = concat!(
    select_earlier!("initiator, metadata, trace, progress, begun_with, more"),
    "tx_id BETWEEN $1 AND $2 ORDER BY tx_id"
);

/// Selects one of them, and one without what may be stored apart from its row.
pub(in crate::store) const SELECT_EARLIER_ONE: [&str; 2] = [
    concat!(
        select_earlier!("initiator, metadata, trace, progress, begun_with, more"),
        "tx_id = $1"
    ),
    concat!(
        select_earlier!(
            "'' AS initiator, '{}' AS metadata, '{}' AS trace, '[]' AS progress, '' AS begun_with, '' AS more"
        ),
        "tx_id = $1"
    ),
];

/// Statements for the details of a range of transactions, in the order of [`Details`]. Operators' acts stay in their
/// table.
pub(in crate::store) const SELECT_EARLIER_DETAILS: [&str; 4] = [
    "SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload, payload_type, mode, step
    FROM branches WHERE tx_id BETWEEN $1 AND $2 ORDER BY tx_id, number",
    "SELECT tx_id, number, output, output_type FROM outputs
    WHERE tx_id BETWEEN $1 AND $2 ORDER BY tx_id, number",
    "SELECT tx_id, version, CAST(ordinal AS bigint) AS ordinal, at_ms, kind, branch, detail FROM events
    WHERE tx_id BETWEEN $1 AND $2 AND NOT audit ORDER BY tx_id, version, ordinal",
    "SELECT tx_id, version, entry FROM history
    WHERE tx_id BETWEEN $1 AND $2 ORDER BY tx_id, version",
];

/// Statements that drop the earlier tables, once all are in the log.
const DROP_EARLIER: &str = "
DROP TABLE transactions;
DROP TABLE branches;
DROP TABLE outputs;
DROP TABLE history;
DELETE FROM events WHERE NOT audit";

/// Statements that keep them under other names, because something of them could not be read. Events stay where they
/// are.
const KEEP_EARLIER: &str = "
ALTER TABLE transactions RENAME TO earlier_transactions;
ALTER TABLE branches RENAME TO earlier_branches;
ALTER TABLE outputs RENAME TO earlier_outputs;
ALTER TABLE history RENAME TO earlier_history";

/// Numbers of transactions that were brought to the log.
#[derive(Debug, Default)]
pub(in crate::store) struct Brought {
    pub(in crate::store) all: usize,
    /// Some part of them could not be read.
    pub(in crate::store) broken: usize,
    /// An event of them could not be read.
    pub(in crate::store) without_event: usize,
}

impl Brought {
    pub(in crate::store) fn add(&mut self, chunk: &[Earlier]) {
        let count = |is: fn(&Lost) -> bool| chunk.iter().filter(|one| is(&one.lost)).count();
        self.all += chunk.len();
        self.broken += count(|lost| lost.part);
        self.without_event += count(|lost| lost.event);
    }

    /// Returns the statements that end the work: what could not be read is not dropped.
    pub(in crate::store) fn end(&self) -> &'static str {
        if self.broken + self.without_event == 0 { DROP_EARLIER } else { KEEP_EARLIER }
    }

    pub(in crate::store) fn tell(&self) {
        if self.broken > 0 {
            tracing::error!(
                alarm = crate::alarm::TRANSACTION_UNREADABLE,
                transactions = self.broken,
                "stored transactions of an earlier version cannot be read; they are set aside, and the tables of \
                 that version are kept as earlier_transactions, earlier_branches, earlier_outputs and \
                 earlier_history"
            );
        }
        if self.without_event > 0 {
            tracing::warn!(
                transactions = self.without_event,
                "events of transactions of an earlier version cannot be read, and are missing in their \
                 timelines; they are kept in the table events, and the other tables of that version as \
                 earlier_transactions, earlier_branches, earlier_outputs and earlier_history"
            );
        }
        // A new database is made with the tables of all versions, one after the other.
        if self.all > 0 {
            tracing::info!(
                transactions = self.all,
                "the tables of an earlier version were brought to this one"
            );
        }
    }
}

/// Place of the events in [`SELECT_EARLIER_DETAILS`].
const EVENTS: usize = 2;

/// Details of transactions, by their names: branches, outputs, events and history.
pub(in crate::store) type Details<R> = HashMap<Uuid, [Vec<R>; 4]>;

/// Adds details that were read to those of their transactions.
pub(in crate::store) fn add_details<R>(details: &mut Details<R>, kind: usize, rows: Vec<R>)
where
    R: Row,
    for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    for row in rows {
        if let Ok(tx_id) = row.try_get::<Uuid, _>("tx_id") {
            details.entry(tx_id).or_default()[kind].push(row);
        }
    }
}

/// Parts of a transaction that could not be read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Lost {
    /// One that it cannot do without.
    pub(in crate::store) part: bool,
    /// An event: a line that people miss.
    pub(in crate::store) event: bool,
}

impl Lost {
    /// Notes that details of a kind could not be read, one of [`SELECT_EARLIER_DETAILS`].
    pub(in crate::store) fn note(&mut self, kind: usize) {
        let lost = if kind == EVENTS { &mut self.event } else { &mut self.part };
        *lost = true;
    }
}

/// A transaction as it goes to the log.
#[derive(Debug)]
pub(in crate::store) struct Earlier {
    pub(in crate::store) tx_id: Uuid,
    pub(in crate::store) owner: i64,
    pub(in crate::store) set_aside_by: Option<i64>,
    pub(in crate::store) lost: Lost,
    pub(in crate::store) gid_key: Option<Uuid>,
    pub(in crate::store) kind: i16,
    pub(in crate::store) wake_ms: Option<i64>,
    pub(in crate::store) reasons: i16,
    is_ended: bool,
    /// Rows, the oldest one first.
    pub(in crate::store) rows: Vec<EarlierRow>,
}

/// A row of the log. A transaction with a long history has several.
#[derive(Debug, Default)]
pub(in crate::store) struct EarlierRow {
    pub(in crate::store) follows: i64,
    pub(in crate::store) version: i64,
    pub(in crate::store) created_ms: Option<i64>,
    pub(in crate::store) ended_ms: Option<i64>,
    pub(in crate::store) stripped_ms: Option<i64>,
    pub(in crate::store) body: Vec<u8>,
    pub(in crate::store) data: Option<Vec<u8>>,
    pub(in crate::store) history: Option<Vec<u8>>,
}

impl Earlier {
    /// Puts a transaction together from its row and its details. What cannot be read of it is left out, and the
    /// transaction is set aside.
    pub(in crate::store) fn of<R>(transaction: &R, details: &[Vec<R>; 4], lost: Lost) -> Self
    where
        R: Row,
        for<'r> BranchRow: FromRow<'r, R>,
        for<'r> OutputRow: FromRow<'r, R>,
        for<'r> EventRow: FromRow<'r, R>,
        for<'r> (Uuid, i64, String): FromRow<'r, R>,
        for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> i16: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> bool: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> &'r str: ColumnIndex<R>,
    {
        let mut lost = lost;
        let mut columns = Columns { row: transaction, is_broken: lost.part };
        let row = TransactionRow::of_earlier(&mut columns);
        let stripped_ms: Option<i64> = columns.take("stripped_ms");
        let set_aside_by: Option<i64> = columns.take("set_aside_by");
        lost.part = columns.is_broken;
        let [branches, outputs, events, history] = details;
        let content = Content {
            branches: all(branches, &mut lost.part),
            outputs: all(outputs, &mut lost.part),
            events: all(events, &mut lost.event),
            row,
        };
        let history: Vec<(Uuid, i64, String)> = all(history, &mut lost.part);
        let history = history.into_iter().map(|(_, version, entry)| (version, entry)).collect();
        let gid = transaction.try_get::<String, _>("gid").ok();
        let encoded = match lost.part {
            false => Encoded::whole(&content),
            true => Encoded::broken(&content, gid.as_deref()),
        };
        let owner = content.row.owner;
        let stripped_ms = content.row.stripped.then(|| stripped_ms.unwrap_or(0));
        Self {
            tx_id: content.row.tx_id,
            owner,
            set_aside_by: if lost.part { set_aside_by.or(Some(owner)) } else { set_aside_by },
            lost,
            gid_key: encoded.gid_key,
            kind: encoded.kind,
            wake_ms: encoded.wake_ms,
            reasons: encoded.reasons,
            is_ended: encoded.ended_ms.is_some(),
            rows: rows(&content.row, encoded, history, stripped_ms),
        }
    }

    /// Returns its owner in `parked`.
    pub(in crate::store) fn parked_owner(&self) -> i64 {
        if self.is_ended { NOBODY } else { self.owner }
    }

    /// Tells whether it stands out: it is open, or needs a person.
    pub(in crate::store) fn is_parked(&self) -> bool {
        !self.is_ended || self.reasons != 0
    }
}

/// Makes the rows of a transaction: as many as its history needs. The first one has all else, those behind it are
/// empty as if somebody had taken it over, and the last one tells its state again.
fn rows(
    row: &TransactionRow,
    encoded: Encoded,
    history: Vec<(i64, String)>,
    stripped_ms: Option<i64>,
) -> Vec<EarlierRow> {
    let Encoded { created_ms, ended_ms, body, data, .. } = encoded;
    let mut rows: Vec<EarlierRow> = Vec::new();
    for (version, history) in history::columns(history, row.version) {
        let follows = rows.last().map_or(0, |before| before.version);
        rows.push(EarlierRow { follows, version, history, ..EarlierRow::default() });
    }
    if let [_, .., last] = &mut rows[..] {
        let mut state = Maker::new();
        put_state(&mut state, &row.state_columns());
        last.body = state.finish();
    }
    if let Some(last) = rows.last_mut() {
        (last.ended_ms, last.stripped_ms) = (ended_ms, stripped_ms);
    }
    if let Some(first) = rows.first_mut() {
        (first.created_ms, first.body, first.data) = (created_ms, body, data);
    }
    rows
}

/// Returns those that can be read, and notes whether some cannot.
fn all<R, T>(rows: &[R], is_broken: &mut bool) -> Vec<T>
where
    R: Row,
    for<'r> T: FromRow<'r, R>,
{
    let read = rows.iter().filter_map(|row| {
        let read = T::from_row(row);
        *is_broken |= read.is_err();
        read.ok()
    });
    read.collect()
}

/// Columns of a row, of which some may not be readable.
pub(super) struct Columns<'a, R> {
    row: &'a R,
    is_broken: bool,
}

impl<R: Row> Columns<'_, R> {
    /// Returns a column; its default if it cannot be read, and notes that.
    pub(super) fn take<T>(&mut self, name: &'static str) -> T
    where
        T: Default,
        for<'r> T: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> &'r str: ColumnIndex<R>,
    {
        self.row.try_get(name).unwrap_or_else(|_| {
            self.is_broken = true;
            T::default()
        })
    }
}
