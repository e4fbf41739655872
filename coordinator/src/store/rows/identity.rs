//! Columns of a transaction that never change.

use unanimo_core::{Drive, Gid, Identity, Mode, TxId};

use super::super::Error;
use super::{TransactionRow, corrupt, digest_from_columns, ms_from_column, ms_to_column, to_json};

/// An identity, spread over columns.
#[derive(Debug)]
pub(in crate::store) struct IdentityColumns<'a> {
    pub(in crate::store) gid: &'a str,
    pub(in crate::store) mode: &'static str,
    pub(in crate::store) drive: &'static str,
    pub(in crate::store) digest: &'a [u8],
    pub(in crate::store) digest_version: i16,
    pub(in crate::store) created_ms: i64,
    pub(in crate::store) deadline_ms: i64,
    pub(in crate::store) initiator: &'a str,
    pub(in crate::store) metadata: String,
    pub(in crate::store) trace: String,
}

impl<'a> IdentityColumns<'a> {
    pub(in crate::store) fn of(identity: &'a Identity) -> Self {
        Self {
            gid: identity.gid.as_str(),
            mode: match identity.mode {
                Mode::TwoPhaseCommit => "2pc",
                Mode::Tcc => "tcc",
            },
            drive: match identity.drive {
                Drive::Declarative => "declarative",
                Drive::Interactive => "interactive",
            },
            digest: &identity.digest.hash,
            digest_version: identity.digest.version,
            created_ms: ms_to_column(identity.created_at),
            deadline_ms: ms_to_column(identity.deadline),
            initiator: &identity.initiator,
            metadata: to_json(&identity.metadata),
            trace: to_json(&identity.trace),
        }
    }
}

impl TransactionRow {
    pub(super) fn identity(&self) -> Result<Identity, Error> {
        let json = |what| move |_| corrupt(what, "not the JSON that is written there");
        Ok(Identity {
            tx_id: TxId(self.tx_id),
            gid: Gid::new(&self.gid).map_err(|_| corrupt("transactions.gid", &self.gid))?,
            mode: match self.mode.as_str() {
                "2pc" => Mode::TwoPhaseCommit,
                "tcc" => Mode::Tcc,
                other => return Err(corrupt("transactions.mode", other)),
            },
            drive: match self.drive.as_str() {
                "declarative" => Drive::Declarative,
                "interactive" => Drive::Interactive,
                other => return Err(corrupt("transactions.drive", other)),
            },
            digest: digest_from_columns(self.digest_version, &self.digest)?,
            created_at: ms_from_column(self.created_ms),
            deadline: ms_from_column(self.deadline_ms),
            metadata: serde_json::from_str(&self.metadata)
                .map_err(json("transactions.metadata"))?,
            trace: serde_json::from_str(&self.trace).map_err(json("transactions.trace"))?,
            initiator: self.initiator.clone(),
        })
    }
}
