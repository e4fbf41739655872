//! Comparison of what an input led to with what the record says.

use std::borrow::Cow;

use super::Difference;
use crate::effects::{Effects, Transition};
use crate::history::{
    Call, Document, Entry, Event, Input, LockRequest, Standing, Step, definition,
};
use crate::ids::BranchNumber;
use crate::input::Rejection;
use crate::policy::Policy;
use crate::time::Timestamp;
use crate::transaction::Transaction;

type Compared = Result<(), Box<Difference>>;

/// The place in the record that is compared.
#[derive(Clone, Copy)]
pub(super) struct Compare<'a> {
    pub(super) document: &'a Document,
    pub(super) entry: &'a Entry,
    /// Index of the step.
    pub(super) at: usize,
}

impl Compare<'_> {
    /// Compares the time of an input with that of its write, and with the time before which it cannot have come.
    pub(super) fn time_of(self, step: &Step, not_before: Option<Timestamp>) -> Compared {
        if let Some(before) = not_before.filter(|before| step.at < *before) {
            let what = "the time goes back, and only an adoption sets a transaction's clock";
            let after = format!("{} or later", self.document.time(before));
            return Err(self.difference(what.to_owned(), self.document.time(step.at), after));
        }
        let makes_the_write = self.at + 1 == self.entry.steps.len();
        let written_at = if makes_the_write { self.entry.at } else { step.at };
        let what = "the time of the write is not that of the input that made it";
        self.same(what, &written_at, &step.at, |at| self.document.time(*at))
    }

    /// Compares the definition with that which was begun.
    pub(super) fn begun(self, input: &Input, tx: &Transaction) -> Compared {
        let (subject, identity) = (&self.document.transaction, tx.identity());
        for (what, recorded, begun) in [
            ("the time of the begin differs", Some(subject.created_at), Some(identity.created_at)),
            ("the time of the start differs", subject.start_at, identity.start_at),
            ("the deadline differs", Some(subject.deadline), Some(identity.deadline)),
        ] {
            self.same(what, &recorded, &begun, |at| self.time(*at))?;
        }
        let Input::Begin { definition: recorded, .. } = input else { return Ok(()) };
        if recorded.is_empty() {
            return Ok(());
        }
        let shapes = self.document.branches.iter();
        let branches =
            tx.branches().iter().zip(shapes).map(|(branch, shape)| (&*branch.spec, shape.by));
        let replayed = definition::of_begin(tx.identity(), branches);
        let what = "the number of branches that were begun differs";
        let branches = |digests: &usize| digests.saturating_sub(1).to_string();
        self.same(what, &recorded.len(), &replayed.len(), branches)?;
        for (index, (before, now)) in recorded.iter().zip(&replayed).enumerate() {
            let what = match index.checked_sub(1) {
                None => {
                    "the definition of the transaction is not the one that was recorded".to_owned()
                }
                Some(at) => self.other_branch(BranchNumber::from_index(at)),
            };
            self.same(&what, before, now, digest)?;
        }
        Ok(())
    }

    /// Compares the definition of a branch with that which was added.
    pub(super) fn added(self, input: &Input, tx: &Transaction) -> Compared {
        let Input::Enlist { number, definition: Some(recorded), .. } = input else { return Ok(()) };
        let shape = &self.document.branches[number.index()];
        let added = tx.branch(*number);
        let replayed = added.map(|branch| definition::of_branch(&branch.spec, shape.by));
        let replayed = replayed.unwrap_or_default();
        self.same(&self.other_branch(*number), recorded, &replayed, digest)
    }

    fn other_branch(self, number: BranchNumber) -> String {
        format!("the definition of {} is not the one that was recorded", self.document.name(number))
    }

    /// Compares what is sent, and when the next tick is due.
    pub(super) fn effects(
        self,
        step: &Step,
        effects: &Effects,
        tx: &Transaction,
        policy: &Policy,
    ) -> Compared {
        let document = self.document;
        let calls: Vec<Call> =
            effects.calls.iter().map(|call| Call::of(call, tx, policy)).collect();
        self.same("the calls differ", &step.calls, &calls, |calls| document.calls_in_words(calls))?;
        let locks: Vec<LockRequest> = effects.locks.iter().map(Into::into).collect();
        self.same("the requests for locks differ", &step.locks, &locks, |locks| {
            document.locks_in_words(locks)
        })?;
        let wake_at = tx.wake_at(policy);
        self.same("the time of the next tick differs", &step.wake_at, &wake_at, |at| self.time(*at))
    }

    /// Compares the transition, and the transaction after it.
    pub(super) fn transition(
        self,
        made: &Transition,
        tx: &Transaction,
        policy: &Policy,
    ) -> Compared {
        let entry = self.entry;
        if made.version != entry.version {
            let (recorded, replayed) = (entry.version.0, made.version.0);
            let what = "the version differs".to_owned();
            return Err(self.difference(what, recorded.to_string(), replayed.to_string()));
        }
        let awaited = |awaited: &bool| match awaited {
            true => "calls and answers wait for it".to_owned(),
            false => "nothing waits for it".to_owned(),
        };
        self.same("the urgency of the write differs", &entry.awaited, &made.awaited, awaited)?;
        let events: Vec<Event> = made.events.iter().map(Into::into).collect();
        self.same("the events differ", &entry.events, &events, |events| {
            self.document.events_in_words(events)
        })?;
        self.standing(&entry.after, &Standing::of(tx, policy))?;
        let releases = |releases: &bool| if *releases { "they are" } else { "they are not" }.into();
        let what = "whether the locks are given back differs";
        self.same(what, &entry.releases_locks, &made.releases_locks, releases)
    }

    /// Compares the transaction that a recovery finds.
    pub(super) fn found(self, recorded: &Standing, found: &Standing) -> Compared {
        self.standing(recorded, found).map_err(|mut difference| {
            difference.what = format!("found at the recovery: {}", difference.what);
            difference
        })
    }

    pub(super) fn rejected(self, rejection: &Rejection) -> Box<Difference> {
        let what = "the input is not taken any more".to_owned();
        self.difference(what, "taken".to_owned(), format!("rejected: {rejection}"))
    }

    /// A transition where none was, or none where one was.
    pub(super) fn no_such_transition(self, made: Option<&Transition>) -> Box<Difference> {
        let last = self.at + 1 == self.entry.steps.len();
        let recorded = match (last, self.entry.forced) {
            (false, _) => "none".to_owned(),
            (true, true) => "one because many inputs waited".to_owned(),
            (true, false) => format!("version {}", self.entry.version.0),
        };
        let replayed =
            made.map_or_else(|| "none".to_owned(), |made| format!("version {}", made.version.0));
        self.difference("the transition differs".to_owned(), recorded, replayed)
    }

    fn standing(self, recorded: &Standing, replayed: &Standing) -> Compared {
        let document = self.document;
        let phase = |standing: &Standing| document.phase_in_words(standing);
        self.same("the phase differs", &phase(recorded), &phase(replayed), Clone::clone)?;
        // Words that no version writes, which the line above shows as others.
        let word = |word: &Option<Cow<'static, str>>| word.as_deref().unwrap_or("none").to_owned();
        self.same("the decision differs", &recorded.decision, &replayed.decision, word)?;
        self.same("the cause differs", &recorded.cause, &replayed.cause, word)?;
        let count = |standing: &Standing| standing.branches.len();
        self.same("the number of branches differs", &count(recorded), &count(replayed), |count| {
            count.to_string()
        })?;
        for (index, (before, now)) in recorded.branches.iter().zip(&replayed.branches).enumerate() {
            let name = document.name(BranchNumber::from_index(index));
            self.same(&format!("the state of {name} differs"), before, now, ToString::to_string)?;
        }
        for index in 0..recorded.branches.len() {
            let of = |standing: &Standing| standing.flags.get(index).cloned().unwrap_or_default();
            let name = document.name(BranchNumber::from_index(index));
            let what = format!("what is stored of {name} differs");
            self.same(&what, &of(recorded), &of(replayed), |flags| match &**flags {
                "" => "nothing".to_owned(),
                flags => flags.to_owned(),
            })?;
        }
        let flags = |standing: &Standing| {
            let heuristic = standing.heuristic.as_deref().unwrap_or("not heuristic");
            let stalled = if standing.stalled { ", stalled" } else { "" };
            let forgotten = if standing.forgotten { ", alarm cleared" } else { "" };
            format!("{heuristic}{stalled}{forgotten}")
        };
        self.same("the alarms differ", &flags(recorded), &flags(replayed), Clone::clone)?;
        for (what, before, now) in [
            ("the deadline differs", recorded.deadline, replayed.deadline),
            ("the end of the sleep differs", recorded.sleeps_until, replayed.sleeps_until),
            ("the time of the next tick differs", recorded.wake_at, replayed.wake_at),
        ] {
            self.same(what, &before, &now, |at| self.time(*at))?;
        }
        Ok(())
    }

    fn same<T: PartialEq>(
        self,
        what: &str,
        recorded: &T,
        replayed: &T,
        in_words: impl Fn(&T) -> String,
    ) -> Compared {
        if recorded == replayed {
            return Ok(());
        }
        Err(self.difference(what.to_owned(), in_words(recorded), in_words(replayed)))
    }

    fn time(self, at: Option<Timestamp>) -> String {
        at.map_or_else(|| "none".to_owned(), |at| self.document.time(at))
    }

    fn difference(self, what: String, recorded: String, replayed: String) -> Box<Difference> {
        let step = &self.entry.steps[self.at];
        Box::new(Difference {
            version: self.entry.version,
            step: self.at + 1,
            at: self.document.time(step.at),
            input: self.document.input_in_words(&step.input),
            what,
            recorded,
            replayed,
        })
    }
}

fn digest(digest: &String) -> String {
    format!("digest {digest}")
}
