//! Calls that have no answer, or the answer no.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt;
use unanimo_proto::v1;

/// Failure of a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The coordinator's address is none.
    #[error("coordinator {endpoint:?} must be http://HOST:PORT")]
    Endpoint {
        /// Text that was given.
        endpoint: String,
        /// Rule that it breaks.
        #[source]
        source: tonic::transport::Error,
    },
    /// A payload cannot be written.
    #[error("payload of branch {branch_id}: {error}")]
    Payload {
        /// The branch.
        branch_id: String,
        /// Reason.
        error: String,
    },
    /// The coordinator says no, and nothing has happened by this call.
    #[error("{message} ({reason}){}", list(.fields))]
    Rejected {
        /// Stable code for programs; the coordinator's reference lists them.
        reason: String,
        /// For people.
        message: String,
        /// Fields of the request that are wrong, and the rule that each breaks.
        fields: Vec<BadField>,
        /// The same call may succeed later.
        retryable: bool,
    },
    /// The gid names another transaction: other branches, another mode, or begun the other way. Nothing
    /// has happened by this call.
    #[error("{message} (GID_REUSED)")]
    GidReused {
        /// The coordinator's name for the transaction that has the gid.
        tx_id: String,
        /// Its outcome, as far as the coordinator told it; `NotDecided` if it is not known.
        outcome: v1::Outcome,
        /// For people.
        message: String,
    },
    /// No answer within the time to wait. The call may have had its effect or not; it may be sent
    /// again.
    #[error("no answer from the coordinator within {waited:?}: {last}")]
    Unavailable {
        /// Time that was waited.
        waited: Duration,
        /// Error of the last attempt.
        last: String,
    },
    /// The coordinator answers what this version does not understand.
    #[error("the coordinator's answer is not understood: {0}")]
    Answer(&'static str),
}

/// A field of a request, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField {
    /// Name of the field, such as `branches[0].payload`.
    pub field: String,
    /// The rule.
    pub rule: String,
}

impl fmt::Display for BadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.rule)
    }
}

fn list(fields: &[BadField]) -> String {
    fields.iter().map(|field| format!("; {field}")).collect()
}

/// Kind of a failed attempt.
pub(super) enum Failure {
    /// Answered with no.
    Rejected(Error),
    /// Answered with "not now": nothing has happened, and the call may be sent again.
    NotNow(Error, Option<Duration>),
    /// It may have had its effect or not.
    Unknown(String),
}

impl Failure {
    pub(super) fn of(status: &tonic::Status) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info() else {
            // No word of the coordinator's: the transport's, or that of something in between.
            return match status.code() {
                Code::InvalidArgument
                | Code::Unimplemented
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::OutOfRange => Self::Rejected(Error::Rejected {
                    reason: format!("{:?}", status.code()),
                    message: status.message().to_owned(),
                    fields: Vec::new(),
                    retryable: false,
                }),
                code => Self::Unknown(format!("{code:?}: {}", status.message())),
            };
        };
        let retryable = info.metadata.get("retryable").is_some_and(|value| value == "true");
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice());
        let fields = violations.unwrap_or_default().iter().map(|violation| BadField {
            field: violation.field.clone(),
            rule: violation.description.clone(),
        });
        if info.reason == "GID_REUSED" {
            return Self::Rejected(gid_reused(status, &info.metadata));
        }
        let error = Error::Rejected {
            reason: info.reason.clone(),
            message: status.message().to_owned(),
            fields: fields.collect(),
            retryable,
        };
        match retryable {
            true => Self::NotNow(error, details.retry_info().and_then(|info| info.retry_delay)),
            false => Self::Rejected(error),
        }
    }
}

fn gid_reused(status: &tonic::Status, metadata: &HashMap<String, String>) -> Error {
    let text = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
    // By its name in the contract, with or without the enum's prefix.
    let outcome = text("outcome").to_ascii_uppercase();
    let outcome = match outcome.strip_prefix("OUTCOME_").unwrap_or(&outcome) {
        "COMMITTED" => v1::Outcome::Committed,
        "ABORTED" => v1::Outcome::Aborted,
        _ => v1::Outcome::NotDecided,
    };
    let (tx_id, message) = (text("tx_id").to_owned(), status.message().to_owned());
    Error::GidReused { tx_id, outcome, message }
}
