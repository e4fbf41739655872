//! Handlers, which a participant writes, and their answers.
//!
//! | mode | all work is in the database | some of it is outside |
//! | --- | --- | --- |
//! | TCC | [`Tcc`] | [`TccOutside`] |
//! | saga | [`Saga`], [`Uncompensated`] | [`SagaOutside`] |
//! | two-phase commit | `TwoPhase` | |
//!
//! They are told apart by what undoes their work: who works outside of the database may have done so without a
//! trace there, and is asked to undo it (`Option<Output>`).

mod call;
mod closures;
mod input;
mod saga;
mod tcc;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod two_phase;

use std::time::Duration;

pub use self::call::{Branch, Call};
pub use self::closures::{Argument, HandlerFn, Handles, NotDone, Output, OutputFn, fail, working};
pub use self::input::InputError;
pub use self::saga::{Saga, SagaOutside, Uncompensated};
pub use self::tcc::{Tcc, TccOutside};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use self::two_phase::TwoPhase;
use crate::refusal::Refusal;

/// Isolation of a handler's local transaction. SQLite's are always serializable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED.
    #[default]
    ReadCommitted,
    /// REPEATABLE READ. A serialization failure is no vote: the call comes again.
    RepeatableRead,
}

/// Votes no: `return refuse("INSUFFICIENT_FUNDS", "…")`.
///
/// # Errors
/// Always.
pub fn refuse<T>(reason: impl Into<String>, message: impl Into<String>) -> Result<T, PrepareError> {
    Err(PrepareError::Refused(Refusal::new(reason, message)))
}

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Phase one of a branch without a yes. Every error becomes [`PrepareError::Failed`] by `?`.
#[derive(Debug)]
pub enum PrepareError {
    /// The vote no.
    Refused(Refusal),
    /// No vote yet: to be called again after this time.
    Working(Duration),
    /// No vote: something went wrong, and it is to be called again.
    Failed(BoxError),
}

/// Phase two of a branch that is not done. Every error becomes [`PhaseTwoError::Failed`] by `?`.
#[derive(Debug)]
pub enum PhaseTwoError {
    /// To be called again after this time.
    Working(Duration),
    /// Something went wrong: to be called again.
    Failed(BoxError),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for PrepareError {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for PhaseTwoError {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}
