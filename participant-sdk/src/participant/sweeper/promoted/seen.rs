//! Histories that a sweeper has seen, and alarms that it has raised about them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{TELL_PAUSE, Told};
use crate::doubt::{Histories, History};

/// Time by which a note may seem to be older than the one before: two processes may note at once.
const NOTES_APART: Duration = Duration::from_secs(10);

/// Histories that the sweeper has seen, by the participant's name.
#[derive(Debug, Default)]
pub(in crate::participant::sweeper) struct Seen {
    pub(super) histories: HashMap<String, Known>,
    /// Changes that are told, and not compared with every group yet.
    pub(super) told: HashMap<String, Told>,
    /// Times at which the alarm was last raised for a history.
    raised: HashMap<(String, History), Instant>,
    /// Time at which it was said that nothing can be seen.
    pub(super) blind_at: Option<Instant>,
}

impl Seen {
    /// Tells whether the change to this history raises the alarm, and notes that it does. Servers that take writes in
    /// turn raise it once an hour each.
    pub(super) fn is_to_be_raised(
        &mut self,
        name: &str,
        to: History,
        is_back: bool,
        now: Instant,
    ) -> bool {
        let of_name = (name.to_owned(), to);
        let raised_at = self.raised.get(&of_name);
        let is = is_back || raised_at.is_none_or(|at| now.duration_since(*at) >= TELL_PAUSE);
        if is {
            self.raised.insert(of_name, now);
        }
        is
    }
}

/// History that was seen last, and how far it had come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) history: History,
    noted_at: Option<SystemTime>,
    written: i64,
}

impl Known {
    pub(super) fn of(read: &Histories) -> Self {
        Self { history: read.present, noted_at: read.noted_at, written: read.written }
    }

    /// Tells whether what is read now is an earlier state of the same history. A note is made only where the one
    /// before is older than a minute, so that a clock which is set back makes no earlier one.
    pub(super) fn is_ahead_of(&self, read: &Histories) -> bool {
        let is_unnoted = self
            .noted_at
            .is_some_and(|seen| read.noted_at.is_none_or(|noted_at| noted_at + NOTES_APART < seen));
        self.history == read.present && (read.written < self.written || is_unnoted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_servers_that_take_writes_in_turn_are_told_again_after_an_hour() {
        let start = Instant::now();
        let [a, b] = [1, 2].map(|system| History { system, timeline: 0 });
        let mut seen = Seen::default();
        for (secs, to, is_back, expected) in [
            (0, b, false, true),
            (1, a, false, true),
            (2, b, false, false),
            (3_599, b, false, false),
            // It went back besides.
            (3_599, a, true, true),
            // Counted from the last alarm, and not from the last turn.
            (3_600, b, false, true),
            (3_601, a, false, false),
            (7_198, a, false, false),
            (7_199, a, false, true),
            (7_199, b, false, false),
            (7_200, b, false, true),
        ] {
            let now = start + Duration::from_secs(secs);
            let is = seen.is_to_be_raised("p", to, is_back, now);
            assert_eq!(is, expected, "{secs} s: {to:?}");
        }
        assert!(seen.is_to_be_raised("q", a, false, start), "each name has its own");
    }

    #[test]
    fn s11_less_of_the_same_history_than_was_seen_went_back() {
        let at = |s: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        let history = History { system: 7, timeline: 1 };
        let other = History { system: 7, timeline: 2 };
        let read = |present, noted_at, written| Histories {
            present,
            noted: Some(present),
            is_fresh: false,
            noted_at,
            written,
            replayed_until: at(9_999),
        };
        let seen = Known::of(&read(history, at(1000), 500));
        for (noted_at, written, expected) in [
            (at(1000), 500, false),
            (at(1060), 900, false),
            // Two processes note at once.
            (at(995), 900, false),
            (at(900), 900, true),
            (at(1060), 499, true),
            // From before the first note.
            (None, 900, true),
        ] {
            let now = read(history, noted_at, written);
            assert_eq!(seen.is_ahead_of(&now), expected, "{now:?}");
            assert!(!seen.is_ahead_of(&read(other, noted_at, written)), "that is another one");
        }
        let unnoted = Known { noted_at: None, ..seen };
        assert!(!unnoted.is_ahead_of(&read(history, None, 500)));
    }
}
