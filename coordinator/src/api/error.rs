//! Errors on the wire. The only place that makes a `tonic::Status`.
//!
//! Each has a stable reason in `google.rpc.ErrorInfo`, which also says whether the same request may
//! be sent again; `google.rpc.BadRequest` names each bad field, and `google.rpc.RetryInfo` says when
//! to come back. docs/reference/errors.md is made from [`TABLE`].

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use unanimo_core::{Mode, Outcome, Rejection, Violation};

use crate::participants::{allow, directory};
use crate::{engine, store};

/// Domain of every reason.
pub const DOMAIN: &str = "unanimo";

/// When to come back after an overload, or while something is on its way.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A reason, as documented.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The reason.
    pub name: &'static str,
    /// The gRPC status code that it comes with.
    pub code: Code,
    /// Whether the same request may succeed when it is sent again.
    pub retryable: bool,
    /// What it means, and what to do.
    pub help: &'static str,
}

macro_rules! reasons {
    ($($reason:ident = $name:literal, $code:ident, $retry:ident, $help:literal;)*) => {
        /// Why a request was not served.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Reason { $($reason,)* }

        /// Every reason.
        pub const TABLE: &[Described] = &[$(Described {
            name: $name,
            code: Code::$code,
            retryable: reasons!(@$retry),
            help: $help,
        },)*];

        impl Reason {
            fn described(self) -> &'static Described {
                &TABLE[self as usize]
            }
        }
    };
    (@retry) => { true };
    (@final) => { false };
}

reasons! {
    FieldInvalid = "FIELD_INVALID", InvalidArgument, final,
        "A field breaks a rule, or names something that does not exist. `BadRequest` names each field and rule. Correct the request.";
    ModeUnimplemented = "MODE_UNIMPLEMENTED", Unimplemented, final,
        "The mode is reserved, or a branch has another mode than its transaction; this version serves neither. The message names the field.";
    GidReused = "GID_REUSED", AlreadyExists, final,
        "The gid names another transaction: another mode, other branches, or begun the other way. The first request stands: ask for it by GetTransaction, or send the same bytes again. `tx_id` in the metadata names its transaction, and `outcome` is `committed` or `aborted` once that is decided.";
    BranchReused = "BRANCH_REUSED", AlreadyExists, final,
        "The branch id names a branch with other content.";
    TransactionClosed = "TRANSACTION_CLOSED", FailedPrecondition, final,
        "The transaction is decided, or asked to commit: it takes no more branches.";
    NotInteractive = "TRANSACTION_NOT_INTERACTIVE", FailedPrecondition, final,
        "The transaction was submitted with all its branches: it takes no others and commits by itself.";
    NothingToResolve = "NOTHING_TO_RESOLVE", FailedPrecondition, final,
        "The branch is not owed a commit or cancel.";
    NothingToForget = "NOTHING_TO_FORGET", FailedPrecondition, final,
        "The transaction has not ended, is not heuristic, or was forgotten before.";
    Stripped = "TRANSACTION_STRIPPED", FailedPrecondition, final,
        "The transaction has ended and its details were purged; its outcome can still be read.";
    NeverSeen = "TRANSACTION_NEVER_SEEN", NotFound, final,
        "No transaction of this name ever reached this database.";
    Purged = "TRANSACTION_PURGED", NotFound, final,
        "The transaction ended so long ago that its outcome was deleted.";
    OtherCluster = "OTHER_CLUSTER", FailedPrecondition, final,
        "The branches that an Inquire asks for belong to another coordinator's database; `cluster_id` in the metadata names the one that was asked. Nothing can be told of them.";
    EndpointNotAllowed = "ENDPOINT_NOT_ALLOWED", PermissionDenied, final,
        "No pattern of the coordinator's `endpoint-allow` list matches the endpoint.";
    ParticipantGone = "PARTICIPANT_GONE", Unavailable, retry,
        "A branch names a participant that is known and not alive. Nothing was stored.";
    Overloaded = "OVERLOADED", ResourceExhausted, retry,
        "Too much is in flight. Nothing was stored. Come back after the delay in `RetryInfo`.";
    Draining = "DRAINING", Unavailable, retry,
        "The coordinator is stopping. Nothing was stored.";
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable, retry,
        "The coordinator's database does not answer. What was asked for may or may not have happened; ask again under the same gid or ids.";
    Moving = "TRANSACTION_MOVING", Unavailable, retry,
        "The transaction is on its way between owners, or something of it is not durable yet.";
    Stopped = "STOPPED", Unavailable, retry,
        "The coordinator has stopped. What was asked for may or may not have happened; ask again under the same gid or ids.";
    StoreRefused = "STORE_REFUSED", Internal, final,
        "The database refuses to store the transaction. A fault of ours: please report it.";
}

impl Reason {
    fn status(self, message: impl std::fmt::Display) -> Status {
        self.status_with(message, &[], &[])
    }

    fn status_with(
        self,
        message: impl std::fmt::Display,
        violations: &[Violation],
        metadata: &[(&str, String)],
    ) -> Status {
        let Described { name, code, retryable, .. } = *self.described();
        let mut info: HashMap<String, String> =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        info.insert("retryable".to_owned(), retryable.to_string());
        let mut details = ErrorDetails::with_error_info(name, DOMAIN, info);
        if !violations.is_empty() {
            let fields = violations.iter().map(|v| FieldViolation::new(&v.field, &v.rule));
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        if retryable {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        Status::with_error_details(code, message.to_string(), details)
    }
}

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

/// The mode is reserved.
pub(super) fn unimplemented_mode(field: &str) -> Status {
    let message = format!("{field} must not be MODE_SAGA: it is not served by this version");
    Reason::ModeUnimplemented.status(message)
}

/// Branches of several modes are for later versions.
pub(super) fn other_mode(field: &str, of_transaction: Mode) -> Status {
    let name = of_transaction.name();
    let message = format!("{field} must be the mode of the transaction, {name}, in this version");
    Reason::ModeUnimplemented.status(message)
}

/// A coordinator knows nothing of another one's branches.
pub(super) fn other_cluster(asked: &str, own: &str) -> Status {
    let message = format!("this coordinator's database is {own}, the branches belong to {asked}");
    Reason::OtherCluster.status_with(message, &[], &[("cluster_id", own.to_owned())])
}

/// The engine's errors. Everything that is `UNAVAILABLE` or `RESOURCE_EXHAUSTED` may be sent again
/// as it was; nothing else gets better by it.
pub(super) fn from_engine(error: engine::Error) -> Status {
    use engine::Error;
    match error {
        Error::Invalid(violations) => match &violations[..] {
            [one] => invalid(one.clone()),
            several => {
                let lines: Vec<String> = several.iter().map(Violation::to_string).collect();
                Reason::FieldInvalid.status_with(lines.join("; "), several, &[])
            }
        },
        Error::Rejected(rejection) => from_rejection(rejection),
        Error::GidReused { tx_id, outcome } => {
            let mut metadata = vec![("tx_id", tx_id.to_string())];
            let outcome = outcome.and_then(outcome_name);
            metadata.extend(outcome.map(|name| ("outcome", name.to_owned())));
            Reason::GidReused.status_with(&error, &[], &metadata)
        }
        Error::Participant(directory::Error::Unknown(_)) => {
            invalid(Violation::new("participant", format!("must be known: {error}")))
        }
        Error::Participant(directory::Error::Gone(_)) => Reason::ParticipantGone.status(error),
        Error::Overloaded(_) => Reason::Overloaded.status(error),
        Error::Draining => Reason::Draining.status(error),
        Error::NeverSeen | Error::UnknownGid => Reason::NeverSeen.status(error),
        Error::Purged => Reason::Purged.status(error),
        Error::Stripped => Reason::Stripped.status(error),
        Error::Store(ref source) => {
            tracing::warn!(error = %source, "the store did not answer a request");
            Reason::StoreUnavailable.status(error)
        }
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
        Rejection::UnknownBranch(number) => {
            let rule = format!("must name a branch of the transaction, {number} is none");
            return invalid(Violation::new("branch_id", rule));
        }
        Rejection::OtherMode(_) => Reason::ModeUnimplemented,
        Rejection::BranchReused(_) => Reason::BranchReused,
        Rejection::Closed => Reason::TransactionClosed,
        Rejection::NotInteractive => Reason::NotInteractive,
        Rejection::NothingToResolve(_) => Reason::NothingToResolve,
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

/// An endpoint that cannot be registered.
pub(super) fn from_endpoint(error: allow::Error) -> Status {
    match error {
        allow::Error::Invalid(violation) => invalid(violation),
        error @ allow::Error::NotAllowed(_) => Reason::EndpointNotAllowed.status(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_reason_its_fields_and_whether_to_retry() {
        let violations =
            vec![Violation::new("gid", "must not be empty"), Violation::new("timeout", "is odd")];
        let status = from_engine(engine::Error::Invalid(violations));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "gid must not be empty; timeout is odd");
        let details = status.get_error_details();
        let info = details.error_info().expect("every error has it");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("FIELD_INVALID", "unanimo"));
        assert_eq!(info.metadata["retryable"], "false");
        let fields = &details.bad_request().expect("fields").field_violations;
        assert_eq!((&*fields[1].field, &*fields[1].description), ("timeout", "is odd"));
        assert!(details.retry_info().is_none());

        let status = from_engine(engine::Error::Draining);
        let details = status.get_error_details();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(details.error_info().expect("it").metadata["retryable"], "true");
        assert!(details.retry_info().is_some());
    }
}
