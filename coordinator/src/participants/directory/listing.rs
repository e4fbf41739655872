//! Lists of the participants, for people and for metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

use super::{CallKind, Directory, Entry, Registered, Shown, read};

/// Instances of a participant with the same SDK and features, or those of which neither is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// They have registered with this coordinator, and not only with an earlier one, so that the rest is known.
    pub(crate) is_known: bool,
    /// Name and version of the SDK.
    pub(crate) sdk: String,
    /// Features, by name.
    pub(crate) features: BTreeSet<String>,
    /// Number of the instances.
    pub(crate) instances: usize,
    /// Those of them that were seen lately.
    pub(crate) alive: usize,
    /// Time since any of them was seen.
    pub(crate) silent_for: Duration,
}

/// Instances of a participant, counted by version.
#[derive(Debug, Default)]
pub(super) struct Versions(BTreeMap<Registration, Count>);

/// SDK and features, if they are known.
type Registration = Option<(String, BTreeSet<String>)>;

/// Instances, those that are alive, and the shortest silence.
type Count = (usize, usize, Duration);

impl Versions {
    pub(super) fn add(
        &mut self,
        registered: Option<&Registered>,
        silent_for: Duration,
        is_alive: bool,
    ) {
        let key = registered.map(|of| (of.sdk.clone(), of.features.iter().cloned().collect()));
        let (instances, alive, least) = self.0.entry(key).or_insert((0, 0, Duration::MAX));
        *instances += 1;
        *alive += usize::from(is_alive);
        *least = silent_for.min(*least);
    }
}

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

    /// Instances of a participant by version, with those of which most are alive first, and then those seen last.
    pub(crate) fn versions(&self, name: &ParticipantName) -> Vec<Version> {
        let Some(entry) = self.entry(name) else { return Vec::new() };
        let (now, gone_after) = (Instant::now(), self.gone_after());
        let mut counted = Versions::default();
        let endpoints = read(&entry.endpoints);
        endpoints.iter().for_each(|one| one.count_versions(&mut counted, now, gone_after));
        let version = |(known, (instances, alive, silent_for)): (Option<_>, _)| {
            let is_known = known.is_some();
            let (sdk, features) = known.unwrap_or_default();
            Version { is_known, sdk, features, instances, alive, silent_for }
        };
        let mut found: Vec<_> = counted.0.into_iter().map(version).collect();
        found.sort_by_key(|of| (std::cmp::Reverse(of.alive), of.silent_for));
        found
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
