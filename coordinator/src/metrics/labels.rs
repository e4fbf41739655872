//! Participants that have a label of their own. Their names come from outside, so their number is bounded: one that has made no
//! call for some time leaves its place to another one, and the participants of each namespace have a part of the places.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::ids::NAMESPACE_END;

use super::pulse::Calls;

/// Most participants that have a label of their own. Each is up to six series.
pub(super) const LABELS_MAX: usize = 200;

/// Time without a call after which a participant leaves its place, if another one needs it: as long as its calls are told
/// of.
pub(super) const IDLE_MIN: Duration = Duration::from_secs(600);

/// Pause between two looks for a place, for participants of one namespace.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Most namespaces of which it is known that there was no place.
const REFUSED_MAX: usize = 1024;

/// A participant with a label.
#[derive(Debug)]
struct Labelled {
    calls: Calls,
    /// When it was called last, in milliseconds since the start.
    used_ms: AtomicU64,
}

/// Place of one more participant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has one, or there is one.
    Own,
    /// It has one, and this one has none any more.
    InsteadOf(String),
    /// There is none.
    None,
}

/// Participants that have a label.
#[derive(Debug)]
pub(super) struct Labels {
    start: Instant,
    of: HashMap<String, Labelled>,
    /// Namespaces for whose participants there was no place, and when to look again.
    refused: HashMap<String, Instant>,
}

/// Returns the namespace of a participant; those without one have a part together.
fn part_of(participant: &str) -> &str {
    participant.split_once(NAMESPACE_END).map_or("", |(namespace, _)| namespace)
}

impl Labels {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, of: HashMap::new(), refused: HashMap::new() }
    }

    fn ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the calls of a participant that has a label, without counting that as a use.
    pub(super) fn get(&self, participant: &str) -> Option<&Calls> {
        self.of.get(participant).map(|labelled| &labelled.calls)
    }

    /// Returns the calls of a participant that has a label, and is called now.
    pub(super) fn used(&self, participant: &str, at: Instant) -> Option<&Calls> {
        let labelled = self.of.get(participant)?;
        labelled.used_ms.fetch_max(self.ms(at), Ordering::Relaxed);
        Some(&labelled.calls)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Calls> {
        self.of.values().map(|labelled| &labelled.calls)
    }

    /// Tells whether it is no use to look for a place now.
    pub(super) fn is_refused(&self, participant: &str, at: Instant) -> bool {
        self.of.len() >= LABELS_MAX
            && self.refused.get(part_of(participant)).is_some_and(|until| at < *until)
    }

    /// Makes place for a participant.
    pub(super) fn place(&mut self, participant: &str, at: Instant) -> Place {
        if self.used(participant, at).is_some() {
            return Place::Own;
        }
        let place = match self.of.len() < LABELS_MAX {
            true => Place::Own,
            false => self
                .gone(at)
                .or_else(|| self.surplus(participant))
                .map_or(Place::None, Place::InsteadOf),
        };
        match &place {
            Place::Own => {}
            Place::InsteadOf(other) => drop(self.of.remove(other)),
            Place::None => {
                if self.refused.len() >= REFUSED_MAX {
                    self.refused.clear();
                }
                self.refused.insert(part_of(participant).to_owned(), at + LOOK_INTERVAL);
                return place;
            }
        }
        let labelled = Labelled { calls: Calls::new(at), used_ms: AtomicU64::new(self.ms(at)) };
        self.of.insert(participant.to_owned(), labelled);
        place
    }

    /// Returns the one of these that was called the longest time ago, and when.
    fn oldest(&self, may: impl Fn(&str) -> bool) -> Option<(&String, u64)> {
        let all = self.of.iter().filter(|(name, _)| may(name));
        let used = all.map(|(name, of)| (name, of.used_ms.load(Ordering::Relaxed)));
        used.min_by_key(|(name, used)| (*used, *name))
    }

    /// Returns the one that was not called for the longest time, and for long enough.
    fn gone(&self, at: Instant) -> Option<String> {
        let (name, used) = self.oldest(|_| true)?;
        let idle = Duration::from_millis(self.ms(at).saturating_sub(used));
        (idle >= IDLE_MIN).then(|| name.clone())
    }

    /// Returns the one that leaves its place because its namespace has more places than that of this participant.
    fn surplus(&self, participant: &str) -> Option<String> {
        let mut parts: HashMap<&str, usize> = HashMap::new();
        for name in self.of.keys() {
            *parts.entry(part_of(name)).or_default() += 1;
        }
        let own = parts.get(part_of(participant)).copied().unwrap_or_default();
        let (largest, count) = parts.into_iter().max_by_key(|(part, count)| (*count, *part))?;
        // With one more and one less they would be as many, or it would have more.
        if count <= own + 1 {
            return None;
        }
        self.oldest(|name| part_of(name) == largest).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(part: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{part}p{n}")).collect()
    }

    fn placed(labels: &mut Labels, part: &str, count: usize, at: Instant) -> usize {
        let mut placed = 0;
        for name in named(part, count) {
            placed += usize::from(labels.place(&name, at) != Place::None);
        }
        placed
    }

    fn of_part(labels: &Labels, part: &str) -> usize {
        labels.of.keys().filter(|name| part_of(name) == part).count()
    }

    #[test]
    fn one_that_is_idle_leaves_its_place() {
        let start = Instant::now();
        let mut labels = Labels::new(start);
        assert_eq!(placed(&mut labels, "", 300, start), LABELS_MAX);
        assert!(labels.is_refused("new", start) && !labels.is_refused("a/new", start));
        let later = start + IDLE_MIN - Duration::from_secs(1);
        assert_eq!(labels.place("new", later), Place::None, "all were called lately");
        for name in named("", 300).iter().filter(|name| *name != "p7") {
            labels.used(name, later);
        }
        let later = start + IDLE_MIN;
        assert!(labels.get("p7").is_some());
        assert_eq!(labels.place("new", later), Place::InsteadOf("p7".to_owned()));
        assert_eq!(labels.place("new", later), Place::Own);
        assert!(labels.get("p7").is_none() && labels.of.len() == LABELS_MAX);
        assert_eq!(labels.place("p7", later), Place::None);
    }

    /// A tenant that registers and calls as many as it likes leaves the others their part.
    #[test]
    fn each_namespace_has_its_part() {
        let start = Instant::now();
        let mut labels = Labels::new(start);
        assert_eq!(
            placed(&mut labels, "a/", 1_000, start),
            LABELS_MAX,
            "as long as nobody else is there"
        );
        assert_eq!(placed(&mut labels, "b/", 10, start), 10);
        assert_eq!(placed(&mut labels, "", 3, start), 3);
        assert_eq!((of_part(&labels, "a"), of_part(&labels, "b")), (LABELS_MAX - 13, 10));
        assert_eq!(placed(&mut labels, "b/", 1_000, start), 98, "until both have as many");
        assert_eq!(labels.place("a/p0", start), Place::None);
        let parts = ["a", "b", ""].map(|part| of_part(&labels, part));
        assert_eq!((parts.iter().sum::<usize>(), parts[2]), (LABELS_MAX, 3));
        assert!(parts[0].abs_diff(parts[1]) <= 1, "{parts:?}");
    }
}
