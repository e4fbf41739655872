//! The end of a connection whose certificate has expired.

use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep};

/// Longest time between two looks at the time of day: that may be set, and a machine may have slept.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Time to send what was left when the end came.
const REST_MAX: Duration = Duration::from_secs(10);

/// Time of day at which a connection ends.
#[derive(Debug)]
pub(crate) struct End {
    at: SystemTime,
    look: Pin<Box<Sleep>>,
    /// When it was noticed that the end has come.
    past_since: Option<Instant>,
}

impl End {
    pub(crate) fn new(at: SystemTime) -> Self {
        Self { at, look: Box::pin(tokio::time::sleep(Duration::ZERO)), past_since: None }
    }

    /// Tells whether it has come; if not, wakes when that may be otherwise.
    pub(crate) fn is_past(&mut self, context: &mut Context<'_>) -> bool {
        while self.look.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let wait = match self.at.duration_since(SystemTime::now()) {
                Ok(left) if self.past_since.is_none() && !left.is_zero() => left.min(LOOK_MAX),
                _ => {
                    self.past_since.get_or_insert(now);
                    REST_MAX
                }
            };
            self.look.as_mut().reset(now + wait);
        }
        self.past_since.is_some()
    }

    /// Tells whether it came so long ago that nothing more is sent.
    pub(crate) fn is_long_past(&mut self, context: &mut Context<'_>) -> bool {
        self.is_past(context);
        self.past_since.is_some_and(|since| since.elapsed() >= REST_MAX)
    }
}
