//! Handlers that are closures: what they take, and what they are called by.

use std::time::Duration;

use bytes::Bytes;

use super::{Call, PhaseTwoError, PrepareError};
use crate::action::BoxFuture;
use crate::payload::{Decode, Encode, Json, Payload, Prost};

/// Second argument of a closure, behind the connection: the payload of the call, as [`Json`](crate::Json),
/// [`Prost`](crate::Prost), [`Payload`](crate::Payload), [`Bytes`](bytes::Bytes) or `()`, or the whole
/// [`Call`] with it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument of a handler",
    note = "take the payload as `Json<…>`, `Prost<…>`, `Payload`, `Bytes` or `()`, or all of the call as `Call<Json<…>>`"
)]
pub trait Argument: Send + 'static {
    /// Type of the action's payload.
    #[doc(hidden)]
    type Payload: Decode + Send + Sync + 'static;

    #[doc(hidden)]
    fn of(call: Call<Self::Payload>) -> Self;
}

impl<P: Decode + Send + Sync + 'static> Argument for P {
    type Payload = P;

    fn of(call: Call<P>) -> P {
        call.payload
    }
}

impl<P: Decode + Send + Sync + 'static> Argument for Call<P> {
    type Payload = P;

    fn of(call: Self) -> Self {
        call
    }
}

/// An async closure, or an `async fn`, whose future can be sent between threads: it holds nothing across an
/// `await` that cannot, such as an `Rc` or the guard of a `std::sync::Mutex`.
#[diagnostic::on_unimplemented(
    message = "this closure, or its future, is no handler",
    note = "a handler's future is `Send`: keep no `Rc` and no lock's guard across an `await`"
)]
pub trait Handles<'c, Arguments, Result> {
    #[doc(hidden)]
    fn handle(self, arguments: Arguments) -> BoxFuture<'c, Result>;
}

impl<'c, F, Fut, C, T> Handles<'c, (&'c mut C,), T> for F
where
    F: FnOnce(&'c mut C) -> Fut,
    Fut: Future<Output = T> + Send + 'c,
{
    fn handle(self, (db,): (&'c mut C,)) -> BoxFuture<'c, T> {
        Box::pin(self(db))
    }
}

impl<'c, F, Fut, C, A, T> Handles<'c, (&'c mut C, A), T> for F
where
    F: FnOnce(&'c mut C, A) -> Fut,
    Fut: Future<Output = T> + Send + 'c,
{
    fn handle(self, (db, argument): (&'c mut C, A)) -> BoxFuture<'c, T> {
        Box::pin(self(db, argument))
    }
}

impl<'c, F, Fut, C, A, O, T> Handles<'c, (&'c mut C, A, O), T> for F
where
    F: FnOnce(&'c mut C, A, O) -> Fut,
    Fut: Future<Output = T> + Send + 'c,
{
    fn handle(self, (db, argument, output): (&'c mut C, A, O)) -> BoxFuture<'c, T> {
        Box::pin(self(db, argument, output))
    }
}

/// Async closure, or `async fn`, of an action: it takes the connection and the [argument](Argument), and answers
/// `T`. Each call has a clone of its own, for calls come more than once and from several threads.
#[diagnostic::on_unimplemented(
    message = "this closure, or its future, is no handler",
    note = "a handler is an async closure of the connection and the argument, and is `Clone`, `Send` and `Sync`"
)]
pub trait HandlerFn<C, A, T>:
    AsyncFnOnce(&mut C, A) -> T + for<'c> Handles<'c, (&'c mut C, A), T> + Clone + Send + Sync + 'static
{
}

impl<F, C, A, T> HandlerFn<C, A, T> for F where
    F: AsyncFnOnce(&mut C, A) -> T
        + for<'c> Handles<'c, (&'c mut C, A), T>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The same with the [output](Output) `O` of phase one as its third argument.
#[diagnostic::on_unimplemented(
    message = "this closure, or its future, is no handler",
    note = "a handler is an async closure of connection, argument and output, and is `Clone`, `Send` and `Sync`"
)]
pub trait OutputFn<C, A, O, T>:
    AsyncFnOnce(&mut C, A, O) -> T
    + for<'c> Handles<'c, (&'c mut C, A, O), T>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<F, C, A, O, T> OutputFn<C, A, O, T> for F where
    F: AsyncFnOnce(&mut C, A, O) -> T
        + for<'c> Handles<'c, (&'c mut C, A, O), T>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Output of phase one that the closures of phase two get as their third argument. With `()` there is none.
pub trait Output: Encode + Decode + Send + Sync + 'static {}

impl<T> Output for Json<T> where Self: Encode + Decode + Send + Sync + 'static {}
impl<T> Output for Prost<T> where Self: Encode + Decode + Send + Sync + 'static {}
impl Output for Payload {}
impl Output for Bytes {}

/// Answers that the work is under way: `return working(Duration::from_secs(1))`. The call comes again after
/// this time; what was written is undone.
///
/// # Errors
/// Always.
pub fn working<T, E: From<NotDone>>(again_after: Duration) -> Result<T, E> {
    Err(NotDone(Reason::Working(again_after)).into())
}

/// Fails: `return fail("the account is gone")`. In phase one it is no vote. The call comes again, and what was
/// written is undone.
///
/// # Errors
/// Always.
pub fn fail<T, E: From<NotDone>>(message: impl Into<String>) -> Result<T, E> {
    Err(NotDone(Reason::Failed(message.into())).into())
}

/// Answer of [`working`] and [`fail()`], in either phase. Not a [`std::error::Error`], as
/// [`InputError`](super::InputError) is none.
#[derive(Debug)]
pub struct NotDone(Reason);

#[derive(Debug)]
enum Reason {
    Working(Duration),
    Failed(String),
}

impl From<NotDone> for PrepareError {
    fn from(NotDone(reason): NotDone) -> Self {
        match reason {
            Reason::Working(again_after) => Self::Working(again_after),
            Reason::Failed(message) => Self::Failed(message.into()),
        }
    }
}

impl From<NotDone> for PhaseTwoError {
    fn from(NotDone(reason): NotDone) -> Self {
        match reason {
            Reason::Working(again_after) => Self::Working(again_after),
            Reason::Failed(message) => Self::Failed(message.into()),
        }
    }
}
