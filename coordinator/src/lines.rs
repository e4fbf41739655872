//! Bounds of log lines and alarms: of one kind no more in a while than a person reads.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines of one kind. What goes beyond the bound is counted.
#[derive(Debug)]
pub(crate) struct Lines {
    max: u64,
    time: Duration,
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u64,
}

impl Lines {
    /// Allows so many in each such time.
    pub(crate) const fn new(max: u64, time: Duration) -> Self {
        Self { max, time, window: Mutex::new(None) }
    }

    /// Allows as many in a second as a person reads.
    pub(crate) const fn readable() -> Self {
        Self::new(20, Duration::from_secs(1))
    }

    /// Tells whether the next line is to be written, and how many were left out before it.
    pub(crate) fn take(&self) -> Option<u64> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Option<u64> {
        // Nothing panics half way through a change.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = |left_out| (Window { since: now, lines: 1 }, Some(left_out));
        let (after, told) = match window.take() {
            None => begin(0),
            Some(Window { since, lines }) if now.saturating_duration_since(since) >= self.time => {
                begin(lines.saturating_sub(self.max))
            }
            Some(Window { since, lines }) => {
                let lines = lines.saturating_add(1);
                (Window { since, lines }, (lines <= self.max).then_some(0))
            }
        };
        *window = Some(after);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_and_told() {
        let (minute, now) = (Duration::from_secs(60), Instant::now());
        let lines = Lines::new(8, minute);
        let told = (0..50_000).filter(|_| lines.take_at(now).is_some()).count();
        assert_eq!(told, 8);
        assert_eq!(lines.take_at(now + minute), Some(50_000 - 8));
        assert_eq!(lines.take_at(now + minute), Some(0));
        assert_eq!(lines.take_at(now + 3 * minute), Some(0));
    }
}
