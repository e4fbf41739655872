//! Progress of the purge, so that it does not look again at what it has taken away: while somebody holds a snapshot
//! open, the server has to pass over all of that. And how many it takes in a run: fewer where the database does not do as many
//! in time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::super::Error;
use super::super::damage::Step;
use super::ROWS_MAX;
use super::held::Held;
use super::parts::{OLDEST, is_timeout};

/// Time of a search from the oldest on that is little: then all searches are.
const LITTLE: Duration = Duration::from_millis(50);

/// Part of the time that searches from the oldest on may take.
const PARTS: u32 = 20;

/// Time before the cutoff at which a search begins after one of all that took too long.
const LATELY_MS: i64 = 24 * 60 * 60 * 1000;

/// Fewest transactions that a run takes.
const ROWS_MIN: i64 = 8;

/// Runs in time, one after the other, after which a run takes twice as many again.
const RUNS_IN_TIME: u32 = 8;

/// State of both steps, of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::store::postgres) struct Reached {
    states: Arc<Mutex<[State; 2]>>,
    pub(super) held: Held,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// End of the first one that the last search has found. What ended before it was not due then, but may be by now.
    first: i64,
    /// The last search from the oldest on: when it was over, and how long it took.
    whole: Option<(Instant, Duration)>,
    /// Most transactions of a run.
    rows: i64,
    /// The same where it searches from the oldest on, which may take longer.
    rows_of_whole: i64,
    /// Runs in time since `rows` was changed.
    in_time: u32,
}

impl Default for State {
    fn default() -> Self {
        Self { first: OLDEST, whole: None, rows: ROWS_MAX, rows_of_whole: ROWS_MAX, in_time: 0 }
    }
}

impl Reached {
    /// Notes whether a run was done in time. Its other errors say nothing about how many it may take.
    pub(super) fn timed<T>(&self, step: Step, run: Result<T, Error>) -> Result<T, Error> {
        match &run {
            Ok(_) => self.ended(step, true),
            Err(Error::Database { source, .. }) if is_timeout(source) => self.ended(step, false),
            Err(_) => {}
        }
        run
    }

    fn ended(&self, step: Step, was_in_time: bool) {
        let state = &mut self.state()[place(step)];
        state.in_time = if was_in_time { state.in_time + 1 } else { 0 };
        if !was_in_time {
            state.rows = (state.rows / 2).max(ROWS_MIN);
        } else if state.in_time == RUNS_IN_TIME {
            (state.rows, state.in_time) = ((state.rows * 2).min(ROWS_MAX), 0);
        }
    }

    /// Returns the end from which on to search, and for how many transactions.
    pub(super) fn from(&self, step: Step) -> (i64, i64) {
        let state = self.state()[place(step)];
        match state.whole {
            Some((at, took)) if took > LITTLE && at.elapsed() < took * PARTS => {
                (state.first, state.rows)
            }
            _ => (OLDEST, state.rows.min(state.rows_of_whole)),
        }
    }

    /// Notes a search of the ends from one on and before another one, which began then, and what it has found.
    pub(super) fn note(
        &self,
        step: Step,
        (from, before): (i64, i64),
        began: Instant,
        found: Found,
    ) {
        let state = &mut self.state()[place(step)];
        if from == OLDEST {
            state.whole = Some((Instant::now(), began.elapsed()));
            state.rows_of_whole = match found {
                Found::TooMuch => (state.rows_of_whole / 2).max(ROWS_MIN),
                _ => (state.rows_of_whole * 2).min(ROWS_MAX),
            };
        }
        state.first = match found {
            Found::First(first) => first,
            Found::Nothing => state.first,
            // What is older waits until all can be searched.
            Found::TooMuch if from == OLDEST => state.first.max(before.saturating_sub(LATELY_MS)),
            Found::TooMuch => from.saturating_add(before.saturating_sub(from) / 2),
        };
    }

    fn state(&self) -> MutexGuard<'_, [State; 2]> {
        // Nothing in here panics half way through a change.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(step: Step) -> usize {
    match step {
        Step::Strip => 0,
        Step::Delete => 1,
    }
}

/// Result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The end of the first one.
    First(i64),
    Nothing,
    /// Its time was over before it had found enough.
    TooMuch,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: i64 = 10 * LATELY_MS;

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).expect("the machine runs for longer")
    }

    #[test]
    fn a_search_goes_on_where_the_last_one_was_unless_it_took_little() {
        let (reached, long) = (Reached::default(), Duration::from_secs(2));
        assert_eq!(reached.from(Step::Strip).0, OLDEST);
        let note = |from, began, found| reached.note(Step::Strip, (from, BEFORE), began, found);
        note(OLDEST, Instant::now(), Found::First(7));
        assert_eq!(reached.from(Step::Strip).0, OLDEST);
        note(OLDEST, ago(long), Found::First(7));
        assert_eq!(reached.from(Step::Strip).0, 7);
        // The next ones begin there, and what they find is the next place.
        note(7, ago(long), Found::First(9));
        assert_eq!(reached.from(Step::Strip).0, 9);
        // One that finds nothing leaves it where it is.
        note(9, Instant::now(), Found::Nothing);
        assert_eq!(reached.from(Step::Strip).0, 9);
        assert_eq!(reached.from(Step::Delete).0, OLDEST);
    }

    /// A process that starts beside a snapshot knows no place to go on from.
    #[test]
    fn a_search_of_all_that_takes_too_long_is_not_the_only_one() {
        let (reached, long) = (Reached::default(), Duration::from_secs(10));
        let note = |from, found| reached.note(Step::Strip, (from, BEFORE), ago(long), found);
        note(OLDEST, Found::TooMuch);
        assert_eq!(reached.from(Step::Strip).0, BEFORE - LATELY_MS);
        note(BEFORE - LATELY_MS, Found::TooMuch);
        assert_eq!(reached.from(Step::Strip).0, BEFORE - LATELY_MS / 2);
        note(BEFORE - LATELY_MS / 2, Found::First(BEFORE - 5));
        // Nothing is lost of that by the next search of all.
        note(OLDEST, Found::TooMuch);
        assert_eq!(reached.from(Step::Strip), (BEFORE - 5, ROWS_MAX));
        // That is for fewer, until one has found what it looked for.
        let of_whole = || {
            reached.state()[0].whole = None;
            reached.from(Step::Strip)
        };
        assert_eq!(of_whole(), (OLDEST, ROWS_MAX / 4));
        (0..100).for_each(|_| note(OLDEST, Found::TooMuch));
        assert_eq!(of_whole(), (OLDEST, ROWS_MIN));
        note(OLDEST, Found::First(BEFORE - 9));
        assert_eq!(of_whole(), (OLDEST, ROWS_MIN * 2));
    }

    #[test]
    fn a_run_takes_fewer_where_as_many_are_not_done_in_time() {
        let reached = Reached::default();
        let ended = |was_in_time| reached.ended(Step::Strip, was_in_time);
        ended(false);
        let rows = |step| reached.from(step).1;
        assert_eq!(rows(Step::Strip), ROWS_MAX / 2);
        assert_eq!(rows(Step::Delete), ROWS_MAX);
        ended(false);
        // Not at once again as many.
        (1..RUNS_IN_TIME).for_each(|_| ended(true));
        assert_eq!(rows(Step::Strip), ROWS_MAX / 4);
        ended(true);
        assert_eq!(rows(Step::Strip), ROWS_MAX / 2);
        (0..100).for_each(|_| ended(true));
        assert_eq!(rows(Step::Strip), ROWS_MAX);
        (0..100).for_each(|_| ended(false));
        assert_eq!(rows(Step::Strip), ROWS_MIN);
    }

    #[test]
    fn what_is_due_later_is_found() {
        let (reached, long) = (Reached::default(), Duration::from_millis(60));
        reached.note(Step::Delete, (OLDEST, BEFORE), ago(long), Found::First(7));
        assert_eq!(reached.from(Step::Delete).0, 7);
        reached.state()[1].whole = Some((ago(long * PARTS), long));
        assert_eq!(reached.from(Step::Delete).0, OLDEST);
    }
}
