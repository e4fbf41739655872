//! A handler that does what the call says, well or badly, and leaves a row for each effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use unanimo_sdk::{
    Branch, Call, InputError, Isolation, Json, PhaseTwoError, PrepareError, Saga, Tcc,
    Uncompensated, refuse,
};

use super::databases::{Database, Then, drop_at};

/// Deeds of a call in each operation, beside its effect.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) prepare: Deed,
    pub(crate) phase_two: Deed,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Deed {
    /// Has its effect.
    #[default]
    Work,
    /// Has its effect, and then votes no.
    Refuse,
    /// Has its effect, and then votes no if it may fail.
    OnlyIfItMustSucceed,
    /// Has its effect, and then fails.
    Fail,
    /// Runs this, errors swallowed, and then has its effect.
    Run(String),
    /// Drops the begin of a transaction at this step, and then has its effect.
    Abandon(usize),
    /// Runs this and drops it at this step, and then has its effect.
    DropRun(String, usize),
    /// Has its effect, and then runs this and drops it at this step.
    ThenDropRun(String, usize),
    /// Has the effect `inside` in a transaction inside its own, which ends so, and then has its effect.
    Nested(Then),
    /// Has its effect, and then runs this, errors swallowed.
    ThenRun(String),
    /// Runs the first, waits at the gate, runs the second, errors swallowed, and then has its effect.
    RunAndWait(String, String),
    /// The same, and then votes no.
    RunWaitAndRefuse(String, String),
    /// Has its effect, and waits at the gate.
    Wait,
    /// The same, and then fails.
    WaitAndFail,
    /// Has its effect, and then panics.
    Panic,
    /// Runs this, errors swallowed, and then panics.
    RunAndPanic(String),
    /// Runs this, errors swallowed, and then fails.
    RunAndFail(String),
    /// Has its effect, runs this for a moment and gives it up, and then fails if it is told to.
    GiveUp(String, bool),
    /// Has its effect, and another one that is the text of this input.
    Read(String),
}

/// Time in which a statement reaches the server.
const MOMENT: Duration = Duration::from_millis(50);

/// Where handlers wait.
#[derive(Debug)]
pub(crate) struct Gate {
    waiting: Semaphore,
    open: Semaphore,
}

impl Gate {
    async fn wait(&self) {
        self.waiting.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    /// Waits until a handler waits.
    pub(crate) async fn waiting(&self) {
        self.waiting.acquire().await.unwrap().forget();
    }

    /// Lets nobody in whom it was opened for and who has not come.
    pub(crate) fn shut(&self) {
        self.open.forget_permits(usize::MAX);
    }

    /// Lets one go on.
    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Handler {
    pub(crate) isolation: Isolation,
    pub(crate) gate: Arc<Gate>,
    /// Number of times that phase one was run.
    pub(crate) runs: Arc<AtomicU64>,
}

impl Handler {
    pub(crate) fn new(isolation: Isolation) -> Self {
        let closed = || Semaphore::new(0);
        let gate = Arc::new(Gate { waiting: closed(), open: closed() });
        Self { isolation, gate, runs: Arc::default() }
    }

    /// The output is another one at each run: a duplicate that ran again would be told apart.
    async fn phase_one<D: Database>(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
    ) -> Result<Json<u64>, PrepareError> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        self.act::<D, PrepareError>(db, call, "try", &call.payload.prepare).await?;
        match call.payload.prepare {
            Deed::Refuse | Deed::RunWaitAndRefuse(..) => {
                refuse("NO", format!("said the handler at run {run}"))
            }
            Deed::OnlyIfItMustSucceed if !call.must_succeed() => refuse("MAY_FAIL", "it may fail"),
            Deed::Fail | Deed::WaitAndFail | Deed::RunAndFail(_) | Deed::GiveUp(_, true) => {
                Err(PrepareError::Failed("it failed".into()))
            }
            _ => Ok(Json(run)),
        }
    }

    async fn phase_two<D: Database>(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        what: &str,
    ) -> Result<(), PhaseTwoError> {
        self.act::<D, PhaseTwoError>(db, call, what, &call.payload.phase_two).await?;
        match call.payload.phase_two {
            Deed::Fail | Deed::WaitAndFail | Deed::RunAndFail(_) | Deed::GiveUp(_, true) => {
                Err(PhaseTwoError::Failed("it failed".into()))
            }
            _ => Ok(()),
        }
    }

    async fn act<D: Database, E: From<InputError> + From<D::Error>>(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        what: &str,
        deed: &Deed,
    ) -> Result<(), E> {
        match deed {
            // Handlers may swallow what they like.
            Deed::Run(sql) => drop(D::run(db, sql.clone()).await),
            Deed::RunAndWait(first, second) | Deed::RunWaitAndRefuse(first, second) => {
                D::run(db, first.clone()).await?;
                self.gate.wait().await;
                let _ = D::run(db, second.clone()).await;
            }
            Deed::Abandon(steps) => D::abandon(db, *steps).await,
            Deed::DropRun(sql, steps) => drop_at(D::run(db, sql.clone()), *steps).await,
            Deed::Nested(then) => {
                let Branch { tx_id, branch_id, .. } = &call.branch;
                let effect =
                    format!("INSERT INTO effect VALUES ('{tx_id}', '{branch_id}', 'inside')");
                D::nested(db, effect, *then).await?;
            }
            Deed::RunAndPanic(sql) => {
                let _ = D::run(db, sql.clone()).await;
                panic!("the handler was told to");
            }
            Deed::RunAndFail(sql) => {
                let _ = D::run(db, sql.clone()).await;
                return Ok(());
            }
            _ => {}
        }
        let branch = &call.branch;
        let (tx_id, branch_id) = (branch.tx_id, &branch.branch_id);
        let effect = format!("INSERT INTO effect VALUES ('{tx_id}', '{branch_id}', '{what}')");
        D::run(db, effect).await?;
        match deed {
            Deed::ThenRun(sql) => drop(D::run(db, sql.clone()).await),
            Deed::ThenDropRun(sql, steps) => drop_at(D::run(db, sql.clone()), *steps).await,
            Deed::GiveUp(sql, _) => {
                drop(tokio::time::timeout(MOMENT, D::run(db, sql.clone())).await);
            }
            Deed::Wait | Deed::WaitAndFail => self.gate.wait().await,
            Deed::Panic => panic!("the handler was told to"),
            Deed::Read(name) => {
                let Json(text) = call.input::<Json<String>>(name)?;
                let read =
                    format!("INSERT INTO effect VALUES ('{tx_id}', '{branch_id}', '{text}')");
                D::run(db, read).await?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl<D: Database> Tcc<D> for Handler {
    type Payload = Json<Job>;
    type Output = Json<u64>;

    async fn try_(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
    ) -> Result<Json<u64>, PrepareError> {
        self.phase_one::<D>(db, call).await
    }

    async fn confirm(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        _: Json<u64>,
    ) -> Result<(), PhaseTwoError> {
        self.phase_two::<D>(db, call, "confirm").await
    }

    async fn cancel(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        _: Json<u64>,
    ) -> Result<(), PhaseTwoError> {
        self.phase_two::<D>(db, call, "cancel").await
    }

    fn isolation(&self) -> Isolation {
        self.isolation
    }
}

impl<D: Database> Saga<D> for Handler {
    type Payload = Json<Job>;
    type Output = Json<u64>;

    async fn run(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
    ) -> Result<Json<u64>, PrepareError> {
        self.phase_one::<D>(db, call).await
    }

    async fn compensate(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        _: Json<u64>,
    ) -> Result<(), PhaseTwoError> {
        self.phase_two::<D>(db, call, "compensate").await
    }

    fn isolation(&self) -> Isolation {
        self.isolation
    }
}

impl<D: Database> Uncompensated<D> for Handler {
    type Payload = Json<Job>;
    type Output = Json<u64>;

    async fn run(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
    ) -> Result<Json<u64>, PrepareError> {
        self.phase_one::<D>(db, call).await
    }

    fn isolation(&self) -> Isolation {
        self.isolation
    }
}
