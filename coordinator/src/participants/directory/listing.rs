//! Lists of the participants, for people and for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

use super::{CallKind, Directory, Entry, Shown, read};

impl Directory {
    /// Everybody but the coordinator itself, by name; and names of which nothing is registered any more, while something
    /// is owed to them.
    #[must_use]
    pub fn list(&self) -> Vec<(ParticipantName, Vec<Shown>)> {
        let (now, gone_after) = (Instant::now(), self.gone_after());
        let show = |(name, entry): (&ParticipantName, &Arc<Entry>)| {
            let endpoints = read(&entry.endpoints);
            let shown = endpoints.iter().map(|endpoint| endpoint.shown(now, gone_after));
            (name.clone(), shown.collect())
        };
        let entries = read(&self.entries);
        let known = entries.iter().filter(|(_, entry)| !entry.own).map(show);
        let unknown =
            self.owed_and_unknown(&entries).into_iter().map(|(name, _)| (name, Vec::new()));
        let all: BTreeMap<_, _> = known.chain(unknown).collect();
        all.into_iter().collect()
    }

    /// Names without an entry to which something is owed, with the number of transactions.
    fn owed_and_unknown(
        &self,
        entries: &BTreeMap<ParticipantName, Arc<Entry>>,
    ) -> Vec<(ParticipantName, usize)> {
        let mut owed = self.loads.owed();
        owed.retain(|(name, _)| !entries.contains_key(name));
        owed
    }

    /// Names that transactions out of memory wait for, with the number of these.
    #[must_use]
    pub fn parked(&self) -> Vec<(ParticipantName, usize)> {
        self.loads.parked()
    }

    /// Counts the participants that fail.
    pub(crate) fn failing(&self) -> usize {
        read(&self.entries).values().filter(|entry| entry.is_failing()).count()
    }

    /// Names of those that fail or have calls waiting, with the number of these.
    #[must_use]
    pub fn troubled(&self) -> Vec<(ParticipantName, bool, usize)> {
        let entries = read(&self.entries);
        let trouble = |(name, entry): (&ParticipantName, &Arc<Entry>)| {
            let waiting = CallKind::ALL.into_iter().map(|kind| entry.waiting(kind)).sum();
            let failing = entry.is_failing();
            (failing || waiting > 0).then(|| (name.clone(), failing, waiting))
        };
        let unknown = self.owed_and_unknown(&entries).into_iter();
        let unknown = unknown.map(|(name, owed)| (name, true, owed));
        entries.iter().filter_map(trouble).chain(unknown).collect()
    }
}
