//! A transaction as its rows hold it, and what it becomes with its branches.

use std::sync::Arc;

use sqlx::{ColumnIndex, Decode, Row, Type};
use unanimo_core::{Incarnation, Record, TxId, Version};
use uuid::Uuid;

use super::super::{Error, Stored, Unreadable, in_full};
use super::earlier::Columns;
use super::{BranchRow, OutputRow, progress};

/// A transaction without its branches. JSON is a text.
#[derive(Debug, Default)]
pub(in crate::store) struct TransactionRow {
    pub(in crate::store) tx_id: Uuid,
    pub(in crate::store) gid: String,
    pub(super) owner: i64,
    pub(super) version: i64,
    pub(in crate::store) mode: String,
    pub(in crate::store) drive: String,
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
    pub(in crate::store) initiator: String,
    pub(in crate::store) metadata: String,
    pub(super) trace: String,
    pub(super) progress: progress::Column,
    pub(super) begun_with: String,
    pub(super) more: String,
    pub(super) wake_ms: Option<i64>,
}

impl TransactionRow {
    /// Reads what can be read of the row of an earlier version's table.
    pub(super) fn of_earlier<R>(columns: &mut Columns<'_, R>) -> Self
    where
        R: Row,
        for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> i16: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> bool: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> &'r str: ColumnIndex<R>,
    {
        Self {
            tx_id: columns.take("tx_id"),
            gid: columns.take("gid"),
            owner: columns.take("owner"),
            version: columns.take::<i64>("version").max(1),
            mode: columns.take("mode"),
            drive: columns.take("drive"),
            digest: columns.take("digest"),
            digest_version: columns.take("digest_version"),
            created_ms: columns.take("created_ms"),
            deadline_ms: columns.take("deadline_ms"),
            phase: columns.take("phase"),
            abort_cause: columns.take("abort_cause"),
            abort_branch: columns.take("abort_branch"),
            decided_ms: columns.take("decided_ms"),
            ended_ms: columns.take("ended_ms"),
            heuristic: columns.take("heuristic"),
            stalled: columns.take("stalled"),
            forgotten: columns.take("forgotten"),
            stripped: columns.take("stripped"),
            initiator: columns.take("initiator"),
            metadata: columns.take("metadata"),
            trace: columns.take("trace"),
            progress: progress::Column::Json(columns.take("progress")),
            begun_with: columns.take("begun_with"),
            more: columns.take("more"),
            wake_ms: columns.take("wake_ms"),
        }
    }

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
