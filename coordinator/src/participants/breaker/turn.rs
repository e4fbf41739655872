//! Turn of calls that try one after the other whether a participant is back.

use std::time::Duration;

use tokio::time::Instant;

use super::Pauses;

/// Time after which a probe that has told nothing is taken for lost: its task was ended before it began.
/// Longer than a call waits for its answer.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// One probe at a time, and pauses between them that double.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pause: Duration,
    next: Instant,
    /// Since when a probe is under way.
    probing: Option<Instant>,
}

impl Turn {
    /// Begins with a pause.
    pub(super) fn new(now: Instant, pause: Duration) -> Self {
        Self { pause, next: now + pause, probing: None }
    }

    /// Begins with a probe that may be sent now.
    pub(super) fn due(now: Instant, pause: Duration) -> Self {
        Self { pause, next: now, probing: None }
    }

    /// Returns when the next probe may be sent. One that has told nothing for so long never will.
    pub(super) fn next(&self) -> Instant {
        self.probing.map_or(self.next, |since| since + LOST_AFTER)
    }

    /// Takes the turn, if it is time.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next();
        if is_due {
            self.probing = Some(now);
        }
        is_due
    }

    /// The probe has failed: the pause grows.
    pub(super) fn fail(&mut self, now: Instant, pauses: Pauses) {
        self.pause = pauses.after(self.pause);
        self.repeat(now);
    }

    /// The probe has ended: the next one may be sent after the pause.
    pub(super) fn repeat(&mut self, now: Instant) {
        self.probing = None;
        self.next = now + self.pause;
    }
}
