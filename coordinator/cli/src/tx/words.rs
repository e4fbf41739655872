//! Words for the contract's values: lower case, the same for operators and in JSON.

use jiff::Timestamp;
use unanimo_core::Mode;
use unanimo_proto::v1;

/// Strips the prefix of its type from a value's name; `None` if the value is unspecified.
fn word(name: &str, prefix: &str) -> Option<String> {
    let bare = name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase();
    (bare != "unspecified").then_some(bare)
}

/// Returns the name of a mode as it travels: the core's, and one for each mode of the contract that
/// this core does not serve. The tombstone of a rollback by gid has none.
pub(crate) fn mode(mode: i32) -> &'static str {
    match v1::Mode::try_from(mode) {
        Ok(v1::Mode::TwoPhaseCommit) => Mode::TwoPhaseCommit.name(),
        Ok(v1::Mode::Tcc) => Mode::Tcc.name(),
        Ok(v1::Mode::Saga) => Mode::Saga.name(),
        Ok(v1::Mode::Unspecified) => "none",
        Err(_) => "unknown",
    }
}

/// Returns the word, or "unknown" for a value of a later version.
fn known(word: Option<String>) -> String {
    word.unwrap_or_else(|| "unknown".to_owned())
}

pub(crate) fn state(state: v1::TransactionState) -> String {
    known(word(state.as_str_name(), "TRANSACTION_STATE_"))
}

pub(super) fn outcome(outcome: v1::Outcome) -> String {
    known(word(outcome.as_str_name(), "OUTCOME_"))
}

pub(super) fn heuristic(heuristic: v1::Heuristic) -> String {
    known(word(heuristic.as_str_name(), "HEURISTIC_"))
}

/// Tells whether a branch has ended against the decision, or may have. A value of a later version is no less.
pub(super) fn deviates(heuristic: i32) -> bool {
    ![v1::Heuristic::None, v1::Heuristic::Unspecified].map(i32::from).contains(&heuristic)
}

pub(super) fn branch_state(state: v1::BranchState) -> String {
    known(word(state.as_str_name(), "BRANCH_STATE_"))
}

pub(super) fn wait_cause(cause: v1::WaitCause) -> String {
    known(word(cause.as_str_name(), "WAIT_CAUSE_"))
}

pub(super) fn abort_cause(cause: v1::AbortCause) -> Option<String> {
    word(cause.as_str_name(), "ABORT_CAUSE_")
}

/// Returns the name of a compensation, which is never left out.
pub(super) fn compensation(compensation: v1::Compensation) -> String {
    match compensation {
        v1::Compensation::Unspecified => "compensate".to_owned(),
        known => word(known.as_str_name(), "COMPENSATION_").unwrap_or_default(),
    }
}

/// Returns the name of a lock's mode, which is never left out.
pub(super) fn lock_mode(mode: v1::LockMode) -> &'static str {
    match mode {
        v1::LockMode::Shared => "shared",
        v1::LockMode::Exclusive | v1::LockMode::Unspecified => "exclusive",
    }
}

pub(super) fn vote(vote: v1::Vote) -> Option<String> {
    word(vote.as_str_name(), "VOTE_")
}

/// Tells the cause of an ABORT, and its detail; empty if there is none.
pub(super) fn why_aborted(cause: v1::AbortCause, branch: &str, detail: &str) -> String {
    let why = cause_of(cause, branch);
    if detail.is_empty() { why } else { format!("{why}: {detail}") }
}

fn cause_of(cause: v1::AbortCause, branch: &str) -> String {
    let of = if branch.is_empty() { "a branch".to_owned() } else { format!("branch {branch}") };
    match cause {
        v1::AbortCause::Unspecified => String::new(),
        v1::AbortCause::Refused => format!("{of} refused"),
        v1::AbortCause::Deadline => "the deadline passed".to_owned(),
        v1::AbortCause::Rollback => "the initiator asked for it".to_owned(),
        v1::AbortCause::Unlisted => format!("Commit did not list {of}"),
        v1::AbortCause::NoVote => format!("Commit listed {of} without its vote"),
        v1::AbortCause::OutputDropped => {
            format!("the output of {of} is over a limit, and another branch needs it")
        }
        v1::AbortCause::GaveUp => {
            format!("{of} used up the attempts or the time of its retry policy")
        }
        v1::AbortCause::Locked => "a lock was not had in time".to_owned(),
        v1::AbortCause::Parent => "the parent decided it".to_owned(),
    }
}

/// Formats a time as RFC 3339 in UTC, to the millisecond.
pub(crate) fn time(at: prost_types::Timestamp) -> String {
    match Timestamp::new(at.seconds, at.nanos) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => format!("{} s after 1970", at.seconds),
    }
}

/// Formats a time as RFC 3339 in UTC, to the second, for lists.
pub(crate) fn time_to_the_second(at: prost_types::Timestamp) -> String {
    time(prost_types::Timestamp { nanos: 0, ..at }).replace(".000Z", "Z")
}

/// Formats the time between two moments, if both are known.
pub(crate) fn between(
    from: Option<prost_types::Timestamp>,
    to: Option<prost_types::Timestamp>,
) -> Option<String> {
    let moment = |at: prost_types::Timestamp| Timestamp::new(at.seconds, at.nanos).ok();
    let (from, to) = (moment(from?)?, moment(to?)?);
    Some(format!("{:#}", from.duration_until(to)))
}

/// Returns a duration in milliseconds, to the microsecond.
pub(crate) fn millis(of: prost_types::Duration) -> f64 {
    let micros = of.seconds.saturating_mul(1_000_000).saturating_add(i64::from(of.nanos) / 1_000);
    f64::from(u32::try_from(micros / 1_000).unwrap_or(u32::MAX))
        + f64::from(u16::try_from(micros.rem_euclid(1_000)).unwrap_or_default()) / 1e3
}

/// Formats a time that something took, in the unit that suits it.
pub(crate) fn took(millis: f64) -> String {
    let secs = millis / 1e3;
    match secs {
        ..1.0 => format!("{millis:.1} ms"),
        ..60.0 => format!("{secs:.1} s"),
        ..3600.0 => format!("{:.1} min", secs / 60.0),
        _ => format!("{:.1} h", secs / 3600.0),
    }
}

/// Formats the size of a payload or output in bytes; empty if there is none.
pub(super) fn size(payload: Option<&v1::Payload>, dropped: bool) -> String {
    match payload.map_or(0, |payload| payload.data.len()) {
        _ if dropped => "dropped".to_owned(),
        0 => String::new(),
        count => format!("{count}B"),
    }
}

/// Formats the size and the media type of a payload or output that the caller may not read; empty if there is none.
pub(super) fn hidden(hidden: Option<&v1::HiddenContent>) -> String {
    let Some(hidden) = hidden.filter(|hidden| hidden.byte_count > 0) else {
        return String::new();
    };
    let media_type = match hidden.media_type.as_str() {
        "" => String::new(),
        media_type => format!(" of {media_type}"),
    };
    format!("{}B{media_type}, hidden from you", hidden.byte_count)
}

/// Tells the reasons for which a transaction needs an operator; empty if it needs none.
pub(crate) fn attention(tx: &v1::Transaction) -> String {
    let heuristic = !matches!(tx.heuristic(), v1::Heuristic::None | v1::Heuristic::Unspecified);
    let reasons = [
        tx.stalled.then(|| match tx.alarms.is_empty() {
            true => "stalled".to_owned(),
            false => format!("stalled ({})", tx.alarms.join(", ")),
        }),
        heuristic.then(|| format!("heuristic {}", self::heuristic(tx.heuristic()))),
        (!tx.unreadable.is_empty()).then(|| format!("unreadable: failed to {}", tx.unreadable)),
    ];
    if !tx.attention {
        return String::new();
    }
    reasons.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
