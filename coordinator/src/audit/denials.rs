//! Denied calls that are to be entered: once a minute for each identity and act, with their number.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Entry, Kind};

/// Pause between two entries about one identity and act.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

/// Pause after entries that could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Most pairs of an identity and an act that are told apart. Those that nobody knows are one identity.
const PAIRS_MAX: usize = 1024;

/// Identity of all others.
const OTHERS: &str = "(others)";

#[derive(Debug)]
struct Denied {
    /// The first one of those that are not entered yet.
    entry: Entry,
    count: u64,
    due: Instant,
}

/// Denied calls, by identity and act.
#[derive(Debug, Default)]
pub(super) struct Denials(HashMap<(String, String), Denied>);

impl Denials {
    /// Counts a call, and tells whether an entry is due for it.
    pub(super) fn note(&mut self, entry: Entry, now: Instant) -> bool {
        let mut entry = Entry { kind: Kind::Denied, ..entry };
        let mut pair = (entry.identity.clone(), entry.act.clone());
        if self.0.len() >= PAIRS_MAX && !self.0.contains_key(&pair) {
            pair = (OTHERS.to_owned(), String::new());
            entry = Entry { identity: OTHERS.to_owned(), act: String::new(), ..entry };
        }
        let denied = self.0.entry(pair).or_insert_with(|| Denied {
            entry: entry.clone(),
            count: 0,
            due: now,
        });
        if denied.count == 0 {
            denied.entry = entry;
        }
        denied.count += 1;
        denied.due <= now
    }

    /// Takes the entries that are due, and forgets those of whom nothing came for an interval.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Entry> {
        self.take(|denied| denied.due <= now, now)
    }

    /// Takes all that were counted.
    pub(super) fn all(&mut self, now: Instant) -> Vec<Entry> {
        self.take(|_| true, now)
    }

    fn take(&mut self, is_due: impl Fn(&Denied) -> bool, now: Instant) -> Vec<Entry> {
        self.0.retain(|_, denied| denied.count > 0 || denied.due > now);
        let due = self.0.values_mut().filter(|denied| denied.count > 0 && is_due(denied));
        due.map(|denied| {
            denied.due = now + INTERVAL;
            let count = std::mem::take(&mut denied.count);
            Entry { count, ..denied.entry.clone() }
        })
        .collect()
    }

    /// Takes entries back that could not be written.
    pub(super) fn put_back(&mut self, entries: Vec<Entry>, now: Instant) {
        for entry in entries {
            let pair = (entry.identity.clone(), entry.act.clone());
            let (count, due) = (entry.count, now + RETRY);
            let denied = self.0.entry(pair).or_insert_with(|| Denied {
                entry: entry.clone(),
                count: 0,
                due,
            });
            (denied.entry, denied.due) = (entry, due);
            denied.count += count;
        }
    }

    /// Tells whether nothing is counted or remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(identity: &str, act: &str, reason: &str) -> Entry {
        Entry {
            identity: identity.to_owned(),
            act: act.to_owned(),
            reason: reason.to_owned(),
            ..Entry::new(Kind::Denied)
        }
    }

    fn told(entries: Vec<Entry>) -> Vec<(String, String, u64)> {
        let mut told: Vec<_> =
            entries.into_iter().map(|entry| (entry.act, entry.reason, entry.count)).collect();
        told.sort();
        told
    }

    #[test]
    fn an_identity_and_act_have_an_entry_a_minute_and_no_call_is_lost() {
        let (mut denials, start) = (Denials::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let one = |act: &str, reason: &str, count| (act.to_owned(), reason.to_owned(), count);
        assert!(denials.note(by("a", "x", "1"), at(0)), "the first one is due at once");
        assert_eq!(told(denials.due(at(0))), [one("x", "1", 1)]);
        for second in 1..60 {
            assert!(!denials.note(by("a", "x", &second.to_string()), at(second)));
            assert_eq!(told(denials.due(at(second))), []);
        }
        denials.note(by("a", "y", "another act"), at(59));
        assert_eq!(told(denials.due(at(59))), [one("y", "another act", 1)]);
        assert_eq!(told(denials.due(at(60))), [one("x", "1", 59)], "the rest, without a new call");
        assert_eq!(told(denials.due(at(119))), []);
        denials.note(by("a", "y", "again"), at(120));
        let due = denials.due(at(120));
        assert_eq!(told(due.clone()), [one("y", "again", 1)]);
        denials.note(by("a", "y", "more"), at(120));
        denials.put_back(due, at(120));
        assert_eq!(told(denials.due(at(120))), []);
        assert_eq!(told(denials.due(at(121))), [one("y", "again", 2)], "nothing is lost");
        assert_eq!(told(denials.due(at(300))), []);
        assert!(denials.is_empty(), "what is over is forgotten");
        denials.note(by("a", "x", "5"), at(400));
        denials.due(at(400));
        denials.note(by("a", "x", "6"), at(401));
        assert_eq!(told(denials.all(at(401))), [one("x", "6", 1)], "at the end");
    }

    #[test]
    fn many_identities_are_one() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        for number in 0..5_000 {
            denials.note(by(&number.to_string(), "x", "r"), now);
        }
        let due = denials.due(now);
        assert_eq!(due.len(), PAIRS_MAX + 1);
        let others = due.iter().find(|entry| entry.identity == OTHERS).expect("the others");
        assert_eq!(others.count, 5_000 - PAIRS_MAX as u64);
    }
}
