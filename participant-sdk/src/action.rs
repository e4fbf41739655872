//! Handlers of any type, behind one face.

mod closures;
mod interrupted;
mod outside;
mod step;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use unanimo_proto::v1::Mode;

pub(crate) use self::closures::{Closures, First, Second};
pub use self::interrupted::Interrupt;
use self::interrupted::Interrupted;
use self::outside::{Inside, SagaOutsideStep};
pub(crate) use self::step::no_compensation;
use self::step::{SagaStep, UncompensatedStep};
#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::handler::TwoPhase;
use crate::handler::{
    Argument, BoxError, Call, Isolation, PhaseTwoError, PrepareError, Saga, SagaOutside, Tcc,
    TccOutside, Uncompensated,
};
use crate::payload::{Decode, Encode, Payload};
use crate::refusal::Refusal;
#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::resource::TwoPhaseResource;
use crate::resource::{PhaseTwoOperation, Resource};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A handler whose payloads are not read yet.
pub(crate) trait Action<C>: Send + Sync {
    /// Phase one; answers with the output.
    fn prepare<'a>(
        &'a self,
        db: &'a mut C,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>>;

    /// Phase two of what was prepared, with its output. Without one it is the Cancel of what left no trace.
    fn phase_two<'a>(
        &'a self,
        operation: PhaseTwoOperation,
        db: &'a mut C,
        call: &'a Call<Payload>,
        output: Option<Payload>,
    ) -> BoxFuture<'a, Result<(), PhaseTwoError>>;

    /// Reads the output of an earlier phase one, as phase two will have to.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_output(&self, output: &Payload) -> Result<(), Unreadable>;
}

/// Failure to read the payload or the output of phase one: the handler's types are not those of then.
#[derive(Debug, thiserror::Error)]
#[error("the {what} of phase one cannot be read: {error}")]
pub(crate) struct Unreadable {
    what: &'static str,
    error: String,
}

impl Unreadable {
    /// Tells whether an error is that of a payload.
    pub(crate) fn is_of_the_payload(error: &BoxError) -> bool {
        error.downcast_ref::<Self>().is_some_and(|unreadable| unreadable.what == PAYLOAD)
    }
}

const PAYLOAD: &str = "payload";

fn read<T: Decode>(what: &'static str, payload: &Payload) -> Result<T, Unreadable> {
    T::decode_payload(payload).map_err(|error| Unreadable { what, error: error.to_string() })
}

/// A handler, and how it is to be run.
#[doc(hidden)]
pub struct Registered<C> {
    pub(crate) mode: Mode,
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) read_only: bool,
    /// Its Cancel calls the handler also where phase one left no trace.
    pub(crate) outside: bool,
    pub(crate) isolation: Isolation,
    pub(crate) action: Box<dyn Action<C>>,
}

impl<C> fmt::Debug for Registered<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl<C: Send + 'static> Registered<C> {
    /// The same, interrupted where it is said so.
    pub(crate) fn interrupted(self, interrupt: Interrupt) -> Self {
        Self { action: Box::new(Interrupted { action: self.action, interrupt }), ..self }
    }
}

impl<C: Send> Registered<C> {
    pub(crate) fn tcc<R: Resource<Connection = C>, H: Tcc<R>>(handler: H) -> Self {
        Self { outside: false, ..Self::tcc_outside::<R, _>(Inside::new(handler)) }
    }

    pub(crate) fn tcc_outside<R, H>(handler: H) -> Self
    where
        R: Resource<Connection = C>,
        H: TccOutside<R>,
    {
        Self {
            mode: Mode::Tcc,
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            read_only: false,
            outside: true,
            isolation: handler.isolation(),
            action: Box::new(TccAction { handler, _resource: std::marker::PhantomData::<fn(R)> }),
        }
    }

    /// An action of closures, which work in the database alone.
    pub(crate) fn closures<A, O>(mode: Mode, closures: Closures<C, A, O>) -> Self
    where
        C: 'static,
        A: Argument,
        O: Encode + Decode + Send + Sync + 'static,
    {
        Self {
            mode,
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            read_only: false,
            outside: false,
            isolation: Isolation::default(),
            action: Box::new(closures),
        }
    }

    pub(crate) fn saga<R: Resource<Connection = C>, H: Saga<R>>(handler: H) -> Self {
        Self { mode: Mode::Saga, ..Self::tcc::<R, _>(SagaStep::new(handler)) }
    }

    pub(crate) fn saga_outside<R, H>(handler: H) -> Self
    where
        R: Resource<Connection = C>,
        H: SagaOutside<R>,
    {
        Self { mode: Mode::Saga, ..Self::tcc_outside::<R, _>(SagaOutsideStep::new(handler)) }
    }

    pub(crate) fn uncompensated<R, H>(handler: H) -> Self
    where
        R: Resource<Connection = C>,
        H: Uncompensated<R>,
    {
        Self::saga::<R, _>(UncompensatedStep::new(handler))
    }
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<C: Send> Registered<C> {
    pub(crate) fn two_phase<R, H>(handler: H) -> Self
    where
        R: TwoPhaseResource<Connection = C>,
        H: TwoPhase<R>,
    {
        Self {
            mode: Mode::TwoPhaseCommit,
            read_only: handler.read_only(),
            outside: false,
            isolation: handler.isolation(),
            action: Box::new(TwoPhaseAction {
                handler,
                _resource: std::marker::PhantomData::<fn(R)>,
            }),
        }
    }
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
struct TwoPhaseAction<R, H> {
    handler: H,
    _resource: std::marker::PhantomData<fn(R)>,
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<R: TwoPhaseResource, H: TwoPhase<R>> Action<R::Connection> for TwoPhaseAction<R, H> {
    fn prepare<'a>(
        &'a self,
        db: &'a mut R::Connection,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>> {
        Box::pin(async move {
            let call = typed(call)?;
            self.handler.prepare(db, &call).await?;
            Ok(Payload::default())
        })
    }

    /// The database does it: there is no handler of phase two.
    fn phase_two<'a>(
        &'a self,
        _: PhaseTwoOperation,
        _: &'a mut R::Connection,
        _: &'a Call<Payload>,
        _: Option<Payload>,
    ) -> BoxFuture<'a, Result<(), PhaseTwoError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn read_output(&self, _: &Payload) -> Result<(), Unreadable> {
        Ok(())
    }
}

struct TccAction<R, H> {
    handler: H,
    _resource: std::marker::PhantomData<fn(R)>,
}

impl<R: Resource, H: TccOutside<R>> Action<R::Connection> for TccAction<R, H> {
    fn prepare<'a>(
        &'a self,
        db: &'a mut R::Connection,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>> {
        Box::pin(async move {
            let call = typed(call)?;
            let output = self.handler.try_(db, &call).await?;
            written(&output, &call)
        })
    }

    fn phase_two<'a>(
        &'a self,
        operation: PhaseTwoOperation,
        db: &'a mut R::Connection,
        call: &'a Call<Payload>,
        output: Option<Payload>,
    ) -> BoxFuture<'a, Result<(), PhaseTwoError>> {
        Box::pin(async move {
            let output = output.map(|output| read("output", &output)).transpose()?;
            let payload = read::<H::Payload>(PAYLOAD, &call.payload)?;
            let call = with_payload(call, payload);
            match (operation, output) {
                (PhaseTwoOperation::Cancel, output) => self.handler.cancel(db, &call, output).await,
                (PhaseTwoOperation::Commit, Some(output)) => {
                    self.handler.confirm(db, &call, output).await
                }
                (PhaseTwoOperation::Commit, None) => {
                    Err(PhaseTwoError::Failed("nothing is prepared that could be committed".into()))
                }
            }
        })
    }

    fn read_output(&self, output: &Payload) -> Result<(), Unreadable> {
        read::<H::Output>("output", output).map(drop)
    }
}

/// The call with its payload read; one that cannot be read is refused.
pub(crate) fn typed<P: Decode>(call: &Call<Payload>) -> Result<Call<P>, PrepareError> {
    match P::decode_payload(&call.payload) {
        Ok(payload) => Ok(with_payload(call, payload)),
        Err(error) => Err(PrepareError::Refused(Refusal::new(
            "PAYLOAD_UNREADABLE",
            format!("payload of action {} must be readable: {error}", call.action),
        ))),
    }
}

/// The output as it is kept; one that cannot be written is refused: it would be no other one if it were asked
/// for again.
fn written<P>(output: &impl Encode, call: &Call<P>) -> Result<Payload, PrepareError> {
    Payload::of(output).map_err(|error| {
        let message = format!("output of action {} must be writable: {error}", call.action);
        PrepareError::Refused(Refusal::new("OUTPUT_UNWRITABLE", message))
    })
}

fn with_payload<P>(call: &Call<Payload>, payload: P) -> Call<P> {
    Call {
        branch: call.branch.clone(),
        action: call.action.clone(),
        payload,
        metadata: call.metadata.clone(),
        attempt: call.attempt,
        must_succeed: call.must_succeed,
        deadline: call.deadline,
        inputs: Arc::clone(&call.inputs),
    }
}
