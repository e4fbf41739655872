//! Rows of `branches` and `outputs`: written once.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::FromRow;
use unanimo_core::{ActionName, BranchId, BranchNumber, BranchSpec, Enlistment, ParticipantName};
use uuid::Uuid;

use super::super::Error;
use super::{corrupt, number_from_column};

/// A row of `branches`.
#[derive(Debug, FromRow)]
pub(in crate::store) struct BranchRow {
    pub(in crate::store) tx_id: Uuid,
    number: i16,
    branch_id: String,
    participant: String,
    action: String,
    enlisted_by: String,
    payload: Vec<u8>,
}

/// A row of `outputs`.
#[derive(Debug, FromRow)]
pub(in crate::store) struct OutputRow {
    pub(in crate::store) tx_id: Uuid,
    number: i16,
    output: Vec<u8>,
}

pub(in crate::store) fn enlistment_name(enlistment: Enlistment) -> &'static str {
    match enlistment {
        Enlistment::Coordinator => "coordinator",
        Enlistment::Initiator => "initiator",
    }
}

impl BranchRow {
    pub(super) fn into_spec(self, index: usize) -> Result<(Enlistment, Arc<BranchSpec>), Error> {
        if number_from_column(self.number, "branches.number")?.index() != index {
            return Err(corrupt("branches.number", self.number.to_string()));
        }
        let enlistment = match self.enlisted_by.as_str() {
            "coordinator" => Enlistment::Coordinator,
            "initiator" => Enlistment::Initiator,
            other => return Err(corrupt("branches.enlisted_by", other)),
        };
        let spec = BranchSpec {
            branch_id: BranchId::new(&self.branch_id)
                .map_err(|_| corrupt("branches.branch_id", &self.branch_id))?,
            participant: ParticipantName::new(&self.participant)
                .map_err(|_| corrupt("branches.participant", &self.participant))?,
            action: ActionName::new(&self.action)
                .map_err(|_| corrupt("branches.action", &self.action))?,
            payload: Bytes::from(self.payload),
        };
        Ok((enlistment, Arc::new(spec)))
    }
}

impl OutputRow {
    pub(super) fn into_output(self) -> Result<(BranchNumber, Bytes), Error> {
        Ok((number_from_column(self.number, "outputs.number")?, Bytes::from(self.output)))
    }
}
