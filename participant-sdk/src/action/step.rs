//! Steps of sagas as actions.

use std::marker::PhantomData;

use crate::handler::{Call, Isolation, PhaseTwoError, PrepareError, Saga, Tcc, Uncompensated};
use crate::resource::Resource;

/// A saga's step is a TCC action that has nothing left to confirm.
pub(super) struct SagaStep<R, H> {
    handler: H,
    _resource: PhantomData<fn(R)>,
}

impl<R, H> SagaStep<R, H> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, _resource: PhantomData }
    }
}

impl<R: Resource, H: Saga<R>> Tcc<R> for SagaStep<R, H> {
    type Payload = H::Payload;
    type Output = H::Output;

    async fn try_(
        &self,
        db: &mut R::Connection,
        call: &Call<H::Payload>,
    ) -> Result<H::Output, PrepareError> {
        self.handler.run(db, call).await
    }

    async fn confirm(
        &self,
        _: &mut R::Connection,
        _: &Call<H::Payload>,
        _: H::Output,
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut R::Connection,
        call: &Call<H::Payload>,
        output: H::Output,
    ) -> Result<(), PhaseTwoError> {
        self.handler.compensate(db, call, output).await
    }

    fn isolation(&self) -> Isolation {
        self.handler.isolation()
    }
}

/// A step that nothing makes up for. It is never *done* to compensate it.
pub(super) struct UncompensatedStep<R, H> {
    handler: H,
    _resource: PhantomData<fn(R)>,
}

impl<R, H> UncompensatedStep<R, H> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, _resource: PhantomData }
    }
}

impl<R: Resource, H: Uncompensated<R>> Saga<R> for UncompensatedStep<R, H> {
    type Payload = H::Payload;
    type Output = H::Output;

    async fn run(
        &self,
        db: &mut R::Connection,
        call: &Call<H::Payload>,
    ) -> Result<H::Output, PrepareError> {
        self.handler.run(db, call).await
    }

    async fn compensate(
        &self,
        _: &mut R::Connection,
        call: &Call<H::Payload>,
        _: H::Output,
    ) -> Result<(), PhaseTwoError> {
        Err(no_compensation(&call.action))
    }

    fn isolation(&self) -> Isolation {
        self.handler.isolation()
    }
}

/// The failure of a Cancel that finds a step done which nothing makes up for.
pub(crate) fn no_compensation(action: &str) -> PhaseTwoError {
    let text = format!(
        "NO_COMPENSATION: {action} is done, and has no compensation here; the saga's definition must \
         declare the step without one"
    );
    PhaseTwoError::Failed(text.into())
}
