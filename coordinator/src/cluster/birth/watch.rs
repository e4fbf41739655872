//! Heartbeats of others, watched by this process's own clock.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::Incarnation;

use crate::store::LiveIncarnation;

/// Counters that were seen, and for how long each has stood still.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<Incarnation, Seen>,
}

#[derive(Debug)]
struct Seen {
    counter: i64,
    /// When the answer with this counter was there for the first time: it may have moved just before.
    since: Instant,
    /// Time at which the last look was asked for that found it unmoved.
    until: Instant,
}

impl Watch {
    /// Notes what a look has found that was asked for at this time.
    pub(super) fn saw(&mut self, live: &[LiveIncarnation], asked: Instant) {
        self.saw_at(live, asked, Instant::now());
    }

    fn saw_at(&mut self, live: &[LiveIncarnation], asked: Instant, now: Instant) {
        self.seen.retain(|known, _| live.iter().any(|live| live.incarnation == *known));
        for LiveIncarnation { incarnation, counter, .. } in live {
            let new = || Seen { counter: *counter, since: now, until: now };
            let seen = self.seen.entry(*incarnation).or_insert_with(new);
            if seen.counter == *counter {
                seen.until = seen.until.max(asked);
            } else {
                *seen = new();
            }
        }
    }

    /// Returns for how long at least its counter has stood still.
    pub(super) fn silence(&self, live: &LiveIncarnation) -> Duration {
        let seen = self.seen.get(&live.incarnation);
        seen.map_or(Duration::ZERO, |seen| seen.until.saturating_duration_since(seen.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_answer_to_question() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let live = |counter| LiveIncarnation {
            incarnation: Incarnation(7),
            node: "one".into(),
            counter,
            lease: None,
        };
        let mut watch = Watch::default();
        // A look that takes long may have found the counter at any moment of it.
        watch.saw_at(&[live(1)], at(0), at(900));
        assert_eq!(watch.silence(&live(1)), Duration::ZERO);
        watch.saw_at(&[live(1)], at(1_000), at(1_900));
        assert_eq!(watch.silence(&live(1)), Duration::from_millis(100));
        watch.saw_at(&[live(2)], at(2_000), at(2_100));
        assert_eq!(watch.silence(&live(2)), Duration::ZERO);
        watch.saw_at(&[live(2)], at(2_600), at(2_700));
        assert_eq!(watch.silence(&live(2)), Duration::from_millis(500));
        // It was away: whoever comes back is watched anew.
        watch.saw_at(&[], at(2_800), at(2_900));
        watch.saw_at(&[live(2)], at(3_000), at(3_100));
        assert_eq!(watch.silence(&live(2)), Duration::ZERO);
    }
}
