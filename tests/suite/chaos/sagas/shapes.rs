//! Shapes of sagas, and what is submitted of them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use unanimo_proto::v1::Compensation;
use unanimo_sdk::client::{self, Child, Error, Lock, StepAction, StepRef, Steps};
use unanimo_sdk::{Client, Outcome};

/// Names of the participants.
pub(crate) const WORKERS: [&str; 2] = ["left", "right"];

/// Longest time that a saga may take, from its begin.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// Time that an attempt of a step that hangs is waited for.
const ATTEMPT: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Done at once, and compensated.
    Plain,
    /// TCC: confirmed or cancelled.
    Reserved,
    /// Two-phase commit: its row is there once it is committed.
    Written,
    /// Done a while after the steps before it, and compensated.
    Delayed,
    Pivot,
    /// After the pivot.
    Last,
    /// Done at once, and never undone.
    Kept,
    /// A TCC transaction.
    ChildTcc(&'static [Step]),
    /// A saga.
    ChildSaga(&'static [Step]),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Its branch id, unique among all steps of the shape.
    pub(crate) id: &'static str,
    worker: usize,
    pub(crate) kind: Kind,
    /// Steps whose outputs are its inputs, under their own names.
    pub(crate) reads: &'static [&'static str],
    /// Other steps that it is after.
    pub(crate) after: &'static [&'static str],
}

impl Step {
    const fn new(
        id: &'static str,
        worker: usize,
        kind: Kind,
        reads: &'static [&'static str],
    ) -> Self {
        Self { id, worker, kind, reads, after: &[] }
    }

    const fn after(self, after: &'static [&'static str]) -> Self {
        Self { after, ..self }
    }
}

/// Reservations in parallel, a pivot, and two steps after it.
const TRIP: &[Step] = &[
    Step::new("flight", 0, Kind::Reserved, &[]),
    Step::new("hotel", 1, Kind::Plain, &[]),
    Step::new("car", 0, Kind::Plain, &[]),
    Step::new("pay", 1, Kind::Pivot, &["flight", "hotel"]),
    Step::new("ticket", 0, Kind::Last, &["flight", "pay"]),
    Step::new("mail", 1, Kind::Last, &["hotel", "ticket"]),
];

/// A child of two banks beside a reservation, and a step after both.
const ORDER: &[Step] = &[
    Step::new("order", 0, Kind::Plain, &[]),
    Step::new("stock", 1, Kind::Reserved, &["order"]),
    Step::new("payment", 0, Kind::ChildTcc(PAYMENT), &[]).after(&["order"]),
    Step::new("shipment", 0, Kind::Plain, &["order", "stock"]).after(&["payment"]),
];

const PAYMENT: &[Step] =
    &[Step::new("debit", 0, Kind::Reserved, &[]), Step::new("credit", 1, Kind::Reserved, &[])];

/// Ten steps in a chain, each with the output of the one before, one of them kept.
const PIPELINE: &[Step] = &[
    Step::new("one", 0, Kind::Plain, &[]),
    Step::new("two", 1, Kind::Plain, &["one"]),
    Step::new("three", 0, Kind::Plain, &["one", "two"]),
    Step::new("four", 1, Kind::Kept, &["three"]),
    Step::new("five", 0, Kind::Plain, &["three", "four"]),
    Step::new("six", 1, Kind::Plain, &["five"]),
    Step::new("seven", 0, Kind::Plain, &["six"]),
    Step::new("eight", 1, Kind::Plain, &["seven"]),
    Step::new("nine", 0, Kind::Plain, &["one", "eight"]),
    Step::new("ten", 1, Kind::Plain, &["nine"]),
];

/// A saga in the place of a step.
const PARCEL: &[Step] = &[
    Step::new("open", 1, Kind::Plain, &[]),
    Step::new("packing", 0, Kind::ChildSaga(PACKING), &[]).after(&["open"]),
    Step::new("label", 0, Kind::Plain, &["open"]),
    Step::new("send", 1, Kind::Plain, &["label"]).after(&["packing"]),
];

const PACKING: &[Step] = &[
    Step::new("wrap", 0, Kind::Plain, &[]),
    Step::new("tape", 1, Kind::Reserved, &["wrap"]),
    Step::new("seal", 0, Kind::Plain, &["tape"]),
];

/// A step that waits for its time, and one in two-phase commit at the end.
const TRANSFER: &[Step] = &[
    Step::new("check", 1, Kind::Plain, &[]),
    Step::new("book", 1, Kind::Delayed, &["check"]),
    Step::new("seat", 0, Kind::Reserved, &["check"]),
    Step::new("ledger", 0, Kind::Written, &["book"]).after(&["seat"]),
];

pub(crate) const SHAPES: [&[Step]; 5] = [TRIP, ORDER, PIPELINE, PARCEL, TRANSFER];

/// Delay of a step that waits for its time: long enough for a write to say so.
const DELAY: Duration = Duration::from_millis(1_100);

/// Lock of a saga, exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    No,
    /// Before anything is sent.
    Whole(&'static str),
    /// Before this step is sent.
    At(&'static str, &'static str),
}

#[derive(Clone, Debug)]
pub(crate) struct Saga {
    pub(crate) gid: String,
    pub(crate) steps: &'static [Step],
    /// The step that votes no.
    pub(crate) refuses: Option<&'static str>,
    /// The step whose first attempt hangs.
    pub(crate) hangs: Option<&'static str>,
    pub(crate) locked: Locked,
}

/// Makes sagas of every shape. By `number`, the count of those made before, each step that may vote no
/// does so now and then, and two of three sagas have none.
pub(crate) fn some(round: &str, number: usize, count: usize) -> Vec<Saga> {
    let one = |index: usize| {
        let steps = SHAPES[index % SHAPES.len()];
        let of_shape = index / SHAPES.len();
        let can_refuse = leaves(steps, &mut |step| !matches!(step.kind, Kind::Last));
        let refuses = (of_shape % 3 == 1).then(|| can_refuse[of_shape / 3 % can_refuse.len()]);
        let locked = match index % 6 {
            1 => Locked::Whole("till"),
            4 => Locked::At(steps[0].id, "till"),
            _ => Locked::No,
        };
        Saga { gid: format!("{round}-{index}"), steps, refuses, hangs: None, locked }
    };
    (number..number + count).map(one).collect()
}

/// Returns the ids of the steps that do something themselves, and fit.
fn leaves(steps: &'static [Step], fits: &mut impl FnMut(&Step) -> bool) -> Vec<&'static str> {
    let mut found = Vec::new();
    for step in steps {
        match step.kind {
            Kind::ChildTcc(inner) | Kind::ChildSaga(inner) => found.extend(leaves(inner, fits)),
            _ if fits(step) => found.push(step.id),
            _ => {}
        }
    }
    found
}

impl Saga {
    /// Submits it twice at once.
    pub(crate) async fn run(&self, client: &Client) -> Vec<Outcome> {
        let (one, two) = tokio::join!(self.submit(client), self.submit(client));
        vec![one.unwrap(), two.unwrap()]
    }

    pub(crate) async fn submit(&self, client: &Client) -> Result<Outcome, Error> {
        let mut draft = client.saga(&self.gid).timeout(TIMEOUT);
        if let Locked::Whole(name) = self.locked {
            draft = draft.lock(Lock::exclusive(name));
        }
        let (draft, ()) = draft.steps(|saga| self.add(self.steps, saga));
        draft.submit().await
    }

    fn add<'s>(&self, steps: &'static [Step], saga: &mut Steps<'s>) {
        let mut outputs: BTreeMap<&str, StepRef<'s, Bytes>> = BTreeMap::new();
        let mut children: BTreeMap<&str, StepRef<'s, ()>> = BTreeMap::new();
        for step in steps {
            let child = match step.kind {
                Kind::ChildTcc(inner) => Child::tcc(|child| self.add(inner, child)),
                Kind::ChildSaga(inner) => Child::saga(|child| self.add(inner, child)),
                Kind::Written => {
                    let made = StepAction::two_phase(WORKERS[step.worker], "write");
                    let made = made.step(step.id, self.payload(step));
                    let made = self.in_its_place(step, made, &outputs, &children);
                    children.insert(step.id, saga.add(made));
                    continue;
                }
                _ => {
                    let made = self.action(step).step(step.id, self.payload(step));
                    let made = self.in_its_place(step, made, &outputs, &children);
                    outputs.insert(step.id, saga.add(made));
                    continue;
                }
            };
            let mut made = child.step(step.id);
            for before in step.after {
                made = made.after(&outputs[before]);
            }
            children.insert(step.id, saga.add(made));
        }
    }

    /// Gives a step its inputs, its place in the order, and its manners.
    fn in_its_place<'s, O>(
        &self,
        step: &Step,
        mut made: client::Step<'s, O>,
        outputs: &BTreeMap<&str, StepRef<'s, Bytes>>,
        children: &BTreeMap<&str, StepRef<'s, ()>>,
    ) -> client::Step<'s, O> {
        for read in step.reads {
            made = made.input(*read, &outputs[read]);
        }
        for before in step.after {
            made = match outputs.get(before) {
                Some(before) => made.after(before),
                None => made.after(&children[before]),
            };
        }
        made = match step.kind {
            Kind::Pivot => made.pivot().compensation(Compensation::None),
            Kind::Last => made.compensation(Compensation::None),
            Kind::Kept => made.compensation(Compensation::Kept),
            Kind::Delayed => made.delay(DELAY),
            _ => made,
        };
        if self.hangs == Some(step.id) {
            made = made.attempt_timeout(ATTEMPT);
        }
        if let Locked::At(at, name) = self.locked
            && at == step.id
        {
            made = made.lock(Lock::exclusive(name));
        }
        made
    }

    fn action(&self, step: &Step) -> StepAction<Bytes, Bytes> {
        let worker = WORKERS[step.worker];
        match step.kind {
            Kind::Reserved => StepAction::tcc(worker, "hold"),
            Kind::Pivot | Kind::Last | Kind::Kept => StepAction::new(worker, "last"),
            _ => StepAction::new(worker, "do"),
        }
    }

    fn payload(&self, step: &Step) -> Bytes {
        let vote = match Some(step.id) {
            id if id == self.refuses => "no",
            id if id == self.hangs => "hang",
            _ => "yes",
        };
        let inputs: String = step.reads.iter().map(|name| format!(" {name}")).collect();
        format!("{vote} 2{inputs}").into()
    }
}
