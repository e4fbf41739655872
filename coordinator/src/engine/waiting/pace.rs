//! Pace at which a backlog is sent.

use std::time::Duration;

use tokio::time::Instant;

/// Calls that may go at once.
const BURST: f64 = 64.0;

/// Calls in a second at first. The rate doubles each second, up to what the backlog needs.
const RATE_MIN: f64 = 200.0;

/// Time in which a backlog is sent once the rate has grown.
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// Pace of the calls to one participant.
#[derive(Debug)]
pub(super) struct Pace {
    tokens: f64,
    rate: f64,
    /// The most calls that waited at once since none did.
    backlog: usize,
    refilled_at: Instant,
    /// When the rate has last grown.
    grown_at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BURST, rate: RATE_MIN, backlog: 0, refilled_at: now, grown_at: now }
    }

    pub(super) fn note_backlog(&mut self, calls: usize) {
        self.backlog = self.backlog.max(calls);
    }

    /// The participant fails, or nothing waits for it: the next backlog begins slowly.
    pub(super) fn slow_down(&mut self) {
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

    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    /// Returns when the next call may go.
    pub(super) fn next(&self, now: Instant) -> Instant {
        now + Duration::from_secs_f64(((1.0 - self.tokens) / self.rate).max(0.0))
    }

    /// Tells whether it would start anew as it is.
    pub(super) fn is_rested(&mut self, now: Instant) -> bool {
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
