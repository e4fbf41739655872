//! Outputs of branches.

use std::fmt;
use std::marker::PhantomData;

use super::outcome::{BranchOutcome, Outcome};
use crate::payload::{self, Decode, Payload};

/// Result of a handler in phase one, with its media type.
#[derive(Clone, Debug, Default)]
pub struct Output {
    payload: Payload,
    dropped: bool,
}

impl Output {
    pub(crate) fn new(payload: Payload, dropped: bool) -> Self {
        Self { payload, dropped }
    }

    /// The value, read as [`Json`](crate::Json), [`Prost`](crate::Prost) or
    /// [`Bytes`](bytes::Bytes).
    ///
    /// # Errors
    /// It is of another format.
    pub fn read<T: Decode>(&self) -> Result<T, payload::Error> {
        T::decode_payload(&self.payload)
    }

    /// Returns its media type; empty if it is not known.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.payload.media_type
    }

    /// Tells whether it was over a limit and is lost; the vote stands.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.dropped
    }

    /// Reads what the step of this name returned.
    pub(super) fn of_step<T: Decode>(&self, branch_id: &str) -> Result<T, OutputError> {
        let branch_id = branch_id.to_owned();
        if self.dropped {
            return Err(OutputError::Dropped { branch_id });
        }
        let nothing = self.payload.data.is_empty();
        self.read().map_err(|source| match nothing {
            true => OutputError::Missing { branch_id },
            false => OutputError::Format { branch_id, source },
        })
    }
}

/// The output of a step, with its type: read from the [outcome](Outcome::output) of its transaction.
#[must_use = "an outcome is asked for it"]
pub struct StepOutput<O> {
    branch_id: String,
    output: PhantomData<fn() -> O>,
}

impl<O> StepOutput<O> {
    pub(super) fn new(branch_id: String) -> Self {
        Self { branch_id, output: PhantomData }
    }
}

impl<O> Clone for StepOutput<O> {
    fn clone(&self) -> Self {
        Self::new(self.branch_id.clone())
    }
}

impl<O> fmt::Debug for StepOutput<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StepOutput").field(&self.branch_id).finish()
    }
}

/// Failure to read the output of a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The transaction is not decided.
    #[error("the transaction is not decided: it has no outputs yet")]
    NotDecided,
    /// The answer tells nothing of such a step.
    #[error("the answer tells nothing of a step {branch_id}")]
    NoStep {
        /// The step.
        branch_id: String,
    },
    /// The answer holds no output of the step.
    #[error(
        "the answer holds no output of step {branch_id}: it did not vote yes, it returned none, or \
         outputs were not asked for (with_outputs)"
    )]
    Missing {
        /// The step.
        branch_id: String,
    },
    /// The output was over a limit and is lost. The vote stands.
    #[error("the output of step {branch_id} was over a limit and is lost")]
    Dropped {
        /// The step.
        branch_id: String,
    },
    /// The output is of another format.
    #[error("the output of step {branch_id} is of another format")]
    Format {
        /// The step.
        branch_id: String,
        /// Reason.
        #[source]
        source: payload::Error,
    },
}

impl Outcome {
    /// Reads the output of a step, where outputs were asked for
    /// ([`Draft::with_outputs`](super::Draft::with_outputs)). A step that did not run before an ABORT has
    /// none.
    ///
    /// # Errors
    /// The answer does not hold it.
    pub fn output<O: Decode>(&self, of: &StepOutput<O>) -> Result<O, OutputError> {
        let branches: &[BranchOutcome] = match self {
            Self::Committed(committed) => &committed.branches,
            Self::Aborted(aborted) => &aborted.branches,
            Self::NotDecided(_) => return Err(OutputError::NotDecided),
        };
        let branch = branches.iter().find(|branch| branch.branch_id == of.branch_id);
        let Some(branch) = branch else {
            return Err(OutputError::NoStep { branch_id: of.branch_id.clone() });
        };
        branch.output.of_step(&of.branch_id)
    }
}
