//! Closures as actions.

use super::{Action, BoxFuture, PAYLOAD, Unreadable, read, typed, with_payload, written};
use crate::handler::{Argument, Call, PhaseTwoError, PrepareError};
use crate::payload::{Decode, Encode, Payload};
use crate::resource::PhaseTwoOperation;

/// Closure of phase one.
pub(crate) type First<C, A, O> =
    Box<dyn for<'c> Fn(&'c mut C, A) -> BoxFuture<'c, Result<O, PrepareError>> + Send + Sync>;

/// Closure of phase two.
pub(crate) type Second<C, A, O> =
    Box<dyn for<'c> Fn(&'c mut C, A, O) -> BoxFuture<'c, Result<(), PhaseTwoError>> + Send + Sync>;

/// Closures of an action of TCC, or of a saga's step.
pub(crate) struct Closures<C, A, O> {
    pub(crate) try_: First<C, A, O>,
    pub(crate) confirm: Second<C, A, O>,
    pub(crate) cancel: Second<C, A, O>,
}

impl<C, A, O> Action<C> for Closures<C, A, O>
where
    C: Send,
    A: Argument,
    O: Encode + Decode + Send + Sync + 'static,
{
    fn prepare<'a>(
        &'a self,
        db: &'a mut C,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>> {
        Box::pin(async move {
            let argument = A::of(typed(call)?);
            let output = (self.try_)(db, argument).await?;
            written(&output, call)
        })
    }

    fn phase_two<'a>(
        &'a self,
        operation: PhaseTwoOperation,
        db: &'a mut C,
        call: &'a Call<Payload>,
        output: Option<Payload>,
    ) -> BoxFuture<'a, Result<(), PhaseTwoError>> {
        Box::pin(async move {
            // What left no trace has done nothing: closures work in the database alone.
            let Some(output) = output else { return Ok(()) };
            let output = read("output", &output)?;
            let payload = read(PAYLOAD, &call.payload)?;
            let argument = A::of(with_payload(call, payload));
            match operation {
                PhaseTwoOperation::Commit => (self.confirm)(db, argument, output).await,
                PhaseTwoOperation::Cancel => (self.cancel)(db, argument, output).await,
            }
        })
    }

    fn read_output(&self, output: &Payload) -> Result<(), Unreadable> {
        read::<O>("output", output).map(drop)
    }
}
