//! Pace of the purge.
//!
//! Each transaction that has begun is to be purged once, later. So the purge never falls behind if it takes at least as many as begin, and
//! it comes up with what is overdue if it takes more. It takes more than twice as many as began lately, in short runs with
//! pauses between them: all that it does beyond that is taken from those that are written meanwhile. Where little begins, it
//! may take a part of the time instead.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Purged;

/// Number of transactions that are purged for each that has begun. Of these some are lost: what begins is known late, and a
/// pause ends late.
const PACE: f64 = 2.5;

/// Part of the time that a purge may take where fewer begin than it could purge in that.
const TIME_PARTS: u32 = 5;

/// Transactions in one step of a run from which on many more are taken to be due.
const MANY: u64 = 250;

/// Pause where fewer are due, or are large.
const SHORT: Duration = Duration::from_millis(100);

/// Time in which a change of what begins has come to count.
const LATELY: Duration = Duration::from_secs(10);

/// The pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The last look, and how many had begun by then.
    last: Option<(Instant, u64)>,
    /// Number that began in a second, lately.
    per_second: f64,
}

impl Pace {
    /// Notes how many have begun until now.
    #[expect(clippy::cast_precision_loss, reason = "counts of some seconds are far below 2^52")]
    pub(super) fn note(&mut self, begun: u64, now: Instant) {
        if let Some((at, before)) = self.last {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            if passed <= 0.0 {
                return;
            }
            let per_second = begun.saturating_sub(before) as f64 / passed;
            let weight = (passed / LATELY.as_secs_f64()).min(1.0);
            self.per_second += (per_second - self.per_second) * weight;
        }
        self.last = Some((now, begun));
    }

    /// Returns the pause after a run.
    #[expect(clippy::cast_precision_loss, reason = "a run takes some hundreds")]
    pub(super) fn pause_after(
        &self,
        Purged { stripped, deleted }: Purged,
        took: Duration,
        interval: Duration,
    ) -> Duration {
        // Both steps are to keep up: the one that took more may have more.
        let purged = stripped.max(deleted);
        match purged {
            0 => interval,
            MANY.. => {
                let part_of_time = took * (TIME_PARTS - 1);
                // A run takes so many in this time, if it keeps the pace.
                let run = purged as f64 / (PACE * self.per_second);
                let run = Duration::try_from_secs_f64(run).unwrap_or(Duration::MAX);
                run.saturating_sub(took).min(part_of_time).min(interval)
            }
            _ => SHORT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const INTERVAL: Duration = Duration::from_secs(10);

    /// A pace at which so many begin in each second, for a while.
    fn pace(per_second: u64) -> Pace {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for second in 0..100 {
            pace.note(per_second * second, start + Duration::from_secs(second));
        }
        pace
    }

    #[track_caller]
    fn check(per_second: u64, (stripped, deleted): (u64, u64), took: u32, pause: Duration) {
        let purged = Purged { stripped, deleted };
        let found = pace(per_second).pause_after(purged, MS * took, INTERVAL);
        assert!(found.abs_diff(pause) <= MS, "{found:?}");
    }

    #[test]
    fn where_much_begins_more_than_twice_as_many_are_purged() {
        // 500 in 0.4 seconds.
        check(500, (500, 500), 200, 200 * MS);
        check(500, (500, 0), 200, 200 * MS);
        check(500, (0, 500), 399, MS);
        // It does what it can.
        check(500, (500, 500), 401, Duration::ZERO);
        check(5_000, (500, 500), 100, Duration::ZERO);
    }

    #[test]
    fn where_little_begins_a_part_of_the_time_is_taken() {
        check(0, (500, 500), 20, 80 * MS);
        check(100, (500, 500), 200, 800 * MS);
        assert_eq!(
            Pace::default().pause_after(Purged { stripped: 500, deleted: 0 }, MS, INTERVAL),
            4 * MS
        );
    }

    #[test]
    fn where_few_are_due_they_are_waited_for() {
        check(500, (0, 0), 5, INTERVAL);
        check(500, (1, 0), 5, SHORT);
        check(500, (0, 249), 5, SHORT);
        check(1, (500, 500), 9_000, INTERVAL);
    }

    #[test]
    fn what_began_lately_counts() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.note(0, start);
        pace.note(0, start + 10 * INTERVAL);
        pace.note(5_000, start + 11 * INTERVAL);
        assert!((pace.per_second - 500.0).abs() < 1.0, "{pace:?}");
        pace.note(5_000, start + 11 * INTERVAL + Duration::from_secs(5));
        assert!((pace.per_second - 250.0).abs() < 1.0, "{pace:?}");
        // Two looks at one time.
        pace.note(9_000, start + 11 * INTERVAL + Duration::from_secs(5));
        assert!((pace.per_second - 250.0).abs() < 1.0, "{pace:?}");
    }
}
