//! The time that the purge goes by.
//!
//! A clock that is wrong for a moment must not delete what is kept for days: a gid would be done once
//! more. So three clocks have to agree: the database's, this process's, and the monotonic one, by which
//! both must have run since a time that is trusted. The first such time is that of the last purge, which
//! is stored; if the clocks are far from it, because nobody ran or because they are wrong, they are
//! trusted after they have run evenly for [`TRUSTED_AFTER`].

use std::time::Duration;

use unanimo_core::Timestamp;

use crate::suspension::Moment;

/// Most by which clocks that agree may differ.
pub(super) const SKEW_MAX: Duration = Duration::from_secs(60);

/// Part of the time passed by which a clock may run fast or slow. Time servers correct twice as fast at
/// most.
const DRIFT_PARTS: u32 = 1000;

/// Longest time since the last purge of an earlier process that is taken for a pause of the process.
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// Time after which clocks are trusted again that have run evenly, and agreed with each other. Nobody
/// notices that something is purged an hour later.
const TRUSTED_AFTER: Duration = Duration::from_secs(60 * 60);

/// One look at all clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// This process's time of day.
    pub(super) own: Timestamp,
    /// The database's.
    pub(super) database: Timestamp,
    /// The monotonic clock, and the time for which the machine has slept.
    pub(super) at: Moment,
}

/// Meaning of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The time to purge by.
    Agreed(Timestamp),
    /// The clocks are even, and not trusted yet.
    Unproven,
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
}

impl PurgeClock {
    /// Judges a reading. `last` is the time of the last purge, by which an earlier process may have
    /// gone; `gids` is for how long a gid is kept.
    pub(super) fn judge(
        &mut self,
        reading: Reading,
        last: Option<Timestamp>,
        gids: Duration,
    ) -> Verdict {
        let Reading { own, database, at } = reading;
        if difference(own, database) > SKEW_MAX {
            self.even = None;
            return Verdict::Differ;
        }
        let now = own.min(database);
        if self.trusted.is_none() && last.is_some_and(|last| follows(now, last, gids)) {
            self.trusted = Some(reading);
        }
        if self.trusted.is_some_and(|trusted| trusted.leads_to(&reading)) {
            self.even = None;
            return Verdict::Agreed(now);
        }
        match self.even {
            Some(even) if even.leads_to(&reading) => {
                if at.since(even.at) >= TRUSTED_AFTER {
                    self.trusted = Some(reading);
                    self.even = None;
                    return Verdict::Agreed(now);
                }
            }
            _ => self.even = Some(reading),
        }
        let is_behind = last.is_some_and(|last| difference(now, last) > SKEW_MAX && now < last);
        if self.trusted.is_some() || is_behind { Verdict::Stepped } else { Verdict::Unproven }
    }
}

impl Reading {
    /// Tells whether both clocks have run from this reading to a later one as the monotonic clock did.
    fn leads_to(&self, later: &Self) -> bool {
        let passed = later.at.since(self.at);
        let allowed = SKEW_MAX + passed / DRIFT_PARTS;
        let is_even = |from: Timestamp, to| difference(from.after(passed), to) <= allowed;
        is_even(self.own, later.own) && is_even(self.database, later.database)
    }
}

/// Tells whether the clocks may have come from the last purge to here while no process ran.
fn follows(now: Timestamp, last: Timestamp, gids: Duration) -> bool {
    let pause = PAUSE_MAX.min(gids / 10).max(SKEW_MAX);
    let is_later = now >= last;
    difference(now, last) <= if is_later { pause } else { SKEW_MAX }
}

fn difference(one: Timestamp, other: Timestamp) -> Duration {
    Duration::from_millis(one.0.abs_diff(other.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    /// Clocks that a test sets.
    struct Clocks {
        clock: PurgeClock,
        start: Moment,
        asleep: Duration,
        passed: Duration,
        own: Duration,
        database: Duration,
        last: Option<Timestamp>,
    }

    impl Clocks {
        fn new(last: Option<Timestamp>) -> Self {
            let (own, database) = (Duration::ZERO, Duration::ZERO);
            let (clock, start, passed) = (PurgeClock::default(), Moment::now(), Duration::ZERO);
            Self { clock, start, asleep: Duration::ZERO, passed, own, database, last }
        }

        /// Looks after this time. The clocks are ahead by `own` and `database`.
        fn after(&mut self, pause: Duration) -> Verdict {
            self.passed += pause;
            let time = NOW.after(self.passed);
            let reading = Reading {
                own: time.after(self.own),
                database: time.after(self.database),
                at: Moment {
                    at: self.start.at + (self.passed - self.asleep),
                    suspended: self.start.suspended + self.asleep,
                },
            };
            let verdict = self.clock.judge(reading, self.last, WEEK);
            if let Verdict::Agreed(now) = verdict {
                self.last = self.last.max(Some(now));
            }
            verdict
        }

        #[track_caller]
        fn agree(&mut self, pause: Duration) {
            let verdict = self.after(pause);
            let time = NOW.after(self.passed);
            assert_eq!(verdict, Verdict::Agreed(time.after(self.own.min(self.database))));
        }
    }

    const TEN: Duration = Duration::from_secs(10);

    /// The machine sleeps for a day: no clock was set.
    #[test]
    fn time_asleep_passes() {
        let mut clocks = Clocks::new(Some(NOW));
        clocks.agree(TEN);
        clocks.asleep = DAY;
        clocks.agree(DAY);
        clocks.agree(TEN);
    }

    #[test]
    fn even_clocks_agree_from_the_last_purge_on() {
        let mut clocks = Clocks::new(Some(NOW));
        for _ in 0..100 {
            clocks.agree(TEN);
        }
        // Time servers correct a little, and a machine may rest for a while between two looks.
        clocks.own = Duration::from_secs(20);
        clocks.agree(TEN);
        clocks.database = Duration::from_secs(20);
        clocks.agree(DAY);
        let restarted = Some(NOW);
        let mut clocks = Clocks::new(restarted);
        clocks.agree(Duration::from_secs(30 * 60));
    }

    #[test]
    fn a_clock_that_jumps_stops_the_purge_until_it_is_back() {
        for set in [
            (|clocks: &mut Clocks, ahead| clocks.own = ahead) as fn(&mut Clocks, Duration),
            |clocks, ahead| clocks.database = ahead,
        ] {
            let mut clocks = Clocks::new(Some(NOW));
            clocks.agree(TEN);
            set(&mut clocks, 8 * DAY);
            assert_eq!(clocks.after(TEN), Verdict::Differ);
            assert_eq!(clocks.after(2 * TRUSTED_AFTER), Verdict::Differ);
            set(&mut clocks, Duration::ZERO);
            clocks.agree(TEN);
        }
    }

    /// On SQLite, or where the database is on the same machine.
    #[test]
    fn clocks_that_jump_together_are_caught_by_the_monotonic_one() {
        let mut clocks = Clocks::new(Some(NOW));
        clocks.agree(TEN);
        (clocks.own, clocks.database) = (8 * DAY, 8 * DAY);
        for _ in 0..3 {
            assert_eq!(clocks.after(TEN), Verdict::Stepped);
        }
        (clocks.own, clocks.database) = (Duration::ZERO, Duration::ZERO);
        clocks.agree(TEN);
        // Small steps that add up are one large one.
        for minute in 1..=10_u64 {
            (clocks.own, clocks.database) =
                (Duration::from_secs(50 * minute), Duration::from_secs(50 * minute));
            let verdict = clocks.after(TEN);
            assert_eq!(matches!(verdict, Verdict::Agreed(_)), minute == 1, "{verdict:?}");
        }
    }

    /// A clock that was wrong for days and is right now is trusted again.
    #[test]
    fn a_clock_that_stays_where_it_was_set_is_trusted_in_the_end() {
        let mut clocks = Clocks::new(Some(NOW));
        clocks.agree(TEN);
        (clocks.own, clocks.database) = (8 * DAY, 8 * DAY);
        assert_eq!(clocks.after(TEN), Verdict::Stepped);
        assert_eq!(clocks.after(TRUSTED_AFTER - TEN), Verdict::Stepped);
        clocks.agree(TEN);
    }

    #[test]
    fn after_a_restart_far_from_the_last_purge_the_clocks_have_to_prove_themselves() {
        // It was stopped for eight days, or the clocks are wrong: nobody can tell.
        let mut clocks = Clocks::new(Some(NOW));
        (clocks.own, clocks.database) = (8 * DAY, 8 * DAY);
        assert_eq!(clocks.after(TEN), Verdict::Unproven);
        assert_eq!(clocks.after(TRUSTED_AFTER / 2), Verdict::Unproven);
        clocks.agree(TRUSTED_AFTER / 2);
        // They are set right before that.
        let mut clocks = Clocks::new(Some(NOW));
        (clocks.own, clocks.database) = (8 * DAY, 8 * DAY);
        assert_eq!(clocks.after(TEN), Verdict::Unproven);
        (clocks.own, clocks.database) = (Duration::ZERO, Duration::ZERO);
        clocks.agree(TEN);
        // Nothing was ever purged.
        assert_eq!(Clocks::new(None).after(TEN), Verdict::Unproven);
        // The last purge is in the future.
        assert_eq!(Clocks::new(Some(NOW.after(DAY))).after(TEN), Verdict::Stepped);
    }
}
