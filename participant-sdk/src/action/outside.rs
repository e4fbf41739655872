//! Work inside of the database as a special case of work outside of it, and steps of sagas that do both.

use std::marker::PhantomData;

use crate::handler::{Call, Isolation, PhaseTwoError, PrepareError, SagaOutside, Tcc, TccOutside};
use crate::resource::Resource;

/// An action whose work is in the database alone: what left no trace there never happened.
pub(super) struct Inside<R, H> {
    handler: H,
    _resource: PhantomData<fn(R)>,
}

impl<R, H> Inside<R, H> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, _resource: PhantomData }
    }
}

impl<R: Resource, H: Tcc<R>> TccOutside<R> for Inside<R, H> {
    type Payload = H::Payload;
    type Output = H::Output;

    async fn try_(
        &self,
        db: &mut R::Connection,
        call: &Call<H::Payload>,
    ) -> Result<H::Output, PrepareError> {
        self.handler.try_(db, call).await
    }

    async fn confirm(
        &self,
        db: &mut R::Connection,
        call: &Call<H::Payload>,
        output: H::Output,
    ) -> Result<(), PhaseTwoError> {
        self.handler.confirm(db, call, output).await
    }

    async fn cancel(
        &self,
        db: &mut R::Connection,
        call: &Call<H::Payload>,
        output: Option<H::Output>,
    ) -> Result<(), PhaseTwoError> {
        match output {
            Some(output) => self.handler.cancel(db, call, output).await,
            None => Ok(()),
        }
    }

    fn isolation(&self) -> Isolation {
        self.handler.isolation()
    }
}

/// A saga's step is a TCC action that has nothing left to confirm.
pub(super) struct SagaOutsideStep<R, H> {
    handler: H,
    _resource: PhantomData<fn(R)>,
}

impl<R, H> SagaOutsideStep<R, H> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, _resource: PhantomData }
    }
}

impl<R: Resource, H: SagaOutside<R>> TccOutside<R> for SagaOutsideStep<R, H> {
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
        output: Option<H::Output>,
    ) -> Result<(), PhaseTwoError> {
        self.handler.compensate(db, call, output).await
    }

    fn isolation(&self) -> Isolation {
        self.handler.isolation()
    }
}
