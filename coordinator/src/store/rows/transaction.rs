//! A row of `transactions`, and what it becomes with the rows of its branches.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::FromRow;
use unanimo_core::{Incarnation, Record, Version};
use uuid::Uuid;

use super::super::{Error, Stored};
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

/// Unended transactions of an owner, but for those that sleep.
pub(in crate::store) const SELECT_OPEN: &str = "
SELECT tx_id, version FROM transactions
WHERE ended_ms IS NULL AND wake_ms IS NULL AND owner = $1";

/// Recorded history of a transaction, oldest first.
pub(in crate::store) const SELECT_HISTORY: &str =
    "SELECT entry FROM history WHERE tx_id = $1 ORDER BY version";

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

/// Numbers of transactions that need a person: stalled ones, heuristic ones.
pub(in crate::store) const COUNT_ATTENTION: &str = "
SELECT count(*) FILTER (WHERE stalled AND ended_ms IS NULL),
    count(*) FILTER (WHERE heuristic <> 'none')
FROM transactions WHERE attention";

/// Transactions, and the branches and outputs of all of them.
pub(in crate::store) type Rows = (Vec<TransactionRow>, Vec<BranchRow>, Vec<OutputRow>);

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

/// Puts transactions together with their branches and outputs, which are ordered by number.
pub(in crate::store) fn assemble(
    (transactions, branches, outputs): Rows,
) -> Result<Vec<Stored>, Error> {
    let mut branches = group(branches, |row| row.tx_id);
    let mut outputs = group(outputs, |row| row.tx_id);
    transactions
        .into_iter()
        .map(|row| {
            let branches = branches.remove(&row.tx_id).unwrap_or_default();
            let outputs = outputs.remove(&row.tx_id).unwrap_or_default();
            row.into_stored(branches, outputs)
        })
        .collect()
}

fn group<R>(rows: Vec<R>, key: impl Fn(&R) -> Uuid) -> HashMap<Uuid, Vec<R>> {
    let mut groups = HashMap::new();
    for row in rows {
        groups.entry(key(&row)).or_insert_with(Vec::new).push(row);
    }
    groups
}
