//! Why a call has no answer, or the answer no.

use std::fmt;
use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The coordinator's address is none.
    #[error("coordinator {endpoint:?} must be http://HOST:PORT")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
    /// A payload cannot be written.
    #[error("payload of branch {branch_id}: {error}")]
    Payload {
        /// Whose.
        branch_id: String,
        /// Why not.
        error: String,
    },
    /// The coordinator says no, and nothing has happened by this call.
    #[error("{message} ({reason}){}", list(.fields))]
    Rejected {
        /// Stable code for programs; the coordinator's reference lists them.
        reason: String,
        /// For people.
        message: String,
        /// Which fields of the request are wrong, and what rule they break.
        fields: Vec<BadField>,
        /// The same call may succeed later.
        retryable: bool,
    },
    /// No answer within the time to wait. Whether the call had its effect is not known; it may be
    /// sent again.
    #[error("no answer from the coordinator within {waited:?}: {last}")]
    Unavailable {
        /// How long.
        waited: Duration,
        /// What the last attempt died of.
        last: String,
    },
    /// The coordinator answers what this version does not understand.
    #[error("the coordinator's answer is not understood: {0}")]
    Answer(&'static str),
}

/// A field of a request, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField {
    /// Which, such as `branches[0].payload`.
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

/// How an attempt failed.
pub(super) enum Failure {
    /// Answered with no.
    Rejected(Error),
    /// Answered with "not now": nothing has happened, and the call may be sent again.
    NotNow(Error, Option<Duration>),
    /// Whether it had its effect is not known.
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
