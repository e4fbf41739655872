//! Errors on the wire. The only place that makes a `tonic::Status`.
//!
//! Each has a stable reason in `google.rpc.ErrorInfo`, which also says whether the same request may
//! be sent again, and whether this one may have changed something; `google.rpc.BadRequest` names each
//! bad field, and `google.rpc.RetryInfo` says when to come back.

mod held;
mod reasons;
mod shares;
#[cfg(test)]
mod tests;

use tonic::{Code, Status};
use unanimo_core::{
    AbortCause, BranchId, Decision, Mode, Outcome, ParticipantName, Rejection, Transaction, TxId,
    Violation,
};

pub(super) use self::held::still_held;
pub(super) use self::reasons::Reason;
pub use self::reasons::{DOMAIN, Described, Effect, TABLE};
pub(super) use self::reasons::{
    issuer_unavailable, no_webhook, revision_unknown, too_many_others, too_many_streams,
    too_many_tests,
};
use self::shares::over_quota;
pub(super) use self::shares::{
    one_too_many, over_quota_of_another, too_many_calls_of, too_many_turns,
};
use super::convert;
use super::rpc::Rpc;
use crate::audit::Unwritten;
use crate::identity::{Caller, Role};
use crate::lines::Lines;
use crate::participants::allow;
use crate::participants::databases::Other;
use crate::participants::directory::{
    self, ENDPOINTS_MAX, INSTANCES_TOTAL_MAX, NamesBound, REGISTRATIONS_BYTES_MAX,
};
use crate::{engine, store};

/// A code's name as the gRPC specification spells it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// One field breaks one rule.
#[expect(clippy::needless_pass_by_value, reason = "callers make it for this")]
pub(super) fn invalid(violation: Violation) -> Status {
    Reason::FieldInvalid.status_with(&violation, std::slice::from_ref(&violation), &[])
}

/// Only a saga has branches of several modes.
pub(super) fn other_mode(field: &str, of_transaction: Mode) -> Status {
    let name = of_transaction.name();
    let message = format!(
        "{field} must be the mode of the transaction, {name}: only a saga has branches of others"
    );
    Reason::ModeUnimplemented.status(message)
}

/// The request demands features that nobody here knows.
pub(super) fn unsupported(unknown: &[&str]) -> Status {
    let message = format!("this coordinator does not know the feature(s) {}", unknown.join(", "));
    let first = unknown.first().map(|name| ("feature", (*name).to_owned()));
    Reason::FeatureUnsupported.status_with(message, &[], first.as_slice())
}

/// The call ran out while the transaction waited for its locks.
pub(super) fn waits_for_locks(tx_id: TxId) -> Status {
    Reason::Moving
        .status(format!("transaction {tx_id} waits for its locks: send the request again"))
}

/// The branch of an Enlist was stored, and its transaction decided before the answer.
pub(super) fn enlisted_and_decided(tx: &Transaction, id: &BranchId) -> Status {
    let mut metadata = vec![("tx_id", tx.tx_id().to_string())];
    metadata.extend(outcome_name(tx.outcome()).map(|name| ("outcome", name.to_owned())));
    let decision = match tx.phase().decision() {
        Some(Decision::Abort(cause)) => {
            let name = convert::abort_cause(tx.phase()).as_str_name();
            let name = name.trim_start_matches("ABORT_CAUSE_").to_lowercase();
            let unlisted = match cause {
                AbortCause::Unlisted(number) => tx.branch(number),
                _ => None,
            };
            let why = match unlisted {
                Some(branch) => format!("Commit did not list branch {}", branch.spec.branch_id),
                None => name.clone(),
            };
            metadata.push(("abort_cause", name));
            format!("aborted ({why})")
        }
        _ => "committed".to_owned(),
    };
    let message = format!(
        "branch {id} is enlisted and counts, and the transaction was {decision} before this answer: \
         its participant must not be called"
    );
    Reason::Decided.status_with(message, &[], &metadata)
}

/// No history was recorded.
pub(super) fn no_history(tx_id: TxId) -> Status {
    Reason::NoHistory.status(format!("no history of transaction {tx_id} was recorded"))
}

/// A request cannot be received as long as others are.
pub(super) fn too_many_uploads(message: impl std::fmt::Display) -> Status {
    Reason::Overloaded.status(message)
}

/// A call would wait, and so many do that one more has no room.
pub(super) fn too_many_calls(max: usize) -> Status {
    Reason::Overloaded.status(format_args!(
        "too much is in flight: there are {max} calls under way that wait, which is as many as may be (live-bytes-max)"
    ))
}

/// All other connections are taken.
pub(super) fn for_operators_only() -> Status {
    Reason::Overloaded.status(
        "there are as many connections, or from one address, as may be (connections-max): this one serves calls of \
         operators alone, and not for long",
    )
}

/// An answer cannot be handed over as long as others are not read. Its call may have done what it was to do.
pub(super) fn too_many_unread(message: impl std::fmt::Display) -> Status {
    Reason::AnswerNotSent.status(message)
}

/// All processes of a participant share one database.
pub(super) fn other_database(other: &Other) -> Status {
    let metadata =
        [("database_id", other.known.clone()), ("both_live", other.both_live.to_string())];
    Reason::OtherDatabase.status_with(other, &[], &metadata)
}

/// The branch of an Enlist was stored, and meanwhile a process with another database has registered.
pub(super) fn enlisted_elsewhere(other: &Other, id: &BranchId) -> Status {
    let message = format!(
        "branch {id} is enlisted and counts, and its participant must not be called: {other}"
    );
    let metadata = [("database_id", other.known.clone())];
    Reason::OtherDatabase.status_of_change(message, &metadata)
}

/// A coordinator knows nothing of another one's branches.
pub(super) fn other_cluster(asked: &str, own: &str) -> Status {
    let message = format!("this coordinator's database is {own}, the branches belong to {asked}");
    Reason::OtherCluster.status_with(message, &[], &[("cluster_id", own.to_owned())])
}

/// Lines about requests that the store did not answer: in an outage there is one for each request.
static UNANSWERED: Lines = Lines::readable();

/// The engine's errors. Everything that is `UNAVAILABLE` or `RESOURCE_EXHAUSTED` may be sent again
/// as it was; nothing else gets better by it.
pub(super) fn from_engine(error: engine::Error) -> Status {
    use engine::Error;
    match error {
        Error::Invalid(violations) => Reason::FieldInvalid.status_of(&violations),
        Error::UnknownParticipants(violations) => Reason::ParticipantUnknown.status_of(&violations),
        Error::Rejected(rejection) => from_rejection(rejection),
        Error::GidReused { tx_id, outcome } => {
            let mut metadata = vec![("tx_id", tx_id.to_string())];
            let outcome = outcome.and_then(outcome_name);
            metadata.extend(outcome.map(|name| ("outcome", name.to_owned())));
            Reason::GidReused.status_with(&error, &[], &metadata)
        }
        Error::Participant(directory::Error::Unknown(_)) => {
            let violation = Violation::new("participant", format!("must be known: {error}"));
            Reason::ParticipantUnknown.status_of(&[violation])
        }
        Error::Participant(directory::Error::NotYet(_)) => Reason::ParticipantNotYet.status(error),
        Error::Participant(directory::Error::Gone(_)) => Reason::ParticipantGone.status(error),
        Error::Participant(directory::Error::Failing { .. }) => {
            Reason::ParticipantFailing.status(error)
        }
        Error::Overloaded(_) => Reason::Overloaded.status(error),
        Error::OverQuota(over) => over_quota(&over),
        Error::NotCounted(_) => Reason::QuotaNotCounted.status(error),
        Error::Draining => Reason::Draining.status(error),
        Error::NeverSeen => Reason::NeverSeen.status(error),
        Error::Purged => Reason::Purged.status(error),
        Error::UnknownGid => Reason::GidUnknown.status(error),
        Error::Stripped => Reason::Stripped.status(error),
        Error::Store(ref source) => {
            if let Some(left_out) = UNANSWERED.take() {
                tracing::warn!(
                    error = store::in_full(&**source),
                    left_out,
                    "the store did not answer a request"
                );
            }
            Reason::StoreUnavailable.status(error)
        }
        Error::StoreSilent => {
            if let Some(left_out) = UNANSWERED.take() {
                tracing::warn!(
                    left_out,
                    "the coordinator's database did not answer a request in time"
                );
            }
            Reason::StoreUnavailable.status(error)
        }
        Error::Unreadable(_) => Reason::Unreadable.status(error),
        Error::Refused(_) => Reason::StoreRefused.status(error),
        Error::Moving => Reason::Moving.status(error),
        Error::Stopped => Reason::Stopped.status(error),
    }
}

/// A decided outcome, in one word.
fn outcome_name(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Committed => Some("committed"),
        Outcome::Aborted => Some("aborted"),
        Outcome::NotDecided => None,
    }
}

fn from_rejection(rejection: Rejection) -> Status {
    let reason = match rejection {
        Rejection::Invalid(violation) => return invalid(violation),
        Rejection::NoBranch(violation) => return Reason::BranchUnknown.status_of(&[violation]),
        Rejection::UnknownBranch(number) => {
            let rule = format!("must name a branch of the transaction, {number} is none");
            return Reason::BranchUnknown.status_of(&[Violation::new("branch_id", rule)]);
        }
        Rejection::OtherMode(_) => Reason::ModeUnimplemented,
        Rejection::BranchReused(_) => Reason::BranchReused,
        Rejection::CommitReused => Reason::CommitReused,
        Rejection::Closed => Reason::TransactionClosed,
        Rejection::NotInteractive => Reason::NotInteractive,
        Rejection::NothingToResolve(..) | Rejection::ResolvedOtherwise(..) => {
            Reason::NothingToResolve
        }
        Rejection::ParentDecides | Rejection::NotVoted | Rejection::NoParent => {
            Reason::ParentDecides
        }
        Rejection::NothingToForget => Reason::NothingToForget,
    };
    reason.status(rejection)
}

/// The store's errors, where a request meets them without the engine.
pub(super) fn from_store(error: store::Error) -> Status {
    match error {
        store::Error::Fenced(_) => Reason::Stopped.status(engine::Error::Stopped),
        error => from_engine(error.into()),
    }
}

/// An act is not carried out unless it is audited.
#[expect(clippy::needless_pass_by_value, reason = "callers make it for this")]
pub(super) fn not_audited(unwritten: Unwritten) -> Status {
    Reason::AuditNotWritten.status(format!("failed to {unwritten}: the act was not carried out"))
}

/// An act takes a place until its outcome is audited.
pub(super) fn too_many_acts(max: u32) -> Status {
    Reason::Overloaded.status(format!(
        "{max} acts of operators are under way, and may be no more: the act was not carried out"
    ))
}

/// The participant has as many endpoints as it may have, and all of them are alive.
pub(super) fn too_many_endpoints(name: &ParticipantName) -> Status {
    let message = format!(
        "participant {} has {ENDPOINTS_MAX} endpoints that are alive, and may have no more",
        name.local()
    );
    Reason::Overloaded.status(message)
}

/// As many instances are kept as may be, of all participants together.
pub(super) fn too_many_instances() -> Status {
    let mib = REGISTRATIONS_BYTES_MAX >> 20;
    Reason::Overloaded.status(format!(
        "as many instances are registered as may be: {INSTANCES_TOTAL_MAX}, or {mib} MiB of what they state"
    ))
}

/// As many names are kept as may be, and none of them is long gone.
pub(super) fn too_many_participants(bound: NamesBound) -> Status {
    let (max, of, setting) = match bound {
        NamesBound::All(max) => (max, "", "participants-max"),
        NamesBound::OfNamespace(max) => (max, " of the namespace", "participants-per-namespace"),
    };
    let rule = format!(
        "would be one more than {max} participants{of}, and none of them is long gone: see {setting}"
    );
    let violation = Violation::new("participant", rule);
    Reason::Overloaded.status_with(&violation, std::slice::from_ref(&violation), &[])
}

/// Makes the error of a call of which nobody knows who makes it.
pub(super) fn unauthenticated(why: &str) -> Status {
    Reason::Unauthenticated.status(why)
}

/// Makes the error of a gid under which another initiator has begun a transaction: nothing of that is told.
pub(super) fn gid_of_another() -> Status {
    Reason::GidReused.status("the gid is in use for a transaction of another initiator")
}

/// Makes the error of a call that its caller may not make.
pub(super) fn denied(why: String) -> Status {
    Reason::Denied.status(why)
}

/// Makes the error of a call for which its caller has no role.
pub(super) fn no_role(caller: &Caller, rpc: Rpc) -> Status {
    let message = format!("{} may not call {}: {}", caller.name(), rpc.name(), lacks(caller, rpc));
    Reason::Denied.status_with(message, &[], &[("roles", listed(rpc.roles()))])
}

/// Makes the error of a stream for which its caller has no role any more.
pub(super) fn no_role_any_more(caller: &Caller, rpc: Rpc) -> Status {
    denied(format!("{} may not read on: {}", caller.name(), lacks(caller, rpc)))
}

/// Tells which role a call needs, and which the caller has.
fn lacks(caller: &Caller, rpc: Rpc) -> String {
    let roles = caller.roles();
    let has: &str = if roles.is_empty() { "none" } else { &roles.replace(',', " and ") };
    format!("that needs the role {}, and it has {has}", listed(rpc.roles()))
}

/// Names roles of which one is enough.
fn listed(roles: &[Role]) -> String {
    let names: Vec<_> = roles.iter().map(|role| role.name()).collect();
    match names.as_slice() {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        names => names.concat(),
    }
}

/// Makes the error of an endpoint that cannot be registered.
pub(super) fn from_endpoint(error: allow::Error) -> Status {
    match error {
        allow::Error::Invalid(violation) => invalid(violation),
        error @ (allow::Error::NotAllowed(_) | allow::Error::Plaintext(_)) => {
            Reason::EndpointNotAllowed.status(error)
        }
    }
}
