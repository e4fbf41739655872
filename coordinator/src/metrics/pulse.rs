//! Events of the last ten minutes, counted in steps of five seconds: for people who look, and have no other store of numbers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::Timestamp;

use super::quantiles::{Buckets, Snapshot};

/// Pause between two samples.
pub(crate) const STEP: Duration = Duration::from_secs(5);

/// Steps of ten minutes.
pub(crate) const STEPS: usize = 120;

/// Shortest time over which rates of the moment are told.
const RECENT: Duration = Duration::from_secs(10);

/// Counters since the start, and samples of them.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    pub(super) begun: AtomicU64,
    pub(super) committed: AtomicU64,
    pub(super) aborted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) decisions: Buckets,
    pub(super) flushes: Buckets,
    samples: Mutex<VecDeque<Sample>>,
}

/// Counters at one moment.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    time: Timestamp,
    /// Begun, committed, aborted, refused.
    counts: [u64; 4],
    in_flight: usize,
    decisions: Snapshot,
    flushes: Snapshot,
}

/// Events between two samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) began_at: Timestamp,
    pub(crate) length: Duration,
    pub(crate) begun: u64,
    pub(crate) committed: u64,
    pub(crate) aborted: u64,
    pub(crate) refused: u64,
    /// Times from begin to decision: of one in two, and of 99 in 100.
    pub(crate) decision: [Option<Duration>; 2],
    /// Times to make a batch durable.
    pub(crate) flush: [Option<Duration>; 2],
    /// At its end.
    pub(crate) in_flight: usize,
}

/// The last ten minutes.
#[derive(Clone, Debug)]
pub(crate) struct Minutes {
    pub(crate) window: Span,
    pub(crate) recent: Span,
    pub(crate) steps: Vec<Span>,
}

impl Sample {
    fn since(&self, earlier: &Self) -> Span {
        let [begun, committed, aborted, refused] =
            std::array::from_fn(|n| self.counts[n].saturating_sub(earlier.counts[n]));
        let percentiles = |now: &Snapshot, then: &Snapshot| {
            let counted = now.since(then);
            [50, 99].map(|percent| counted.percentile(percent))
        };
        Span {
            began_at: earlier.time,
            length: self.at.saturating_duration_since(earlier.at),
            begun,
            committed,
            aborted,
            refused,
            decision: percentiles(&self.decisions, &earlier.decisions),
            flush: percentiles(&self.flushes, &earlier.flushes),
            in_flight: self.in_flight,
        }
    }
}

impl Pulse {
    fn now(&self, at: Instant, time: Timestamp, in_flight: usize) -> Sample {
        let counters = [&self.begun, &self.committed, &self.aborted, &self.refused];
        Sample {
            at,
            time,
            counts: counters.map(|counter| counter.load(Ordering::Relaxed)),
            in_flight,
            decisions: self.decisions.snapshot(),
            flushes: self.flushes.snapshot(),
        }
    }

    /// Takes a sample; the oldest one goes.
    pub(super) fn sample(&self, at: Instant, time: Timestamp, in_flight: usize) {
        let sample = self.now(at, time, in_flight);
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(sample);
        // One more than steps: a step is between two.
        while samples.len() > STEPS + 1 {
            samples.pop_front();
        }
    }

    pub(super) fn minutes(&self, at: Instant, time: Timestamp, in_flight: usize) -> Minutes {
        let now = self.now(at, time, in_flight);
        let samples: Vec<Sample> =
            self.samples.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let first = samples.first().unwrap_or(&now);
        let of_recent = |sample: &&Sample| at.saturating_duration_since(sample.at) >= RECENT;
        let recent = samples.iter().rfind(of_recent).unwrap_or(first);
        let (window, recent) = (now.since(first), now.since(recent));
        let steps = samples.windows(2).map(|two| two[1].since(&two[0])).collect();
        Minutes { window, recent, steps }
    }
}

/// Calls to one participant, in the last ten minutes.
#[derive(Debug)]
pub(super) struct Calls {
    counts: [AtomicU64; 2],
    took: Buckets,
    samples: Mutex<VecDeque<CallSample>>,
    last_error: Mutex<Option<(Instant, String)>>,
}

#[derive(Debug)]
struct CallSample {
    at: Instant,
    /// Ended, failed.
    counts: [u64; 2],
    took: Snapshot,
}

/// Ends of the calls to one participant in the last ten minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallSpan {
    pub(crate) length: Duration,
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    /// Durations: of one in two, and of 99 in 100.
    pub(crate) took: [Option<Duration>; 2],
    /// Error of the last call that failed, and the time since then.
    pub(crate) last_error: Option<(Duration, String)>,
}

/// Most bytes of an error that are kept.
const ERROR_BYTES_MAX: usize = 300;

/// Samples of ten minutes, one a minute.
const CALL_SAMPLES: usize = 10;

impl Calls {
    pub(super) fn new(at: Instant) -> Self {
        let calls = Self {
            counts: Default::default(),
            took: Buckets::default(),
            samples: Mutex::default(),
            last_error: Mutex::default(),
        };
        calls.sample(at);
        calls
    }

    pub(super) fn note(&self, answered: bool, took: Duration) {
        self.took.note(took);
        self.counts[0].fetch_add(1, Ordering::Relaxed);
        self.counts[1].fetch_add(u64::from(!answered), Ordering::Relaxed);
    }

    pub(super) fn failed(&self, error: &str, at: Instant) {
        let end = error.floor_char_boundary(ERROR_BYTES_MAX);
        let last = Some((at, error[..end].to_owned()));
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    fn now(&self, at: Instant) -> CallSample {
        let counts = self.counts.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        CallSample { at, counts, took: self.took.snapshot() }
    }

    pub(super) fn sample(&self, at: Instant) {
        let sample = self.now(at);
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(sample);
        while samples.len() > CALL_SAMPLES {
            samples.pop_front();
        }
    }

    pub(super) fn span(&self, at: Instant) -> CallSpan {
        let now = self.now(at);
        let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last_error = last_error.map(|(then, text)| (at.saturating_duration_since(then), text));
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = samples.front() else { return CallSpan::default() };
        let [calls, failed] =
            std::array::from_fn(|n| now.counts[n].saturating_sub(first.counts[n]));
        let took = now.took.since(&first.took);
        CallSpan {
            length: at.saturating_duration_since(first.at),
            calls,
            failed,
            took: [50, 99].map(|percent| took.percentile(percent)),
            last_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, secs: u64) -> (Instant, Timestamp) {
        (start + Duration::from_secs(secs), Timestamp(1_000 * secs))
    }

    #[tokio::test]
    async fn the_ring_holds_ten_minutes_and_no_more() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let take = |secs| {
            let (at, time) = at(start, secs);
            pulse.sample(at, time, 0);
        };
        take(0);
        for step in 1..=200 {
            pulse.begun.fetch_add(step, Ordering::Relaxed);
            pulse.decisions.note(Duration::from_millis(step));
            take(5 * step);
        }
        pulse.committed.fetch_add(3, Ordering::Relaxed);
        let (at, time) = at(start, 1_002);
        let minutes = pulse.minutes(at, time, 7);
        assert_eq!(minutes.steps.len(), STEPS);
        let begun: Vec<u64> = minutes.steps.iter().map(|step| step.begun).collect();
        assert_eq!(begun, (81..=200).collect::<Vec<_>>());
        let Minutes { window, recent, .. } = minutes;
        assert_eq!(
            (window.began_at, window.length),
            (Timestamp(400_000), Duration::from_secs(602))
        );
        assert_eq!((window.begun, window.committed), ((81..=200).sum(), 3));
        assert_eq!((window.aborted, window.refused, window.in_flight), (0, 0, 7));
        assert_eq!((recent.length, recent.begun), (Duration::from_secs(12), 199 + 200));
        let [p50, p99] = window.decision.map(|took| took.expect("there are some").as_millis());
        assert!(p50.abs_diff(140) <= 9 && p99.abs_diff(199) <= 13, "{p50}, {p99}");
    }

    #[tokio::test]
    async fn a_start_tells_since_when_it_counts() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let (now, time) = at(start, 3);
        assert_eq!(pulse.minutes(now, time, 0).window.length, Duration::ZERO);
        pulse.sample(start, Timestamp(0), 0);
        pulse.refused.fetch_add(2, Ordering::Relaxed);
        let Minutes { window, recent, steps } = pulse.minutes(now, time, 0);
        assert_eq!((window.length, window.refused), (Duration::from_secs(3), 2));
        assert_eq!((recent, window.decision, steps.len()), (window, [None, None], 0));
    }

    #[tokio::test]
    async fn calls_of_long_ago_are_counted_no_more() {
        let start = Instant::now();
        let minute = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let calls = Calls::new(start);
        calls.note(false, Duration::from_secs(9));
        calls.failed(&"é".repeat(200), minute(1));
        for n in 1..=15 {
            calls.sample(minute(n));
            calls.note(n % 5 != 0, Duration::from_millis(10));
        }
        let span = calls.span(minute(16));
        assert_eq!((span.calls, span.failed, span.length), (10, 2, Duration::from_secs(600)));
        assert!(span.took[1].expect("some") < Duration::from_millis(11), "{span:?}");
        let (ago, text) = span.last_error.expect("it is kept");
        assert_eq!((ago, text.len()), (Duration::from_secs(900), ERROR_BYTES_MAX));
    }
}
