//! Actions whose handlers are types with a trait.

use unanimo_proto::v1::Mode;

use super::Registered;
#[cfg(any(feature = "mysql", feature = "postgres"))]
use super::work::nothing;
use super::work::{Undo, Work};
#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::handler::TwoPhase;
use crate::handler::{Saga, SagaOutside, Tcc, TccOutside, Uncompensated};
use crate::resource::Resource;
#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::resource::TwoPhaseResource;

impl<C: Send + 'static> Registered<C> {
    pub(crate) fn tcc<R: Resource<Connection = C>, H: Tcc<R>>(handler: H) -> Self {
        let isolation = handler.isolation();
        let work = Work::<C, H, H::Payload, H::Output>::new(
            handler,
            |tcc, db, call| Box::pin(async move { tcc.try_(db, &call).await }),
            Undo::Inside(|tcc, db, call, held| {
                Box::pin(async move { tcc.cancel(db, &call, held).await })
            }),
        )
        .confirmed(|tcc, db, call, held| {
            Box::pin(async move { tcc.confirm(db, &call, held).await })
        });
        Self::new(Mode::Tcc, isolation, work)
    }

    pub(crate) fn tcc_outside<R: Resource<Connection = C>, H: TccOutside<R>>(handler: H) -> Self {
        let isolation = handler.isolation();
        let work = Work::<C, H, H::Payload, H::Output>::new(
            handler,
            |tcc, db, call| Box::pin(async move { tcc.try_(db, &call).await }),
            Undo::Outside(|tcc, db, call, held| {
                Box::pin(async move { tcc.cancel(db, &call, held).await })
            }),
        )
        .confirmed(|tcc, db, call, held| {
            Box::pin(async move { tcc.confirm(db, &call, held).await })
        });
        Self::new(Mode::Tcc, isolation, work)
    }

    pub(crate) fn saga<R: Resource<Connection = C>, H: Saga<R>>(handler: H) -> Self {
        let isolation = handler.isolation();
        let work = Work::<C, H, H::Payload, H::Output>::new(
            handler,
            |step, db, call| Box::pin(async move { step.run(db, &call).await }),
            Undo::Inside(|step, db, call, done| {
                Box::pin(async move { step.compensate(db, &call, done).await })
            }),
        );
        Self::new(Mode::Saga, isolation, work)
    }

    pub(crate) fn saga_outside<R: Resource<Connection = C>, H: SagaOutside<R>>(handler: H) -> Self {
        let isolation = handler.isolation();
        let work = Work::<C, H, H::Payload, H::Output>::new(
            handler,
            |step, db, call| Box::pin(async move { step.run(db, &call).await }),
            Undo::Outside(|step, db, call, done| {
                Box::pin(async move { step.compensate(db, &call, done).await })
            }),
        );
        Self::new(Mode::Saga, isolation, work)
    }

    pub(crate) fn uncompensated<R: Resource<Connection = C>, H: Uncompensated<R>>(
        handler: H,
    ) -> Self {
        let isolation = handler.isolation();
        let work = Work::<C, H, H::Payload, H::Output>::new(
            handler,
            |step, db, call| Box::pin(async move { step.run(db, &call).await }),
            Undo::Never,
        );
        Self::new(Mode::Saga, isolation, work)
    }
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<C: Send + 'static> Registered<C> {
    /// Phase two is the database's, and no handler's.
    pub(crate) fn two_phase<R: TwoPhaseResource<Connection = C>, H: TwoPhase<R>>(
        handler: H,
    ) -> Self {
        let (isolation, read_only) = (handler.isolation(), handler.read_only());
        let work = Work::<C, H, H::Payload, ()>::new(
            handler,
            |work, db, call| Box::pin(async move { work.prepare(db, &call).await }),
            Undo::Inside(nothing),
        );
        Self { read_only, ..Self::new(Mode::TwoPhaseCommit, isolation, work) }
    }
}
