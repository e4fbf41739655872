//! Time as transactions live through it: no step of the time of day moves it.
//!
//! A transaction takes the time of day once, when it begins or is adopted. From then on its time is that
//! plus the real time that has passed since, so its deadline, its pauses and its alarms come when they
//! should, whatever the system's clock is set to meanwhile. What waits for a time of day, and for nothing
//! else, follows the system's clock.
//!
//! A transaction that begins takes the time of day from here, too: participants compare its deadline with
//! clocks of their own. If the system's clock jumps, the time of day goes on by real time at first, and
//! follows only a jump that lasts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::Timestamp;

use crate::env::Env;

/// Difference between the system's clock and real time up to which it is no jump: clocks are slewed, and
/// measured in milliseconds.
const SLEW_MAX: Duration = Duration::from_secs(1);

/// Time for which a jump must last before it is followed: longer than a mistake that is corrected.
const FOLLOW_AFTER: Duration = Duration::from_secs(10 * 60);

/// Latest time that is waited for. An instant cannot be much further away.
const FAR: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// A time of day, and the moment at which it was that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    time: Timestamp,
    at: Instant,
}

impl Anchor {
    pub(super) fn new(time: Timestamp, at: Instant) -> Self {
        Self { time, at }
    }

    /// Returns the time of day at this moment.
    pub(super) fn time_at(self, moment: Instant) -> Timestamp {
        self.time.after(moment.saturating_duration_since(self.at))
    }

    /// Returns the time of day now.
    pub(super) fn now(self) -> Timestamp {
        self.time_at(Instant::now())
    }

    /// Returns the moment at which it is this time of day, or that of the anchor if it was earlier.
    pub(super) fn moment_of(self, time: Timestamp) -> Instant {
        self.at + self.time.until(time).min(FAR)
    }
}

/// Source of the time of day for transactions that begin or are adopted.
#[derive(Debug)]
pub(super) struct Clock {
    env: Arc<dyn Env>,
    anchor: Anchor,
    /// A jump of the system's clock that is not followed: since when, and where it would lead.
    jump: Option<(Instant, Anchor)>,
}

impl Clock {
    pub(super) fn new(env: Arc<dyn Env>) -> Self {
        let anchor = Anchor::new(env.now(), Instant::now());
        Self { env, anchor, jump: None }
    }

    /// Returns the time of day as the system tells it, jumps included.
    pub(super) fn told(&self) -> Anchor {
        Anchor::new(self.env.now(), Instant::now())
    }

    /// Returns the time of day for a transaction that begins or is adopted now.
    pub(super) fn anchor(&mut self) -> Anchor {
        self.follow(self.told())
    }

    fn follow(&mut self, told: Anchor) -> Anchor {
        let Anchor { time, at } = told;
        if is_near(self.anchor.time_at(at), time) {
            self.jump = None;
            self.anchor = told;
            return told;
        }
        match self.jump {
            Some((since, to)) if is_near(to.time_at(at), time) => {
                if at.saturating_duration_since(since) >= FOLLOW_AFTER {
                    tracing::warn!(
                        "the jump of the system's clock has lasted: transactions that begin follow it"
                    );
                    self.jump = None;
                    self.anchor = told;
                }
            }
            _ => {
                self.jump = Some((at, told));
                tracing::warn!(
                    ahead = ?self.anchor.time_at(at).until(time),
                    behind = ?time.until(self.anchor.time_at(at)),
                    "the system's clock has jumped; transactions go on by real time"
                );
            }
        }
        Anchor::new(self.anchor.time_at(at), at)
    }
}

fn is_near(one: Timestamp, other: Timestamp) -> bool {
    one.until(other).max(other.until(one)) <= SLEW_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEnv;

    #[test]
    fn a_jump_is_followed_once_it_has_lasted() {
        let start = Instant::now();
        let mut clock = Clock::new(Arc::new(SystemEnv));
        clock.anchor = Anchor::new(Timestamp(1_000_000), start);
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
            let at = start + Duration::from_secs(secs);
            let gone_by = clock.follow(Anchor::new(Timestamp(told_ms), at));
            assert_eq!(gone_by.time_at(at).0 / 1000, expected_secs, "{secs} s: {told_ms}");
        }
    }

    #[test]
    fn a_time_is_reached_at_its_moment() {
        let anchor = Anchor::new(Timestamp(5_000), Instant::now());
        for ms in [5_000, 5_001, 65_000] {
            let moment = anchor.moment_of(Timestamp(ms));
            assert_eq!(anchor.time_at(moment), Timestamp(ms));
        }
        assert_eq!(anchor.moment_of(Timestamp(4_000)), anchor.moment_of(Timestamp(5_000)));
        assert!(anchor.moment_of(Timestamp(u64::MAX)) > Instant::now());
    }
}
