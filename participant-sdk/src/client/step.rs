//! A step of a saga: what is done, after what, with whose outputs, and how often it is tried.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use unanimo_proto::v1::{BranchSpec, Compensation, StepInput};

use super::action::Inputs;
use super::action::sealed::Ref;
use super::draft::{Spec, duration_to_wire};
use super::lock::Lock;
use super::output::StepOutput;
use super::retry::Retry;

/// Types that a step stands for: nothing of them is in it.
type Types<'s, O, K> = (Brand<'s>, fn() -> (O, K));

/// A step that is about to be [added](super::Steps::add) to a saga or
/// [executed](super::Transaction::execute_step). Made by [`StepAction::step`](super::StepAction::step).
///
/// `I` are the types of the inputs that it was not yet given. Where the transaction is no saga, the
/// coordinator takes nothing of what is set here. `K` tells a [`Nested`] transaction from an [`Action`].
#[must_use = "nothing happens before it is added or executed"]
pub struct Step<'s, O, I: Inputs = (), K = Action> {
    spec: Spec,
    names: I::Names,
    /// Transactions to which the steps belong that it refers to, where these were executed.
    tx_ids: Vec<String>,
    types: PhantomData<Types<'s, O, K>>,
}

/// Kind of a step that is an action of a participant.
#[derive(Clone, Copy, Debug)]
pub enum Action {}

/// Kind of a step that is a transaction, a [`Child`](super::Child). It has no inputs.
#[derive(Clone, Copy, Debug)]
pub enum Nested {}

/// Type of one saga alone: no lifetime can stand for another one.
pub(super) type Brand<'s> = PhantomData<fn(&'s ()) -> &'s ()>;

/// A step of a saga, for later steps of the same saga. It cannot leave the saga that it belongs to.
pub struct StepRef<'s, O> {
    branch_id: String,
    tx_id: Option<String>,
    types: PhantomData<(Brand<'s>, fn() -> O)>,
}

impl<'s, O, I: Inputs> Step<'s, O, I> {
    /// Gives it its inputs: the outputs of these steps, in the order of the action's names. It is sent
    /// after them, and on ABORT compensated before them.
    pub fn inputs(mut self, steps: I::Steps<'_, 's>) -> Step<'s, O> {
        let names = self.names;
        for (name, step) in names.as_ref().iter().zip(I::refs(steps)) {
            self.read((*name).to_owned(), &step);
        }
        Step { spec: self.spec, names: [], tx_ids: self.tx_ids, types: PhantomData }
    }

    /// Gives it one more input, which its action does not describe: for a number of inputs that only
    /// the running program knows.
    pub fn input<T>(mut self, name: impl Into<String>, step: &StepRef<'s, T>) -> Self {
        self.read(name.into(), &step.as_ref());
        self
    }

    fn read(&mut self, name: String, step: &Ref<'_>) {
        self.depend(step);
        if let Ok(spec) = &mut self.spec {
            spec.inputs.push(StepInput { name, branch_id: step.branch_id.to_owned() });
        }
    }
}

impl<'s, O, I: Inputs, K> Step<'s, O, I, K> {
    pub(super) fn new(spec: Spec, names: I::Names) -> Self {
        Self { spec, names, tx_ids: Vec::new(), types: PhantomData }
    }

    /// Lets it wait for another step whose output it does not need. It is sent after it, and on ABORT
    /// compensated before it.
    pub fn after<T>(mut self, step: &StepRef<'s, T>) -> Self {
        self.depend(&step.as_ref());
        self
    }

    /// Makes it the pivot: its yes decides COMMIT. Every step that is not after it is done before it;
    /// the steps after it can only succeed. At most one, and only in a saga that is submitted.
    pub fn pivot(self) -> Self {
        self.set(|spec| spec.pivot = true)
    }

    /// Says how ABORT undoes it: the default is that its participant compensates it.
    /// [`Compensation::None`] is for the pivot and the steps after it, which no ABORT follows.
    /// [`Compensation::Kept`] is for a step before it whose effect stays.
    pub fn compensation(self, compensation: Compensation) -> Self {
        self.set(|spec| spec.compensation = compensation.into())
    }

    /// Sets the pauses of its attempts, and bounds them. Without it they go on until the saga's deadline. The
    /// pivot and the steps after it have pauses alone.
    pub fn retry(self, retry: Retry) -> Self {
        self.set(|spec| spec.retry = Some(retry.into()))
    }

    /// Time to wait for the answer of one attempt. Default, and most: what the coordinator is set to.
    pub fn attempt_timeout(self, timeout: Duration) -> Self {
        self.set(|spec| spec.attempt_timeout = Some(duration_to_wire(timeout)))
    }

    /// Time between the last vote that it waits for and its first attempt. The saga's deadline goes on
    /// meanwhile.
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|spec| spec.delay = Some(duration_to_wire(delay)))
    }

    /// Earliest time of its first attempt.
    pub fn start_at(self, at: SystemTime) -> Self {
        self.set(|spec| spec.start_at = Some(at.into()))
    }

    /// Adds a lock to be had before it is sent, and held until the saga has ended. Not after the pivot.
    pub fn lock(self, lock: Lock) -> Self {
        self.set(|spec| spec.locks.push(lock.into()))
    }

    fn depend(&mut self, step: &Ref<'_>) {
        self.tx_ids.extend(step.tx_id.map(str::to_owned));
        if let Ok(spec) = &mut self.spec
            && !spec.depends_on.iter().any(|known| known == step.branch_id)
        {
            spec.depends_on.push(step.branch_id.to_owned());
        }
    }

    fn set(mut self, change: impl FnOnce(&mut BranchSpec)) -> Self {
        if let Ok(spec) = &mut self.spec {
            change(spec);
        }
        self
    }
}

impl<'s, O, K> Step<'s, O, (), K> {
    /// Returns the branch, a reference to it, and the transactions of the steps that it refers to.
    pub(super) fn into_parts(self, tx_id: Option<String>) -> (Spec, StepRef<'s, O>, Vec<String>) {
        let branch_id = match &self.spec {
            Ok(spec) => spec.branch_id.clone(),
            Err((branch_id, _)) => branch_id.clone(),
        };
        (self.spec, StepRef { branch_id, tx_id, types: PhantomData }, self.tx_ids)
    }
}

impl<O> StepRef<'_, O> {
    /// Returns its `branch_id`.
    #[must_use]
    pub fn branch_id(&self) -> &str {
        &self.branch_id
    }

    /// Names its output, to be read from the [outcome](super::Outcome::output) of the transaction.
    pub fn output(&self) -> StepOutput<O> {
        StepOutput::new(self.branch_id.clone())
    }

    pub(super) fn as_ref(&self) -> Ref<'_> {
        Ref { branch_id: &self.branch_id, tx_id: self.tx_id.as_deref() }
    }
}

impl<O, I: Inputs, K> Clone for Step<'_, O, I, K> {
    fn clone(&self) -> Self {
        let (spec, tx_ids) = (self.spec.clone(), self.tx_ids.clone());
        Self { spec, names: self.names, tx_ids, types: PhantomData }
    }
}

impl<O, I: Inputs, K> fmt::Debug for Step<'_, O, I, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Step").field(&self.spec).finish()
    }
}

impl<O> fmt::Debug for StepRef<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StepRef").field(&self.branch_id).finish()
    }
}
