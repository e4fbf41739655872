//! Participants that did not join, or have no vote.

use tonic::{Code, Status};

use crate::client;
use crate::payload;
use crate::wire;

/// Failure to join with a vote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The request came without a transaction, or not through the server layer.
    #[error(
        "this work is part of no transaction: the request has no unanimo-tx-id header, the server \
         has no ServerLayer, or the work was moved to a task of its own"
    )]
    NoTransaction,
    /// The payload cannot be written.
    #[error("payload: {0}")]
    Payload(#[from] payload::Error),
    /// The participant is stopping.
    #[error("the participant is stopped")]
    Stopped,
    /// The reply cannot name one more branch, and a branch that it does not name means ABORT. Nothing
    /// was enlisted.
    #[error(
        "branch {branch_id} is not enlisted: with it the reply's unanimo-branches would have more than \
         4,096 bytes; join with fewer branches for one request, or with shorter branch ids"
    )]
    ReplyFull {
        /// The branch that would have been.
        branch_id: String,
    },
    /// The coordinator has not acknowledged the branch, so nothing was done.
    #[error("branch {branch_id} is not enlisted")]
    Enlist {
        /// The branch that would have been.
        branch_id: String,
        /// The coordinator's no, or that it gave no answer.
        #[source]
        source: client::Error,
    },
    /// The transaction belongs to another coordinator group than this participant's coordinator.
    #[error("the transaction is of cluster {asked}, and this participant's coordinator of {own}")]
    OtherCluster {
        /// The cluster that the context names.
        asked: String,
        /// The cluster of this participant's coordinator.
        own: String,
    },
    /// The participant's living processes have another database than this one. Nothing was done here.
    #[error("{text}")]
    OtherDatabase {
        /// Both ids.
        text: String,
    },
    /// The coordinator's answer is for something else than what was asked.
    #[error("the coordinator's answer does not fit: {text}")]
    Answer {
        /// Difference.
        text: String,
    },
    /// The branch is enlisted, and has no vote: the transaction will abort.
    #[error("branch {branch_id} has no vote: {last}")]
    NoVote {
        /// The branch.
        branch_id: String,
        /// Error of its last attempt.
        last: String,
    },
}

/// For services that answer in gRPC.
impl From<JoinError> for Status {
    fn from(error: JoinError) -> Self {
        let code = match &error {
            JoinError::NoTransaction
            | JoinError::ReplyFull { .. }
            | JoinError::OtherCluster { .. }
            | JoinError::OtherDatabase { .. }
            | JoinError::Enlist {
                source:
                    client::Error::OtherGroup { .. }
                    | client::Error::Rejected { retryable: false, .. }
                    | client::Error::Unavailable { retryable: false, .. },
                ..
            } => Code::FailedPrecondition,
            JoinError::Stopped | JoinError::Enlist { .. } => Code::Unavailable,
            JoinError::Payload(_) | JoinError::Answer { .. } => Code::Internal,
            JoinError::NoVote { .. } => Code::Aborted,
        };
        let source = std::error::Error::source(&error);
        let text = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        wire::status(code, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A longer one would end the connection, and every other call on it.
    #[test]
    fn l3_a_long_error_is_cut_off_in_its_status() {
        for length in [300, 5_000, 30_000, 90_000] {
            let last = "\u{e9}".repeat(length);
            let errors = [
                JoinError::NoVote { branch_id: "a".to_owned(), last: last.clone() },
                JoinError::OtherDatabase { text: last.clone() },
                JoinError::Answer { text: last },
            ];
            for error in errors {
                let status = Status::from(error);
                let encoded = |c: char| if c.is_ascii() { 1 } else { 3 * c.len_utf8() };
                let bytes: usize = status.message().chars().map(encoded).sum();
                assert!(bytes <= 1_024, "{length}: {status:?}");
                assert!(status.message().contains('\u{e9}'), "{status:?}");
            }
        }
    }
}
