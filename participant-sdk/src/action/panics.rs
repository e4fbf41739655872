//! Handlers that panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// Text of a panic.
#[derive(Debug)]
pub(crate) struct Panic(pub(crate) String);

/// Runs a handler. Its panic is caught, so that what it has done to its transaction before can still be told.
pub(crate) async fn caught<T>(handler: impl Future<Output = T>) -> Result<T, Panic> {
    let mut handler = pin!(handler);
    std::future::poll_fn(move |context| {
        // After a panic it is not polled again.
        match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(Panic(text(&*panic)))),
        }
    })
    .await
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it says nothing").to_owned()
}
