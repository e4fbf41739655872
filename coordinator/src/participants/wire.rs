//! The core's types as messages to participants, and their answers as the core's types.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, ConnectError, Request, Status};
use unanimo_core::{
    HeuristicKind, InputName, Payload, PhaseTwoAnswer, PrepareAnswer, Refusal, TraceContext, clip,
};
use unanimo_proto::v1;
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CommitRequest, HeuristicOutcome, PrepareRequest, cancel_response,
    commit_response, prepare_response,
};

use super::caller::BranchCall;
use super::caller::attempt::Verdict;
use super::databases::Database;
use super::failure;
use crate::wire::{self, duration_from_wire, payload_from_wire, payload_to_wire, time_to_wire};

fn context(branch: &BranchCall, database: Database) -> BranchContext {
    let context = wire::context(&branch.identity, &branch.spec, branch.number, &branch.cluster_id);
    BranchContext { database_id: database.id, database_place: database.place, ..context }
}

pub(super) fn prepare(branch: &BranchCall, database: Database) -> PrepareRequest {
    PrepareRequest {
        context: Some(context(branch, database)),
        action: branch.spec.action.to_string(),
        payload: payload_to_wire(&branch.spec.payload),
        prepare_until: branch.prepare_until.map(time_to_wire),
        metadata: metadata(branch),
        attempt: branch.attempt,
        requires: requires(branch),
        must_succeed: branch.must_succeed,
        inputs: inputs(branch),
        output_bytes_max: branch.output_bytes_max.and_then(|most| u64::try_from(most).ok()),
    }
}

/// Features without which a Prepare would mean something else.
fn requires(branch: &BranchCall) -> Vec<String> {
    let must_succeed = branch.must_succeed.then_some("must_succeed");
    let inputs = (!branch.spec.step.inputs.is_empty()).then_some("step_inputs");
    let bounded = branch.output_bytes_max.map(|_| "output_bytes_max");
    must_succeed.into_iter().chain(inputs).chain(bounded).map(str::to_owned).collect()
}

fn inputs(branch: &BranchCall) -> HashMap<String, v1::Payload> {
    let to_wire = |(name, output): &(InputName, Payload)| {
        // An output is known, and may be empty.
        (name.to_string(), payload_to_wire(output).unwrap_or_default())
    };
    branch.inputs.iter().map(to_wire).collect()
}

pub(super) fn commit(branch: &BranchCall, database: Database) -> CommitRequest {
    CommitRequest {
        context: Some(context(branch, database)),
        action: branch.spec.action.to_string(),
        payload: payload_to_wire(&branch.spec.payload),
        output: branch.output.as_ref().and_then(payload_to_wire),
        metadata: metadata(branch),
        attempt: branch.attempt,
        requires: Vec::new(),
        inputs: inputs(branch),
    }
}

pub(super) fn cancel(branch: &BranchCall, database: Database) -> CancelRequest {
    CancelRequest {
        context: Some(context(branch, database)),
        action: branch.spec.action.to_string(),
        payload: payload_to_wire(&branch.spec.payload),
        output: branch.output.as_ref().and_then(payload_to_wire),
        metadata: metadata(branch),
        attempt: branch.attempt,
        prepare_until: branch.prepare_until.map(time_to_wire),
        requires: Vec::new(),
        inputs: inputs(branch),
    }
}

fn metadata(branch: &BranchCall) -> HashMap<String, String> {
    branch.identity.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The message with the call's deadline and the transaction's trace.
pub(super) fn request<T>(message: T, trace: &TraceContext, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    let headers: &mut MetadataMap = request.metadata_mut();
    let TraceContext { traceparent, tracestate } = trace;
    for (name, value) in [("traceparent", traceparent), ("tracestate", tracestate)] {
        // Checked when the transaction began; what is no header value is not sent.
        if let Some(value) = value.as_ref().and_then(|value| value.parse().ok()) {
            headers.insert(name, value);
        }
    }
    request
}

/// A vote travels only in an OK reply; an answer that is none of ours counts as no answer.
pub(super) fn prepare_answer(answer: Option<prepare_response::Answer>) -> PrepareAnswer {
    use prepare_response::Answer;
    match answer {
        Some(Answer::Prepared(prepared)) => {
            let output = prepared.output.map(payload_from_wire);
            PrepareAnswer::Prepared(output.unwrap_or_default())
        }
        Some(Answer::Refused(refusal)) => {
            PrepareAnswer::Refused(Refusal { reason: refusal.reason, message: refusal.message })
        }
        Some(Answer::ReadOnly(_)) => PrepareAnswer::ReadOnly,
        Some(Answer::Working(working)) => {
            PrepareAnswer::Working { retry_after: pause(working.retry_after) }
        }
        None => PrepareAnswer::Failed(NO_ANSWER.to_owned()),
    }
}

pub(super) fn commit_answer(answer: Option<commit_response::Answer>) -> PhaseTwoAnswer {
    use commit_response::Answer;
    match answer {
        Some(Answer::Done(_)) => PhaseTwoAnswer::Done,
        Some(Answer::Working(working)) => {
            PhaseTwoAnswer::Working { retry_after: pause(working.retry_after) }
        }
        Some(Answer::Heuristic(outcome)) => heuristic(outcome),
        None => PhaseTwoAnswer::Failed(NO_ANSWER.to_owned()),
    }
}

pub(super) fn cancel_answer(answer: Option<cancel_response::Answer>) -> PhaseTwoAnswer {
    use cancel_response::Answer;
    match answer {
        Some(Answer::Done(_)) => PhaseTwoAnswer::Done,
        Some(Answer::Working(working)) => {
            PhaseTwoAnswer::Working { retry_after: pause(working.retry_after) }
        }
        Some(Answer::Heuristic(outcome)) => heuristic(outcome),
        None => PhaseTwoAnswer::Failed(NO_ANSWER.to_owned()),
    }
}

const NO_ANSWER: &str = "the participant's reply holds no answer that this version knows";

fn heuristic(outcome: HeuristicOutcome) -> PhaseTwoAnswer {
    use unanimo_proto::v1::HeuristicKind as Wire;
    let kind = match outcome.kind() {
        Wire::Commit => HeuristicKind::Commit,
        Wire::Rollback => HeuristicKind::Rollback,
        Wire::Hazard | Wire::Unspecified => HeuristicKind::Hazard,
    };
    PhaseTwoAnswer::Heuristic { kind, note: outcome.note }
}

/// A pause that is no duration is left to the coordinator.
fn pause(retry_after: Option<prost_types::Duration>) -> Duration {
    retry_after.and_then(duration_from_wire).unwrap_or_default()
}

/// Tells what a status says of an attempt and of its participant. Whatever its length, only the beginning
/// of its text is kept.
pub(super) fn verdict(status: &Status, prepare: bool, attempt: u32) -> Verdict {
    let error = clip(failure::in_words(status, prepare, attempt));
    if is_connect_error(status) {
        return Verdict::Connect(error);
    }
    match status.code() {
        // The participant works, and has an opinion on this request. It is no vote, and no sign that others
        // fail as well.
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange => Verdict::Declined(error),
        _ => Verdict::Error(error),
    }
}

/// Tells whether no connection could be made, so that nothing was sent.
fn is_connect_error(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_is_no_duration_is_none() {
        for (seconds, nanos, ms) in [
            (2, 500_000_000, 2500),
            (-1, 0, 0),
            (i64::MIN, i32::MIN, 0),
            (1, -1, 0),
            (1, 1_000_000_000, 0),
        ] {
            let asked = prost_types::Duration { seconds, nanos };
            assert_eq!(pause(Some(asked)), Duration::from_millis(ms), "{asked:?}");
        }
        assert_eq!(pause(None), Duration::ZERO);
    }

    /// An answer of a later version is no answer, and an end of a later version a hazard.
    #[test]
    fn an_answer_that_is_not_known_is_never_a_success() {
        assert!(matches!(prepare_answer(None), PrepareAnswer::Failed(_)));
        assert!(matches!(commit_answer(None), PhaseTwoAnswer::Failed(_)));
        assert!(matches!(cancel_answer(None), PhaseTwoAnswer::Failed(_)));
        for kind in [0, 99, -1] {
            let answer = heuristic(HeuristicOutcome { kind, note: "odd".to_owned() });
            let expected =
                PhaseTwoAnswer::Heuristic { kind: HeuristicKind::Hazard, note: "odd".to_owned() };
            assert_eq!(answer, expected, "kind {kind}");
        }
    }
}
