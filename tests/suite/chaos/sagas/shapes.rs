//! Shapes of sagas, and what is submitted or driven of them.

use std::time::Duration;

use unanimo_sdk::client::Error;
use unanimo_sdk::{Client, Outcome};
pub(crate) use unanimo_tests::driven::WORKERS;
use unanimo_tests::driven::{self, Driven, DrivenStep, Ending};

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
    /// It is driven step by step, with this last word; `None` if it is submitted.
    pub(crate) driven: Option<Ending>,
}

/// Makes sagas of every shape. By `number`, the count of those made before, each step that may vote no
/// does so now and then, and two of three sagas have none. Every other one that has no pivot is driven step by step.
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
        let driven = match of_shape % 4 {
            1 => Some(Ending::Commit),
            3 => Some(if index.is_multiple_of(2) { Ending::Rollback } else { Ending::Commit }),
            _ => None,
        };
        let driven = driven.filter(|_| !has_pivot(steps));
        Saga { gid: format!("{round}-{index}"), steps, refuses, hangs: None, locked, driven }
    };
    (number..number + count).map(one).collect()
}

pub(crate) fn has_pivot(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step.kind, Kind::Pivot))
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
    /// Submits it twice at once, or has two initiators drive it at once.
    pub(crate) async fn run(&self, client: &Client) -> Vec<Outcome> {
        let (one, two) = tokio::join!(self.once(client), self.once(client));
        one.unwrap().into_iter().chain(two.unwrap()).collect()
    }

    /// Has one initiator submit or drive it; `None` if that one says nothing more.
    pub(crate) async fn once(&self, client: &Client) -> Result<Option<Outcome>, Error> {
        match self.driven {
            Some(_) => self.described().drive(client).await,
            None => self.described().submit(client).await.map(Some),
        }
    }

    /// Asks once more for what has ended.
    pub(crate) async fn again(&self, client: &Client) -> Result<Outcome, Error> {
        let mut described = self.described();
        if let Ending::Silence(_) = described.ending {
            described.ending = Ending::Rollback;
        }
        match self.driven {
            Some(_) => Ok(described.drive(client).await?.expect("it says its last word")),
            None => described.submit(client).await,
        }
    }

    /// Returns it as data.
    pub(crate) fn described(&self) -> Driven {
        let lock = match self.locked {
            Locked::Whole(name) => Some(name.to_owned()),
            Locked::No | Locked::At(..) => None,
        };
        Driven {
            gid: self.gid.clone(),
            timeout: TIMEOUT,
            lock,
            steps: self.all(self.steps),
            ending: self.driven.unwrap_or(Ending::Commit),
        }
    }

    fn all(&self, steps: &'static [Step]) -> Vec<DrivenStep> {
        steps.iter().map(|step| self.step(step)).collect()
    }

    fn step(&self, step: &'static Step) -> DrivenStep {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let lock = match self.locked {
            Locked::At(at, name) if at == step.id => Some(name.to_owned()),
            _ => None,
        };
        DrivenStep {
            id: step.id.to_owned(),
            worker: step.worker,
            kind: match step.kind {
                Kind::Plain => driven::Kind::Plain,
                Kind::Reserved => driven::Kind::Reserved,
                Kind::Written => driven::Kind::Written,
                Kind::Delayed => driven::Kind::Delayed(DELAY),
                Kind::Pivot => driven::Kind::Pivot,
                Kind::Last => driven::Kind::Last,
                Kind::Kept => driven::Kind::Kept,
                Kind::ChildTcc(inner) => driven::Kind::ChildTcc(self.all(inner)),
                Kind::ChildSaga(inner) => driven::Kind::ChildSaga(self.all(inner)),
            },
            payload: self.payload(step),
            reads: names(step.reads),
            after: names(step.after),
            lock,
            attempt: (self.hangs == Some(step.id)).then_some(ATTEMPT),
        }
    }

    fn payload(&self, step: &Step) -> String {
        let vote = match Some(step.id) {
            id if id == self.refuses => "no",
            id if id == self.hangs => "hang",
            _ => "yes",
        };
        let inputs: String = step.reads.iter().map(|name| format!(" {name}")).collect();
        format!("{vote} 2{inputs}")
    }
}
