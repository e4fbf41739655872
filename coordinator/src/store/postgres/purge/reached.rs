//! How far the purge has come, so that it does not look again at what it has taken away: while somebody holds a snapshot
//! open, the server has to pass over all of that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::damage::Step;
use super::parts::OLDEST;

/// Time of a search from the oldest on that is little: then all searches are.
const LITTLE: Duration = Duration::from_millis(50);

/// Part of the time that searches from the oldest on may take.
const PARTS: u32 = 20;

/// State of both steps, of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::store::postgres) struct Reached(Arc<Mutex<[State; 2]>>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// End of the first one that the last search has found. What ended before it was not due then, but may be by now.
    first: i64,
    /// The last search from the oldest on: when it was over, and how long it took.
    whole: Option<(Instant, Duration)>,
}

impl Reached {
    /// Returns the end from which on to search.
    pub(super) fn from(&self, step: Step) -> i64 {
        let state = self.state()[place(step)];
        match state.whole {
            Some((at, took)) if took > LITTLE && at.elapsed() < took * PARTS => state.first,
            _ => OLDEST,
        }
    }

    /// Notes a search, which may have failed: it began then, at this end, and has found this one first.
    pub(super) fn note(&self, step: Step, from: i64, began: Instant, first: Option<i64>) {
        let state = &mut self.state()[place(step)];
        if from == OLDEST {
            state.whole = Some((Instant::now(), began.elapsed()));
        }
        state.first = first.unwrap_or(state.first);
    }

    fn state(&self) -> MutexGuard<'_, [State; 2]> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(step: Step) -> usize {
    match step {
        Step::Strip => 0,
        Step::Delete => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    #[test]
    fn a_search_goes_on_where_the_last_one_was_unless_it_took_little() {
        let (reached, long) = (Reached::default(), Duration::from_secs(2));
        assert_eq!(reached.from(Step::Strip), OLDEST);
        reached.note(Step::Strip, OLDEST, Instant::now(), Some(7));
        assert_eq!(reached.from(Step::Strip), OLDEST);
        reached.note(Step::Strip, OLDEST, ago(long), Some(7));
        assert_eq!(reached.from(Step::Strip), 7);
        // The next ones begin there, and what they find is the next place.
        reached.note(Step::Strip, 7, ago(long), Some(9));
        assert_eq!(reached.from(Step::Strip), 9);
        // One that finds nothing, or fails, leaves it where it is.
        reached.note(Step::Strip, 9, Instant::now(), None);
        assert_eq!(reached.from(Step::Strip), 9);
        assert_eq!(reached.from(Step::Delete), OLDEST);
    }

    #[test]
    fn what_is_due_later_is_found() {
        let (reached, long) = (Reached::default(), Duration::from_millis(60));
        reached.note(Step::Delete, OLDEST, ago(long), Some(7));
        assert_eq!(reached.from(Step::Delete), 7);
        reached.state()[1].whole = Some((ago(long * PARTS), long));
        assert_eq!(reached.from(Step::Delete), OLDEST);
    }
}
