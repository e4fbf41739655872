//! Numbers of transactions by phase, for people. However many there are, they are counted in parts, and for a fraction of a
//! second: whoever looks at a page waits no longer, and no statement is too long for the database. A number that is not
//! the whole one says so.

use std::time::{Duration, Instant};

use unanimo_core::Timestamp;
use uuid::Uuid;

use super::PhaseName;
use super::rows::{ms_to_column, phase_of};

/// Time of a count, a part more or less.
const TIME_MAX: Duration = Duration::from_millis(100);

/// Most transactions that are awake and counted, which are in memory: all at once.
pub(super) const AWAKE_MAX: i64 = 100_000;

/// Most rows of a part: some tens of milliseconds of work at most.
pub(super) const PART_MAX: i64 = 5_000;

/// Time from the end of a part of what has ended to the last end of all, at first.
const WIDTH_MS: i64 = 128;

/// Times that a part is longer than the one before, where that has few.
const WIDER: i64 = 8;

/// Number of transactions in one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseCount {
    /// The phase.
    pub phase: PhaseName,
    /// The number.
    pub count: i64,
    /// Counting stopped before all were counted, so that there may be more.
    pub at_least: bool,
}

/// State of a count.
#[derive(Debug)]
pub(super) struct Counting {
    began: Instant,
    counts: Vec<PhaseCount>,
    /// The last one that sleeps and was looked at, while there may be more.
    asleep_after: Option<Uuid>,
    /// Ends from which on, and before which, are left to count.
    ended: (i64, i64),
    width: i64,
    /// Some of what has ended is counted.
    is_counted: bool,
}

impl Counting {
    /// Begins a count; of what has ended since then.
    pub(super) fn new(ended_from: Timestamp) -> Self {
        let count = |phase| PhaseCount { phase, count: 0, at_least: false };
        Self {
            began: Instant::now(),
            counts: PhaseName::ALL.map(count).to_vec(),
            asleep_after: Some(Uuid::nil()),
            ended: (ms_to_column(ended_from), i64::MIN),
            width: WIDTH_MS,
            is_counted: false,
        }
    }

    fn add(&mut self, kind: impl Into<i64>, number: i64) {
        let phase = phase_of(i16::try_from(kind.into()).unwrap_or(0));
        let of_phase = self.counts.iter_mut().filter(|of| of.phase == phase);
        of_phase.for_each(|of| of.count += number);
    }

    fn is_late(&self) -> bool {
        self.began.elapsed() >= TIME_MAX
    }

    fn is_not_whole(&mut self, is_end: bool) {
        let of_these = self.counts.iter_mut().filter(|of| of.phase.is_end() == is_end);
        of_these.for_each(|of| of.at_least = true);
    }

    /// Adds what is awake: numbers of phases, if they can be read.
    pub(super) fn add_awake<N: Into<i64>>(&mut self, rows: Option<Vec<(N, i64)>>) {
        let Some(rows) = rows else { return self.is_not_whole(false) };
        if rows.iter().map(|(_, number)| number).sum::<i64>() >= AWAKE_MAX {
            self.is_not_whole(false);
        }
        rows.into_iter().for_each(|(kind, number)| self.add(kind, number));
    }

    /// Returns behind which transaction to look for more that sleep, if there are any and there is time.
    pub(super) fn asleep_after(&mut self) -> Option<Uuid> {
        let after = self.asleep_after?;
        // Half of the time is left for what has ended.
        if self.began.elapsed() < TIME_MAX / 2 || after.is_nil() {
            return Some(after);
        }
        self.asleep_after = None;
        self.is_not_whole(false);
        None
    }

    /// Adds the next ones that may sleep, in their order: names, and phases of those that do, if they can be read.
    pub(super) fn add_asleep<N: Into<i64>>(&mut self, rows: Option<Vec<(Uuid, Option<N>)>>) {
        let Some(rows) = rows else {
            self.asleep_after = None;
            return self.is_not_whole(false);
        };
        let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows >= PART_MAX);
        self.asleep_after = rows.last().filter(|_| is_full).map(|(last, _)| *last);
        rows.into_iter().filter_map(|(_, kind)| kind).for_each(|kind| self.add(kind, 1));
    }

    /// Notes the last end of all, if anything has ended and can be read.
    pub(super) fn last_end(&mut self, last: Option<Option<i64>>) {
        let Some(last) = last else { return self.is_not_whole(true) };
        self.ended.1 = last.map_or(i64::MIN, |last| last.saturating_add(1));
    }

    /// Returns the ends from which on, and before which, to count next: the latest first.
    pub(super) fn window(&mut self) -> Option<(i64, i64)> {
        let (from, before) = self.ended;
        if from >= before {
            return None;
        }
        if self.is_counted && self.is_late() {
            self.is_not_whole(true);
            return None;
        }
        Some((before.saturating_sub(self.width).max(from), before))
    }

    /// Adds what has ended in the window: numbers of phases, of at most [`PART_MAX`]. Where there may be more of them, and
    /// where they cannot be read, the next one is a part of it.
    pub(super) fn add_ended<N: Into<i64>>(
        &mut self,
        (from, before): (i64, i64),
        rows: Option<Vec<(N, i64)>>,
    ) {
        let found: i64 = rows.iter().flatten().map(|(_, number)| number).sum();
        let is_complete = rows.is_some() && found < PART_MAX;
        if is_complete {
            self.ended.1 = from;
            let wider = if found < PART_MAX / (2 * WIDER) { WIDER } else { 1 };
            self.width = self.width.saturating_mul(wider);
        } else if before - from > 1 && !(self.is_late() && found > 0) {
            self.width = ((before - from) / WIDER).max(1);
            return;
        } else {
            // That is one millisecond, or there is no time for less than all that was asked for.
            self.is_not_whole(true);
            self.ended.1 = from;
        }
        self.is_counted = true;
        rows.into_iter().flatten().for_each(|(kind, number)| self.add(kind, number));
    }

    pub(super) fn finish(self) -> Vec<PhaseCount> {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds as they stand in rows.
    fn kind(phase: PhaseName) -> i64 {
        let is_it = |kind: &i16| phase_of(*kind) == phase;
        (0..16).find(is_it).expect("every phase has a kind").into()
    }

    fn of(counted: &[PhaseCount], phase: PhaseName) -> (i64, bool) {
        let found = counted.iter().find(|of| of.phase == phase).expect("every phase is told");
        (found.count, found.at_least)
    }

    /// Counts ends, each of which is a millisecond.
    fn ended(from: u64, ends: &[i64]) -> (Vec<PhaseCount>, u32) {
        let mut counting = Counting::new(Timestamp(from));
        // Its time is never over.
        counting.began = Instant::now() + Duration::from_secs(3_600);
        counting.last_end(Some(ends.iter().max().copied()));
        let mut parts = 0;
        while let Some((from, before)) = counting.window() {
            parts += 1;
            let found = ends.iter().filter(|end| (from..before).contains(*end)).count();
            let found = i64::try_from(found).expect("few").min(PART_MAX);
            counting.add_ended((from, before), Some(vec![(kind(PhaseName::Committed), found)]));
        }
        (counting.finish(), parts)
    }

    #[test]
    fn all_that_has_ended_is_counted_once() {
        // Few over years; many within a second, of which no part holds them all; and one of a clock that is ahead.
        let few: Vec<i64> = (0..50).map(|n| n * 30_000_000_000).collect();
        let many: Vec<i64> = (0..20_000).map(|n| 2_000_000_000_000 + n / 20).collect();
        let ahead = vec![9_000_000_000_000];
        let all: Vec<i64> = [few, many, ahead].concat();
        let (counted, parts) = ended(0, &all);
        assert_eq!(of(&counted, PhaseName::Committed), (20_051, false));
        assert!(parts < 150, "{parts}");
        assert_eq!(of(&counted, PhaseName::Active), (0, false));
        let (counted, _) = ended(2_000_000_000_999, &all);
        assert_eq!(of(&counted, PhaseName::Committed), (21, false));
        assert_eq!(ended(0, &[]).1, 0);
    }

    #[test]
    fn a_millisecond_with_more_than_a_part_says_so() {
        let ends = vec![7; 6_000];
        let (counted, _) = ended(0, &ends);
        assert_eq!(of(&counted, PhaseName::Committed), (PART_MAX, true));
        assert!(of(&counted, PhaseName::Aborted).1, "there may be others");
        assert!(!of(&counted, PhaseName::Active).1);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_hides_nothing_else() {
        let mut counting = Counting::new(Timestamp(0));
        counting.add_awake::<i64>(None);
        counting.add_asleep::<i64>(None);
        assert_eq!(counting.asleep_after(), None);
        counting.last_end(Some(Some(999)));
        while let Some((from, before)) = counting.window() {
            let rows = vec![(kind(PhaseName::Committed), before - from)];
            counting.add_ended((from, before), (!(from..before).contains(&500)).then_some(rows));
        }
        let counted = counting.finish();
        assert_eq!(of(&counted, PhaseName::Committed), (999, true));
        assert_eq!(of(&counted, PhaseName::Active), (0, true));
    }

    #[test]
    fn a_count_that_takes_too_long_stops_and_says_so() {
        let mut counting = Counting::new(Timestamp(0));
        counting.began = Instant::now().checked_sub(TIME_MAX).expect("the machine runs for longer");
        // Some of each is counted, whatever the time.
        assert_eq!(counting.asleep_after(), Some(Uuid::nil()));
        let active = kind(PhaseName::Active);
        let of_part =
            (0..PART_MAX).map(|n| (Uuid::from_u128(n.unsigned_abs().into()), Some(active)));
        counting.add_asleep(Some(of_part.collect()));
        assert_eq!(counting.asleep_after(), None);
        counting.last_end(Some(Some(1_000)));
        let window = counting.window().expect("the first one");
        counting.add_ended(window, Some(vec![(kind(PhaseName::Committed), 3)]));
        assert_eq!(counting.window(), None);
        let counted = counting.finish();
        assert_eq!(of(&counted, PhaseName::Active), (PART_MAX, true));
        assert_eq!(of(&counted, PhaseName::Committed), (3, true));
    }

    #[test]
    fn a_first_part_that_is_too_full_counts_where_there_is_no_time() {
        let mut counting = Counting::new(Timestamp(0));
        counting.began = Instant::now().checked_sub(TIME_MAX).expect("the machine runs for longer");
        counting.last_end(Some(Some(1_000)));
        let window = counting.window().expect("the first one");
        counting.add_ended::<i64>(window, None);
        let window = counting.window().expect("a part of it");
        counting.add_ended(window, Some(vec![(kind(PhaseName::Committed), PART_MAX)]));
        assert_eq!(counting.window(), None);
        assert_eq!(of(&counting.finish(), PhaseName::Committed), (PART_MAX, true));
    }

    #[test]
    fn what_is_awake_is_counted_up_to_a_limit() {
        for (number, at_least) in [(AWAKE_MAX - 1, false), (AWAKE_MAX, true)] {
            let mut counting = Counting::new(Timestamp(0));
            counting.add_awake(Some(vec![(kind(PhaseName::Committing), number)]));
            let counted = counting.finish();
            assert_eq!(of(&counted, PhaseName::Committing), (number, at_least));
            assert!(!of(&counted, PhaseName::Committed).1);
        }
    }
}
