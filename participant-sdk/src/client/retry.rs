//! Bounds on the attempts of a step.

use std::time::Duration;

use unanimo_proto::v1::RetryPolicy;

use super::draft::duration_to_wire;

/// Bounds on the attempts of a step. One that used them up without a vote aborts its saga with
/// [`AbortCause::GaveUp`](super::AbortCause::GaveUp), and is compensated, since it may have had its
/// effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it is given to a step"]
pub struct Retry {
    attempts_max: u32,
    backoff: Option<(Duration, Duration)>,
    give_up_after: Option<Duration>,
}

impl Retry {
    /// Most attempts.
    pub fn attempts(attempts_max: u32) -> Self {
        Self { attempts_max, ..Self::default() }
    }

    /// Time after the first attempt at which no further one is made, and the one under way is not
    /// waited for.
    pub fn for_at_most(time: Duration) -> Self {
        Self::default().give_up_after(time)
    }

    /// Pause after the first failure, and longest pause: it doubles with each failure.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff = Some((min, max));
        self
    }

    /// Adds the bound of [`Self::for_at_most`].
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.give_up_after = Some(time);
        self
    }
}

impl From<Retry> for RetryPolicy {
    fn from(Retry { attempts_max, backoff, give_up_after }: Retry) -> Self {
        let (backoff_min, backoff_max) = backoff.unzip();
        Self {
            attempts_max,
            backoff_min: backoff_min.map(duration_to_wire),
            backoff_max: backoff_max.map(duration_to_wire),
            give_up_after: give_up_after.map(duration_to_wire),
        }
    }
}
