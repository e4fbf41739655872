//! Columns of a transaction that never change.

use unanimo_core::{Drive, Gid, Identity, Origin, TxId};

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
        let (mode, drive) = match identity.origin {
            Origin::Request { mode, drive: Drive::Declarative } => (mode.name(), "declarative"),
            Origin::Request { mode, drive: Drive::Interactive } => (mode.name(), "interactive"),
            Origin::Tombstone => ("none", "tombstone"),
        };
        Self {
            gid: identity.gid.as_str(),
            mode,
            drive,
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
            gid: Gid::known(&self.gid).map_err(|_| corrupt("transactions.gid", &self.gid))?,
            origin: self.origin()?,
            digest: digest_from_columns(self.digest_version, &self.digest)?,
            created_at: ms_from_column(self.created_ms),
            deadline: ms_from_column(self.deadline_ms),
            start_at: None,
            locks: Vec::new(),
            parent: None,
            metadata: serde_json::from_str(&self.metadata)
                .map_err(json("transactions.metadata"))?,
            trace: serde_json::from_str(&self.trace).map_err(json("transactions.trace"))?,
            initiator: self.initiator.clone(),
        })
    }

    fn origin(&self) -> Result<Origin, Error> {
        let drive = match (self.mode.as_str(), self.drive.as_str()) {
            ("none", "tombstone") => return Ok(Origin::Tombstone),
            (_, "declarative") => Drive::Declarative,
            (_, "interactive") => Drive::Interactive,
            (_, other) => return Err(corrupt("transactions.drive", other)),
        };
        let mode = self.mode.parse().map_err(|_| corrupt("transactions.mode", &self.mode))?;
        Ok(Origin::Request { mode, drive })
    }
}
