//! Transactions as an earlier version of the program stored them, a table for each part, and what becomes of them.

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use uuid::Uuid;

use super::body::{Content, Encoded};
use super::event::EventRow;
use super::{BranchRow, OutputRow, TransactionRow};

/// Details of a transaction, and operators' acts apart from other events.
const SELECT_EARLIER_BRANCHES: &str =
    "SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload, payload_type, mode, step
    FROM branches WHERE tx_id = $1 ORDER BY number";
const SELECT_EARLIER_OUTPUTS: &str =
    "SELECT tx_id, number, output, output_type FROM outputs WHERE tx_id = $1 ORDER BY number";
const SELECT_EARLIER_EVENTS: &str =
    "SELECT tx_id, version, CAST(ordinal AS bigint) AS ordinal, at_ms, kind, branch, detail FROM events
    WHERE tx_id = $1 AND NOT audit ORDER BY version, ordinal";
const SELECT_EARLIER_HISTORY: &str =
    "SELECT tx_id, version, entry FROM history WHERE tx_id = $1 ORDER BY version";

/// Statements for what was read of each transaction, in the order of [`Earlier::of`].
pub(in crate::store) const SELECT_EARLIER_DETAILS: [&str; 4] = [
    SELECT_EARLIER_BRANCHES,
    SELECT_EARLIER_OUTPUTS,
    SELECT_EARLIER_EVENTS,
    SELECT_EARLIER_HISTORY,
];

/// Statements that drop the earlier tables, once all are in the log. Operators' acts stay in their table.
pub(in crate::store) const DROP_EARLIER: &str = "
DROP TABLE transactions;
DROP TABLE branches;
DROP TABLE outputs;
DROP TABLE history;
DELETE FROM events WHERE NOT audit";

/// A transaction as it goes to the log, in one row.
#[derive(Debug)]
pub(in crate::store) struct Earlier {
    pub(in crate::store) tx_id: Uuid,
    pub(in crate::store) owner: i64,
    pub(in crate::store) version: i64,
    pub(in crate::store) stripped_ms: Option<i64>,
    pub(in crate::store) set_aside_by: Option<i64>,
    pub(in crate::store) row: Encoded,
}

impl Earlier {
    /// Puts a transaction together from its row and its details. What cannot be read stays so: it is to be set
    /// aside by whoever meets it, as before.
    pub(in crate::store) fn of<R>(transaction: &R, details: &[Vec<R>; 4]) -> Self
    where
        R: Row,
        for<'r> TransactionRow: FromRow<'r, R>,
        for<'r> BranchRow: FromRow<'r, R>,
        for<'r> OutputRow: FromRow<'r, R>,
        for<'r> EventRow: FromRow<'r, R>,
        for<'r> (Uuid, i64, String): FromRow<'r, R>,
        for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> &'r str: ColumnIndex<R>,
    {
        let number = |column| transaction.try_get::<Option<i64>, _>(column).ok().flatten();
        let (owner, version) = (number("owner").unwrap_or(0), number("version").unwrap_or(1));
        let read = || -> Result<(Content, bool), sqlx::Error> {
            let row = TransactionRow::from_row(transaction)?;
            let stripped = row.stripped;
            let [branches, outputs, events, history] = details;
            let history = history.iter().map(<(Uuid, i64, String)>::from_row);
            let history = history.map(|entry| entry.map(|(_, version, entry)| (version, entry)));
            let content = Content {
                row,
                branches: branches.iter().map(BranchRow::from_row).collect::<Result<_, _>>()?,
                outputs: outputs.iter().map(OutputRow::from_row).collect::<Result<_, _>>()?,
                // One that cannot be read is a line that people miss.
                events: events.iter().filter_map(|event| EventRow::from_row(event).ok()).collect(),
                history: history.collect::<Result<_, _>>()?,
            };
            Ok((content, stripped))
        };
        let (row, stripped) = match read() {
            Ok((content, stripped)) => (Encoded::whole(&content), stripped),
            Err(_) => {
                let gid = transaction.try_get::<String, _>("gid").ok();
                (Encoded::unreadable(gid.as_deref()), false)
            }
        };
        Self {
            tx_id: transaction.try_get("tx_id").unwrap_or_default(),
            owner,
            version,
            stripped_ms: stripped.then(|| number("stripped_ms").unwrap_or(0)),
            set_aside_by: number("set_aside_by"),
            row,
        }
    }

    /// Tells whether it stands out: it is open, or needs a person.
    pub(in crate::store) fn is_parked(&self) -> bool {
        self.row.ended_ms.is_none() || self.row.reasons != 0
    }
}
