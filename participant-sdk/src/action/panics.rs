//! Handlers that do not return: they panic, or have no end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::panics::text;
use crate::resource::Fault;

tokio::task_local! {
    static END: End;
}

/// Bound of the handler of an operation.
#[derive(Clone, Copy, Debug)]
struct End {
    at: Instant,
    /// From the operation's begin.
    after: Duration,
}

/// Runs an operation whose handler is ended after this time.
pub(crate) async fn bounded<T>(after: Duration, operation: impl Future<Output = T>) -> T {
    let now = Instant::now();
    match now.checked_add(after) {
        Some(at) => END.scope(End { at, after }, operation).await,
        None => operation.await,
    }
}

/// Handler that has not returned.
#[derive(Debug)]
pub(crate) enum Broken {
    Panicked(String),
    /// It was ended after this time of its operation.
    Overtime(Duration),
}

impl Broken {
    /// Returns the text of a panic outside of a handler.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Panicked(text) => text,
            Self::Overtime(after) => format!("it was ended after {after:?}"),
        }
    }
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Panicked(text) => Self::Panicked(text),
            Broken::Overtime(after) => Self::Overtime(after),
        }
    }
}

/// Runs a handler. Its panic is caught, and it is ended at its bound, so that what it has done to its transaction
/// before can still be told.
pub(crate) async fn caught<T>(handler: impl Future<Output = T>) -> Result<T, Broken> {
    let mut handler = pin!(handler);
    let caught = std::future::poll_fn(move |context| {
        // After a panic it is not polled again.
        match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(Broken::Panicked(text(&*panic)))),
        }
    });
    match END.try_with(|end| *end) {
        Ok(End { at, after }) => {
            let ended = tokio::time::timeout_at(at, caught).await;
            ended.unwrap_or(Err(Broken::Overtime(after)))
        }
        Err(_) => caught.await,
    }
}
