//! Panics of functions that are the service's.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a function of the service's, and returns the text of its panic.
pub(crate) fn caught_in<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| text(&*panic))
}

/// Returns the text of a panic.
pub(crate) fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it says nothing").to_owned()
}
