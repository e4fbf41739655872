//! Check of confirm, cancel and compensate: their work must be there.

use std::fmt::Display;

use unanimo_sdk::{PhaseTwoError, fail};

/// Fails unless a statement has changed the one row that it means.
///
/// A row may have vanished since the step was done, or have another name: somebody has deleted an account, say. To
/// answer that the work is done would lose it as committed. An error is no answer: the call comes again, the
/// coordinator raises an alarm, and somebody looks at it and mends the data.
///
/// # Errors
/// It has changed another number of rows.
pub(super) fn one_row(changed: u64, row: impl Display) -> Result<(), PhaseTwoError> {
    match changed {
        1 => Ok(()),
        _ => fail(format!("{row} is gone: must be 1 row, found {changed}")),
    }
}
