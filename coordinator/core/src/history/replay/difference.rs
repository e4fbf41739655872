//! The first difference between a record and its replay, in words.

use std::fmt;

use super::Replayed;
use crate::definition::Violation;
use crate::ids::Version;

/// Reason for which a history was not replayed to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The document breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Violation),
    /// Today's state machine does something else.
    #[error(transparent)]
    Differs(Box<Difference>),
    /// All that is there is equal, and it is not all that was recorded.
    #[error("the history is not whole: {missing}")]
    NotWhole {
        /// The part that is missing, in words.
        missing: String,
        /// Numbers of the part that is there.
        replayed: Replayed,
    },
}

/// The first thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Difference {
    /// The version that the input made, or that the next transition makes.
    pub version: Version,
    /// Place of the input among those of its version, from 1.
    pub step: usize,
    /// When the input came, from the transaction's begin.
    pub at: String,
    /// The input.
    pub input: String,
    /// The thing that differs.
    pub what: String,
    /// The record's side.
    pub recorded: String,
    /// The replay's side.
    pub replayed: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, step, at, input, what, recorded, replayed } = self;
        writeln!(f, "version {}, input {step} ({at}, {input}): {what}", version.0)?;
        writeln!(f, "  recorded: {recorded}")?;
        write!(f, "  replayed: {replayed}")
    }
}
