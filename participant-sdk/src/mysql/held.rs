//! Waiting for a transaction that another session holds.

use std::time::{Duration, Instant};

/// First pause before it is asked for again, and the longest one.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

pub(super) struct Held {
    since: Instant,
    at_most: Duration,
    pause: Duration,
}

impl Held {
    pub(super) fn new(at_most: Duration) -> Self {
        Self { since: Instant::now(), at_most, pause: PAUSE }
    }

    /// Waits a little, longer each time; answers whether to go on.
    pub(super) async fn pause(&mut self) -> bool {
        if self.since.elapsed() >= self.at_most {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}
