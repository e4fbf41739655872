//! The request that a definition becomes.

use std::time::Duration;

use prost::Message;
use unanimo_core::{
    BranchSpec, COORDINATOR, Compensation, Definition, Lock, LockMode, Mode, Payload, Start,
    StepSpec, Timestamp,
};
use unanimo_proto::v1;

/// Name of the participant that a child is: the coordinator itself.
pub(crate) const CHILD_PARTICIPANT: &str = COORDINATOR;
/// Name of its action.
pub(crate) const CHILD_ACTION: &str = "transaction";
/// Fields of a step that a child has none of: they speak of a participant.
pub(crate) const NOT_WITH_CHILD: [&str; 7] =
    ["participant", "action", "mode", "payload", "payload_base64", "media_type", "inputs"];

/// Returns the request for a definition, without a gid.
pub(crate) fn request(definition: &Definition) -> v1::SubmitTransactionRequest {
    let Definition { mode, timeout, start, locks, metadata, .. } = definition;
    let mut requires = vec!["saga"];
    requires.extend((*start != Start::AtOnce).then_some("start_later"));
    requires.extend(has_locks(definition).then_some("locks"));
    v1::SubmitTransactionRequest {
        mode: wire_mode(*mode).into(),
        branches: branches(definition),
        timeout: timeout.map(duration),
        metadata: metadata.clone().into_iter().collect(),
        requires: requires.into_iter().map(str::to_owned).collect(),
        include_outputs: true,
        start_at: match start {
            Start::At(at) => Some(timestamp(*at)),
            Start::AtOnce | Start::After(_) => None,
        },
        start_delay: match start {
            Start::After(delay) => Some(duration(*delay)),
            Start::AtOnce | Start::At(_) => None,
        },
        locks: locks.iter().map(lock).collect(),
        ..Default::default()
    }
}

fn has_locks(definition: &Definition) -> bool {
    !definition.locks.is_empty()
        || definition.branches.iter().any(|branch| !branch.step.locks.is_empty())
        || definition.children.iter().any(|(_, child)| has_locks(child))
}

/// Returns the payload that a child has as a branch.
pub(crate) fn child_payload(definition: &Definition) -> Payload {
    Payload { data: child(definition).encode_to_vec().into(), media_type: String::new() }
}

fn child(definition: &Definition) -> v1::ChildTransaction {
    v1::ChildTransaction {
        mode: wire_mode(definition.mode).into(),
        branches: branches(definition),
        timeout: definition.timeout.map(duration),
        locks: definition.locks.iter().map(lock).collect(),
    }
}

fn branches(definition: &Definition) -> Vec<v1::BranchSpec> {
    let of =
        |index| definition.children.iter().find(|(at, _)| *at == index).map(|(_, child)| child);
    definition.branches.iter().enumerate().map(|(index, spec)| branch(spec, of(index))).collect()
}

fn branch(spec: &BranchSpec, child: Option<&Definition>) -> v1::BranchSpec {
    let StepSpec {
        depends_on,
        inputs,
        pivot,
        compensation,
        retry,
        attempt_timeout,
        delay,
        start_at,
        locks,
    } = &spec.step;
    let input = |input: &unanimo_core::StepInput| v1::StepInput {
        name: input.name.to_string(),
        branch_id: input.branch_id.to_string(),
    };
    let mut branch = v1::BranchSpec {
        branch_id: spec.branch_id.to_string(),
        mode: wire_mode(spec.mode).into(),
        depends_on: depends_on.iter().map(ToString::to_string).collect(),
        inputs: inputs.iter().map(input).collect(),
        pivot: *pivot,
        compensation: match compensation {
            Compensation::Compensate => v1::Compensation::Unspecified.into(),
            Compensation::None => v1::Compensation::None.into(),
            Compensation::Kept => v1::Compensation::Kept.into(),
        },
        retry: retry.map(|retry| v1::RetryPolicy {
            attempts_max: retry.attempts_max.unwrap_or(0),
            backoff_min: retry.backoff_min.map(duration),
            backoff_max: retry.backoff_max.map(duration),
            give_up_after: retry.give_up_after.map(duration),
        }),
        attempt_timeout: attempt_timeout.map(duration),
        delay: delay.map(duration),
        start_at: start_at.map(timestamp),
        locks: locks.iter().map(lock).collect(),
        ..Default::default()
    };
    match child {
        Some(child) => {
            branch.child = Some(self::child(child));
            // The mode of the branch follows from the child.
            branch.mode = v1::Mode::Unspecified.into();
        }
        None => {
            branch.participant = spec.participant.to_string();
            branch.action = spec.action.to_string();
            let Payload { data, media_type } = spec.payload.clone();
            let is_absent = data.is_empty() && media_type.is_empty();
            branch.payload = (!is_absent).then_some(v1::Payload { data, media_type });
        }
    }
    branch
}

fn wire_mode(mode: Mode) -> v1::Mode {
    match mode {
        Mode::TwoPhaseCommit => v1::Mode::TwoPhaseCommit,
        Mode::Tcc => v1::Mode::Tcc,
        Mode::Saga => v1::Mode::Saga,
    }
}

fn lock(lock: &Lock) -> v1::Lock {
    let mode = match lock.mode {
        LockMode::Exclusive => v1::LockMode::Exclusive,
        LockMode::Shared => v1::LockMode::Shared,
    };
    let wait_max = Some(duration(lock.wait_max));
    v1::Lock { name: lock.name.to_string(), mode: mode.into(), wait_max }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        // The rules bound every duration far below this.
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let Timestamp(ms) = at;
    prost_types::Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
    }
}
