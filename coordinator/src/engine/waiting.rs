//! Calls that wait for their participants: for those that fail, and for those that came back and are not to
//! be flooded.
//!
//! A call is sent at once if its participant's breaker is closed and it is the first one of its branch in
//! this process. Repetitions, and whatever was adopted, go at a pace that grows as long as they are
//! answered: 50,000 calls that are owed to one participant must not slow down the work of the others
//! (promise L3).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Call, Operation, ParticipantName, TxId};

use crate::participants::breaker::Pass;
use crate::participants::directory::{CallKind, Entry};

/// Calls that may go at once.
const BURST: f64 = 64.0;

/// Calls in a second at first. The rate doubles each second, up to what the backlog needs.
const RATE_MIN: f64 = 200.0;

/// Time in which a backlog is sent once the rate has grown.
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// Between two looks at the calls that wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Returns the kind of a call.
pub(super) fn kind(operation: Operation) -> CallKind {
    match operation {
        Operation::Prepare => CallKind::Prepare,
        Operation::PhaseTwo(_) => CallKind::PhaseTwo,
    }
}

/// Calls that wait, by participant and kind.
#[derive(Debug)]
pub(super) struct Waiting {
    lanes: BTreeMap<(ParticipantName, CallKind), Lane>,
    /// When they are looked at next, if any wait.
    look_at: Option<Instant>,
}

#[derive(Debug)]
struct Lane {
    entry: Arc<Entry>,
    calls: VecDeque<(TxId, Call)>,
    pace: Pace,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self { lanes: BTreeMap::new(), look_at: None }
    }

    /// Asks for permission to send a call now. A fresh one has no pace to keep.
    pub(super) fn ask(
        &mut self,
        name: &ParticipantName,
        entry: &Arc<Entry>,
        kind: CallKind,
        fresh: bool,
        now: Instant,
    ) -> Pass {
        match entry.breaker(kind).pass(now) {
            Pass::Free if !fresh => {
                let lane = self.lane(name, entry, kind, now);
                let first = lane.calls.is_empty() && lane.pace.take(now);
                if first { Pass::Free } else { Pass::Wait }
            }
            pass => pass,
        }
    }

    fn lane(
        &mut self,
        name: &ParticipantName,
        entry: &Arc<Entry>,
        kind: CallKind,
        now: Instant,
    ) -> &mut Lane {
        let new =
            || Lane { entry: Arc::clone(entry), calls: VecDeque::new(), pace: Pace::new(now) };
        let lane = self.lanes.entry((name.clone(), kind)).or_insert_with(new);
        if !Arc::ptr_eq(&lane.entry, entry) {
            // The name was forgotten, and registered anew.
            lane.entry = Arc::clone(entry);
        }
        lane
    }

    /// Keeps a call until it may be sent.
    pub(super) fn push(
        &mut self,
        name: &ParticipantName,
        entry: &Arc<Entry>,
        waiting: (TxId, Call),
        now: Instant,
    ) {
        let kind = kind(waiting.1.operation);
        let lane = self.lane(name, entry, kind, now);
        lane.calls.push_back(waiting);
        lane.pace.note_backlog(lane.calls.len());
        entry.set_waiting(kind, lane.calls.len());
        self.hurry(now);
    }

    /// Something has happened that may let calls go.
    pub(super) fn hurry(&mut self, now: Instant) {
        if !self.lanes.is_empty() {
            let soon = now + LOOK_INTERVAL;
            self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// Returns the time until the next look.
    pub(super) fn until_look(&self, now: Instant) -> Option<Duration> {
        self.look_at.map(|at| at.saturating_duration_since(now))
    }

    /// Takes the calls that may be sent now, each with whether it is a probe. Those that are not wanted any
    /// more are dropped.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        wanted: impl Fn(TxId, &Call) -> bool,
    ) -> Vec<(TxId, Call, bool)> {
        if self.look_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for ((_, kind), lane) in &mut self.lanes {
            let look = lane.take_due(*kind, now, &wanted, &mut due);
            next = next.into_iter().chain(look).min();
        }
        self.lanes.retain(|_, lane| !lane.calls.is_empty() || !lane.pace.is_rested(now));
        self.look_at = next.map(|at| at.max(now + LOOK_INTERVAL));
        due
    }

    /// Takes the calls of one transaction, whatever they wait for.
    pub(super) fn take_of(&mut self, tx_id: TxId) -> Vec<Call> {
        let mut taken = Vec::new();
        for ((_, kind), lane) in &mut self.lanes {
            lane.calls.retain(|(of, call)| {
                let other = *of != tx_id;
                if !other {
                    taken.push(*call);
                }
                other
            });
            lane.entry.set_waiting(*kind, lane.calls.len());
        }
        taken
    }
}

impl Lane {
    /// Takes what may be sent now, and returns when to look again.
    fn take_due(
        &mut self,
        kind: CallKind,
        now: Instant,
        wanted: impl Fn(TxId, &Call) -> bool,
        due: &mut Vec<(TxId, Call, bool)>,
    ) -> Option<Instant> {
        let mut look = None;
        loop {
            while self.calls.front().is_some_and(|(tx_id, call)| !wanted(*tx_id, call)) {
                self.calls.pop_front();
            }
            let Some(&(tx_id, call)) = self.calls.front() else { break };
            // The lock is let go before the next statement.
            let pass = self.entry.breaker(kind).pass(now);
            if pass == Pass::Free {
                self.pace.note_backlog(self.calls.len());
            }
            match pass {
                Pass::Wait => {
                    self.pace.slow_down();
                    // While a probe is under way its end is what is waited for.
                    look = self.entry.breaker(kind).next_probe();
                    break;
                }
                Pass::Free if !self.pace.take(now) => {
                    look = Some(self.pace.next(now));
                    break;
                }
                Pass::Free | Pass::Probe => {
                    self.calls.pop_front();
                    due.push((tx_id, call, pass == Pass::Probe));
                }
            }
        }
        if self.calls.is_empty() {
            self.pace.slow_down();
            look = (!self.pace.is_rested(now)).then(|| now + Duration::from_secs(1));
        }
        self.entry.set_waiting(kind, self.calls.len());
        look
    }
}

/// Pace of the calls to one participant.
#[derive(Debug)]
struct Pace {
    tokens: f64,
    rate: f64,
    /// The most calls that waited at once since none did.
    backlog: usize,
    refilled_at: Instant,
    /// When the rate has last grown.
    grown_at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, rate: RATE_MIN, backlog: 0, refilled_at: now, grown_at: now }
    }

    fn note_backlog(&mut self, calls: usize) {
        self.backlog = self.backlog.max(calls);
    }

    /// The participant fails, or nothing waits for it: the next backlog begins slowly.
    fn slow_down(&mut self) {
        self.rate = RATE_MIN;
        self.backlog = 0;
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled_at).as_secs_f64();
        self.refilled_at = now;
        // One look's worth of tokens may be more than a burst.
        let most = BURST.max(self.rate * 0.02);
        self.tokens = (self.tokens + elapsed * self.rate).min(most);
        if now.saturating_duration_since(self.grown_at) >= Duration::from_secs(1) {
            self.grown_at = now;
            #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
            let needed = self.backlog as f64 / DRAIN_TIME.as_secs_f64();
            self.rate = (self.rate * 2.0).min(needed.max(RATE_MIN));
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    /// Returns when the next call may go.
    fn next(&self, now: Instant) -> Instant {
        now + Duration::from_secs_f64(((1.0 - self.tokens) / self.rate).max(0.0))
    }

    /// Tells whether it would start anew as it is.
    fn is_rested(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the calls that go in each of some seconds, of so many that wait at first.
    fn sent(backlog: usize, seconds: u64) -> Vec<u32> {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.note_backlog(backlog);
        let mut left = backlog;
        let second = |second| {
            let mut count = 0;
            for ms in (0..1000).step_by(2) {
                let now = start + Duration::from_millis(second * 1000 + ms);
                while left > 0 && pace.take(now) {
                    left -= 1;
                    count += 1;
                }
            }
            count
        };
        (0..seconds).map(second).collect()
    }

    #[test]
    fn l3_a_backlog_goes_little_by_little_and_is_gone_in_time() {
        assert_eq!(sent(50, 1), [50], "a few go at once");
        let counts = sent(1000, 5);
        assert!(counts[0] <= 264, "{counts:?}");
        assert_eq!(counts.iter().sum::<u32>(), 1000, "{counts:?}");
        let counts = sent(50_000, 26);
        assert!(counts.iter().all(|count| *count <= 2600), "{counts:?}");
        assert!(counts[0] <= 264 && counts[1] <= 420, "{counts:?}");
        assert_eq!(counts.iter().sum::<u32>(), 50_000, "{counts:?}");
    }
}
