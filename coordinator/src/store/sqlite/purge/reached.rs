//! Progress of the purge's searches, so that one that takes long does not pass over the same transactions in each run: those
//! that need somebody, and those that the feed does not have yet.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time of the oldest.
pub(super) const OLDEST: i64 = 0;

/// Time of a search from the oldest on that is little: then all searches are.
const LITTLE: Duration = Duration::from_millis(50);

/// Part of the time that searches from the oldest on may take.
const PARTS: u32 = 20;

/// Progress of one step.
#[derive(Debug, Default)]
pub(super) struct Reached(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Ends before this were not due when they were looked at last, but may be by now.
    first: i64,
    /// The last search from the oldest on: when it was over, and how long it took.
    whole: Option<(Instant, Duration)>,
}

impl Reached {
    /// Returns the end from which on to search.
    pub(super) fn from(&self) -> i64 {
        let state = *self.state();
        match state.whole {
            Some((at, took)) if took > LITTLE && at.elapsed() < took * PARTS => state.first,
            _ => OLDEST,
        }
    }

    /// Notes a search of the ends from one on and before another one, which began then, and the end of the first one that it
    /// has found.
    pub(super) fn note(&self, (from, before): (i64, i64), began: Instant, first: Option<i64>) {
        let mut state = self.state();
        if from == OLDEST {
            state.whole = Some((Instant::now(), began.elapsed()));
        }
        state.first = first.unwrap_or(before);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).expect("the machine runs for longer")
    }

    #[test]
    fn a_search_goes_on_where_the_last_one_was_unless_it_took_little() {
        let (reached, long) = (Reached::default(), Duration::from_secs(2));
        assert_eq!(reached.from(), OLDEST);
        reached.note((OLDEST, 100), Instant::now(), None);
        assert_eq!(reached.from(), OLDEST);
        // Nothing of all that is due: it is not looked through with each run.
        reached.note((OLDEST, 100), ago(long), None);
        assert_eq!(reached.from(), 100);
        reached.note((100, 120), ago(long), Some(110));
        assert_eq!(reached.from(), 110, "what was found is there until it is purged");
        reached.note((110, 130), ago(long), None);
        assert_eq!(reached.from(), 130);
    }

    #[test]
    fn what_is_due_later_is_found() {
        let (reached, long) = (Reached::default(), Duration::from_millis(60));
        reached.note((OLDEST, 100), ago(long), None);
        assert_eq!(reached.from(), 100);
        reached.state().whole = Some((ago(long * PARTS), long));
        assert_eq!(reached.from(), OLDEST);
    }
}
