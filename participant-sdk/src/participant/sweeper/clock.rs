//! The time that the purge goes by.
//!
//! A clock that is ahead for a moment must not purge the row that a late Prepare has to find: once the clock
//! is right again, its `prepare_until` would not be past either, and the work would be done. So two clocks have
//! to agree, the database's and this process's, and both must have run as the monotonic clock did since a
//! time at which they agreed. Clocks that were set are trusted again after they have run evenly for an hour.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Most by which clocks that agree may differ.
const SKEW_MAX: Duration = Duration::from_secs(60);

/// Part of the time passed by which a clock may run fast or slow. Time servers correct twice as fast at most.
const DRIFT_PARTS: u32 = 1000;

/// Time after which clocks are trusted again that have run evenly, and agreed with each other. Nobody notices
/// that a row is purged an hour later.
const TRUSTED_AFTER: Duration = Duration::from_secs(60 * 60);

/// One look at all clocks. Times of day are milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// This process's time of day.
    own_ms: i64,
    /// The database's.
    database_ms: i64,
    at: Instant,
}

/// Meaning of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The time to purge by, in milliseconds since 1970.
    Agreed(i64),
    /// The two clocks differ.
    Differ,
    /// A clock was set: it has not run as the monotonic clock did.
    Stepped,
}

/// The clock.
#[derive(Debug, Default)]
pub(super) struct PurgeClock {
    /// Time that is trusted.
    trusted: Option<Reading>,
    /// From when on the clocks have run evenly.
    even: Option<Reading>,
    /// Last verdict that was told, if it was no time.
    doubt: Option<Verdict>,
}

impl Reading {
    /// Looks at the other clocks, a moment after the database has told its time.
    pub(super) fn now(database_ms: i64) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let own_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Self { own_ms, database_ms, at: Instant::now() }
    }

    /// Tells whether both clocks have run from this reading to a later one as the monotonic clock did.
    fn leads_to(&self, later: &Self) -> bool {
        let passed = later.at.saturating_duration_since(self.at);
        let allowed = SKEW_MAX + passed / DRIFT_PARTS;
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        let is_even =
            |from: i64, to: i64| difference(from.saturating_add(passed_ms), to) <= allowed;
        is_even(self.own_ms, later.own_ms) && is_even(self.database_ms, later.database_ms)
    }
}

impl PurgeClock {
    /// Judges a reading.
    pub(super) fn judge(&mut self, reading: Reading) -> Verdict {
        let Reading { own_ms, database_ms, at } = reading;
        if difference(own_ms, database_ms) > SKEW_MAX {
            self.even = None;
            return Verdict::Differ;
        }
        // The first time on which both agree: there is nothing else to measure them by.
        let trusted = self.trusted.get_or_insert(reading);
        let is_even = |even: &Reading| even.leads_to(&reading);
        let has_run = self
            .even
            .filter(is_even)
            .is_some_and(|even| at.saturating_duration_since(even.at) >= TRUSTED_AFTER);
        if has_run {
            *trusted = reading;
        }
        if trusted.leads_to(&reading) {
            self.even = None;
            return Verdict::Agreed(own_ms.min(database_ms));
        }
        self.even = Some(self.even.filter(is_even).unwrap_or(reading));
        Verdict::Stepped
    }

    /// Raises the alarm when the clocks begin to disagree, and says when they agree again.
    pub(super) fn tell(&mut self, participant: &str, verdict: Verdict, reading: Reading) {
        let doubt = Some(verdict).filter(|verdict| !matches!(verdict, Verdict::Agreed(_)));
        if doubt == self.doubt {
            return;
        }
        self.doubt = doubt;
        let Reading { own_ms, database_ms, .. } = reading;
        match doubt {
            None | Some(Verdict::Agreed(_)) => {
                tracing::info!(participant, "the clocks agree; barrier rows are purged again");
            }
            Some(Verdict::Differ) => tracing::error!(
                alarm = "clock_skew",
                participant,
                own_ms,
                database_ms,
                "the clocks of this process and of its database differ; no barrier row is purged"
            ),
            Some(Verdict::Stepped) => tracing::error!(
                alarm = "clock_skew",
                participant,
                own_ms,
                database_ms,
                "the clocks were set; no barrier row is purged until they are back, or have run evenly for \
                 an hour"
            ),
        }
    }
}

fn difference(one_ms: i64, other_ms: i64) -> Duration {
    Duration::from_millis(one_ms.abs_diff(other_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS_MS: i64 = 8 * 24 * 60 * 60 * 1000;

    #[test]
    fn a_clock_that_is_wrong_purges_nothing() {
        let start = Instant::now();
        let mut clock = PurgeClock::default();
        // Seconds since the start, by how much this process's clock and the database's are ahead, in
        // milliseconds, and the verdict: by how much the time to purge by is ahead.
        for (secs, own, database, expected) in [
            (0, 0, 0, Ok(0)),
            (30, 20_000, -20_000, Ok(-20_000)),
            // Either is set, and set right.
            (60, 0, DAYS_MS, Err(Verdict::Differ)),
            (90, DAYS_MS, 0, Err(Verdict::Differ)),
            (120, 0, 0, Ok(0)),
            // Both are, or they are one.
            (150, DAYS_MS, DAYS_MS, Err(Verdict::Stepped)),
            (180, 0, 0, Ok(0)),
            (210, -DAYS_MS, -DAYS_MS, Err(Verdict::Stepped)),
            (240, 0, 0, Ok(0)),
            // Small steps that add up are one large one.
            (270, 50_000, 50_000, Ok(50_000)),
            (300, 100_000, 100_000, Err(Verdict::Stepped)),
            // It stays where it was set, and for long enough from then on.
            (330, DAYS_MS, DAYS_MS, Err(Verdict::Stepped)),
            (3_900, DAYS_MS, DAYS_MS, Err(Verdict::Stepped)),
            (3_930, DAYS_MS, DAYS_MS, Ok(DAYS_MS)),
            (90_000, DAYS_MS, DAYS_MS, Ok(DAYS_MS)),
        ] {
            let passed_ms = 1_800_000_000_000 + secs * 1000;
            let at = start + Duration::from_secs(u64::try_from(secs).expect("later"));
            let (own_ms, database_ms) = (passed_ms + own, passed_ms + database);
            let verdict = clock.judge(Reading { own_ms, database_ms, at });
            let expected =
                expected.map_or_else(|doubt| doubt, |ms| Verdict::Agreed(passed_ms + ms));
            assert_eq!(verdict, expected, "{secs} s: {own} {database}");
        }
    }

    /// It is ahead when the process starts, and is set right: what is trusted is the time on which both agree first.
    #[test]
    fn clocks_that_differ_at_the_start_are_not_trusted() {
        let (start, now_ms) = (Instant::now(), 1_800_000_000_000);
        let mut clock = PurgeClock::default();
        let mut judge =
            |own_ms, database_ms| clock.judge(Reading { own_ms, database_ms, at: start });
        assert_eq!(judge(now_ms, now_ms + DAYS_MS), Verdict::Differ);
        assert_eq!(judge(now_ms, now_ms), Verdict::Agreed(now_ms));
        assert_eq!(judge(now_ms + DAYS_MS, now_ms + DAYS_MS), Verdict::Stepped);
    }
}
