//! Parts of a transaction that never change.

use serde::{Deserialize, Serialize};
use unanimo_core::{Drive, Gid, Identity, Lock, Origin, Parent, Timestamp, TxId};

use super::super::Error;
use super::{
    TransactionRow, corrupt, digest_from_columns, ms_from_column, ms_to_column, not_our_json,
    to_json,
};

/// An identity, spread over its parts as they are stored.
#[derive(Debug)]
pub(in crate::store) struct IdentityColumns<'a> {
    pub(in crate::store) gid: &'a str,
    pub(in crate::store) mode: &'a str,
    pub(in crate::store) drive: &'a str,
    pub(in crate::store) digest: &'a [u8],
    pub(in crate::store) digest_version: i16,
    pub(in crate::store) created_ms: i64,
    pub(in crate::store) deadline_ms: i64,
    pub(in crate::store) initiator: &'a str,
    pub(in crate::store) metadata: String,
    pub(in crate::store) trace: String,
    pub(in crate::store) begun_with: String,
}

/// The part that few transactions begin with, in one column: JSON, or empty for nothing of it.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct BegunWith {
    #[serde(skip_serializing_if = "Option::is_none")]
    start_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locks: Vec<Lock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent>,
}

impl BegunWith {
    fn to_column(identity: &Identity) -> String {
        let Identity { start_at, locks, parent, .. } = identity;
        if start_at.is_none() && locks.is_empty() && parent.is_none() {
            return String::new();
        }
        to_json(&Self { start_at: *start_at, locks: locks.clone(), parent: *parent })
    }

    fn from_column(json: &str) -> Result<Self, Error> {
        if json.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(json).map_err(not_our_json("transactions.begun_with"))
    }
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
            begun_with: BegunWith::to_column(identity),
        }
    }
}

impl TransactionRow {
    pub(super) fn identity_columns(&self) -> IdentityColumns<'_> {
        IdentityColumns {
            gid: &self.gid,
            mode: &self.mode,
            drive: &self.drive,
            digest: &self.digest,
            digest_version: self.digest_version,
            created_ms: self.created_ms,
            deadline_ms: self.deadline_ms,
            initiator: &self.initiator,
            metadata: self.metadata.clone(),
            trace: self.trace.clone(),
            begun_with: self.begun_with.clone(),
        }
    }

    pub(super) fn identity(&self) -> Result<Identity, Error> {
        let BegunWith { start_at, locks, parent } = BegunWith::from_column(&self.begun_with)?;
        Ok(Identity {
            tx_id: TxId(self.tx_id),
            gid: Gid::full(&self.gid).map_err(|_| corrupt("transactions.gid", &self.gid))?,
            origin: self.origin()?,
            digest: digest_from_columns(self.digest_version, &self.digest)?,
            created_at: ms_from_column(self.created_ms),
            deadline: ms_from_column(self.deadline_ms),
            start_at,
            locks,
            parent,
            metadata: serde_json::from_str(&self.metadata)
                .map_err(not_our_json("transactions.metadata"))?,
            trace: serde_json::from_str(&self.trace).map_err(not_our_json("transactions.trace"))?,
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
