//! Time as transactions live through it: no step of the time of day moves it.
//!
//! A transaction takes the time of day once, when it begins or is adopted. From then on its time is that
//! plus the real time that has passed since, so its deadline, its pauses and its alarms come when they
//! should, whatever the system's clock is set to meanwhile. The time for which the machine sleeps is real
//! time, too, where the system tells it.
//!
//! A transaction that begins or starts takes the time of day from here, too: participants compare its
//! deadline with clocks of their own, and what is to start next week must not start because a clock was
//! wrong for a moment. If the system's clock jumps, the time of day goes on by real time at first, and
//! follows only a jump that lasts.
//!
//! A process that starts has lived through nothing yet. It compares its clock with the database's: if that is
//! earlier by more than a minute, what is stored goes by it for ten minutes, and what begins by the own one. A
//! transaction that is adopted goes on no earlier than the latest time that its rows have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::Timestamp;

use crate::alarm::CLOCK_SKEW;
use crate::env::Env;
use crate::spans::nanos;
use crate::suspension::{Moment, suspended};

/// Difference between the system's clock and real time up to which it is no jump: clocks are slewed, and
/// measured in milliseconds.
const SLEW_MAX: Duration = Duration::from_secs(1);

/// Time for which a jump must last before it is followed: longer than a mistake that is corrected.
const FOLLOW_AFTER: Duration = Duration::from_secs(10 * 60);

/// Most by which clocks that agree may differ at a start: as for the purge.
const SKEW_MAX: Duration = Duration::from_secs(60);

/// Latest time that is waited for. An instant cannot be much further away.
const FAR: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// A time of day, and the moment at which it was that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    time: Timestamp,
    at: Moment,
}

impl Anchor {
    pub(super) fn new(time: Timestamp, at: Moment) -> Self {
        Self { time, at }
    }

    /// Returns the time of day at this moment.
    pub(super) fn time_at(self, moment: Moment) -> Timestamp {
        self.time.after(moment.since(self.at))
    }

    /// Returns the time of day now.
    pub(super) fn now(self) -> Timestamp {
        self.time_at(Moment::now())
    }

    /// Returns the time of day now in nanoseconds since 1970.
    pub(super) fn nanos(self) -> u64 {
        let passed = nanos(Moment::now().since(self.at));
        self.time.0.saturating_mul(1_000_000).saturating_add(passed)
    }

    /// Returns the anchor that is at this time by now, if this one is at an earlier one.
    pub(super) fn not_before(self, time: Timestamp) -> Self {
        let now = Moment::now();
        if self.time_at(now) < time { Self::new(time, now) } else { self }
    }

    /// Returns when it is this time of day, or when it was that of the anchor if that is later, if the
    /// machine does not sleep until then.
    pub(super) fn moment_of(self, time: Timestamp) -> Instant {
        self.moment_after(time, suspended())
    }

    fn moment_after(self, time: Timestamp, suspended: Duration) -> Instant {
        let asleep = suspended.saturating_sub(self.at.suspended);
        self.at.at + self.time.until(time).min(FAR).saturating_sub(asleep)
    }
}

/// Source of the time of day for transactions that begin, start or are adopted.
#[derive(Debug)]
pub(crate) struct Clock {
    env: Arc<dyn Env>,
    gone_by: Mutex<GoneBy>,
}

/// Times of day that are gone by.
#[derive(Debug)]
struct GoneBy {
    /// Whatever begins or starts goes by the system's clock: participants compare its deadline with their own.
    begins: Followed,
    /// Whatever is stored goes by an earlier clock, for as long as a start has two that differ: what ends late can
    /// still end otherwise, and what was aborted or started too soon stays so.
    stored: Option<Followed>,
}

/// A time of day that is gone by.
#[derive(Debug)]
struct Followed {
    anchor: Anchor,
    /// A jump of the system's clock that is not followed: since when, and where it would lead.
    jump: Option<(Moment, Anchor)>,
}

/// News of the system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Jumped,
    /// It is followed from now on.
    Lasted,
}

impl Clock {
    /// Makes the source for a process that starts, with the time that the database told a moment ago.
    pub(crate) fn new(env: Arc<dyn Env>, database: Timestamp) -> Self {
        let (own, at) = (env.now(), Moment::now());
        if difference(own, database) > SKEW_MAX {
            tracing::error!(
                alarm = CLOCK_SKEW,
                own = own.0,
                database = database.0,
                "the clocks of this process and of its database differ; what is stored goes by the earlier one, in \
                 milliseconds since 1970: for ten minutes, and what is adopted meanwhile for as long as it lasts"
            );
        }
        Self { env, gone_by: Mutex::new(GoneBy::new(own, database, at)) }
    }

    /// Returns the source of the system's time.
    pub(super) fn env(&self) -> Arc<dyn Env> {
        Arc::clone(&self.env)
    }

    /// Returns the time of day for a transaction that begins or starts now.
    pub(super) fn anchor(&self) -> Anchor {
        self.of(GoneBy::begins)
    }

    /// Returns the time of day for what is stored: whether its time has come, and how it goes on once it is adopted.
    pub(super) fn of_stored(&self) -> Anchor {
        self.of(GoneBy::stored)
    }

    fn of(&self, which: impl FnOnce(&mut GoneBy, Anchor) -> Anchor) -> Anchor {
        // Nothing panics half way through a change.
        let mut gone_by = self.gone_by.lock().unwrap_or_else(PoisonError::into_inner);
        which(&mut gone_by, Anchor::new(self.env.now(), Moment::now()))
    }

    /// Returns the time of day now.
    pub(super) fn now(&self) -> Timestamp {
        self.anchor().now()
    }
}

impl GoneBy {
    fn new(own: Timestamp, database: Timestamp, at: Moment) -> Self {
        let followed = |time| Followed { anchor: Anchor::new(time, at), jump: None };
        let is_earlier = database.until(own) > SKEW_MAX;
        Self { begins: followed(own), stored: is_earlier.then(|| followed(database)) }
    }

    fn begins(&mut self, told: Anchor) -> Anchor {
        let (anchor, change) = self.begins.follow(told);
        match change {
            Some(Change::Jumped) => tracing::warn!(
                ahead = ?anchor.time.until(told.time),
                behind = ?told.time.until(anchor.time),
                "the system's clock has jumped; transactions go on by real time"
            ),
            Some(Change::Lasted) => tracing::warn!(
                "the jump of the system's clock has lasted: transactions that begin follow it"
            ),
            None => {}
        }
        anchor
    }

    fn stored(&mut self, told: Anchor) -> Anchor {
        let begins = self.begins(told);
        let Some(stored) = &mut self.stored else { return begins };
        let (anchor, _) = stored.follow(told);
        if is_near(anchor.time, begins.time) {
            tracing::warn!("what is stored goes by this process's clock again");
            self.stored = None;
        }
        anchor
    }
}

impl Followed {
    fn follow(&mut self, told: Anchor) -> (Anchor, Option<Change>) {
        let Anchor { time, at } = told;
        if is_near(self.anchor.time_at(at), time) {
            self.jump = None;
            self.anchor = told;
            return (told, None);
        }
        let change = match self.jump {
            Some((since, to)) if is_near(to.time_at(at), time) => {
                let has_lasted = at.since(since) >= FOLLOW_AFTER;
                if has_lasted {
                    self.jump = None;
                    self.anchor = told;
                }
                has_lasted.then_some(Change::Lasted)
            }
            _ => {
                self.jump = Some((at, told));
                Some(Change::Jumped)
            }
        };
        (Anchor::new(self.anchor.time_at(at), at), change)
    }
}

fn is_near(one: Timestamp, other: Timestamp) -> bool {
    difference(one, other) <= SLEW_MAX
}

fn difference(one: Timestamp, other: Timestamp) -> Duration {
    one.until(other).max(other.until(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(start: Moment) -> Followed {
        Followed { anchor: Anchor::new(Timestamp(1_000_000), start), jump: None }
    }

    #[test]
    fn a_jump_is_followed_once_it_has_lasted() {
        let start = Moment::now();
        let mut clock = followed(start);
        // Seconds since the start, what the system's clock tells then, and what is gone by.
        for (secs, told_ms, expected_secs) in [
            (10, 1_010_000, 1010),
            // Somebody sets it, and takes it back.
            (10, 4_610_000, 1010),
            (10, 10_000, 1010),
            (10, 1_010_000, 1010),
            (20, 1_020_000, 1020),
            // An hour ahead, for good: followed after ten minutes.
            (21, 4_621_000, 1021),
            (521, 5_121_000, 1521),
            (620, 5_220_000, 1620),
            (621, 5_221_000, 5221),
            // A drift of less than a second is no jump.
            (622, 5_222_900, 5222),
            (623, 5_224_800, 5224),
        ] {
            let at = Moment { at: start.at + Duration::from_secs(secs), ..start };
            let (gone_by, _) = clock.follow(Anchor::new(Timestamp(told_ms), at));
            assert_eq!(gone_by.time_at(at).0 / 1000, expected_secs, "{secs} s: {told_ms}");
        }
    }

    /// Beginnings go by the own clock, which participants share. What is stored goes by the database's if that is
    /// earlier, and by the own one once that has lasted.
    #[test]
    fn a_start_with_two_clocks_goes_by_the_earlier_one_for_what_is_stored() {
        const OWN: u64 = 1_800_000_000_000;
        const HOUR: i64 = 60 * 60 * 1000;
        let start = Moment::now();
        for (database, expected) in [(0, 0), (30_000, 0), (-30_000, 0), (HOUR, 0), (-HOUR, -HOUR)] {
            let database = Timestamp(OWN.saturating_add_signed(database));
            let mut clock = GoneBy::new(Timestamp(OWN), database, start);
            for (secs, ahead) in [(1, expected), (599, expected), (602, 0)] {
                let at = Moment { at: start.at + Duration::from_secs(secs), ..start };
                let own = Timestamp(OWN + secs * 1000);
                let told = Anchor::new(own, at);
                let stored = Timestamp(own.0.saturating_add_signed(ahead));
                assert_eq!(clock.stored(told).time_at(at), stored, "{database:?} {secs}");
                assert_eq!(clock.begins(told).time_at(at), own, "{database:?} {secs}");
            }
        }
    }

    #[test]
    fn a_time_that_is_stored_is_no_later_than_the_present() {
        let anchor = Anchor::new(Timestamp(1_000_000), Moment::now());
        let later = anchor.not_before(Timestamp(9_000_000));
        assert!((9_000_000..9_060_000).contains(&later.now().0), "{later:?}");
        let same = anchor.not_before(Timestamp(900_000));
        assert!((1_000_000..1_060_000).contains(&same.now().0), "{same:?}");
    }

    /// The machine sleeps: its clock tells the time asleep afterwards, and that is no jump.
    #[test]
    fn time_asleep_is_no_jump() {
        let start = Moment::now();
        let mut clock = followed(start);
        let before = clock.anchor;
        // Seconds awake and asleep since the start, and what the system's clock tells then.
        for (awake, asleep, told_ms) in [
            (10, 0, 1_010_000),
            (11, 3_600, 4_611_000),
            (12, 3_600, 4_612_000),
            (12, 90_000, 91_012_000),
        ] {
            let at = Moment {
                at: start.at + Duration::from_secs(awake),
                suspended: start.suspended + Duration::from_secs(asleep),
            };
            let (gone_by, _) = clock.follow(Anchor::new(Timestamp(told_ms), at));
            assert_eq!(gone_by.time_at(at), Timestamp(told_ms), "{awake} s, {asleep} s");
            assert!(clock.jump.is_none(), "{awake} s, {asleep} s");
            // What had begun before has lived through the same time.
            assert_eq!(before.time_at(at), Timestamp(told_ms), "{awake} s, {asleep} s");
        }
    }

    #[test]
    fn a_time_is_reached_at_its_moment() {
        let start = Moment::now();
        let anchor = Anchor::new(Timestamp(5_000), start);
        let time_at = |at| anchor.time_at(Moment { at, ..start });
        let moment_of = |ms| anchor.moment_after(Timestamp(ms), start.suspended);
        for ms in [5_000, 5_001, 65_000] {
            assert_eq!(time_at(moment_of(ms)), Timestamp(ms));
        }
        assert_eq!(moment_of(4_000), moment_of(5_000));
        assert!(moment_of(u64::MAX) > Instant::now());
        // Of a minute the machine has slept for the half.
        let asleep = start.suspended + Duration::from_secs(30);
        let moment = anchor.moment_after(Timestamp(65_000), asleep);
        assert_eq!(moment, start.at + Duration::from_secs(30));
    }
}
