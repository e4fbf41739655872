//! Conversions that `api` and `participants` share: the two modules that speak protobuf.

use unanimo_core::{BranchNumber, BranchSpec, Identity, Mode, Payload, Timestamp};
use unanimo_proto::v1;

pub(crate) fn mode_to_wire(mode: Mode) -> v1::Mode {
    match mode {
        Mode::TwoPhaseCommit => v1::Mode::TwoPhaseCommit,
        Mode::Tcc => v1::Mode::Tcc,
    }
}

/// The payload; nothing for an empty one, which is the same.
pub(crate) fn payload_to_wire(payload: &Payload) -> Option<v1::Payload> {
    let Payload { data, media_type } = payload;
    (!payload.is_empty())
        .then(|| v1::Payload { data: data.clone(), media_type: media_type.clone() })
}

pub(crate) fn payload_from_wire(payload: v1::Payload) -> Payload {
    let v1::Payload { data, media_type } = payload;
    Payload { data, media_type }
}

pub(crate) fn time_to_wire(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(at.0 / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.0 % 1000).unwrap_or(0) * 1_000_000,
    }
}

/// Makes the context that identifies a branch to its participant.
pub(crate) fn context(
    identity: &Identity,
    spec: &BranchSpec,
    number: BranchNumber,
    cluster_id: &str,
) -> v1::BranchContext {
    v1::BranchContext {
        tx_id: identity.tx_id.to_string(),
        gid: identity.gid.to_string(),
        branch_id: spec.branch_id.to_string(),
        branch_number: number.get().into(),
        cluster_id: cluster_id.to_owned(),
        participant: spec.participant.to_string(),
        mode: mode_to_wire(spec.mode).into(),
    }
}
