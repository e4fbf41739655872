//! Actions that lack the closures of phase two. These take the output of phase one as their third argument, if
//! there is one.

use std::fmt;

use super::Participant;
use crate::action::{First, Registered, Second};
use crate::handler::{Argument, HandlerFn, Handles, Output, OutputFn, PhaseTwoError};
use crate::payload::{Decode, Encode};
use crate::resource::Resource;

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

/// Answer of a closure of phase two.
type Answer = Result<(), PhaseTwoError>;

impl<R: Resource, A: Argument> TccFn<R, A, ()> {
    /// Makes the reservation final: `confirm` of [`Tcc`](crate::Tcc).
    pub fn confirm<F>(self, confirm: F) -> ConfirmedFn<R, A, ()>
    where
        F: HandlerFn<R::Connection, A, Result<(), PhaseTwoError>>,
    {
        ConfirmedFn { tcc: self, confirm: without_output(confirm) }
    }
}

impl<R: Resource, A: Argument, O: Output> TccFn<R, A, O> {
    /// Makes the reservation final: `confirm` of [`Tcc`](crate::Tcc).
    pub fn confirm<F>(self, confirm: F) -> ConfirmedFn<R, A, O>
    where
        F: OutputFn<R::Connection, A, O, Result<(), PhaseTwoError>>,
    {
        ConfirmedFn { tcc: self, confirm: with_output(confirm) }
    }
}

impl<R: Resource, A: Argument> ConfirmedFn<R, A, ()> {
    /// Takes the reservation back: `cancel` of [`Tcc`](crate::Tcc). The action is then offered.
    #[must_use]
    pub fn cancel<F>(self, cancel: F) -> Participant<R>
    where
        F: HandlerFn<R::Connection, A, Result<(), PhaseTwoError>>,
    {
        self.complete(without_output(cancel))
    }
}

impl<R: Resource, A: Argument, O: Output> ConfirmedFn<R, A, O> {
    /// Takes the reservation back: `cancel` of [`Tcc`](crate::Tcc). The action is then offered.
    #[must_use]
    pub fn cancel<F>(self, cancel: F) -> Participant<R>
    where
        F: OutputFn<R::Connection, A, O, Result<(), PhaseTwoError>>,
    {
        self.complete(with_output(cancel))
    }
}

impl<R: Resource, A: Argument> SagaFn<R, A, ()> {
    /// Makes up for the work: `compensate` of [`Saga`](crate::Saga). The action is then offered.
    #[must_use]
    pub fn compensate<F>(self, compensate: F) -> Participant<R>
    where
        F: HandlerFn<R::Connection, A, Result<(), PhaseTwoError>>,
    {
        self.complete(without_output(compensate))
    }
}

impl<R: Resource, A: Argument, O: Output> SagaFn<R, A, O> {
    /// Makes up for the work: `compensate` of [`Saga`](crate::Saga). The action is then offered.
    #[must_use]
    pub fn compensate<F>(self, compensate: F) -> Participant<R>
    where
        F: OutputFn<R::Connection, A, O, Result<(), PhaseTwoError>>,
    {
        self.complete(with_output(compensate))
    }
}

impl<R: Resource, A: Argument, O: Encode + Decode + Send + Sync + 'static> ConfirmedFn<R, A, O> {
    fn complete(self, cancel: Second<R::Connection, A, O>) -> Participant<R> {
        let Self { tcc: TccFn { participant, action, try_ }, confirm } = self;
        participant.with(action, Registered::tcc_fn(try_, confirm, cancel))
    }
}

impl<R: Resource, A: Argument, O: Encode + Decode + Send + Sync + 'static> SagaFn<R, A, O> {
    fn complete(self, compensate: Second<R::Connection, A, O>) -> Participant<R> {
        let Self { participant, action, run } = self;
        participant.with(action, Registered::saga_fn(run, compensate))
    }
}

fn without_output<C, A>(closure: impl HandlerFn<C, A, Answer>) -> Second<C, A, ()> {
    Box::new(move |db, argument, ()| Handles::handle(closure.clone(), (db, argument)))
}

fn with_output<C, A, O>(closure: impl OutputFn<C, A, O, Answer>) -> Second<C, A, O> {
    Box::new(move |db, argument, output| Handles::handle(closure.clone(), (db, argument, output)))
}

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
