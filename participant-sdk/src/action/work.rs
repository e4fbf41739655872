//! Work of an action: what each operation calls, whichever way its handler is written.

use super::payloads::{OUTPUT, PAYLOAD, read, readable, typed, with_payload, written};
use super::{Action, BoxFuture, Unreadable};
use crate::handler::{Call, PhaseTwoError, PrepareError};
use crate::payload::{Decode, Encode, Payload};
use crate::resource::PhaseTwoOperation;

/// Function of a handler `H` in phase one.
type First<C, H, P, O> =
    for<'a> fn(&'a H, &'a mut C, Call<P>) -> BoxFuture<'a, Result<O, PrepareError>>;

/// Function of a handler `H` in phase two.
type Second<C, H, P, O> =
    for<'a> fn(&'a H, &'a mut C, Call<P>, O) -> BoxFuture<'a, Result<(), PhaseTwoError>>;

/// A handler, and its functions.
pub(super) struct Work<C, H, P, O> {
    handler: H,
    first: First<C, H, P, O>,
    confirm: Second<C, H, P, O>,
    undo: Undo<C, H, P, O>,
}

/// Function of a Cancel.
pub(super) enum Undo<C, H, P, O> {
    /// All work is in the database: what left no trace there never happened, and is not undone.
    Inside(Second<C, H, P, O>),
    /// Some of it is elsewhere: it is undone also where the database holds no trace.
    Outside(Second<C, H, P, Option<O>>),
    /// Nothing makes up for it. A Cancel that finds it done is never answered with *done*.
    Never,
}

/// Phase two that has nothing to do.
pub(super) fn nothing<'a, C, H, P, O>(
    _: &'a H,
    _: &'a mut C,
    _: Call<P>,
    _: O,
) -> BoxFuture<'a, Result<(), PhaseTwoError>> {
    Box::pin(std::future::ready(Ok(())))
}

impl<C, H, P, O> Work<C, H, P, O> {
    /// Work that has nothing left to confirm, as a saga's step has not.
    pub(super) fn new(handler: H, first: First<C, H, P, O>, undo: Undo<C, H, P, O>) -> Self {
        Self { handler, first, confirm: nothing, undo }
    }

    /// The same, confirmed by this function.
    pub(super) fn confirmed(self, confirm: Second<C, H, P, O>) -> Self {
        Self { confirm, ..self }
    }

    /// Tells whether its Cancel is called also where phase one left no trace.
    pub(super) fn is_outside(&self) -> bool {
        matches!(self.undo, Undo::Outside(_))
    }
}

impl<C, H, P, O> Action<C> for Work<C, H, P, O>
where
    C: Send,
    H: Send + Sync,
    P: Decode + Send + Sync + 'static,
    O: Encode + Decode + Send + Sync + 'static,
{
    fn prepare<'a>(
        &'a self,
        db: &'a mut C,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>> {
        Box::pin(async move {
            let output = (self.first)(&self.handler, db, typed(call)?).await?;
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
            let handler = &self.handler;
            let output = output.map(|output| read(OUTPUT, &output)).transpose()?;
            let call = with_payload(call, read(PAYLOAD, &call.payload)?);
            match (operation, output, &self.undo) {
                (PhaseTwoOperation::Commit, Some(output), _) => {
                    (self.confirm)(handler, db, call, output).await
                }
                (PhaseTwoOperation::Commit, None, _) => {
                    Err(PhaseTwoError::Failed("nothing is prepared that could be committed".into()))
                }
                (PhaseTwoOperation::Cancel, output, Undo::Outside(undo)) => {
                    undo(handler, db, call, output).await
                }
                (PhaseTwoOperation::Cancel, Some(output), Undo::Inside(undo)) => {
                    undo(handler, db, call, output).await
                }
                (PhaseTwoOperation::Cancel, Some(_), Undo::Never) => {
                    Err(no_compensation(&call.action))
                }
                (PhaseTwoOperation::Cancel, None, Undo::Inside(_) | Undo::Never) => Ok(()),
            }
        })
    }

    fn read_output(&self, output: &Payload) -> Result<(), Unreadable> {
        readable::<O>(OUTPUT, output)
    }

    fn read_payload(&self, payload: &Payload) -> Result<(), Unreadable> {
        readable::<P>(PAYLOAD, payload)
    }
}

/// The failure of a Cancel that finds a step done which nothing makes up for.
fn no_compensation(action: &str) -> PhaseTwoError {
    let text = format!(
        "NO_COMPENSATION: {action} is done, and has no compensation here; the saga's definition must \
         declare the step without one"
    );
    PhaseTwoError::Failed(text.into())
}
