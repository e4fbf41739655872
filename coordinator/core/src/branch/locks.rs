//! Progress of a request for locks.

use crate::definition::Lock;
use crate::time::Timestamp;

/// Progress of a request for locks. Not stored: the locks themselves are, and a request that comes again
/// finds those that are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locks {
    /// They are held, or there are none.
    Granted,
    /// They were not asked for.
    Wanted,
    /// The request is under way.
    Asked { attempt: u32, since: Timestamp },
    /// The request comes again at this time.
    Waiting { attempt: u32, since: Timestamp, retry_at: Timestamp },
}

impl Locks {
    pub(crate) fn of(locks: &[Lock]) -> Self {
        if locks.is_empty() { Self::Granted } else { Self::Wanted }
    }

    pub(crate) fn are_granted(self) -> bool {
        self == Self::Granted
    }

    pub(crate) fn is_due(self, now: Timestamp) -> bool {
        match self {
            Self::Wanted => true,
            Self::Waiting { retry_at, .. } => retry_at <= now,
            Self::Granted | Self::Asked { .. } => false,
        }
    }

    /// Tells whether nothing is under way, or about to come again.
    pub(crate) fn is_idle(self) -> bool {
        matches!(self, Self::Granted | Self::Wanted)
    }

    pub(crate) fn retry_at(self) -> Option<Timestamp> {
        match self {
            Self::Waiting { retry_at, .. } => Some(retry_at),
            Self::Granted | Self::Wanted | Self::Asked { .. } => None,
        }
    }

    /// Asks, and returns the number of the attempt. The first one begins the wait, unless that began `earlier`.
    pub(crate) fn ask(&mut self, now: Timestamp, earlier: Option<Timestamp>) -> u32 {
        let (attempt, since) = match *self {
            Self::Asked { attempt, since } | Self::Waiting { attempt, since, .. } => {
                (attempt.saturating_add(1), since)
            }
            Self::Granted | Self::Wanted => (1, earlier.unwrap_or(now)),
        };
        *self = Self::Asked { attempt, since };
        attempt
    }

    /// Has what waits go out now.
    pub(crate) fn hurry(&mut self, now: Timestamp) {
        if let Self::Waiting { retry_at, .. } = self {
            *retry_at = now;
        }
    }
}
