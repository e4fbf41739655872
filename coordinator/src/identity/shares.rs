//! Shares of callers: how often each may call, and how many of its calls may be under way. A caller is an identity, all
//! identities of a namespace together, or, where there are none, an address.
//!
//! One that asks for more is refused, and no other one notices it: nothing of a refused call is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most shares. Those that are whole are let go then: identities come and go with their file.
const SHARES_MAX: usize = 1024;

/// Name of the share of those for whom there is no room: no identity and no address has it.
const OTHERS: &str = "";

/// Between two looks for shares that are whole.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds on each caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Calls a second, on average; as many may come at once after a pause. Zero is no bound.
    pub(crate) rate: u32,
    /// Calls under way at a time. Zero is no bound.
    pub(crate) calls: usize,
}

/// Reason for which a call is one too many of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// It has called too often. There is room again after so long.
    Rate(Duration),
    /// Too many of its calls are under way.
    Calls,
}

/// Shares of all callers of one kind.
#[derive(Debug)]
pub(crate) struct Shares {
    bounds: Bounds,
    /// Of those that have called lately.
    of: Mutex<HashMap<String, Share>>,
    /// When those that are whole were let go last.
    swept_at: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
struct Share {
    /// Calls that it may still make, at that time.
    left: f64,
    at: Instant,
    under_way: usize,
}

impl Share {
    /// Adds what has come since, up to a second's worth.
    fn fill(&mut self, rate: f64, now: Instant) {
        let come = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        (self.left, self.at) = ((self.left + come).min(rate), self.at.max(now));
    }
}

impl Shares {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, of: Mutex::default(), swept_at: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Share>> {
        // Nothing in here panics half way through a change.
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether it is time to look for shares that are whole: with many of them each look takes its time.
    fn may_sweep(&self, now: Instant) -> bool {
        let mut swept_at = self.swept_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may = swept_at.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_INTERVAL);
        if may {
            *swept_at = Some(now);
        }
        may
    }

    /// Counts a call of this caller; `None` where nothing is bounded.
    ///
    /// # Errors
    /// It is one too many.
    pub(crate) fn take(
        self: &Arc<Self>,
        name: &str,
        now: Instant,
    ) -> Result<Option<Place>, TooMany> {
        let Bounds { rate, calls } = self.bounds;
        if self.bounds == Bounds::default() {
            return Ok(None);
        }
        let per_second = f64::from(rate);
        let mut shares = self.lock();
        if shares.len() >= SHARES_MAX && self.may_sweep(now) {
            // A new one would be the same.
            shares.retain(|_, share| {
                share.fill(per_second, now);
                share.under_way > 0 || share.left < per_second
            });
        }
        // Those for whom there is no room have one share together.
        let has_own = shares.contains_key(name) || shares.len() + 1 < SHARES_MAX;
        let name = if has_own { name } else { OTHERS };
        let new = Share { left: per_second, at: now, under_way: 0 };
        let share = shares.entry(name.to_owned()).or_insert(new);
        share.fill(per_second, now);
        if calls > 0 && share.under_way >= calls {
            return Err(TooMany::Calls);
        }
        if rate > 0 {
            if share.left < 1.0 {
                return Err(TooMany::Rate(Duration::from_secs_f64(
                    (1.0 - share.left) / per_second,
                )));
            }
            share.left -= 1.0;
        }
        share.under_way += 1;
        Ok(Some(Place { shares: Arc::clone(self), name: name.to_owned() }))
    }
}

/// Place of a call that is under way; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    shares: Arc<Shares>,
    name: String,
}

impl Place {
    /// Gives the place back, and with it the call's part of the rate: the call was refused for another reason.
    pub(crate) fn untake(self) {
        let per_second = f64::from(self.shares.bounds.rate);
        if let Some(share) = self.shares.lock().get_mut(&self.name) {
            share.left = (share.left + 1.0).min(per_second);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(share) = self.shares.lock().get_mut(&self.name) {
            share.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use unanimo_tls::network_of;

    use super::*;

    fn shares(rate: u32, calls: usize) -> (Arc<Shares>, Instant) {
        (Shares::new(Bounds { rate, calls }), Instant::now())
    }

    #[test]
    fn an_identity_has_its_rate_and_takes_none_of_anothers() {
        let (shares, start) = shares(10, 0);
        let at = |ms| start + Duration::from_millis(ms);
        let take = |name: &str, ms| shares.take(name, at(ms)).map(drop);
        assert!((0..10).all(|_| take("a", 0).is_ok()), "a second's worth at once");
        assert_eq!(take("a", 0), Err(TooMany::Rate(Duration::from_millis(100))));
        assert_eq!(take("a", 50), Err(TooMany::Rate(Duration::from_millis(50))));
        assert!((0..10).all(|_| take("b", 0).is_ok()), "another one's is its own");
        assert_eq!(take("a", 10_100), Ok(()));
        assert_eq!((0..20).filter(|_| take("a", 10_100).is_ok()).count(), 9, "no more is saved");
    }

    #[test]
    fn a_call_that_is_over_gives_its_place_back() {
        let (shares, now) = shares(0, 2);
        let take = || shares.take("a", now).map(|place| place.expect("it is bounded"));
        let (first, second) = (take().expect("one"), take().expect("two"));
        assert_eq!(take().map(drop), Err(TooMany::Calls));
        assert!(shares.take("b", now).is_ok());
        drop(first);
        let third = take().expect("a place again");
        drop((second, third));
        for number in 0..2 * SHARES_MAX {
            drop(shares.take(&number.to_string(), now));
        }
        assert!(shares.lock().len() <= SHARES_MAX, "those that are gone are forgotten");
    }

    /// A call that another share refuses takes nothing of this one.
    #[test]
    fn a_place_that_is_not_used_after_all_is_whole_again() {
        let (shares, now) = shares(2, 1);
        for _ in 0..5 {
            let place = shares.take("a", now).expect("a place").expect("it is bounded");
            place.untake();
        }
        drop(shares.take("a", now).expect("the first"));
        drop(shares.take("a", now).expect("the second"));
        assert!(matches!(shares.take("a", now), Err(TooMany::Rate(_))), "no more than there was");
    }

    #[test]
    fn without_bounds_nothing_is_counted() {
        let (shares, now) = shares(0, 0);
        assert!(matches!(shares.take("a", now), Ok(None)));
        assert!(shares.lock().is_empty());
    }

    #[test]
    fn an_address_has_a_share_with_its_neighbours_alone() {
        let of = |text: &str| network_of(text.parse().expect("an address")).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7", "the same, on a socket for both");
        assert_eq!(of("2001:db8:0:1:2:3:4:5"), "2001:db8:0:1::");
        assert_eq!(of("2001:db8:0:1::9"), of("2001:db8:0:1:ffff::"));
        assert_ne!(of("2001:db8:0:1::9"), of("2001:db8:0:2::9"));
    }
}
