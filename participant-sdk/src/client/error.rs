//! Calls that have no answer, or the answer no.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic_types::StatusExt;
use unanimo_proto::{PERMANENT_CODES, v1};

use crate::channel::BadAddress;
use crate::refusal::Refusal;

/// Domain of the coordinator's `google.rpc.ErrorInfo`.
const DOMAIN: &str = "unanimo";

/// Failure of a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The coordinator's address is none.
    #[error("coordinator {endpoint:?} must be http://HOST:PORT or https://HOST:PORT: {rule}")]
    Endpoint {
        /// Text that was given.
        endpoint: String,
        /// Rule that it breaks.
        rule: String,
    },
    /// The client's coordinators are not of one group, or none is of the group that the client was told.
    /// Nothing was sent.
    #[error("{}", other_group(.expected.as_deref(), .told))]
    OtherGroup {
        /// The group that the client was told, if it was.
        expected: Option<String>,
        /// Coordinators that have said their group.
        told: Vec<NodeGroup>,
    },
    /// A payload cannot be written.
    #[error("payload of branch {branch_id}: {error}")]
    Payload {
        /// The branch.
        branch_id: String,
        /// Reason.
        error: String,
    },
    /// The request cannot be made. Nothing was sent.
    #[error("{0}")]
    Request(BadField),
    /// The coordinator says no, and nothing has happened by any attempt of this call. It says nothing of other
    /// calls, earlier or later.
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
    /// No answer that tells what became of the call: it was lost, or it came from a proxy, or it
    /// says nothing of an earlier attempt whose answer was lost. The call may have had its effect or
    /// not; it may be sent again.
    #[error(
        "no answer from the coordinator after {waited:?} that tells what became of the call: {last}"
    )]
    Unavailable {
        /// Time that was waited.
        waited: Duration,
        /// Error of the last attempt.
        last: String,
        /// The same call may be answered later.
        retryable: bool,
    },
    /// A transaction that was to be begun with branches is aborted: one of them voted no, or had not voted
    /// before.
    #[error("aborted at branch {branch_id}{}", because(.refusal.as_ref()))]
    Aborted {
        /// The coordinator's name for the transaction.
        tx_id: String,
        /// The branch.
        branch_id: String,
        /// Reason of its no.
        refusal: Option<Refusal>,
    },
    /// A transaction that has begun with branches, of which the coordinator did not take one, or which a proxy kept
    /// from it. Those before it were executed. It was rolled back then.
    #[error("branch {branch_id} of transaction {tx_id} was not executed: {error}{}", rolled_back(*.outcome))]
    NotExecuted {
        /// The coordinator's name for the transaction.
        tx_id: String,
        /// The branch.
        branch_id: String,
        /// The transaction's outcome, `Aborted` in most cases. `NotDecided` if the rollback was not answered:
        /// [roll it back](super::Client::rollback) by its gid, or leave it to its deadline.
        outcome: v1::Outcome,
        /// The answer for the branch.
        error: Box<Self>,
    },
    /// The coordinator, or a proxy, answers what this version does not understand. The call may have had its
    /// effect or not.
    #[error("the coordinator's answer is not understood: {0}")]
    Answer(&'static str),
}

impl From<BadAddress> for Error {
    fn from(BadAddress { endpoint, rule }: BadAddress) -> Self {
        Self::Endpoint { endpoint, rule }
    }
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

/// A coordinator, and the group that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeGroup {
    /// Its address, or the name that it was given.
    pub coordinator: String,
    /// Id of its group.
    pub cluster_id: String,
}

fn other_group(expected: Option<&str>, told: &[NodeGroup]) -> String {
    let told = told.iter().map(|node| format!("{} is of {}", node.coordinator, node.cluster_id));
    let told = told.collect::<Vec<_>>().join(", ");
    match expected {
        Some(group) => format!("none of the client's coordinators is of its group {group}: {told}"),
        None => format!(
            "the client's coordinators must be of one group, or it must be told which one (`Client::group`): \
             {told}"
        ),
    }
}

fn because(refusal: Option<&Refusal>) -> String {
    refusal.map_or_else(String::new, |Refusal { reason, message }| {
        format!(", which refused: {reason}: {message}")
    })
}

fn rolled_back(outcome: v1::Outcome) -> &'static str {
    match outcome {
        v1::Outcome::Aborted => "; the transaction is aborted",
        v1::Outcome::Committed => "; the transaction was committed before",
        v1::Outcome::NotDecided | v1::Outcome::Unspecified => {
            "; its rollback was not answered, so that it may hold what it has prepared until its deadline"
        }
    }
}

fn list(fields: &[BadField]) -> String {
    fields.iter().map(|field| format!("; {field}")).collect()
}

/// Result of an attempt that has no OK reply.
pub(super) enum Failure {
    /// The coordinator's answer that tells what became of earlier attempts, too.
    Definite(Error),
    /// The coordinator's no. This attempt changed nothing, and neither would another one.
    Refused(Error),
    /// The coordinator's "not now": this attempt changed nothing, and the call may be sent again.
    NotNow(Error, Option<Duration>),
    /// The attempt may have had its effect or not.
    Indeterminate {
        /// Status in words.
        text: String,
        /// Another attempt may be answered.
        again: bool,
        /// Least pause before it, if the coordinator named one.
        pause: Option<Duration>,
    },
}

impl Failure {
    pub(super) fn of(status: &tonic::Status) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
            return Self::of_another(status);
        };
        let is = |key: &str, value: &str| info.metadata.get(key).is_some_and(|is| is == value);
        let retryable = is("retryable", "true");
        let pause = details.retry_info().and_then(|info| info.retry_delay);
        // Another request has the gid, so no attempt of this one was ever accepted under it.
        if info.reason == "GID_REUSED" {
            return Self::Definite(gid_reused(status, &info.metadata));
        }
        if !is("effect", "none") {
            let text = format!("{} ({})", status.message(), info.reason);
            return Self::Indeterminate { text, again: retryable, pause };
        }
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
        if retryable { Self::NotNow(error, pause) } else { Self::Refused(error) }
    }

    /// A status that the coordinator's services did not make: the transport's, or a proxy's. The
    /// coordinator may have done what was asked all the same.
    fn of_another(status: &tonic::Status) -> Self {
        let text = crate::causes::status_in_full(status);
        let again = !PERMANENT_CODES.contains(&status.code());
        Self::Indeterminate { text, again, pause: None }
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
