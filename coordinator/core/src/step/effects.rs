//! End of an input: what is due is sent, the input is recorded, and what changed becomes a transition.

use std::sync::Arc;

use super::deciding::is_owed;
use super::{Change, Step};
use crate::branch::{Branch, PhaseTwo, Vote};
use crate::decision::{Decision, Heuristic, Phase};
use crate::effects::{Effects, Event, LockRequest, Transition};
use crate::history::{self, PENDING_MAX};
use crate::ids::{BranchNumber, Version};
use crate::policy::{Policy, RulesVersion};
use crate::time::Timestamp;
use crate::transaction::Transaction;

impl Transaction {
    /// Makes the transition that a history has because many inputs waited to be written. Recording makes
    /// it by itself; a replay follows the record.
    pub(crate) fn note(&mut self, now: Timestamp, policy: &Policy) -> Effects {
        let mut step = Step::new(self, now, policy);
        step.changed(Change::Noted);
        step.into_effects()
    }

    /// Ends a transaction as it had ended, of which no more than an earlier state is known: every branch did as was
    /// decided, or deviated so. Makes a version of its own.
    pub fn end_again(&mut self, phase: Phase, heuristic: Heuristic) {
        let ended_at = phase.ended_at();
        for branch in &mut self.branches {
            if let Some(decision) = phase.decision() {
                ended_as_decided(branch, decision, phase.decided_at());
            }
            branch.progress.ended_at = branch.progress.ended_at.or(ended_at);
            (branch.in_flight, branch.retry_at) = (None, None);
        }
        (self.phase, self.known_heuristic) = (phase, heuristic);
        self.next_version();
    }

    /// Makes a version that has nothing new, to be written again.
    pub fn next_version(&mut self) {
        self.version = self.version.next();
    }

    /// Makes the transition from a stored state of an earlier time to the present one: the database lacks what
    /// was written since. It has the branches from this index on, the outputs that are not among these, and all
    /// of the transaction where nothing of it is stored.
    #[must_use]
    pub fn written_again(
        &mut self,
        is_stored: bool,
        branches: usize,
        outputs: &[BranchNumber],
    ) -> Transition {
        self.unwritten_branches = self.branches.len();
        self.unwritten_outputs.clear();
        self.written_wake_at = self.sleeps_until();
        let is_new = |number: &BranchNumber| !outputs.contains(number);
        let output = |branch: &Branch| Some((branch.number, branch.output.clone()?));
        Transition {
            tx_id: self.identity.tx_id,
            version: self.version,
            begins: (!is_stored).then(|| Arc::clone(&self.identity)),
            state: self.state(),
            enlisted: self
                .branches
                .iter()
                .skip(branches)
                .map(|branch| (branch.number, branch.enlistment, Arc::clone(&branch.spec)))
                .collect(),
            outputs: self
                .branches
                .iter()
                .filter(|branch| is_new(&branch.number))
                .filter_map(output)
                .collect(),
            events: Vec::new(),
            history: Vec::new(),
            releases_locks: self.takes_locks() && matches!(self.phase, Phase::Ended { .. }),
            stripped_at: None,
            sleeper: None,
            awaited: true,
        }
    }
}

impl Step<'_> {
    /// Sends what is due, and turns what changed into a transition.
    pub(super) fn into_effects(mut self) -> Effects {
        self.send_what_is_due();
        self.note_a_sleep();
        let forced = self.record();
        if self.change.is_some() {
            self.tx.written_wake_at = self.tx.sleeps_until();
            self.tx.quiet = self.is_quiet();
        }
        let Self { tx, change, calls, locks, events, now, policy, .. } = self;
        let Some(change) = change else {
            debug_assert!(events.is_empty(), "an event without a change would be lost");
            return Effects { transition: None, calls, locks };
        };
        tx.written_at = now;
        let begins = (tx.version == Version::default()).then(|| Arc::clone(&tx.identity));
        tx.version = tx.version.next();
        let enlisted = tx.branches[tx.unwritten_branches..]
            .iter()
            .map(|branch| (branch.number, branch.enlistment, Arc::clone(&branch.spec)))
            .collect();
        tx.unwritten_branches = tx.branches.len();
        let outputs = std::mem::take(&mut tx.unwritten_outputs)
            .into_iter()
            .filter_map(|number| Some((number, tx.branches[number.index()].output.clone()?)))
            .collect();
        let awaited = change == Change::Awaited;
        let releases_locks = tx.takes_locks() && matches!(tx.phase, Phase::Ended { .. });
        let history = entry(tx, policy, &events, Made { at: now, forced, awaited, releases_locks });
        let transition = Transition {
            tx_id: tx.identity.tx_id,
            version: tx.version,
            begins,
            state: tx.state(),
            enlisted,
            outputs,
            events,
            history: history.into_iter().collect(),
            releases_locks,
            stripped_at: None,
            sleeper: None,
            awaited,
        };
        Effects { transition: Some(transition), calls, locks }
    }

    /// Calls whoever is due, and asks for the locks that are needed next.
    fn send_what_is_due(&mut self) {
        for (index, operation) in self.tx.due(self.now) {
            self.call(index, operation);
        }
        for owner in self.tx.due_locks(self.now) {
            let (now, earlier) = (self.now, self.asked_before(owner));
            let attempt = self.locks_of(owner).ask(now, earlier);
            self.locks.push(LockRequest { number: owner.map(BranchNumber::from_index), attempt });
        }
    }

    /// Has it written that nothing but time is waited for: then the transaction may leave memory.
    fn note_a_sleep(&mut self) {
        let until = self.waits_until();
        if until.is_some() && until != self.tx.written_wake_at {
            self.changed(Change::Noted);
        }
    }

    /// Tells whether nothing is under way before the decision, and nothing is for longer than a write takes.
    fn is_quiet(&self) -> bool {
        let active = self.tx.phase == Phase::Active;
        active && self.goes_by(RulesVersion::SECOND) && self.waits_until().is_some()
    }

    /// Returns the time until which nothing but time is waited for, if that is worth a write.
    fn waits_until(&self) -> Option<Timestamp> {
        let until = self.tx.sleeps_until();
        until.filter(|until| self.now.until(*until) > self.policy.vote_noted_after)
    }

    /// Keeps the input for the history, with what it led to. Returns true if so many wait that they are
    /// written by themselves.
    fn record(&mut self) -> bool {
        let Some(input) = self.recorded.take() else { return false };
        let idle = self.change.is_none() && self.calls.is_empty() && self.locks.is_empty();
        let ended = matches!(self.tx.phase, Phase::Ended { .. });
        if idle && (ended || self.is_idle || input.shows_in_effects()) {
            return false;
        }
        let step = history::Step {
            at: self.now,
            input,
            calls: self
                .calls
                .iter()
                .map(|call| history::Call::of(call, self.tx, self.policy))
                .collect(),
            locks: self.locks.iter().map(Into::into).collect(),
            wake_at: self.tx.wake_at(self.policy),
        };
        self.tx.unrecorded.push(step);
        let forced = self.change.is_none() && self.tx.unrecorded.len() >= PENDING_MAX;
        if forced {
            self.changed(Change::Noted);
        }
        forced
    }
}

/// Takes a branch for one that did as was decided.
fn ended_as_decided(branch: &mut Branch, decision: Decision, decided_at: Option<Timestamp>) {
    if decision == Decision::Commit && branch.progress.vote.is_none() {
        branch.progress.vote = Some(Vote::Prepared);
        branch.progress.voted_at = decided_at;
    }
    branch.progress.phase_two = match branch.progress.phase_two {
        PhaseTwo::Open if !is_owed(branch, decision) => PhaseTwo::NotOwed,
        PhaseTwo::Open | PhaseTwo::Owed => PhaseTwo::Done,
        _ => return,
    };
}

/// Circumstances of a transition.
#[derive(Clone, Copy)]
struct Made {
    at: Timestamp,
    forced: bool,
    awaited: bool,
    releases_locks: bool,
}

/// Makes the history's entry of a transition; none where nothing is recorded.
fn entry(
    tx: &mut Transaction,
    policy: &Policy,
    events: &[Event],
    made: Made,
) -> Option<history::Entry> {
    let steps = std::mem::take(&mut tx.unrecorded);
    let Made { at, forced, awaited, releases_locks } = made;
    (!steps.is_empty()).then(|| history::Entry {
        version: tx.version,
        at,
        steps,
        forced,
        awaited,
        releases_locks,
        events: events.iter().map(Into::into).collect(),
        after: history::Standing::of(tx, policy),
    })
}
