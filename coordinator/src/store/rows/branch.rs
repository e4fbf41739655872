//! Branches and outputs: written once.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::FromRow;
use unanimo_core::{
    ActionName, BranchId, BranchNumber, BranchSpec, Enlistment, Mode, ParticipantName, Payload,
    StepSpec,
};

use super::super::Error;
use super::{corrupt, not_our_json, number_from_column, to_json};

/// A branch.
#[derive(Debug, FromRow)]
pub(in crate::store) struct BranchRow {
    pub(super) number: i16,
    pub(super) branch_id: String,
    pub(super) participant: String,
    pub(super) action: String,
    pub(super) enlisted_by: String,
    pub(super) payload: Vec<u8>,
    pub(super) payload_type: String,
    pub(super) mode: Option<String>,
    pub(super) step: Option<String>,
}

/// An output.
#[derive(Debug, FromRow)]
pub(in crate::store) struct OutputRow {
    pub(super) number: i16,
    pub(super) output: Vec<u8>,
    pub(super) output_type: String,
}

pub(in crate::store) fn enlistment_name(enlistment: Enlistment) -> &'static str {
    match enlistment {
        Enlistment::Coordinator => "coordinator",
        Enlistment::Initiator => "initiator",
    }
}

/// The column of what only sagas have: `None` for the default, which is every branch of another mode.
pub(in crate::store) fn step_to_column(step: &StepSpec) -> Option<String> {
    (*step != StepSpec::default()).then(|| to_json(step))
}

fn step_from_column(json: Option<&str>) -> Result<StepSpec, Error> {
    json.map_or(Ok(StepSpec::default()), |json| {
        serde_json::from_str(json).map_err(not_our_json("branches.step"))
    })
}

impl BranchRow {
    /// Tells whether it is of this participant.
    pub(in crate::store) fn is_of(&self, participant: &ParticipantName) -> bool {
        self.participant == participant.as_str()
    }

    /// A branch of a transaction of this mode; a tombstone has no mode and no branches.
    pub(super) fn into_spec(
        self,
        index: usize,
        of_transaction: Option<Mode>,
    ) -> Result<(Enlistment, Arc<BranchSpec>), Error> {
        if number_from_column(self.number, "branches.number")?.index() != index {
            return Err(corrupt("branches.number", self.number.to_string()));
        }
        let enlistment = match self.enlisted_by.as_str() {
            "coordinator" => Enlistment::Coordinator,
            "initiator" => Enlistment::Initiator,
            other => return Err(corrupt("branches.enlisted_by", other)),
        };
        let own = self.mode.as_deref();
        let own = own.map(|name| name.parse().map_err(|_| corrupt("branches.mode", name)));
        let mode = own.transpose()?.or(of_transaction);
        let spec = BranchSpec {
            branch_id: BranchId::known(&self.branch_id)
                .map_err(|_| corrupt("branches.branch_id", &self.branch_id))?,
            participant: ParticipantName::full(&self.participant)
                .map_err(|_| corrupt("branches.participant", &self.participant))?,
            action: ActionName::known(&self.action)
                .map_err(|_| corrupt("branches.action", &self.action))?,
            payload: Payload { data: Bytes::from(self.payload), media_type: self.payload_type },
            mode: mode.ok_or_else(|| corrupt("branches.mode", "NULL"))?,
            step: step_from_column(self.step.as_deref())?,
        };
        Ok((enlistment, Arc::new(spec)))
    }
}

impl OutputRow {
    pub(super) fn into_output(self) -> Result<(BranchNumber, Payload), Error> {
        let output = Payload { data: Bytes::from(self.output), media_type: self.output_type };
        Ok((number_from_column(self.number, "outputs.number")?, output))
    }
}
