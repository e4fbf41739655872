//! Health of one endpoint: the calls under way there, and whether it is passed over for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::CallKind;

/// Errors in a row after which an endpoint that answers is passed over, and calls of less time than usual after
/// which one is that answers none of them.
const ERRORS_TO_EJECT: u32 = 3;

/// For how long an endpoint is passed over at first. The time doubles until it answers again.
const EJECTED_MIN: Duration = Duration::from_secs(1);

/// Longest time for which it is passed over. Each look at it may cost a transaction its patience.
const EJECTED_MAX: Duration = Duration::from_secs(60);

/// Calls are under way, and none was answered for so long: others are asked first.
const QUIET_MAX: Duration = Duration::from_millis(500);

/// Standing of an endpoint among those of its participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It is called.
    Good,
    /// It is called if no other one is good: it is quiet, or has one call under way that tries it.
    Doubtful,
    /// It is called if all are ejected.
    Ejected,
}

/// Failure of a call at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No connection could be made.
    Connect,
    /// No answer came to the call that was sent then.
    Silent {
        /// When it was sent.
        since: Instant,
    },
    /// No answer came to the call that was sent then, and had less than its full time.
    Hurried {
        /// When it was sent.
        since: Instant,
    },
    /// It answered with an error.
    Error,
}

#[derive(Debug, Default)]
pub(super) struct Health {
    calls: [usize; 2],
    failures: u32,
    ejected_until: Option<Instant>,
    ejected_for: Duration,
    /// Since when calls are under way and none was answered.
    quiet_since: Option<Instant>,
    answered_at: Option<Instant>,
}

impl Health {
    /// Counts a call that begins.
    pub(super) fn take(&mut self, kind: CallKind, now: Instant) {
        if self.under_way() == 0 {
            self.quiet_since = Some(now);
        }
        self.calls[kind as usize] += 1;
    }

    /// Counts a call that is over, however it ended.
    pub(super) fn release(&mut self, kind: CallKind) {
        self.calls[kind as usize] -= 1;
        if self.under_way() == 0 {
            self.quiet_since = None;
        }
    }

    pub(super) fn calls(&self, kind: CallKind) -> usize {
        self.calls[kind as usize]
    }

    pub(super) fn under_way(&self) -> usize {
        self.calls.iter().sum()
    }

    pub(super) fn answered(&mut self, now: Instant) {
        self.failures = 0;
        self.ejected_until = None;
        self.ejected_for = Duration::ZERO;
        self.answered_at = Some(now);
        self.quiet_since = self.quiet_since.map(|_| now);
    }

    /// Notes a failure, and returns the time for which the endpoint is passed over, if this begins.
    pub(super) fn failed(&mut self, failed: Failed, now: Instant) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let ejected = match failed {
            Failed::Connect => true,
            // One call that is not answered says something of itself, if others are.
            Failed::Silent { since } => self.answered_at.is_none_or(|at| at < since),
            // It may have been asked for too much. In a row that is seldom so.
            Failed::Hurried { since } => {
                self.failures >= ERRORS_TO_EJECT && self.answered_at.is_none_or(|at| at < since)
            }
            Failed::Error => {
                self.quiet_since = self.quiet_since.map(|_| now);
                self.failures >= ERRORS_TO_EJECT
            }
        };
        let is_ejected = self.ejected_until.is_some_and(|until| now < until);
        if !ejected || is_ejected {
            return None;
        }
        self.ejected_for = (self.ejected_for * 2).clamp(EJECTED_MIN, EJECTED_MAX);
        self.ejected_until = Some(now + self.ejected_for);
        Some(self.ejected_for)
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        if self.ejected_until.is_some_and(|until| now < until) {
            return Standing::Ejected;
        }
        let quiet = self.quiet_since.is_some_and(|since| now > since + QUIET_MAX);
        // After its time it is tried with one call.
        let tried = self.ejected_until.is_some() && self.under_way() > 0;
        if quiet || tried { Standing::Doubtful } else { Standing::Good }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_is_passed_over_for_a_while_and_longer_each_time() {
        let (mut health, now) = (Health::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(health.failed(Failed::Connect, at(0)), Some(EJECTED_MIN));
        assert_eq!(health.failed(Failed::Connect, at(1)), None, "it is by now");
        assert_eq!(health.standing(at(999)), Standing::Ejected);
        assert_eq!(health.standing(at(1000)), Standing::Good);
        health.take(CallKind::Prepare, at(1000));
        assert_eq!(health.standing(at(1000)), Standing::Doubtful, "one call tries it");
        assert_eq!(health.failed(Failed::Connect, at(1100)), Some(EJECTED_MIN * 2));
        health.answered(at(1200));
        assert_eq!(health.standing(at(1200)), Standing::Good);
        assert_eq!(health.failed(Failed::Connect, at(1300)), Some(EJECTED_MIN));
    }

    #[test]
    fn one_call_without_an_answer_among_many_says_nothing_of_the_endpoint() {
        let (mut health, now) = (Health::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        health.take(CallKind::Prepare, at(0));
        health.take(CallKind::PhaseTwo, at(1));
        health.answered(at(10));
        assert_eq!(health.failed(Failed::Silent { since: at(0) }, at(5000)), None);
        assert!(health.failed(Failed::Silent { since: at(11) }, at(6000)).is_some());
    }

    #[test]
    fn calls_of_less_time_without_an_answer_eject_it_in_a_row() {
        let (mut health, now) = (Health::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        let hurried = |health: &mut Health, ms| {
            health.failed(Failed::Hurried { since: at(ms) }, at(ms + 100)).is_some()
        };
        assert_eq!([0, 100, 200].map(|ms| hurried(&mut health, ms)), [false, false, true]);
        health.answered(at(2000));
        assert_eq!([1950, 1960, 1970, 1980].map(|ms| hurried(&mut health, ms)), [false; 4]);
        assert!(hurried(&mut health, 2001));
    }

    #[test]
    fn errors_in_a_row_eject_it_and_silence_makes_it_doubtful() {
        let (mut health, now) = (Health::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        health.take(CallKind::Prepare, at(0));
        assert_eq!(health.standing(at(500)), Standing::Good);
        assert_eq!(health.standing(at(501)), Standing::Doubtful);
        assert_eq!(health.failed(Failed::Error, at(600)), None);
        assert_eq!(health.standing(at(601)), Standing::Good, "an error is no silence");
        assert_eq!(health.failed(Failed::Error, at(700)), None);
        assert!(health.failed(Failed::Error, at(800)).is_some());
        health.release(CallKind::Prepare);
        assert_eq!((health.under_way(), health.calls(CallKind::Prepare)), (0, 0));
    }
}
