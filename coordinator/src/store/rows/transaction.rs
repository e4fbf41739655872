//! A transaction as its rows hold it, and what it becomes with its branches.

use std::sync::Arc;

use sqlx::FromRow;
use unanimo_core::{Incarnation, Record, TxId, Version};
use uuid::Uuid;

use super::super::{Error, Stored, Unreadable, in_full};
use super::{BranchRow, OutputRow};

/// A SELECT of [`TransactionRow`]s from the table of an earlier version of the program.
pub(in crate::store) const SELECT_EARLIER: &str =
    "SELECT tx_id, gid, owner, version, mode, drive, digest, digest_version, created_ms, deadline_ms, phase,
        abort_cause, abort_branch, decided_ms, ended_ms, heuristic, stalled, forgotten, stripped, initiator,
        metadata, trace, progress, begun_with, more, wake_ms, stripped_ms, set_aside_by
    FROM transactions WHERE tx_id > $1 ORDER BY tx_id LIMIT $2";

/// A transaction without its branches. JSON is a text.
#[derive(Debug, Default, FromRow)]
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
    pub(super) fn new(tx_id: Uuid, gid: &str, error: &(dyn std::error::Error + 'static)) -> Self {
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
