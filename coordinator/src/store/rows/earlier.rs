//! Transactions as an earlier version of the program stored them, a table for each part, and what becomes of them.

use std::collections::HashMap;

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use uuid::Uuid;

use super::body::{Content, Encoded};
use super::event::EventRow;
use super::{BranchRow, OutputRow, TransactionRow};

/// Transactions that are read at once.
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

/// Selects the next transactions after one, as [`TransactionRow`]s.
pub(in crate::store) const SELECT_EARLIER: &str = concat!(
    select_earlier!("initiator, metadata, trace, progress, begun_with, more"),
    "tx_id > $1 ORDER BY tx_id LIMIT $2"
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

/// Selects the names of those that [`SELECT_EARLIER`] selects.
pub(in crate::store) const SELECT_EARLIER_IDS: &str =
    "SELECT tx_id FROM transactions WHERE tx_id > $1 ORDER BY tx_id LIMIT $2";

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
pub(in crate::store) const DROP_EARLIER: &str = "
DROP TABLE transactions;
DROP TABLE branches;
DROP TABLE outputs;
DROP TABLE history;
DELETE FROM events WHERE NOT audit";

/// Statements that keep them under other names, because something of them could not be read.
pub(in crate::store) const KEEP_EARLIER: &str = "
ALTER TABLE transactions RENAME TO earlier_transactions;
ALTER TABLE branches RENAME TO earlier_branches;
ALTER TABLE outputs RENAME TO earlier_outputs;
ALTER TABLE history RENAME TO earlier_history";

/// Tells that some transactions could not be brought over whole.
pub(in crate::store) fn tell_broken(broken: usize) {
    if broken > 0 {
        tracing::error!(
            alarm = crate::alarm::TRANSACTION_UNREADABLE,
            transactions = broken,
            "stored transactions of an earlier version cannot be read; they are set aside, and the tables of \
             that version are kept as earlier_transactions, earlier_branches, earlier_outputs and \
             earlier_history"
        );
    }
}

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
            details.entry(tx_id).or_insert_with(Default::default)[kind].push(row);
        }
    }
}

/// A transaction as it goes to the log, in one row.
#[derive(Debug)]
pub(in crate::store) struct Earlier {
    pub(in crate::store) tx_id: Uuid,
    pub(in crate::store) owner: i64,
    pub(in crate::store) version: i64,
    pub(in crate::store) stripped_ms: Option<i64>,
    pub(in crate::store) set_aside_by: Option<i64>,
    /// Something of it could not be read.
    pub(in crate::store) is_broken: bool,
    pub(in crate::store) row: Encoded,
}

impl Earlier {
    /// Puts a transaction together from its row and its details. What cannot be read of it is left out, and the
    /// transaction is set aside.
    pub(in crate::store) fn of<R>(transaction: &R, details: &[Vec<R>; 4], is_broken: bool) -> Self
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
        let mut columns = Columns { row: transaction, is_broken };
        let row = TransactionRow::of_earlier(&mut columns);
        let stripped_ms: Option<i64> = columns.take("stripped_ms");
        let set_aside_by: Option<i64> = columns.take("set_aside_by");
        let mut is_broken = columns.is_broken;
        let [branches, outputs, events, history] = details;
        let content = Content {
            branches: all(branches, &mut is_broken),
            outputs: all(outputs, &mut is_broken),
            // One that cannot be read is a line that people miss.
            events: all(events, &mut false),
            history: all::<_, (Uuid, i64, String)>(history, &mut is_broken)
                .into_iter()
                .map(|(_, version, entry)| (version, entry))
                .collect(),
            row,
        };
        let row = &content.row;
        let (tx_id, owner, version, stripped) = (row.tx_id, row.owner, row.version, row.stripped);
        let gid = transaction.try_get::<String, _>("gid").ok();
        let row = match is_broken {
            false => Encoded::whole(&content),
            true => Encoded::broken(&content, gid.as_deref()),
        };
        Self {
            tx_id,
            owner,
            version,
            stripped_ms: stripped.then(|| stripped_ms.unwrap_or(0)),
            set_aside_by: if is_broken { set_aside_by.or(Some(owner)) } else { set_aside_by },
            is_broken,
            row,
        }
    }

    /// Tells whether it stands out: it is open, or needs a person.
    pub(in crate::store) fn is_parked(&self) -> bool {
        self.row.ended_ms.is_none() || self.row.reasons != 0
    }
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
