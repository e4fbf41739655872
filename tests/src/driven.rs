//! Sagas as data, and initiators that submit them or drive them step by step. A process of its own can be told one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use unanimo_sdk::client::{
    Child, Compensation, Draft, Error, Executed, Lock, Nested, Step, StepAction, StepRef, Steps,
    Transaction,
};
use unanimo_sdk::{Client, Outcome};

/// Names of the participants.
pub const WORKERS: [&str; 2] = ["left", "right"];

/// Saga, and its initiator's last word.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Driven {
    /// Its gid.
    pub gid: String,
    /// Its timeout.
    pub timeout: Duration,
    /// Lock of the whole saga, exclusive.
    pub lock: Option<String>,
    /// Its steps, each after those that it depends on.
    pub steps: Vec<DrivenStep>,
    /// The initiator's last word.
    pub ending: Ending,
}

/// Last word of an initiator that drives a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It asks for COMMIT.
    Commit,
    /// It asks for ABORT.
    Rollback,
    /// It says nothing any more once so many steps are executed.
    Silence(usize),
}

/// Step of a saga.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrivenStep {
    /// Its branch id.
    pub id: String,
    /// Its participant, of [`WORKERS`].
    pub worker: usize,
    /// Its kind.
    pub kind: Kind,
    /// Its payload.
    pub payload: String,
    /// Steps whose outputs are its inputs, under their own names.
    pub reads: Vec<String>,
    /// Other steps that it is after.
    pub after: Vec<String>,
    /// Lock that it takes, exclusive.
    pub lock: Option<String>,
    /// Time that an attempt is waited for.
    pub attempt: Option<Duration>,
}

/// Kind of a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Done at once, and compensated.
    Plain,
    /// TCC: confirmed or cancelled.
    Reserved,
    /// Two-phase commit: its row is there once it is committed.
    Written,
    /// Done a while after the steps before it, and compensated.
    Delayed(Duration),
    /// The pivot.
    Pivot,
    /// After the pivot.
    Last,
    /// Done at once, and never undone.
    Kept,
    /// A TCC transaction.
    ChildTcc(Vec<DrivenStep>),
    /// A saga.
    ChildSaga(Vec<DrivenStep>),
}

/// Step that is made, with an output or without.
enum Made<'s> {
    With(Step<'s, Bytes>),
    Without(Step<'s, ()>),
    Child(Step<'s, (), (), Nested>),
}

/// Steps that came before, by their ids.
#[derive(Default)]
struct Known<'s> {
    with: BTreeMap<String, StepRef<'s, Bytes>>,
    without: BTreeMap<String, StepRef<'s, ()>>,
}

impl Driven {
    /// Submits it as a whole.
    ///
    /// # Errors
    /// The coordinator does not take it.
    pub async fn submit(&self, client: &Client) -> Result<Outcome, Error> {
        let (draft, ()) = self.draft(client).steps(|saga| add(&self.steps, saga));
        draft.submit().await
    }

    /// Drives it step by step; `None` if the last word is silence. An initiator that was started again begins anew, and
    /// hears what is known.
    ///
    /// # Errors
    /// The coordinator does not take it, or does not answer.
    pub async fn drive(&self, client: &Client) -> Result<Option<Outcome>, Error> {
        let mut transaction = self.draft(client).begin().await?;
        let mut known = Known::default();
        for (done, step) in self.steps.iter().enumerate() {
            if self.ending == Ending::Silence(done) {
                return Ok(None);
            }
            if !execute(&mut transaction, step, &mut known).await? {
                return transaction.rollback().await.map(Some);
            }
        }
        match self.ending {
            Ending::Commit => transaction.commit().await.map(Some),
            Ending::Rollback => transaction.rollback().await.map(Some),
            Ending::Silence(_) => Ok(None),
        }
    }

    fn draft(&self, client: &Client) -> Draft {
        let draft = client.saga(&self.gid).timeout(self.timeout);
        match &self.lock {
            Some(name) => draft.lock(Lock::exclusive(name)),
            None => draft,
        }
    }
}

/// Executes a step until it has a vote; tells whether the saga can go on.
async fn execute(
    transaction: &mut Transaction,
    step: &DrivenStep,
    known: &mut Known<'static>,
) -> Result<bool, Error> {
    loop {
        let executed = match step.made(known) {
            Made::With(made) => transaction.execute_step(made).await.map(|executed| {
                map(executed, |prepared| drop(known.with.insert(step.id.clone(), prepared.step)))
            }),
            Made::Without(made) => transaction.execute_step(made).await.map(|executed| {
                map(executed, |prepared| drop(known.without.insert(step.id.clone(), prepared.step)))
            }),
            Made::Child(made) => transaction.execute_step(made).await.map(|executed| {
                map(executed, |prepared| drop(known.without.insert(step.id.clone(), prepared.step)))
            }),
        };
        match executed {
            Ok(Executed::Prepared(())) => return Ok(true),
            // The wait is over, and nothing is known yet.
            Ok(Executed::NotVoted { .. }) => {}
            // An error says that it was aborted meanwhile: by its deadline, or by another initiator of its gid.
            Ok(Executed::Refused(_) | Executed::Aborted | Executed::ReadOnly)
            | Err(Error::Rejected { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn map<P>(executed: Executed<P>, prepared: impl FnOnce(P)) -> Executed<()> {
    match executed {
        Executed::Prepared(step) => {
            prepared(step);
            Executed::Prepared(())
        }
        Executed::ReadOnly => Executed::ReadOnly,
        Executed::Refused(refusal) => Executed::Refused(refusal),
        Executed::NotVoted { last_error } => Executed::NotVoted { last_error },
        Executed::Aborted => Executed::Aborted,
    }
}

/// Adds steps to a saga that is described as a whole.
fn add<'s>(steps: &[DrivenStep], saga: &mut Steps<'s>) {
    let mut known = Known::default();
    for step in steps {
        match step.made(&known) {
            Made::With(made) => drop(known.with.insert(step.id.clone(), saga.add(made))),
            Made::Without(made) => drop(known.without.insert(step.id.clone(), saga.add(made))),
            Made::Child(made) => drop(known.without.insert(step.id.clone(), saga.add(made))),
        }
    }
}

impl DrivenStep {
    fn made<'s>(&self, known: &Known<'s>) -> Made<'s> {
        let (id, worker) = (self.id.as_str(), WORKERS[self.worker]);
        let payload = || Bytes::from(self.payload.clone());
        let with = |action: StepAction<Bytes, Bytes>| action.step(id, payload());
        let compensated =
            |compensation| with(StepAction::new(worker, "last")).compensation(compensation);
        Made::With(match &self.kind {
            Kind::Plain => self.placed(with(StepAction::new(worker, "do")), known),
            Kind::Reserved => self.placed(with(StepAction::tcc(worker, "hold")), known),
            Kind::Delayed(delay) => {
                self.placed(with(StepAction::new(worker, "do")), known).delay(*delay)
            }
            Kind::Pivot => self.placed(compensated(Compensation::None), known).pivot(),
            Kind::Last => self.placed(compensated(Compensation::None), known),
            Kind::Kept => self.placed(compensated(Compensation::Kept), known),
            Kind::Written => {
                let action: StepAction<Bytes, ()> = StepAction::two_phase(worker, "write");
                return Made::Without(self.placed(action.step(id, payload()), known));
            }
            Kind::ChildTcc(inner) => {
                let child = Child::tcc(|child| add(inner, child));
                return Made::Child(self.ordered(child.step(id), known));
            }
            Kind::ChildSaga(inner) => {
                let child = Child::saga(|child| add(inner, child));
                return Made::Child(self.ordered(child.step(id), known));
            }
        })
    }

    /// Gives a step its inputs, its place in the order, and its manners.
    fn placed<'s, O>(&self, mut made: Step<'s, O>, known: &Known<'s>) -> Step<'s, O> {
        for read in &self.reads {
            made = made.input(read, &known.with[read]);
        }
        self.ordered(made, known)
    }

    /// Gives a step its place in the order, and its manners. One that cannot read comes after what it would read.
    fn ordered<'s, O, K>(
        &self,
        mut made: Step<'s, O, (), K>,
        known: &Known<'s>,
    ) -> Step<'s, O, (), K> {
        for read in &self.reads {
            made = made.after(&known.with[read]);
        }
        for before in &self.after {
            made = match known.with.get(before) {
                Some(before) => made.after(before),
                None => made.after(&known.without[before]),
            };
        }
        if let Some(attempt) = self.attempt {
            made = made.attempt_timeout(attempt);
        }
        match &self.lock {
            Some(name) => made.lock(Lock::exclusive(name)),
            None => made,
        }
    }
}
