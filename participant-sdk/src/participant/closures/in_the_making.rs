//! Actions that lack the closures of phase two.

use std::fmt;

use bytes::Bytes;
use unanimo_proto::v1::Mode;

use super::{Participant, nothing};
use crate::action::{Closures, First, Registered, Second};
use crate::handler::{Argument, Handles, PhaseTwoError};
use crate::payload::{Decode, Encode, Json, Payload, Prost};
use crate::resource::Resource;

/// Each call has a clone of the closure.
macro_rules! second {
    (without_output $closure:expr) => {{
        let closure = $closure;
        Box::new(move |db, argument, ()| Handles::handle(closure.clone(), (db, argument)))
    }};
    (with_output $closure:expr) => {{
        let closure = $closure;
        Box::new(move |db, argument, output| {
            Handles::handle(closure.clone(), (db, argument, output))
        })
    }};
}

/// A TCC action in the making, of [`Participant::tcc_fn`]: `.confirm(…)` comes next.
#[must_use = "the action is offered once confirm and cancel are given"]
pub struct TccFn<R: Resource, A, O> {
    pub(super) participant: Participant<R>,
    pub(super) action: String,
    pub(super) try_: First<R::Connection, A, O>,
}

/// A TCC action in the making, of [`Participant::tcc_fn`]: `.cancel(…)` comes next.
#[must_use = "the action is offered once cancel is given"]
pub struct ConfirmedFn<R: Resource, A, O> {
    tcc: TccFn<R, A, O>,
    confirm: Second<R::Connection, A, O>,
}

/// A step in the making, of [`Participant::saga_fn`]: `.compensate(…)` comes next.
#[must_use = "the action is offered once its compensation is given"]
pub struct SagaFn<R: Resource, A, O> {
    pub(super) participant: Participant<R>,
    pub(super) action: String,
    pub(super) run: First<R::Connection, A, O>,
}

impl<R: Resource, A: Argument, O: Encode + Decode + Send + Sync + 'static> ConfirmedFn<R, A, O> {
    fn complete(self, cancel: Second<R::Connection, A, O>) -> Participant<R> {
        let Self { tcc: TccFn { participant, action, try_ }, confirm } = self;
        let closures = Closures { try_, confirm, cancel };
        participant.with(action, Registered::closures(Mode::Tcc, closures))
    }
}

impl<R: Resource, A: Argument, O: Encode + Decode + Send + Sync + 'static> SagaFn<R, A, O> {
    fn complete(self, compensate: Second<R::Connection, A, O>) -> Participant<R> {
        let Self { participant, action, run } = self;
        let closures = Closures { try_: run, confirm: nothing(), cancel: compensate };
        participant.with(action, Registered::closures(Mode::Saga, closures))
    }
}

/// The closures of phase two, for one kind of output.
macro_rules! phase_two {
    ($kind:ident, $output:ty, [$($of:ident: $bound:path)?], ($($third:ty)?)) => {
        impl<R: Resource, A: Argument $(, $of: $bound)?> TccFn<R, A, $output>
        where
            $output: Encode + Decode + Send + Sync + 'static,
        {
            /// Makes the reservation final: `confirm` of [`Tcc`](crate::Tcc).
            pub fn confirm<F>(self, confirm: F) -> ConfirmedFn<R, A, $output>
            where
                F: AsyncFnOnce(&mut R::Connection, A $(, $third)?) -> Result<(), PhaseTwoError>
                    + for<'c> Handles<
                        'c,
                        (&'c mut R::Connection, A $(, $third)?),
                        Result<(), PhaseTwoError>,
                    > + Clone
                    + Send
                    + Sync
                    + 'static,
            {
                ConfirmedFn { tcc: self, confirm: second!($kind confirm) }
            }
        }

        impl<R: Resource, A: Argument $(, $of: $bound)?> ConfirmedFn<R, A, $output>
        where
            $output: Encode + Decode + Send + Sync + 'static,
        {
            /// Takes the reservation back: `cancel` of [`Tcc`](crate::Tcc). The action is then offered.
            #[must_use]
            pub fn cancel<F>(self, cancel: F) -> Participant<R>
            where
                F: AsyncFnOnce(&mut R::Connection, A $(, $third)?) -> Result<(), PhaseTwoError>
                    + for<'c> Handles<
                        'c,
                        (&'c mut R::Connection, A $(, $third)?),
                        Result<(), PhaseTwoError>,
                    > + Clone
                    + Send
                    + Sync
                    + 'static,
            {
                self.complete(second!($kind cancel))
            }
        }

        impl<R: Resource, A: Argument $(, $of: $bound)?> SagaFn<R, A, $output>
        where
            $output: Encode + Decode + Send + Sync + 'static,
        {
            /// Makes up for the work: `compensate` of [`Saga`](crate::Saga). The action is then offered.
            #[must_use]
            pub fn compensate<F>(self, compensate: F) -> Participant<R>
            where
                F: AsyncFnOnce(&mut R::Connection, A $(, $third)?) -> Result<(), PhaseTwoError>
                    + for<'c> Handles<
                        'c,
                        (&'c mut R::Connection, A $(, $third)?),
                        Result<(), PhaseTwoError>,
                    > + Clone
                    + Send
                    + Sync
                    + 'static,
            {
                self.complete(second!($kind compensate))
            }
        }
    };
}

phase_two!(without_output, (), [], ());
phase_two!(with_output, Json<T>, [T: Send], (Json<T>));
phase_two!(with_output, Prost<T>, [T: Send], (Prost<T>));
phase_two!(with_output, Payload, [], (Payload));
phase_two!(with_output, Bytes, [], (Bytes));

impl<R: Resource, A, O> fmt::Debug for TccFn<R, A, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TccFn").field("action", &self.action).finish_non_exhaustive()
    }
}

impl<R: Resource, A, O> fmt::Debug for ConfirmedFn<R, A, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfirmedFn").field("action", &self.tcc.action).finish_non_exhaustive()
    }
}

impl<R: Resource, A, O> fmt::Debug for SagaFn<R, A, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SagaFn").field("action", &self.action).finish_non_exhaustive()
    }
}
