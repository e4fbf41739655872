//! Conversions that `api`, `participants` and `spans` share: the modules that speak protobuf.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use unanimo_core::{BranchNumber, BranchSpec, Identity, Mode, Payload, Timestamp};
pub(crate) use unanimo_proto::Traceparent;
use unanimo_proto::v1;

/// Describes a status: its code, so many bytes of its message, and the innermost cause where the transport made it;
/// those around it say "transport error".
pub(crate) fn status_in_words(status: &Status, bytes_max: usize) -> String {
    let message = status.message();
    let message = &message[..message.floor_char_boundary(bytes_max)];
    let text = match message {
        "" => format!("{:?}", status.code()),
        message => format!("{:?}: {message}", status.code()),
    };
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    match causes.last().map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

pub(crate) fn mode_to_wire(mode: Mode) -> v1::Mode {
    match mode {
        Mode::TwoPhaseCommit => v1::Mode::TwoPhaseCommit,
        Mode::Tcc => v1::Mode::Tcc,
        Mode::Saga => v1::Mode::Saga,
    }
}

/// The payload; nothing for an empty one, which is the same.
pub(crate) fn payload_to_wire(payload: &Payload) -> Option<v1::Payload> {
    let Payload { data, media_type } = payload;
    (!payload.is_empty())
        .then(|| v1::Payload { data: data.clone(), media_type: media_type.clone() })
}

/// The payload, in memory of its own. The bytes that were received are a part of their message, and
/// one of them would keep all of it in memory for as long as the transaction lives, where only the
/// payload's own size is counted. A copy takes less time than the payload took on its way.
pub(crate) fn payload_from_wire(payload: v1::Payload) -> Payload {
    let v1::Payload { data, media_type } = payload;
    Payload { data: Bytes::copy_from_slice(&data), media_type }
}

/// The duration; nothing if it is negative or none at all. `TryFrom` negates the seconds, which
/// overflows for the least of them.
pub(crate) fn duration_from_wire(duration: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

pub(crate) fn time_to_wire(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(at.0 / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.0 % 1000).unwrap_or(0) * 1_000_000,
    }
}

/// Formats a time as RFC 3339 in UTC, to the second.
pub(crate) fn time_in_words(at: Timestamp) -> String {
    let time = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{} ms after 1970", at.0), |time| format!("{time:.0}"))
}

/// Makes the context that identifies a branch to its participant, which knows nothing of namespaces.
pub(crate) fn context(
    identity: &Identity,
    spec: &BranchSpec,
    number: BranchNumber,
    cluster_id: &str,
) -> v1::BranchContext {
    v1::BranchContext {
        tx_id: identity.tx_id.to_string(),
        gid: identity.gid.local().to_owned(),
        branch_id: spec.branch_id.to_string(),
        branch_number: number.get().into(),
        cluster_id: cluster_id.to_owned(),
        participant: spec.participant.local().to_owned(),
        mode: mode_to_wire(spec.mode).into(),
        database_id: String::new(),
        database_place: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_does_not_keep_its_message() {
        let message = Bytes::from(vec![7; 1 << 20]);
        let received = message.slice(10..11);
        let payload = v1::Payload { data: received.clone(), media_type: String::new() };
        let kept = payload_from_wire(payload).data;
        assert_eq!(kept, received);
        assert_ne!(kept.as_ptr(), received.as_ptr());
    }
}
