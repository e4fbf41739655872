//! Replay: recorded inputs applied to today's state machine, compared step by step.

mod compare;
mod difference;
mod live;

use bytes::Bytes;

pub use self::difference::{Difference, Error};
use super::{Call, Document, Entry, Input, LockRequest, PrepareResult, Standing, Step};
use crate::decision::Phase;
use crate::effects::Effects;
use crate::ids::Version;
use crate::policy::Policy;
use crate::time::Timestamp;
use crate::transaction::{Record, Transaction};

/// Numbers of what a replay went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Transitions.
    pub transitions: usize,
    /// Inputs.
    pub inputs: usize,
    /// Calls to participants.
    pub calls: usize,
    /// Requests for locks.
    pub lock_requests: usize,
    /// Times at which an incarnation adopted the transaction.
    pub recoveries: usize,
}

/// One input of a replay, and what it led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The version that the input made, or that the next transition makes.
    pub version: Version,
    /// Place of the input among those of its version, from 1.
    pub step: usize,
    /// The input made the transition.
    pub written: bool,
    /// When.
    pub at: Timestamp,
    /// The input, in words.
    pub input: String,
    /// Calls that it led to.
    pub calls: Vec<Call>,
    /// Requests for locks that it led to.
    pub locks: Vec<LockRequest>,
    /// The transaction after it.
    pub after: Standing,
}

/// Replays a document to its end.
///
/// # Errors
/// The document breaks a rule or is not whole, or today's state machine does something else than the recorded one.
pub fn replay(document: &Document) -> Result<Replayed, Error> {
    let mut replay = Replay::of(document)?;
    for moment in replay.by_ref() {
        moment?;
    }
    replay.end()
}

/// A replay under way: each item is an input. It ends with the first difference.
#[derive(Debug)]
pub struct Replay<'a> {
    document: &'a Document,
    /// Stands for the bytes of payloads and outputs.
    zeroes: Bytes,
    policy: Policy,
    /// `None` before the begin.
    tx: Option<Transaction>,
    /// The transaction as the last transition wrote it.
    written: Option<Record>,
    /// When the last input came.
    at: Option<Timestamp>,
    sum: Replayed,
    entry: usize,
    step: usize,
}

impl<'a> Replay<'a> {
    /// Prepares the replay of a document.
    ///
    /// # Errors
    /// The document breaks a rule.
    pub fn of(document: &'a Document) -> Result<Self, Error> {
        if let Some(violation) = document.violation() {
            return Err(Error::Invalid(violation));
        }
        Ok(Self {
            document,
            zeroes: vec![0; largest(document)].into(),
            policy: Policy::default(),
            tx: None,
            written: None,
            at: None,
            sum: Replayed::default(),
            entry: 0,
            step: 0,
        })
    }

    /// The transaction after the last input.
    #[must_use]
    pub fn transaction(&self) -> Option<&Transaction> {
        self.tx.as_ref()
    }

    /// Ends a replay without a difference, and returns what it went through.
    ///
    /// # Errors
    /// The document is not all that was recorded.
    pub fn end(&self) -> Result<Replayed, Error> {
        let replayed = self.sum;
        match self.document.missing() {
            Some(missing) => Err(Error::NotWhole { missing, replayed }),
            None => Ok(replayed),
        }
    }

    fn take(&mut self, entry: &Entry, step: &Step) -> Result<Moment, Box<Difference>> {
        let last = self.step + 1 == entry.steps.len();
        let compare = compare::Compare { document: self.document, entry, at: self.step };
        compare.time_of(step, self.not_before(entry, &step.input))?;
        self.at = Some(step.at);
        let effects = self.apply(compare, entry, step)?;
        let tx = self.tx.as_mut().expect("the first input begins it");
        compare.effects(step, &effects, tx, &self.policy)?;
        let forced = last && entry.forced;
        let made = match effects.transition {
            None if forced => tx.note(step.at, &self.policy).transition,
            made if forced => return Err(compare.no_such_transition(made.as_ref())),
            made => made,
        };
        match (&made, last) {
            (Some(transition), true) => {
                self.written = Some(tx.record());
                compare.transition(transition, tx, &self.policy)?;
            }
            (None, false) => {}
            (made, _) => return Err(compare.no_such_transition(made.as_ref())),
        }
        let standing = Standing::of(tx, &self.policy);
        self.sum.inputs += 1;
        self.sum.transitions += usize::from(last);
        self.sum.calls += step.calls.len();
        self.sum.lock_requests += step.locks.len();
        Ok(Moment {
            version: entry.version,
            step: self.step + 1,
            written: last,
            at: step.at,
            input: self.document.input_in_words(&step.input),
            calls: step.calls.clone(),
            locks: step.locks.clone(),
            after: standing,
        })
    }

    /// Returns the time before which an input cannot come. A transaction lives through real time from its start on, and
    /// takes the time of day again when it is adopted.
    fn not_before(&self, entry: &Entry, input: &Input) -> Option<Timestamp> {
        let has_started = |tx: &Transaction| !matches!(tx.phase(), Phase::Scheduled);
        self.tx.as_ref().filter(|tx| has_started(tx))?;
        let is_adopted = matches!(input, Input::Recovered { .. }) || self.is_behind_a_gap(entry);
        self.at.filter(|_| !is_adopted)
    }

    /// Tells whether the transaction was adopted before this input.
    fn is_behind_a_gap(&self, entry: &Entry) -> bool {
        let written = self.written.as_ref();
        self.step == 0 && written.is_some_and(|written| entry.version != written.version.next())
    }

    fn apply(
        &mut self,
        compare: compare::Compare<'_>,
        entry: &Entry,
        step: &Step,
    ) -> Result<Effects, Box<Difference>> {
        if let Input::Begin { branches, settings, .. } = &step.input {
            self.policy = settings.policy();
            let definition = self.document.definition((*branches).into(), &self.zeroes);
            let tx_id = self.document.transaction.tx_id;
            let (tx, effects) = Transaction::begin(tx_id, definition, step.at, &self.policy);
            compare.begun(&step.input, &tx)?;
            self.tx = Some(tx);
            return Ok(effects);
        }
        let written = self.written.as_ref().expect("the first input begins it, and is written");
        let gap = self.is_behind_a_gap(entry);
        if let Input::Recovered { settings, .. } = &step.input {
            self.policy = settings.policy();
            self.sum.recoveries += 1;
        }
        if gap || matches!(step.input, Input::Recovered { .. }) {
            let version = Version(entry.version.0 - 1);
            self.tx = Some(Transaction::restore(Record { version, ..written.clone() }));
        }
        let tx = self.tx.as_mut().expect("it has begun");
        tx.rules = self.policy.rules;
        if let Input::Recovered { found, .. } = &step.input {
            compare.found(found, &Standing::of(tx, &self.policy))?;
        }
        let input = live::input(self.document, &step.input, &self.zeroes);
        let effects = tx
            .apply_recorded(input, step.at, &self.policy)
            .map_err(|rejection| compare.rejected(&rejection))?;
        compare.added(&step.input, tx)?;
        Ok(effects)
    }
}

impl Iterator for Replay<'_> {
    type Item = Result<Moment, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let document = self.document;
        let entry = document.entries.get(self.entry)?;
        let step = &entry.steps[self.step];
        let moment = self.take(entry, step);
        if moment.is_err() {
            // What comes after a difference tells nothing.
            self.entry = document.entries.len();
        } else if self.step + 1 == entry.steps.len() {
            (self.entry, self.step) = (self.entry + 1, 0);
        } else {
            self.step += 1;
        }
        Some(moment.map_err(Error::Differs))
    }
}

/// Bytes of the largest payload or output.
fn largest(document: &Document) -> usize {
    let outputs =
        document.entries.iter().flat_map(|entry| &entry.steps).map(|step| match &step.input {
            Input::PrepareAnswered { answer: PrepareResult::Prepared { output }, .. } => {
                output.bytes
            }
            Input::Resolve { output: Some(output), .. } => output.bytes,
            _ => 0,
        });
    document.branches.iter().map(|shape| shape.payload.bytes).chain(outputs).max().unwrap_or(0)
}
