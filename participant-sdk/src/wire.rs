//! Messages of the participant service as calls, and answers as messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use unanimo_proto::v1::{self, Mode};
use uuid::Uuid;

use crate::handler::{Branch, Call};
use crate::names::{CLUSTER_BYTES_MAX, ID_BYTES_MAX, NAME_BYTES_MAX, is_name};
use crate::refusal::Refusal;
use crate::resource::{PhaseTwoAnswer, RawCall, Voted};
pub(crate) use crate::status::status;

/// Bytes of a refusal's message.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Returns the word of a barrier's row, which is for people. There is none for a mode that is not known
/// here.
pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::TwoPhaseCommit => "2pc",
        Mode::Saga => "saga",
        _ => "tcc",
    }
}

/// Fields that the three messages have in common.
pub(crate) struct Parts {
    pub(crate) context: Option<v1::BranchContext>,
    pub(crate) action: String,
    pub(crate) payload: Option<v1::Payload>,
    pub(crate) inputs: HashMap<String, v1::Payload>,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) attempt: u32,
    pub(crate) prepare_until: Option<prost_types::Timestamp>,
}

/// Conditions that an operation may have.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) requires: Vec<String>,
    pub(crate) must_succeed: bool,
    pub(crate) output_max: Option<u64>,
}

/// Reads a call that has no conditions.
pub(crate) fn call(parts: Parts) -> Result<RawCall, Status> {
    call_with(parts, Conditions::default())
}

/// Reads a call.
pub(crate) fn call_with(parts: Parts, conditions: Conditions) -> Result<RawCall, Status> {
    let Parts { context, action, payload, inputs, metadata, attempt, prepare_until } = parts;
    let payload = payload.unwrap_or_default().into();
    let context = context.ok_or_else(|| invalid("context", "must be there"))?;
    if context.mode == i32::from(Mode::Unspecified) {
        return Err(invalid("context.mode", "must be there"));
    }
    // One that is not known here becomes `Unspecified`.
    let mode = context.mode();
    let tx_id = Uuid::parse_str(&context.tx_id).ok();
    let canonical = tx_id.filter(|parsed| parsed.to_string() == context.tx_id);
    let rule = "must be a UUID of 36 characters, lower case, with hyphens";
    let tx_id = canonical.ok_or_else(|| invalid("context.tx_id", rule))?;
    for (field, text, bytes_max) in [
        ("context.gid", &context.gid, ID_BYTES_MAX),
        ("context.branch_id", &context.branch_id, ID_BYTES_MAX),
        ("context.cluster_id", &context.cluster_id, CLUSTER_BYTES_MAX),
        ("context.participant", &context.participant, NAME_BYTES_MAX),
        ("action", &action, NAME_BYTES_MAX),
    ] {
        if !is_name(text, bytes_max) {
            let rule = format!(
                "must be 1 to {bytes_max} bytes of [A-Za-z0-9_.:-], and begin with a letter, a digit or _"
            );
            return Err(invalid(field, &rule));
        }
    }
    if context.branch_number == 0 {
        return Err(invalid("context.branch_number", "must be at least 1"));
    }
    let branch = Branch {
        tx_id,
        gid: context.gid,
        branch_id: context.branch_id,
        number: context.branch_number,
        cluster_id: context.cluster_id,
        participant: context.participant,
    };
    let until = until(prepare_until);
    let Conditions { requires, must_succeed, output_max } = conditions;
    let inputs = inputs.into_iter().map(|(name, input)| (name, input.into())).collect();
    let inputs = Arc::new(inputs);
    let deadline = until;
    let call = Call { branch, action, payload, metadata, attempt, must_succeed, deadline, inputs };
    Ok(RawCall { call, mode, requires, until, output_max })
}

fn invalid(field: &str, rule: &str) -> Status {
    status(Code::InvalidArgument, &format!("{field} {rule}"))
}

/// Returns the time that a call's caller waits for its answer, if it says so.
pub(crate) fn timeout(headers: &MetadataMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A bound that is no time is none.
fn until(at: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    at.and_then(|at| SystemTime::try_from(at).ok())
}

pub(crate) fn voted(voted: Voted, database_id: &str) -> v1::PrepareResponse {
    use v1::prepare_response::Answer;
    let answer = match voted {
        Voted::Prepared(output) => {
            let output = (!output.is_empty()).then(|| output.into());
            Answer::Prepared(v1::Prepared { output })
        }
        Voted::ReadOnly => Answer::ReadOnly(v1::ReadOnly {}),
        Voted::Refused(Refusal { reason, message }) => {
            Answer::Refused(v1::Refusal { reason, message })
        }
        Voted::Working(pause) => Answer::Working(working(pause)),
    };
    v1::PrepareResponse { answer: Some(answer), database_id: database_id.to_owned() }
}

pub(crate) fn committed(answered: PhaseTwoAnswer) -> v1::CommitResponse {
    use v1::commit_response::Answer;
    let answer = match answered {
        PhaseTwoAnswer::Done => Answer::Done(v1::Done {}),
        PhaseTwoAnswer::Working(pause) => Answer::Working(working(pause)),
        PhaseTwoAnswer::Heuristic(kind, note) => Answer::Heuristic(heuristic(kind, note)),
    };
    v1::CommitResponse { answer: Some(answer) }
}

pub(crate) fn cancelled(answered: PhaseTwoAnswer) -> v1::CancelResponse {
    use v1::cancel_response::Answer;
    let answer = match answered {
        PhaseTwoAnswer::Done => Answer::Done(v1::Done {}),
        PhaseTwoAnswer::Working(pause) => Answer::Working(working(pause)),
        PhaseTwoAnswer::Heuristic(kind, note) => Answer::Heuristic(heuristic(kind, note)),
    };
    v1::CancelResponse { answer: Some(answer) }
}

fn working(pause: Duration) -> v1::Working {
    v1::Working { retry_after: prost_types::Duration::try_from(pause).ok() }
}

fn heuristic(kind: v1::HeuristicKind, note: String) -> v1::HeuristicOutcome {
    v1::HeuristicOutcome { kind: kind.into(), note }
}

/// A refusal as it may be stored and sent: what breaks the rules is replaced or cut off, so that
/// the no is heard.
pub(crate) fn presentable(refusal: Refusal) -> Refusal {
    let Refusal { reason, message } = refusal;
    let reason = if is_name(&reason, NAME_BYTES_MAX) { reason } else { "REFUSED".to_owned() };
    let mut message = message.replace('\0', "\u{fffd}");
    let end = (0..=MESSAGE_BYTES_MAX.min(message.len()))
        .rev()
        .find(|&end| message.is_char_boundary(end))
        .unwrap_or(0);
    message.truncate(end);
    Refusal { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_short_on_the_wire() {
        for (text, chars) in [("x", 1024), ("é", 170), ("%", 341), ("\n", 341), ("\u{1F4A5}", 85)]
        {
            let status = status(Code::Unknown, &text.repeat(90_000));
            assert_eq!(status.message().chars().count(), chars, "{text:?}");
        }
        assert_eq!(status(Code::Unknown, "short: é").message(), "short: é");
    }

    #[test]
    fn a_timeout_is_read_as_grpc_writes_it() {
        let read = |text: &str| {
            let mut headers = MetadataMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a header"));
            timeout(&headers)
        };
        for (text, ms) in
            [("2H", 7_200_000), ("3M", 180_000), ("4S", 4000), ("5m", 5), ("6000u", 6)]
        {
            assert_eq!(read(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for bad in ["", "S", "1", "1x", "-1S", "1é"] {
            let bad = bad.parse().ok().and_then(|value| {
                let mut headers = MetadataMap::new();
                headers.insert("grpc-timeout", value);
                timeout(&headers)
            });
            assert_eq!(bad, None);
        }
        assert_eq!(timeout(&MetadataMap::new()), None);
    }

    #[test]
    fn a_refusal_is_made_presentable() {
        let long = "é".repeat(1024);
        let refusal = presentable(Refusal::new("no funds", format!("a\0{long}")));
        assert_eq!(refusal.reason, "REFUSED");
        assert!(refusal.message.starts_with("a\u{fffd}é"));
        assert!(refusal.message.len() <= MESSAGE_BYTES_MAX);
        let same = Refusal::new("NO_FUNDS", "not enough");
        assert_eq!(presentable(same.clone()), same);
    }
}
