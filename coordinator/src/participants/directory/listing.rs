//! Lists of the participants, for people and for metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

use super::{CallKind, Directory, Entry, Shown, read};

/// Health of the calls to a participant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Going {
    /// Since when they all fail, if they do.
    pub(crate) open_since: Option<Instant>,
    /// Calls under way.
    pub(crate) in_flight: usize,
    /// Calls that wait until it answers again.
    pub(crate) waiting: usize,
    /// Transactions of which something is owed to it, or may be.
    pub(crate) owed: usize,
}

impl Directory {
    /// Names of everybody but the coordinator itself, and those of which nothing is registered any more, while something
    /// is owed to them.
    #[must_use]
    pub fn names(&self) -> BTreeSet<ParticipantName> {
        let entries = read(&self.entries);
        let known = entries.iter().filter(|(_, entry)| !entry.own).map(|(name, _)| name.clone());
        let unknown = self.owed_and_unknown(&entries).into_iter().map(|(name, _)| name);
        known.chain(unknown).collect()
    }

    /// Endpoints of a participant; none if nothing is registered of it.
    #[must_use]
    pub fn shown(&self, name: &ParticipantName) -> Vec<Shown> {
        let Some(entry) = self.entry(name) else { return Vec::new() };
        let (now, gone_after) = (Instant::now(), self.gone_after());
        let endpoints = read(&entry.endpoints);
        endpoints.iter().map(|endpoint| endpoint.shown(now, gone_after)).collect()
    }

    /// Health of the calls to a participant.
    pub(crate) fn going(&self, name: &ParticipantName) -> Going {
        // Of nothing that is counted on.
        let known = self.loads.owed_by(name);
        let Some(entry) = self.entry(name) else {
            return Going { owed: known, ..Going::default() };
        };
        let open = CallKind::ALL.into_iter().filter_map(|kind| entry.breaker(kind).open_since());
        Going {
            open_since: open.min(),
            in_flight: read(&entry.endpoints).iter().map(|endpoint| endpoint.under_way()).sum(),
            waiting: CallKind::ALL.into_iter().map(|kind| entry.waiting(kind)).sum(),
            owed: known,
        }
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
