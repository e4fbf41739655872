//! Connections on which only calls of operators are served: for as long as there are such calls, and never for long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest time of such a connection: commands are short, and others wait.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Longest time of one without a call that is served.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Time for a refusal to be sent. The caller connects anew for its next attempt, and gets a usual place if there is one.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Use of such a connection.
#[derive(Debug)]
pub(in crate::api) struct Reserved {
    opened_at: Instant,
    calls: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    under_way: usize,
    idle_since: Instant,
    refused_at: Option<Instant>,
}

impl Reserved {
    pub(super) fn new(now: Instant) -> Self {
        let calls = Calls { under_way: 0, idle_since: now, refused_at: None };
        Self { opened_at: now, calls: Mutex::new(calls) }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Nothing in here panics half way through a change.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call that may be served; it is under way until the result is dropped.
    pub(in crate::api) fn begin(self: Arc<Self>) -> Call {
        self.lock().under_way += 1;
        Call { of: self, is_refused: false }
    }

    /// Notes that a call was refused.
    pub(in crate::api) fn refuse(&self) {
        self.lock().refused_at.get_or_insert_with(Instant::now);
    }

    /// Returns the reason for which the connection is over, if it is.
    pub(super) fn is_over(&self, now: Instant) -> Option<&'static str> {
        let calls = self.lock();
        let is_past = |at: Instant, time: Duration| now >= at + time;
        if is_past(self.opened_at, TIME_MAX) {
            return Some("it was open for long where few may be");
        }
        if calls.under_way > 0 {
            return None;
        }
        if calls.refused_at.is_some_and(|at| is_past(at, REFUSAL_TIME)) {
            return Some("a call was refused where only those of operators are served");
        }
        is_past(calls.idle_since, IDLE_MAX).then_some("no operator calls where few may be")
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(in crate::api) struct Call {
    of: Arc<Reserved>,
    is_refused: bool,
}

impl Call {
    /// Notes that it was not of an operator, after all.
    pub(in crate::api) fn refuse(mut self) {
        self.is_refused = true;
        self.of.refuse();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = self.of.lock();
        calls.under_way -= 1;
        if !self.is_refused {
            calls.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over_after(reserved: &Reserved, time: Duration) -> bool {
        reserved.is_over(Instant::now() + time).is_some()
    }

    #[test]
    fn l5_a_connection_for_operators_is_over_soon_after_a_refused_call() {
        let reserved = Arc::new(Reserved::new(Instant::now()));
        assert!(!is_over_after(&reserved, REFUSAL_TIME));
        let call = Arc::clone(&reserved).begin();
        reserved.refuse();
        assert!(!is_over_after(&reserved, REFUSAL_TIME), "another call is under way");
        drop(call);
        assert!(is_over_after(&reserved, REFUSAL_TIME));
        let reserved = Arc::new(Reserved::new(Instant::now()));
        Arc::clone(&reserved).begin().refuse();
        assert!(is_over_after(&reserved, REFUSAL_TIME), "of somebody without that role");
    }

    #[test]
    fn l5_a_connection_for_operators_lasts_for_as_long_as_they_call() {
        let reserved = Arc::new(Reserved::new(Instant::now()));
        assert!(!is_over_after(&reserved, IDLE_MAX / 2) && is_over_after(&reserved, IDLE_MAX));
        let call = Arc::clone(&reserved).begin();
        assert!(!is_over_after(&reserved, IDLE_MAX));
        assert!(is_over_after(&reserved, TIME_MAX), "whatever is under way");
        drop(call);
        assert!(is_over_after(&reserved, IDLE_MAX));
    }
}
