//! Bounds of log lines: of one kind no more in a second than a person reads.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most lines of a kind in a second.
const LINES_MAX: u64 = 20;

/// Time in which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Lines of one kind.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u64,
}

impl Lines {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Tells whether the next line is to be written, and how many were left out before it.
    pub(crate) fn take(&self) -> Option<u64> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = |left_out| (Window { since: now, lines: 1 }, Some(left_out));
        let (after, told) = match window.take() {
            None => begin(0),
            Some(Window { since, lines }) if now.saturating_duration_since(since) >= WINDOW => {
                begin(lines.saturating_sub(LINES_MAX))
            }
            Some(Window { since, lines }) => {
                let lines = lines.saturating_add(1);
                (Window { since, lines }, (lines <= LINES_MAX).then_some(0))
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
        let (lines, now) = (Lines::new(), Instant::now());
        let told = (0..1_000).filter(|_| lines.take_at(now).is_some()).count();
        assert_eq!(told as u64, LINES_MAX);
        assert_eq!(lines.take_at(now + WINDOW), Some(1_000 - LINES_MAX));
        assert_eq!(lines.take_at(now + WINDOW), Some(0));
        assert_eq!(lines.take_at(now + 3 * WINDOW), Some(0));
    }
}
