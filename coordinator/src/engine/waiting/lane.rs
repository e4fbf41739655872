//! Calls of one kind that wait for one participant.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::WaitingCall;
use super::pace::Pace;
use crate::participants::breaker::{Pass, Past};
use crate::participants::directory::{CallKind, Entry};

/// Most transactions out of memory that make the pace quicker: a thousand calls a second.
const PARKED_MAX: usize = 20_000;

/// The calls.
#[derive(Debug)]
pub(super) struct Lane {
    /// Of the present registration: a name may be forgotten, and registered anew.
    pub(super) entry: Arc<Entry>,
    /// Calls of branches that do not fail.
    pub(super) good: VecDeque<WaitingCall>,
    /// Calls of branches that fail. Who failed last is tried last.
    pub(super) failing: VecDeque<WaitingCall>,
    pub(super) pace: Pace,
    /// Calls behind the first ones that were looked at.
    looked: usize,
}

impl Lane {
    pub(super) fn new(entry: &Arc<Entry>, now: Instant) -> Self {
        let (good, failing) = (VecDeque::new(), VecDeque::new());
        Self { entry: Arc::clone(entry), good, failing, pace: Pace::new(now), looked: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.good.len() + self.failing.len()
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = &WaitingCall> {
        self.good.iter().chain(&self.failing)
    }

    /// Returns some of the calls behind the first ones. The next look begins where this one ends.
    pub(super) fn look_behind(&mut self, first: usize, looks: usize) -> Vec<WaitingCall> {
        let (behind, good) = (self.len().saturating_sub(first), self.good.len());
        if behind == 0 {
            return Vec::new();
        }
        let from = self.looked % behind;
        let count = looks.min(behind);
        self.looked = from + count;
        let at = |index: usize| match index < good {
            true => self.good.get(index),
            false => self.failing.get(index - good),
        };
        (from..from + count).filter_map(|n| at(first + n % behind)).copied().collect()
    }

    /// Calls that wait, and those that transactions out of memory make once they are brought back: the pace is that of
    /// all, up to what a participant can bear that has just come back.
    fn backlog(&self) -> usize {
        self.len() + self.entry.load().parked().min(PARKED_MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the participant's entry how many wait, and whether the next probe is one that has no failure of
    /// its own.
    pub(super) fn tell(&self, kind: CallKind) {
        let good = self.good.back().is_some_and(|waiting| !waiting.is_adopted);
        self.entry.set_waiting(kind, self.len(), good);
    }

    pub(super) fn follow(&mut self, entry: &Arc<Entry>) {
        if !Arc::ptr_eq(&self.entry, entry) {
            self.entry = Arc::clone(entry);
        }
    }

    /// Takes what may be sent now, and returns when to look again.
    pub(super) fn take_due(
        &mut self,
        kind: CallKind,
        now: Instant,
        wanted: impl Fn(&WaitingCall) -> bool,
        due: &mut Vec<(WaitingCall, bool)>,
    ) -> Option<Instant> {
        // An answer that comes meanwhile is noticed at the next look.
        let mut look = if self.entry.breaker(kind).is_open() {
            self.pace.slow_down();
            self.take_probes(kind, now, wanted, due)
        } else {
            self.take_paced(now, wanted, due)
        };
        if self.is_empty() {
            self.pace.slow_down();
            look = (!self.pace.is_rested(now)).then(|| now + Duration::from_secs(1));
        }
        self.tell(kind);
        look
    }

    /// Takes what goes at its pace, in order; calls of branches that fail come last.
    fn take_paced(
        &mut self,
        now: Instant,
        wanted: impl Fn(&WaitingCall) -> bool,
        due: &mut Vec<(WaitingCall, bool)>,
    ) -> Option<Instant> {
        self.pace.note_backlog(self.backlog());
        for calls in [&mut self.good, &mut self.failing] {
            while let Some(waiting) = calls.front() {
                if wanted(waiting) {
                    if !self.pace.take(now) {
                        return Some(self.pace.next(now));
                    }
                    due.push((*waiting, false));
                }
                calls.pop_front();
            }
        }
        None
    }

    /// Takes the probes that are due, and returns when the next ones are.
    fn take_probes(
        &mut self,
        kind: CallKind,
        now: Instant,
        wanted: impl Fn(&WaitingCall) -> bool,
        due: &mut Vec<(WaitingCall, bool)>,
    ) -> Option<Instant> {
        let mut breaker = self.entry.breaker(kind);
        let mut look: Option<Instant> = None;
        while self.good.back().is_some_and(|waiting| !wanted(waiting)) {
            self.good.pop_back();
        }
        while self.failing.front().is_some_and(|waiting| !wanted(waiting)) {
            self.failing.pop_front();
        }
        // Looked at once more only if there is another one of its kind.
        let candidates = [self.good.back().copied(), self.failing.front().copied()];
        for waiting in candidates.into_iter().flatten() {
            let pass = breaker.pass(now, waiting.past);
            if pass != Pass::Wait {
                due.push((waiting, pass == Pass::Probe));
                match waiting.past {
                    Past::Good => self.good.pop_back(),
                    Past::Failing { .. } => self.failing.pop_front(),
                };
            }
            look = look.into_iter().chain(breaker.next_probe(waiting.past)).min();
        }
        look
    }
}
