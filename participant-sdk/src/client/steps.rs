//! The steps of one saga, and a transaction in the place of a step.

use std::marker::PhantomData;
use std::time::Duration;

use unanimo_proto::v1::{BranchSpec, ChildTransaction, Mode};

use super::draft::{Spec, duration_to_wire};
use super::lock::Lock;
use super::step::{Brand, Nested, Step, StepRef};

/// Collects the steps of one saga, in [`Draft::steps`](super::Draft::steps) and in a [`Child`]. Steps
/// are made where they are collected: each belongs to one saga.
///
/// # Refused by the compiler
///
/// An input of another type:
///
/// ```compile_fail,E0308
/// # use unanimo_sdk::{Client, Json, client::StepAction};
/// # const HOTEL: StepAction<(), Json<String>> = StepAction::new("hotel", "book");
/// const MAIL: StepAction<(), (), (Json<u64>,)> =
///     StepAction::new("mailer", "mail").inputs(["ticket"]);
/// # let client = Client::new("http://127.0.0.1:7610").unwrap();
/// let draft = client.saga("trip-4711").steps(|saga| {
///     let hotel = saga.add(HOTEL.step("hotel", ()));
///     saga.add(MAIL.step("mail", ()).inputs((&hotel,)));
/// });
/// ```
///
/// An input that is missing:
///
/// ```compile_fail,E0308
/// # use unanimo_sdk::{Client, Json, client::StepAction};
/// # const MAIL: StepAction<(), (), (Json<u64>,)> =
/// #     StepAction::new("mailer", "mail").inputs(["ticket"]);
/// # let client = Client::new("http://127.0.0.1:7610").unwrap();
/// let draft = client.saga("trip-4711").steps(|saga| {
///     saga.add(MAIL.step("mail", ()));
/// });
/// ```
///
/// A step that is declared later, so that no circle can be written:
///
/// ```compile_fail,E0425
/// # use unanimo_sdk::{Client, client::StepAction};
/// # const HOTEL: StepAction<(), ()> = StepAction::new("hotel", "book");
/// # const MAIL: StepAction<(), ()> = StepAction::new("mailer", "mail");
/// # let client = Client::new("http://127.0.0.1:7610").unwrap();
/// let draft = client.saga("trip-4711").steps(|saga| {
///     saga.add(MAIL.step("mail", ()).after(&hotel));
///     let hotel = saga.add(HOTEL.step("hotel", ()));
/// });
/// ```
///
/// A step of another saga, or of the parent:
///
/// ```compile_fail,E0521
/// # use unanimo_sdk::{Client, client::{Child, StepAction}};
/// # const HOTEL: StepAction<(), ()> = StepAction::new("hotel", "book");
/// # const MAIL: StepAction<(), ()> = StepAction::new("mailer", "mail");
/// # let client = Client::new("http://127.0.0.1:7610").unwrap();
/// let draft = client.saga("trip-4711").steps(|saga| {
///     let hotel = saga.add(HOTEL.step("hotel", ()));
///     let letter = Child::saga(|letter| {
///         letter.add(MAIL.step("mail", ()).after(&hotel));
///     });
///     saga.add(letter.step("letter"));
/// });
/// ```
///
/// An input of a child, which its steps could not read:
///
/// ```compile_fail,E0599
/// # use unanimo_sdk::{Client, Json, client::{Child, StepAction}};
/// # const HOTEL: StepAction<(), Json<u64>> = StepAction::new("hotel", "book");
/// # const MAIL: StepAction<(), ()> = StepAction::new("mailer", "mail");
/// # let client = Client::new("http://127.0.0.1:7610").unwrap();
/// let draft = client.saga("trip-4711").steps(|saga| {
///     let hotel = saga.add(HOTEL.step("hotel", ()));
///     let letter = Child::saga(|letter| {
///         letter.add(MAIL.step("mail", ()));
///     });
///     saga.add(letter.step("letter").input("room", &hotel));
/// });
/// ```
///
/// A step that is kept for a later saga:
///
/// ```compile_fail,E0521
/// # use unanimo_sdk::{Client, client::StepAction};
/// # const HOTEL: StepAction<(), ()> = StepAction::new("hotel", "book");
/// # let client = Client::new("http://127.0.0.1:7610").unwrap();
/// let mut kept = None;
/// let draft = client.saga("trip-4711").steps(|saga| {
///     kept = Some(saga.add(HOTEL.step("hotel", ())));
/// });
/// ```
#[derive(Debug)]
pub struct Steps<'s> {
    specs: Vec<Spec>,
    brand: Brand<'s>,
}

impl<'s> Steps<'s> {
    /// Adds a step. Later steps of this saga read its output, or wait for it, by the reference that it
    /// returns.
    pub fn add<O, K>(&mut self, step: Step<'s, O, (), K>) -> StepRef<'s, O> {
        let (spec, step, _) = step.into_parts(None);
        self.specs.push(spec);
        step
    }

    pub(super) fn describe<T>(
        describe: impl for<'c> FnOnce(&mut Steps<'c>) -> T,
    ) -> (Vec<Spec>, T) {
        let mut steps = Steps { specs: Vec::new(), brand: PhantomData };
        let described = describe(&mut steps);
        (steps.specs, described)
    }
}

/// A transaction of the same coordinator in the place of a participant: its branches are prepared, and
/// end as its parent is decided. It has a gid of its own, `PARENTGID.BRANCHID` in most cases.
///
/// ```
/// use unanimo_sdk::client::{Child, StepAction};
///
/// const DEBIT: StepAction<(), ()> = StepAction::new("bank", "debit");
/// const CREDIT: StepAction<(), ()> = StepAction::new("bank", "credit");
/// # fn run(client: unanimo_sdk::Client) {
/// let (order, ()) = client.saga("order-4711").steps(|saga| {
///     let payment = Child::tcc(|payment| {
///         payment.add(DEBIT.step("debit", ()));
///         payment.add(CREDIT.step("credit", ()));
///     });
///     saga.add(payment.step("payment"));
/// });
/// # let _ = order;
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is added to a saga as a step"]
pub struct Child {
    mode: Mode,
    branches: Vec<Spec>,
    timeout: Option<Duration>,
    locks: Vec<Lock>,
}

impl Child {
    /// Describes a saga. None of its steps is a pivot.
    pub fn saga(describe: impl for<'c> FnOnce(&mut Steps<'c>)) -> Self {
        Self::of(Mode::Saga, describe)
    }

    /// Describes a TCC transaction.
    pub fn tcc(describe: impl for<'c> FnOnce(&mut Steps<'c>)) -> Self {
        Self::of(Mode::Tcc, describe)
    }

    /// Describes a two-phase commit.
    pub fn two_phase(describe: impl for<'c> FnOnce(&mut Steps<'c>)) -> Self {
        Self::of(Mode::TwoPhaseCommit, describe)
    }

    /// Time from its begin until it is aborted if it has not voted by then.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Adds a lock to be had before any of its branches is sent.
    pub fn lock(mut self, lock: Lock) -> Self {
        self.locks.push(lock);
        self
    }

    /// Makes a step of it. The step has no output and no inputs: its steps read outputs of each other alone.
    pub fn step<'s>(self, branch_id: impl Into<String>) -> Step<'s, (), (), Nested> {
        Step::new(self.into_spec(branch_id.into()), [])
    }

    fn of(mode: Mode, describe: impl for<'c> FnOnce(&mut Steps<'c>)) -> Self {
        let (branches, ()) = Steps::describe(describe);
        Self { mode, branches, timeout: None, locks: Vec::new() }
    }

    fn into_spec(self, branch_id: String) -> Spec {
        let branches: Result<Vec<_>, _> = self.branches.into_iter().collect();
        let child = ChildTransaction {
            mode: self.mode.into(),
            branches: branches?,
            timeout: self.timeout.map(duration_to_wire),
            locks: self.locks.into_iter().map(Into::into).collect(),
        };
        Ok(BranchSpec { branch_id, child: Some(child), ..Default::default() })
    }
}
