//! Inputs of a step: what earlier steps have answered.

use std::fmt;

use super::{Call, PhaseTwoError, PrepareError};
use crate::payload::{self, Decode};
use crate::refusal::Refusal;

impl<P> Call<P> {
    /// Reads the input of this name: the output of an earlier step, which the saga's definition names
    /// so. Each operation of a branch gets the same inputs, its compensation too.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")] mod example {
    /// # use serde::Deserialize;
    /// # use unanimo_sdk::{Call, Json, PrepareError};
    /// # #[derive(Deserialize)] struct Ticket { seat: String }
    /// // In the definition: `inputs: { ticket: flight }`, where `flight` is an earlier step.
    /// fn seat(call: &Call<()>) -> Result<String, PrepareError> {
    ///     let Json(ticket) = call.input::<Json<Ticket>>("ticket")?;
    ///     Ok(ticket.seat)
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// It is not there, or cannot be read. With `?` that is a vote no in phase one, with the reason
    /// `INPUT_MISSING` or `INPUT_UNREADABLE`. In phase two it is a failure, and the call comes again.
    pub fn input<T: Decode>(&self, name: &str) -> Result<T, InputError> {
        let Some(input) = self.inputs.get(name) else {
            let (name, action) = (name.to_owned(), self.action.clone());
            return Err(InputError::Missing { name, action, there: self.input_names() });
        };
        T::decode_payload(input).map_err(|source| InputError::Unreadable {
            name: name.to_owned(),
            action: self.action.clone(),
            source,
        })
    }

    fn input_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.inputs.keys().cloned().collect();
        names.sort_unstable();
        names
    }
}

/// Failure to read an input of a step. Not a [`std::error::Error`]: with `?` it becomes a vote no in phase
/// one, where errors are failures.
#[derive(Debug)]
pub enum InputError {
    /// There is none of this name: the definition does not give it, its step has returned nothing, or
    /// it was over a limit.
    Missing {
        /// Name that was asked for.
        name: String,
        /// The action that asked.
        action: String,
        /// Names of the inputs that there are.
        there: Vec<String>,
    },
    /// It is not of the type that was asked for.
    Unreadable {
        /// Name that was asked for.
        name: String,
        /// The action that asked.
        action: String,
        /// Reason.
        source: payload::Error,
    },
}

impl InputError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "INPUT_MISSING",
            Self::Unreadable { .. } => "INPUT_UNREADABLE",
        }
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, action, there } if there.is_empty() => {
                write!(f, "input {name} of action {action} must be given; the call has no inputs")
            }
            Self::Missing { name, action, there } => {
                let there = there.join(", ");
                write!(f, "input {name} of action {action} must be given; the call has {there}")
            }
            Self::Unreadable { name, action, source } => {
                write!(f, "input {name} of action {action} must be readable: {source}")
            }
        }
    }
}

impl From<InputError> for PrepareError {
    fn from(error: InputError) -> Self {
        Self::Refused(Refusal::new(error.reason(), error.to_string()))
    }
}

impl From<InputError> for PhaseTwoError {
    fn from(error: InputError) -> Self {
        Self::Failed(format!("{}: {error}", error.reason()).into())
    }
}
