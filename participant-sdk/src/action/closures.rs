//! Actions whose handlers are closures. They work in the database alone.

use unanimo_proto::v1::Mode;

#[cfg(any(feature = "mysql", feature = "postgres"))]
use super::work::nothing;
use super::work::{Undo, Work};
use super::{BoxFuture, Registered};
use crate::handler::{Argument, Isolation, PhaseTwoError, PrepareError};
use crate::payload::{Decode, Encode};

/// Closure of phase one.
pub(crate) type First<C, A, O> =
    Box<dyn for<'c> Fn(&'c mut C, A) -> BoxFuture<'c, Result<O, PrepareError>> + Send + Sync>;

/// Closure of phase two.
pub(crate) type Second<C, A, O> =
    Box<dyn for<'c> Fn(&'c mut C, A, O) -> BoxFuture<'c, Result<(), PhaseTwoError>> + Send + Sync>;

impl<C: Send + 'static> Registered<C> {
    pub(crate) fn tcc_fn<A, O>(
        try_: First<C, A, O>,
        confirm: Second<C, A, O>,
        cancel: Second<C, A, O>,
    ) -> Self
    where
        A: Argument,
        O: Encode + Decode + Send + Sync + 'static,
    {
        let work = Work::new(
            (try_, confirm, cancel),
            |(try_, _, _), db, call| try_(db, A::of(call)),
            Undo::Inside(|(_, _, cancel), db, call, held| cancel(db, A::of(call), held)),
        )
        .confirmed(|(_, confirm, _), db, call, held| confirm(db, A::of(call), held));
        Self::new(Mode::Tcc, Isolation::default(), work)
    }

    pub(crate) fn saga_fn<A, O>(run: First<C, A, O>, compensate: Second<C, A, O>) -> Self
    where
        A: Argument,
        O: Encode + Decode + Send + Sync + 'static,
    {
        let work = Work::new(
            (run, compensate),
            |(run, _), db, call| run(db, A::of(call)),
            Undo::Inside(|(_, compensate), db, call, done| compensate(db, A::of(call), done)),
        );
        Self::new(Mode::Saga, Isolation::default(), work)
    }

    pub(crate) fn uncompensated_fn<A, O>(run: First<C, A, O>) -> Self
    where
        A: Argument,
        O: Encode + Decode + Send + Sync + 'static,
    {
        let work = Work::new(run, |run, db, call| run(db, A::of(call)), Undo::Never);
        Self::new(Mode::Saga, Isolation::default(), work)
    }
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<C: Send + 'static> Registered<C> {
    /// Phase two is the database's, and no closure's.
    pub(crate) fn two_phase_fn<A: Argument>(prepare: First<C, A, ()>) -> Self {
        let work = Work::new(prepare, |run, db, call| run(db, A::of(call)), Undo::Inside(nothing));
        Self::new(Mode::TwoPhaseCommit, Isolation::default(), work)
    }

    pub(crate) fn read_only_fn<A: Argument>(read: First<C, A, ()>) -> Self {
        Self { read_only: true, ..Self::two_phase_fn(read) }
    }
}
