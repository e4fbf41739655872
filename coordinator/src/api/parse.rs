//! Requests as the core's types. What breaks a rule is an error that names the field.

mod branch;
mod step;

use std::collections::HashMap;
use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;
use unanimo_core::{
    BranchId, BranchNumber, Definition, Drive, Gid, Mode, ParticipantName, Start, Timestamp,
    TraceContext, TxId, Version, Violation, Vote, ids,
};
use unanimo_proto::v1;

pub(super) use self::branch::{Read, Reading, stored_child};
pub use self::step::LOCK_WAIT_DEFAULT;
use super::error::invalid;
use super::namespace::Names;
use crate::engine::{BranchKey, Until};
use crate::participants::own;
use crate::store::PhaseName;
use crate::wire;

/// Most bytes of an operator's name.
pub const OPERATOR_BYTES_MAX: usize = 128;

/// Most bytes of a note.
pub const NOTE_BYTES_MAX: usize = 1024;

/// Most bytes of a trace header that is carried along; W3C asks for at least 512.
pub const TRACE_BYTES_MAX: usize = 1024;

fn named<T>(field: &str, parsed: Result<T, ids::Error>) -> Result<T, Violation> {
    parsed.map_err(|rule| Violation::new(field, rule.to_string()))
}

pub(super) fn tx_id(text: &str) -> Result<TxId, Status> {
    named("tx_id", TxId::parse(text)).map_err(invalid)
}

pub(super) fn gid(text: &str, names: Names<'_>) -> Result<Gid, Status> {
    named("gid", names.gid(text)).map_err(invalid)
}

/// The gid of a transaction that is asked for.
pub(super) fn known_gid(text: &str, names: Names<'_>) -> Result<Gid, Status> {
    named("gid", names.known_gid(text)).map_err(invalid)
}

/// The beginning of the gids that are asked for.
pub(super) fn gid_prefix(text: &str, names: Names<'_>) -> Result<String, Status> {
    named("gid_prefix", names.gid_prefix(text)).map_err(invalid)
}

/// The id of a branch that is asked for.
pub(super) fn branch_id(field: &str, text: &str) -> Result<BranchId, Status> {
    named(field, BranchId::known(text)).map_err(invalid)
}

/// A branch that is asked for, by its id or, without one, by its number.
pub(super) fn inquired(
    field: &str,
    branch: &v1::InquiredBranch,
) -> Result<(TxId, BranchKey), Status> {
    use v1::inquired_branch::Branch;
    let v1::InquiredBranch { tx_id, branch } = branch;
    let at = |name: &str| format!("{field}.{name}");
    let tx_id = named(&at("tx_id"), TxId::parse(tx_id)).map_err(invalid)?;
    let branch_number = match branch {
        Some(Branch::BranchId(id)) => {
            return Ok((tx_id, BranchKey::Id(branch_id(&at("branch_id"), id)?)));
        }
        Some(Branch::BranchNumber(number)) => *number,
        None => {
            let rule = "must be branch_id or branch_number";
            return Err(invalid(Violation::new(at("branch"), rule)));
        }
    };
    let number = u16::try_from(branch_number).ok().and_then(BranchNumber::new);
    let rule = format!("must be 1 to {}, is {branch_number}", u16::MAX);
    let number = number.ok_or_else(|| invalid(Violation::new(at("branch_number"), rule)))?;
    Ok((tx_id, BranchKey::Number(number)))
}

/// The name under which a participant registers.
pub(super) fn participant(text: &str, names: Names<'_>) -> Result<ParticipantName, Status> {
    if text == own::NAME {
        return Err(invalid(Violation::new("participant", own::RESERVED)));
    }
    named("participant", names.participant(text)).map_err(invalid)
}

/// The name of a participant that asks, or is asked for.
pub(super) fn known_participant(text: &str, names: Names<'_>) -> Result<ParticipantName, Status> {
    named("participant", names.known_participant(text)).map_err(invalid)
}

/// A life of a participant's process.
pub(super) fn instance(text: &str) -> Result<String, Status> {
    let checked = ids::check_alphabet(text, ids::NAME_BYTES_MAX);
    named("instance_id", checked).map_err(invalid)?;
    Ok(text.to_owned())
}

/// The version after which a page of a history begins.
pub(super) fn version_token(token: &str) -> Result<Version, Status> {
    match token {
        "" => Ok(Version::default()),
        // As it was told, and not otherwise.
        token if token.starts_with(|first: char| matches!(first, '1'..='9')) => {
            token.parse().map(Version).map_err(|_| bad_page_token())
        }
        _ => Err(bad_page_token()),
    }
}

/// Makes the error of a page that goes on from no earlier one.
pub(super) fn bad_page_token() -> Status {
    let rule = "must be the next_page_token of an earlier page";
    invalid(Violation::new("page_token", rule))
}

/// A mode; `None` for UNSPECIFIED.
fn mode(field: &str, mode: i32) -> Result<Option<Mode>, Status> {
    match v1::Mode::try_from(mode) {
        Ok(v1::Mode::Unspecified) => Ok(None),
        Ok(v1::Mode::TwoPhaseCommit) => Ok(Some(Mode::TwoPhaseCommit)),
        Ok(v1::Mode::Tcc) => Ok(Some(Mode::Tcc)),
        Ok(v1::Mode::Saga) => Ok(Some(Mode::Saga)),
        Err(_) => Err(bad_mode(field)),
    }
}

/// A mode that a filter names.
pub(super) fn known_mode(field: &str, number: i32) -> Result<Mode, Status> {
    mode(field, number)?.ok_or_else(|| bad_mode(field))
}

fn bad_mode(field: &str) -> Status {
    invalid(Violation::new(field, "must be MODE_TWO_PHASE_COMMIT, MODE_TCC or MODE_SAGA"))
}

/// A branch of a transaction that the request names.
pub(super) fn one_branch(
    spec: Option<v1::BranchSpec>,
    reading: Reading<'_>,
) -> Result<Read, Status> {
    let given = spec.ok_or_else(|| invalid(Violation::new("branch", "must be given")))?;
    // Its number is not known yet.
    branch::one("branch", given, BranchNumber::from_index(0), reading)
}

/// Fields that Submit and Begin have in common.
#[derive(Debug)]
pub(super) struct Definable {
    pub(super) gid: String,
    pub(super) mode: i32,
    pub(super) drive: Drive,
    pub(super) branches: Vec<v1::BranchSpec>,
    pub(super) timeout: Option<prost_types::Duration>,
    pub(super) metadata: HashMap<String, String>,
    pub(super) start_at: Option<prost_types::Timestamp>,
    pub(super) start_delay: Option<prost_types::Duration>,
    pub(super) locks: Vec<v1::Lock>,
    pub(super) initiator: String,
}

/// A definition; its own rules are checked by the engine, after it has looked whether it knows the
/// gid.
pub(super) fn definition(
    request: Definable,
    headers: &MetadataMap,
    reading: Reading<'_>,
) -> Result<Definition, Status> {
    let Definable { gid, mode, drive, branches, timeout, metadata, .. } = request;
    let gid = self::gid(&gid, reading.names)?;
    let mode = self::mode("mode", mode)?.ok_or_else(|| bad_mode("mode"))?;
    let (branches, children) = branch::all("branches", branches, mode, reading)?;
    Ok(Definition {
        gid,
        mode,
        drive,
        branches,
        timeout: duration("timeout", timeout)?,
        start: start(request.start_at, request.start_delay, reading)?,
        locks: step::locks("locks", &request.locks, reading.names)?,
        parent: None,
        children,
        metadata: metadata.into_iter().collect(),
        trace: trace(headers),
        initiator: request.initiator,
    })
}

fn start(
    at: Option<prost_types::Timestamp>,
    delay: Option<prost_types::Duration>,
    reading: Reading<'_>,
) -> Result<Start, Status> {
    let at = step::start_at("start_at", at, reading.now, reading.limits)?;
    match (at, duration("start_delay", delay)?) {
        (None, None) => Ok(Start::AtOnce),
        (Some(at), None) => Ok(Start::At(at)),
        (None, Some(delay)) => Ok(Start::After(delay)),
        (Some(_), Some(_)) => {
            let rule = "must not be set together with start_at";
            Err(invalid(Violation::new("start_delay", rule)))
        }
    }
}

fn duration(
    field: &str,
    duration: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Status> {
    let read = |duration| {
        let rule = "must be a positive duration";
        wire::duration_from_wire(duration).ok_or_else(|| invalid(Violation::new(field, rule)))
    };
    duration.map(read).transpose()
}

/// W3C asks to ignore a trace context that is malformed, not to fail for it.
fn trace(headers: &MetadataMap) -> TraceContext {
    let header = |name| {
        let value = headers.get(name)?.to_str().ok()?;
        (value.len() <= TRACE_BYTES_MAX).then(|| value.to_owned())
    };
    TraceContext { traceparent: header("traceparent"), tracestate: header("tracestate") }
}

/// The state to wait for; by default the decision.
pub(super) fn wait_for(wait_for: i32) -> Result<Until, Status> {
    wait_for_or(wait_for, Until::Decided)
}

/// The state to wait for, with the rpc's own default.
pub(super) fn wait_for_or(wait_for: i32, default: Until) -> Result<Until, Status> {
    match v1::WaitFor::try_from(wait_for) {
        Ok(v1::WaitFor::Unspecified) => Ok(default),
        Ok(v1::WaitFor::Accepted) => Ok(Until::Durable),
        Ok(v1::WaitFor::Decided) => Ok(Until::Decided),
        Ok(v1::WaitFor::Ended) => Ok(Until::Ended),
        Err(_) => {
            let rule = "must be WAIT_FOR_ACCEPTED, WAIT_FOR_DECIDED or WAIT_FOR_ENDED";
            Err(invalid(Violation::new("wait_for", rule)))
        }
    }
}

/// A state by which transactions are listed.
pub(super) fn phase(field: &str, state: i32) -> Result<PhaseName, Status> {
    match v1::TransactionState::try_from(state) {
        Ok(v1::TransactionState::Scheduled) => Ok(PhaseName::Scheduled),
        Ok(v1::TransactionState::Active) => Ok(PhaseName::Active),
        Ok(v1::TransactionState::InDoubt) => Ok(PhaseName::InDoubt),
        Ok(v1::TransactionState::Committing) => Ok(PhaseName::Committing),
        Ok(v1::TransactionState::Aborting) => Ok(PhaseName::Aborting),
        Ok(v1::TransactionState::Committed) => Ok(PhaseName::Committed),
        Ok(v1::TransactionState::Aborted) => Ok(PhaseName::Aborted),
        Ok(v1::TransactionState::Unspecified) | Err(_) => {
            Err(invalid(Violation::new(field, "must be a TransactionState of this version")))
        }
    }
}

pub(super) fn vote(field: &str, vote: i32) -> Result<Option<Vote>, Status> {
    match v1::Vote::try_from(vote) {
        Ok(v1::Vote::Unspecified) => Ok(None),
        Ok(v1::Vote::Prepared) => Ok(Some(Vote::Prepared)),
        Ok(v1::Vote::ReadOnly) => Ok(Some(Vote::ReadOnly)),
        Ok(v1::Vote::Refused) => Ok(Some(Vote::Refused)),
        Err(_) => Err(invalid(Violation::new(field, "must be a Vote of this version"))),
    }
}

pub(super) fn time(
    field: &str,
    at: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Status> {
    let Some(at) = at else { return Ok(None) };
    let ms = i128::from(at.seconds) * 1000 + i128::from(at.nanos) / 1_000_000;
    let in_range = u64::try_from(ms).ok().filter(|ms| *ms <= i64::MAX as u64);
    match in_range {
        Some(ms) => Ok(Some(Timestamp(ms))),
        None => Err(invalid(Violation::new(field, "must not be before 1970"))),
    }
}

/// A text of at most so many bytes without NUL; empty only if that is allowed.
pub(super) fn text(field: &str, text: &str, max: usize, empty: bool) -> Result<(), Status> {
    let found = text.len();
    let rule = match found {
        0 if !empty => "must not be empty".to_owned(),
        _ if found > max => format!("must be at most {max} bytes, has {found}"),
        _ if text.contains('\0') => "must hold no NUL byte".to_owned(),
        _ => return Ok(()),
    };
    Err(invalid(Violation::new(field, rule)))
}
