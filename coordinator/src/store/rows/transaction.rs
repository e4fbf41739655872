//! A row of `transactions`, and what it becomes with the rows of its branches.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use unanimo_core::{Incarnation, Record, TxId, Version};
use uuid::Uuid;

use super::super::transactions::Found;
use super::super::{Claimed, Error, Stored, Unreadable, in_full};
use super::{BranchRow, OutputRow};

/// Completes a SELECT of [`TransactionRow`]s.
macro_rules! select_transactions {
    ($rest:literal) => {
        concat!(
            "SELECT tx_id, gid, owner, version, mode, drive, digest, digest_version, created_ms, \
             deadline_ms, phase, abort_cause, abort_branch, decided_ms, ended_ms, heuristic, \
             stalled, forgotten, stripped, initiator, metadata, trace, progress, begun_with, more, \
             wake_ms \
             FROM transactions AS t ",
            $rest
        )
    };
}
pub(in crate::store) use select_transactions;

/// Unended transactions of an owner, but for those that sleep and those that it has set aside.
pub(in crate::store) const SELECT_OPEN: &str = "
SELECT tx_id, version FROM transactions
WHERE ended_ms IS NULL AND wake_ms IS NULL AND owner = $1 AND set_aside_by IS DISTINCT FROM $1";

/// Transactions that are set aside, by whomever. The identifier of zeros comes before all.
pub(in crate::store) const SELECT_SET_ASIDE: &str = "
SELECT tx_id FROM transactions WHERE set_aside_by IS NOT NULL AND tx_id > $1
ORDER BY tx_id LIMIT $2";

/// Recorded history of a transaction after a version, oldest first. Entries beyond what fits into an answer are empty: they
/// are counted, and would take tens of megabytes of memory.
pub(in crate::store) const SELECT_HISTORY: &str =
    "SELECT CASE WHEN sum(octet_length(entry)) OVER (ORDER BY version) <= 4194304 THEN entry ELSE '' END AS entry
    FROM history WHERE tx_id = $1 AND version > $2 ORDER BY version";

/// Each part ends at its limit, and reads one index.
pub(in crate::store) const COUNT_PHASES: &str = "
SELECT part, phase, count(*) FROM (
    SELECT * FROM (SELECT 'awake' AS part, phase FROM transactions
        WHERE ended_ms IS NULL AND wake_ms IS NULL LIMIT $1) AS awake
    UNION ALL
    SELECT * FROM (SELECT 'asleep' AS part, phase FROM transactions
        WHERE wake_ms IS NOT NULL AND ended_ms IS NULL LIMIT $1) AS asleep
    UNION ALL
    SELECT * FROM (SELECT 'ended' AS part, phase FROM transactions
        WHERE ended_ms >= $2 LIMIT $1) AS ended
) AS counted
GROUP BY part, phase";

/// Numbers of transactions that need a person: those that are held up, by the alarm as well, heuristic ones, those that
/// nobody can read.
pub(in crate::store) const COUNT_ATTENTION: &str = r#"
SELECT count(*) FILTER (WHERE ended_ms IS NULL AND (stalled
        OR progress LIKE '%"refused_after_commit"%'
        OR progress LIKE '%"output_too_large"%')) AS stalled,
    count(*) FILTER (WHERE stalled AND decided_ms IS NULL) AS unanswered,
    count(*) FILTER (WHERE ended_ms IS NULL
        AND progress LIKE '%"refused_after_commit"%') AS refused,
    count(*) FILTER (WHERE ended_ms IS NULL
        AND progress LIKE '%"output_too_large"%') AS too_large,
    count(*) FILTER (WHERE heuristic <> 'none') AS heuristic,
    (SELECT count(*) FROM transactions WHERE set_aside_by IS NOT NULL) AS unreadable
FROM transactions WHERE attention"#;

/// A row of `transactions`. JSON columns are read as text.
#[derive(Debug, FromRow)]
pub(in crate::store) struct TransactionRow {
    pub(in crate::store) tx_id: Uuid,
    pub(super) gid: String,
    pub(super) owner: i64,
    pub(super) version: i64,
    pub(super) mode: String,
    pub(super) drive: String,
    pub(super) digest: Vec<u8>,
    pub(super) digest_version: i16,
    pub(super) created_ms: i64,
    pub(super) deadline_ms: i64,
    pub(super) phase: String,
    pub(super) abort_cause: Option<String>,
    pub(super) abort_branch: Option<i16>,
    pub(super) decided_ms: Option<i64>,
    pub(super) ended_ms: Option<i64>,
    pub(super) heuristic: String,
    pub(super) stalled: bool,
    pub(super) forgotten: bool,
    pub(super) stripped: bool,
    pub(super) initiator: String,
    pub(super) metadata: String,
    pub(super) trace: String,
    pub(super) progress: String,
    pub(super) begun_with: String,
    pub(super) more: String,
    pub(super) wake_ms: Option<i64>,
}

impl TransactionRow {
    /// Returns the transaction, with what was read of its branches.
    pub(in crate::store) fn into_stored(
        self,
        branches: Vec<BranchRow>,
        outputs: Vec<OutputRow>,
    ) -> Result<Stored, Error> {
        let identity = Arc::new(self.identity()?);
        let mode = identity.mode();
        let record = Record {
            identity,
            version: Version(self.version),
            state: self.state()?,
            branches: branches
                .into_iter()
                .enumerate()
                .map(|(index, row)| row.into_spec(index, mode))
                .collect::<Result<_, _>>()?,
            outputs: outputs.into_iter().map(OutputRow::into_output).collect::<Result<_, _>>()?,
        };
        Ok(Stored { record, owner: Incarnation(self.owner), stripped: self.stripped })
    }
}

impl Unreadable {
    fn new(tx_id: Uuid, gid: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let problem = super::cut(&in_full(error));
        Self { tx_id: TxId(tx_id), gid: super::cut(gid), problem }
    }

    /// A transaction of which some rows are missing.
    pub(in crate::store) fn torn(stored: &Stored) -> Self {
        let Stored { record, .. } = stored;
        let (found, expected) = (record.branches.len(), record.state.branches.len());
        let problem = format!("read branches: {found} are stored, and not {expected}");
        let identity = &record.identity;
        Self { tx_id: identity.tx_id, gid: identity.gid.to_string(), problem }
    }
}

/// Rows of transactions, and of all their branches and outputs, each ordered by number.
pub(in crate::store) struct Rows<R> {
    pub(in crate::store) transactions: Vec<R>,
    pub(in crate::store) branches: Vec<R>,
    pub(in crate::store) outputs: Vec<R>,
}

impl<R> Rows<R> {
    /// Transactions alone.
    pub(in crate::store) fn of(transactions: Vec<R>) -> Self {
        Self { transactions, branches: Vec::new(), outputs: Vec::new() }
    }
}

/// Puts transactions together with their branches and outputs, each by itself: one that cannot be read
/// takes no other with it.
pub(in crate::store) fn assemble<R>(rows: &Rows<R>) -> Vec<Found>
where
    R: Row,
    for<'r> TransactionRow: FromRow<'r, R>,
    for<'r> BranchRow: FromRow<'r, R>,
    for<'r> OutputRow: FromRow<'r, R>,
    for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let mut branches = group::<BranchRow, R>(&rows.branches);
    let mut outputs = group::<OutputRow, R>(&rows.outputs);
    let found = rows.transactions.iter().map(|row| {
        let tx_id = row.try_get("tx_id").unwrap_or_default();
        let assembled = TransactionRow::from_row(row).map_err(decoded).and_then(|row| {
            let branches = branches.remove(&tx_id).unwrap_or_default();
            let outputs = outputs.remove(&tx_id).unwrap_or_default();
            row.into_stored(
                branches.into_iter().collect::<Result<_, _>>().map_err(decoded)?,
                outputs.into_iter().collect::<Result<_, _>>().map_err(decoded)?,
            )
        });
        assembled.map_err(|error| {
            let gid: String = row.try_get("gid").unwrap_or_default();
            Unreadable::new(tx_id, &gid, &error)
        })
    });
    found.collect()
}

/// Returns the transactions that can be acted on; one that is not whole cannot.
pub(in crate::store) fn claimed(found: Vec<Found>) -> Claimed {
    let mut claimed = Claimed::default();
    for found in found {
        match found {
            Ok(stored) if stored.is_torn() => claimed.unreadable.push(Unreadable::torn(&stored)),
            Ok(stored) => claimed.records.push(stored.record),
            Err(unreadable) => claimed.unreadable.push(unreadable),
        }
    }
    claimed
}

fn decoded(source: sqlx::Error) -> Error {
    Error::Database { doing: "read a row", source }
}

/// Rows by transaction. A row whose transaction cannot be told belongs to none, and that one is not
/// whole then.
fn group<T, R>(rows: &[R]) -> HashMap<Uuid, Vec<Result<T, sqlx::Error>>>
where
    R: Row,
    for<'r> T: FromRow<'r, R>,
    for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let mut groups = HashMap::new();
    for row in rows {
        if let Ok(tx_id) = row.try_get::<Uuid, _>("tx_id") {
            groups.entry(tx_id).or_insert_with(Vec::new).push(T::from_row(row));
        }
    }
    groups
}
