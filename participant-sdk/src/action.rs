//! Handlers of any type, behind one face.

mod step;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use unanimo_proto::v1::Mode;

use self::step::{SagaStep, UncompensatedStep};
#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::handler::TwoPhase;
use crate::handler::{Call, Isolation, PhaseTwoError, PrepareError, Saga, Tcc, Uncompensated};
use crate::payload::{Decode, Payload};
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

    /// Phase two of what was prepared.
    fn phase_two<'a>(
        &'a self,
        operation: PhaseTwoOperation,
        db: &'a mut C,
        call: &'a Call<Payload>,
        output: Payload,
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

fn read<T: Decode>(what: &'static str, payload: &Payload) -> Result<T, Unreadable> {
    T::decode_payload(payload).map_err(|error| Unreadable { what, error: error.to_string() })
}

/// Told which operation's handler has succeeded, with which output; says whether its work is to be
/// rolled back, as if the process had died before the commit.
#[doc(hidden)]
pub type Interrupt = Arc<dyn Fn(&'static str, &Bytes) -> bool + Send + Sync>;

/// A handler, and how it is to be run.
#[doc(hidden)]
pub struct Registered<C> {
    pub(crate) mode: Mode,
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) read_only: bool,
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
        Self {
            mode: Mode::Tcc,
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            read_only: false,
            isolation: handler.isolation(),
            action: Box::new(TccAction { handler, _resource: std::marker::PhantomData::<fn(R)> }),
        }
    }

    pub(crate) fn saga<R: Resource<Connection = C>, H: Saga<R>>(handler: H) -> Self {
        Self { mode: Mode::Saga, ..Self::tcc::<R, _>(SagaStep::new(handler)) }
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
        _: Payload,
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

impl<R: Resource, H: Tcc<R>> Action<R::Connection> for TccAction<R, H> {
    fn prepare<'a>(
        &'a self,
        db: &'a mut R::Connection,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>> {
        Box::pin(async move {
            let call = typed(call)?;
            let output = self.handler.try_(db, &call).await?;
            // It would be no other one if it were asked for again.
            Payload::of(&output).map_err(|error| {
                let message = format!("output of action {} must be writable: {error}", call.action);
                PrepareError::Refused(Refusal::new("OUTPUT_UNWRITABLE", message))
            })
        })
    }

    fn phase_two<'a>(
        &'a self,
        operation: PhaseTwoOperation,
        db: &'a mut R::Connection,
        call: &'a Call<Payload>,
        output: Payload,
    ) -> BoxFuture<'a, Result<(), PhaseTwoError>> {
        Box::pin(async move {
            let output = read("output", &output)?;
            let payload = read::<H::Payload>("payload", &call.payload)?;
            let call = with_payload(call, payload);
            match operation {
                PhaseTwoOperation::Commit => self.handler.confirm(db, &call, output).await,
                PhaseTwoOperation::Cancel => self.handler.cancel(db, &call, output).await,
            }
        })
    }

    fn read_output(&self, output: &Payload) -> Result<(), Unreadable> {
        read::<H::Output>("output", output).map(drop)
    }
}

/// A handler between whose success and commit a test can come.
struct Interrupted<C> {
    action: Box<dyn Action<C>>,
    interrupt: Interrupt,
}

const INTERRUPTED: &str = "interrupted by a test";

impl<C: Send> Action<C> for Interrupted<C> {
    fn prepare<'a>(
        &'a self,
        db: &'a mut C,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>> {
        Box::pin(async move {
            let output = self.action.prepare(db, call).await?;
            match (self.interrupt)("prepare", &output.data) {
                true => Err(PrepareError::Failed(INTERRUPTED.into())),
                false => Ok(output),
            }
        })
    }

    fn phase_two<'a>(
        &'a self,
        operation: PhaseTwoOperation,
        db: &'a mut C,
        call: &'a Call<Payload>,
        output: Payload,
    ) -> BoxFuture<'a, Result<(), PhaseTwoError>> {
        Box::pin(async move {
            self.action.phase_two(operation, db, call, output).await?;
            let name = match operation {
                PhaseTwoOperation::Commit => "commit",
                PhaseTwoOperation::Cancel => "cancel",
            };
            match (self.interrupt)(name, &Bytes::new()) {
                true => Err(PhaseTwoError::Failed(INTERRUPTED.into())),
                false => Ok(()),
            }
        })
    }

    fn read_output(&self, output: &Payload) -> Result<(), Unreadable> {
        self.action.read_output(output)
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
