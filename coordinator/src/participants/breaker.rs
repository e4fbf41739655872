//! Breaker of the calls of one kind to one participant.
//!
//! After failures in a row it opens: calls wait, new work is refused before anything of it is stored, and
//! one call at a time tries whether the participant is back. The first answer closes it.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::TxId;

/// Failures in a row that open the breaker. Fewer are common where a participant is started anew.
const FAILURES_TO_OPEN: u32 = 5;

/// Transactions that failures without any answer must belong to: one of them may wait for a lock.
const SILENT_TO_OPEN: usize = 3;

/// Transactions that failures must belong to where errors are among them: the participant works, and a few
/// records may be what it cannot deal with.
const ERRORS_TO_OPEN: usize = 5;

/// Time after which a probe that has told nothing is taken for lost: its task was ended before it began.
/// Longer than a call waits for its answer.
const PROBE_LOST_AFTER: Duration = Duration::from_secs(60);

/// Longest pause between two probes, whatever the backoff of calls is: new work waits for it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Pauses between probes: doubling from `base` to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// First pause.
    pub base: Duration,
    /// Longest pause.
    pub cap: Duration,
}

impl Pauses {
    fn first(self) -> Duration {
        self.base.min(PAUSE_MAX)
    }

    fn after(self, pause: Duration) -> Duration {
        (pause * 2).min(self.cap.max(self.base)).min(PAUSE_MAX)
    }
}

/// Permission for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It may be sent.
    Free,
    /// It may be sent, and tries whether the participant is back.
    Probe,
    /// It has to wait.
    Wait,
}

/// Failure of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection could be made.
    Unreachable,
    /// It was sent, and there is no answer.
    Silent,
    /// It was answered with an error.
    Error,
}

/// The breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    pauses: Pauses,
    open: Option<Open>,
    /// Failures since the last answer.
    failures: u32,
    unreachable: u32,
    /// There were errors among them.
    errors: bool,
    transactions: Vec<TxId>,
    last_error: String,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    pause: Duration,
    next: Instant,
    /// Since when a probe is under way.
    probing: Option<Instant>,
    /// When new work was last let in, because nothing else could be the probe.
    invited: Option<Instant>,
}

impl Open {
    /// When the next probe may be sent. One that has told nothing for so long never will.
    fn next_probe(&self) -> Instant {
        self.probing.map_or(self.next, |since| since + PROBE_LOST_AFTER)
    }
}

impl Breaker {
    pub(super) fn new(pauses: Pauses) -> Self {
        Self {
            pauses,
            open: None,
            failures: 0,
            unreachable: 0,
            errors: false,
            transactions: Vec::new(),
            last_error: String::new(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn last_error(&self) -> &str {
        &self.last_error
    }

    /// Asks for permission to send a call now.
    pub(crate) fn pass(&mut self, now: Instant) -> Pass {
        match &mut self.open {
            None => Pass::Free,
            Some(open) if now < open.next_probe() => Pass::Wait,
            Some(open) => {
                open.probing = Some(now);
                Pass::Probe
            }
        }
    }

    /// Returns when the next probe may be sent.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        self.open.as_ref().map(Open::next_probe)
    }

    /// Tells whether new work is refused. Where no call waits that could be the probe, new work is let in
    /// from time to time.
    pub(super) fn refuses(&mut self, now: Instant, waiting: usize) -> bool {
        let Some(open) = &mut self.open else { return false };
        let lately = open.invited.is_some_and(|at| now < at + open.pause);
        if waiting > 0 || now < open.next_probe() || lately {
            return true;
        }
        open.invited = Some(now);
        false
    }

    /// The participant has answered. Returns the time for which the breaker was open.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.failures = 0;
        self.unreachable = 0;
        self.errors = false;
        self.transactions.clear();
        self.open.take().map(|open| now - open.since)
    }

    /// A call has failed. Returns true if this opens the breaker.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        tx_id: TxId,
        failure: Failure,
        probe: bool,
        error: &str,
    ) -> bool {
        error.clone_into(&mut self.last_error);
        if let Some(open) = &mut self.open {
            if probe {
                open.probing = None;
                open.pause = self.pauses.after(open.pause);
                open.next = now + open.pause;
            }
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if failure == Failure::Unreachable {
            self.unreachable = self.unreachable.saturating_add(1);
        }
        self.errors |= failure == Failure::Error;
        if self.transactions.len() < ERRORS_TO_OPEN && !self.transactions.contains(&tx_id) {
            self.transactions.push(tx_id);
        }
        let transactions = if self.errors { ERRORS_TO_OPEN } else { SILENT_TO_OPEN };
        let certain =
            self.unreachable >= FAILURES_TO_OPEN || self.transactions.len() >= transactions;
        if self.failures < FAILURES_TO_OPEN || !certain {
            return false;
        }
        let pause = self.pauses.first();
        let (next, probing) = (now + pause, None);
        self.open = Some(Open { since: now, pause, next, probing, invited: None });
        true
    }

    /// A probe was given up before its time: the next call may be one.
    pub(super) fn given_up(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = None;
        }
    }

    /// The participant has registered again: a call may try now whether it is back.
    pub(super) fn returned(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.probing = None;
            open.pause = self.pauses.first();
            open.next = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, Instant) {
        let pauses = Pauses { base: Duration::from_secs(1), cap: Duration::from_secs(3) };
        (Breaker::new(pauses), Instant::now())
    }

    fn tx(n: u128) -> TxId {
        TxId(uuid::Uuid::from_u128(n))
    }

    fn opened() -> (Breaker, Instant) {
        let (mut breaker, now) = breaker();
        for n in 0..5 {
            breaker.failed(now, tx(n), Failure::Silent, false, "no");
        }
        assert!(breaker.is_open());
        (breaker, now)
    }

    #[test]
    fn failures_of_several_transactions_open_it() {
        let (mut breaker, now) = breaker();
        for n in 0..4 {
            assert!(!breaker.failed(now, tx(n), Failure::Silent, false, "no"), "failure {n}");
            assert_eq!(breaker.pass(now), Pass::Free);
        }
        assert!(breaker.failed(now, tx(4), Failure::Silent, false, "no"));
        assert_eq!(breaker.pass(now), Pass::Wait);
        assert!(breaker.refuses(now, 0));
        assert_eq!(breaker.last_error(), "no");
    }

    #[test]
    fn one_transaction_that_fails_for_ever_opens_nothing() {
        let (mut breaker, now) = breaker();
        for _ in 0..100 {
            assert!(!breaker.failed(now, tx(1), Failure::Silent, false, "no"));
        }
        // Nor do a few that are answered with errors.
        for n in 0..100 {
            assert!(!breaker.failed(now, tx(n % 4), Failure::Error, false, "no"));
        }
        breaker.answered(now);
        // It can be told that a participant cannot be reached.
        for _ in 0..4 {
            assert!(!breaker.failed(now, tx(1), Failure::Unreachable, false, "no"));
        }
        assert!(breaker.failed(now, tx(1), Failure::Unreachable, false, "no"));
    }

    #[test]
    fn an_answer_between_failures_keeps_it_closed() {
        let (mut breaker, now) = breaker();
        for n in 0..100 {
            assert!(!breaker.failed(now, tx(n), Failure::Unreachable, false, "no"));
            if n % 4 == 3 {
                breaker.answered(now);
            }
        }
    }

    #[test]
    fn one_probe_at_a_time_and_the_first_answer_closes_it() {
        let (mut breaker, now) = opened();
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(breaker.pass(at(999)), Pass::Wait);
        assert_eq!(breaker.next_probe(), Some(at(1000)));
        assert_eq!(breaker.pass(at(1000)), Pass::Probe);
        assert_eq!(breaker.pass(at(9000)), Pass::Wait);
        // A probe of which nothing is heard any more does not keep it shut.
        assert_eq!(breaker.next_probe(), Some(at(61_000)));
        // What was under way when it opened is no probe.
        breaker.failed(at(1500), tx(7), Failure::Silent, false, "no");
        assert_eq!(breaker.pass(at(1600)), Pass::Wait);
        breaker.failed(at(2000), tx(8), Failure::Silent, true, "no");
        assert_eq!(breaker.next_probe(), Some(at(4000)), "the pause doubles");
        assert_eq!(breaker.pass(at(4000)), Pass::Probe);
        breaker.failed(at(5000), tx(8), Failure::Silent, true, "no");
        assert_eq!(breaker.next_probe(), Some(at(8000)), "up to its cap");
        breaker.returned(at(6000));
        assert_eq!(breaker.pass(at(6000)), Pass::Probe, "it registered again");
        breaker.given_up();
        assert_eq!(breaker.pass(at(6000)), Pass::Probe, "the last one told nothing");
        assert_eq!(breaker.answered(at(7000)), Some(Duration::from_secs(7)));
        assert_eq!(breaker.pass(at(7000)), Pass::Free);
        assert!(!breaker.refuses(at(7000), 0));
    }

    #[test]
    fn new_work_is_the_probe_where_nothing_else_is() {
        let (mut breaker, now) = opened();
        let at = |ms| now + Duration::from_millis(ms);
        assert!(breaker.refuses(at(999), 0));
        assert!(breaker.refuses(at(1000), 1), "a call waits that will be the probe");
        assert!(!breaker.refuses(at(1000), 0));
        assert!(breaker.refuses(at(1001), 0), "one is enough");
        assert!(breaker.refuses(at(1999), 0));
        assert!(!breaker.refuses(at(2000), 0), "the first one may have been lost");
    }
}
