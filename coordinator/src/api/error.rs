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

/// Most bytes of a status's message.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// Most bytes of a status as it travels: its message, and its details in base64, which hold the
/// message again. Clients bound the headers that they accept, some at 8 KiB, and a connection ends
/// where one is over it.
pub const STATUS_BYTES_MAX: usize = 4096;

/// Most bytes of a bad field's name, and of the rule that it breaks.
const FIELD_BYTES_MAX: usize = 256;

/// Most bytes of all bad fields and rules of a status.
const FIELDS_BYTES_MAX: usize = 640;

/// Most bytes of a value in a status's metadata.
const METADATA_BYTES_MAX: usize = 128;

/// Most bad fields that a status's message names.
const LINES_MAX: usize = 4;

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
        "A field breaks a rule. `BadRequest` names each field and rule; where there are many, the first ones. Correct the request.";
    ParticipantUnknown = "PARTICIPANT_UNKNOWN", InvalidArgument, final,
        "A branch names a participant that never registered and is not configured. `BadRequest` names each such branch. Correct the name, or start the participant.";
    BranchUnknown = "BRANCH_UNKNOWN", InvalidArgument, final,
        "The request names a branch that the transaction does not have. `BadRequest` names the field.";
    ModeUnimplemented = "MODE_UNIMPLEMENTED", Unimplemented, final,
        "The mode is reserved, or a branch has another mode than its transaction; this version serves neither. The message names the field.";
    FeatureUnsupported = "FEATURE_UNSUPPORTED", Unimplemented, final,
        "The request requires a feature that this coordinator does not know; `feature` in the metadata names the first one. Nothing was stored. [Features](features.md) lists those that are known.";
    GidReused = "GID_REUSED", AlreadyExists, final,
        "The gid names another transaction: another mode, other branches, or begun the other way. The first request stands: ask for it by GetTransaction, or send the same bytes. For other work choose a new gid. `tx_id` in the metadata names its transaction, and `outcome` is `committed` or `aborted` once that is decided.";
    BranchReused = "BRANCH_REUSED", AlreadyExists, final,
        "The branch id names a branch with other content. The first request stands.";
    CommitReused = "COMMIT_REUSED", AlreadyExists, final,
        "The transaction waits to commit, and CommitTransaction listed other branches or votes then. The first list stands: send it again to wait with it, or roll back.";
    TransactionClosed = "TRANSACTION_CLOSED", FailedPrecondition, final,
        "The transaction is decided, or asked to commit: it takes no more branches.";
    NotInteractive = "TRANSACTION_NOT_INTERACTIVE", FailedPrecondition, final,
        "The transaction was submitted with all its branches: it takes no others and commits by itself.";
    NothingToResolve = "NOTHING_TO_RESOLVE", FailedPrecondition, final,
        "The branch is not owed a commit or cancel, or an operator has resolved it otherwise before: that resolution stays, and the message names it.";
    NothingToForget = "NOTHING_TO_FORGET", FailedPrecondition, final,
        "The transaction has not ended, or is not heuristic.";
    Stripped = "TRANSACTION_STRIPPED", FailedPrecondition, final,
        "The transaction has ended and its details were purged; its outcome can still be read.";
    NeverSeen = "TRANSACTION_NEVER_SEEN", NotFound, final,
        "No transaction of this tx_id ever reached this database.";
    Purged = "TRANSACTION_PURGED", NotFound, final,
        "The transaction of this tx_id ended so long ago that its outcome was deleted.";
    GidUnknown = "GID_UNKNOWN", NotFound, final,
        "No transaction has this gid: it was never seen, or was purged after the gid retention, which GetServerInfo tells.";
    OtherCluster = "OTHER_CLUSTER", FailedPrecondition, final,
        "The branches of InquireBranches belong to another coordinator group; `cluster_id` in the metadata names the one that was asked. Nothing can be told of them.";
    EndpointNotAllowed = "ENDPOINT_NOT_ALLOWED", PermissionDenied, final,
        "No pattern of the coordinator's `endpoint-allow` list matches the endpoint.";
    ParticipantNotYet = "PARTICIPANT_NOT_REGISTERED_YET", Unavailable, retry,
        "A branch names a participant that nobody has registered yet, and the coordinator started less than three `keep-alive-interval`s ago. Nothing was stored. Later the same request is answered with PARTICIPANT_UNKNOWN.";
    ParticipantGone = "PARTICIPANT_GONE", Unavailable, retry,
        "A branch names a participant that is known and not alive. Nothing was stored.";
    Overloaded = "OVERLOADED", ResourceExhausted, retry,
        "Too much is in flight. Nothing was stored. Come back after the delay in `RetryInfo`.";
    Draining = "DRAINING", Unavailable, retry,
        "The coordinator is stopping. Nothing was stored.";
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable, retry,
        "The coordinator's database does not answer. What was asked for may or may not have happened; ask again under the same gid or ids.";
    Moving = "TRANSACTION_MOVING", Unavailable, retry,
        "The transaction is on its way between owners, or something of it is not durable yet. `owner` in the metadata, where it is known, is the address of the coordinator that has the transaction. A WatchTransaction that ends so goes on from the last revision.";
    Stopped = "STOPPED", Unavailable, retry,
        "The coordinator has stopped. What was asked for may or may not have happened; ask again under the same gid or ids. A WatchTransaction that ends so goes on from the last revision.";
    StoreRefused = "STORE_REFUSED", Internal, final,
        "The database refuses to store the transaction. A fault of ours: please report it.";
}

impl Reason {
    fn status(self, message: impl std::fmt::Display) -> Status {
        self.status_with(message, &[], &[])
    }

    /// Makes the status. Whatever it is made of, it stays below [`STATUS_BYTES_MAX`].
    fn status_with(
        self,
        message: impl std::fmt::Display,
        violations: &[Violation],
        metadata: &[(&str, String)],
    ) -> Status {
        let Described { name, code, retryable, .. } = *self.described();
        let mut info: HashMap<String, String> = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), bounded(value, METADATA_BYTES_MAX)))
            .collect();
        info.insert("retryable".to_owned(), retryable.to_string());
        let fields = first_fields(violations);
        if fields.len() < violations.len() {
            info.insert("violations".to_owned(), violations.len().to_string());
        }
        let mut details = ErrorDetails::with_error_info(name, DOMAIN, info);
        if !fields.is_empty() {
            details.set_bad_request(fields);
        }
        if retryable {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        let message = bounded(&message.to_string(), MESSAGE_BYTES_MAX);
        Status::with_error_details(code, message, details)
    }

    /// Makes the status of several bad fields.
    fn status_of(self, violations: &[Violation]) -> Status {
        let lines = violations.iter().take(LINES_MAX).map(Violation::to_string);
        let mut message = lines.collect::<Vec<_>>().join("; ");
        if violations.len() > LINES_MAX {
            message = format!("{} fields break rules: {message}; …", violations.len());
        }
        self.status_with(message, violations, &[])
    }
}

/// Returns the first violations that fit into a status.
fn first_fields(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut bytes = 0;
    let fields = violations.iter().map(|violation| {
        let field = bounded(&violation.field, FIELD_BYTES_MAX);
        FieldViolation::new(field, bounded(&violation.rule, FIELD_BYTES_MAX))
    });
    let fits = |field: &FieldViolation| {
        bytes += field.field.len() + field.description.len();
        bytes <= FIELDS_BYTES_MAX
    };
    fields.take_while(fits).collect()
}

/// Cuts a text so that it takes at most so many bytes in a header, where gRPC writes each byte
/// outside printable ASCII as three.
fn bounded(text: &str, bytes_max: usize) -> String {
    let in_header = |c: char| if matches!(c, ' '..='~') { 1 } else { 3 * c.len_utf8() };
    if text.chars().map(in_header).sum::<usize>() <= bytes_max {
        return text.to_owned();
    }
    let mut left = bytes_max - in_header('…');
    let fits = |c: &char| {
        let fits = in_header(*c) <= left;
        left = left.saturating_sub(in_header(*c));
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
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

/// The request demands features that nobody here knows.
pub(super) fn unsupported(unknown: &[&str]) -> Status {
    let message = format!("this coordinator does not know the feature(s) {}", unknown.join(", "));
    let first = unknown.first().map(|name| ("feature", (*name).to_owned()));
    Reason::FeatureUnsupported.status_with(message, &[], first.as_slice())
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
        Error::Overloaded(_) => Reason::Overloaded.status(error),
        Error::Draining => Reason::Draining.status(error),
        Error::NeverSeen => Reason::NeverSeen.status(error),
        Error::Purged => Reason::Purged.status(error),
        Error::UnknownGid => Reason::GidUnknown.status(error),
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
        Rejection::NothingToResolve(_) | Rejection::ResolvedOtherwise(..) => {
            Reason::NothingToResolve
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

    /// Bytes of a status as it travels.
    fn wire_bytes(status: &Status) -> usize {
        let message = status.message().bytes();
        let message: usize = message.map(|b| if matches!(b, b' '..=b'~') { 1 } else { 3 }).sum();
        message + status.details().len().div_ceil(3) * 4
    }

    #[test]
    fn a_status_is_bounded_whatever_it_is_made_of() {
        for text in ["x", "ä", "\u{1f980}", "\0"] {
            let long = text.repeat(20_000);
            let violation = |n: usize| Violation::new(format!("branches[{n}].{long}"), &*long);
            for count in [1, 3, 400] {
                let violations = (0..count).map(violation).collect();
                let status = from_engine(engine::Error::Invalid(violations));
                assert!(wire_bytes(&status) < STATUS_BYTES_MAX, "{count} of {text:?}");
                let fields = status.get_error_details().bad_request().expect("fields").clone();
                assert!(fields.field_violations[0].field.starts_with("branches[0]."));
            }
            let status = unsupported(&[&long]);
            assert!(wire_bytes(&status) < STATUS_BYTES_MAX, "a feature of {text:?}");
            let status = from_engine(engine::Error::Refused(long));
            assert!(wire_bytes(&status) < STATUS_BYTES_MAX, "an error of {text:?}");
        }
    }

    #[test]
    fn a_status_tells_how_many_fields_are_bad() {
        let violations = (0..400).map(|n| Violation::new(format!("branches[{n}]"), "must differ"));
        let status = from_engine(engine::Error::Invalid(violations.collect()));
        assert!(status.message().starts_with("400 fields break rules: branches[0] must differ; "));
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("it").metadata["violations"], "400");
        assert!(details.bad_request().expect("fields").field_violations.len() > 10);
    }

    #[test]
    fn a_text_is_cut_on_a_characters_boundary() {
        for (text, expected) in
            [("abc", "abc"), (&*"a".repeat(30), "aaaaaaaaaaa…"), (&*"ä".repeat(30), "ä…")]
        {
            assert_eq!(bounded(text, 20), expected);
        }
        assert_eq!(bounded("äää", 18), "äää");
    }
}
