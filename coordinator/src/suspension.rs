//! Time for which the machine was suspended.
//!
//! The monotonic clock of Linux stands still while the machine sleeps. Leases, deadlines and the purge have
//! to count that time: others were awake. `CLOCK_BOOTTIME` counts it, so the difference of the two is the
//! time asleep. On other systems it is not known, and taken for none: macOS and the BSDs stop the
//! monotonic clock as well.

use std::time::Duration;

use tokio::time::Instant;

/// Returns for how long the machine was suspended since it was started.
#[cfg(target_os = "linux")]
pub(crate) fn suspended() -> Duration {
    use rustix::time::{ClockId, Timespec, clock_gettime};
    let duration = |time: Timespec| {
        let (secs, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Duration::new(secs.unwrap_or_default(), nanos.unwrap_or_default())
    };
    // In this order: what passes between the two is not taken for sleep.
    let boot = duration(clock_gettime(ClockId::Boottime));
    boot.saturating_sub(duration(clock_gettime(ClockId::Monotonic)))
}

/// Returns for how long the machine was suspended since it was started: it is not known here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn suspended() -> Duration {
    Duration::ZERO
}

/// A moment, on a clock that goes on while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The monotonic clock.
    pub(crate) at: Instant,
    /// Time for which the machine was suspended before.
    pub(crate) suspended: Duration,
}

impl Moment {
    /// Returns this moment.
    pub(crate) fn now() -> Self {
        let suspended = suspended();
        Self { at: Instant::now(), suspended }
    }

    /// Returns how long ago this was on a monotonic clock that goes on while the machine sleeps, as an
    /// instant of the one that does not.
    pub(crate) fn seen_now(self) -> Instant {
        let asleep = suspended().saturating_sub(self.suspended);
        self.at.checked_sub(asleep).unwrap_or(self.at)
    }

    /// Returns the real time that has passed since an earlier moment.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let awake = self.at.saturating_duration_since(earlier.at);
        awake + self.suspended.saturating_sub(earlier.suspended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that does not sleep meanwhile has the same time on both clocks.
    #[test]
    fn the_time_asleep_does_not_run_while_it_is_awake() {
        let before = suspended();
        std::thread::sleep(Duration::from_millis(50));
        let after = suspended();
        let difference = after.abs_diff(before);
        assert!(difference < Duration::from_millis(5), "{before:?} {after:?}");
    }

    #[test]
    fn sleep_counts_as_time() {
        let start = Moment::now();
        let later = Moment {
            at: start.at + Duration::from_secs(2),
            suspended: start.suspended + Duration::from_secs(3600),
        };
        assert_eq!(later.since(start), Duration::from_secs(3602));
        assert_eq!(start.since(later), Duration::ZERO);
    }
}
