//! Database of one participant: who was seen with it, and who was refused for another one.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

use super::{Database, Other};
use crate::alarm::PARTICIPANT_OTHER_DATABASE;

/// Between two alarms of one participant.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Time for which a process that is refused is remembered after it came last. It comes again within seconds.
const REFUSED_LIVES: Duration = Duration::from_secs(60);

/// Refused processes of a participant that are remembered. Of more than that a person is told at once.
const REFUSED_MAX: usize = 1_000;

/// Who told of a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A vote.
    Vote,
    /// A registration, of this life of a process at this endpoint.
    Process { endpoint: String, instance: String },
}

impl Source {
    pub(super) fn process(endpoint: &str, instance: &str) -> Self {
        Self::Process { endpoint: endpoint.to_owned(), instance: instance.to_owned() }
    }

    pub(super) fn is_process(&self) -> bool {
        matches!(self, Self::Process { .. })
    }
}

/// Time at which somebody was last seen, and the place that was told.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) place: String,
    /// The place that was told before, if none is told now: the database may only not answer.
    pub(super) before: String,
}

/// Registration that is refused: when it came first, and last.
#[derive(Clone, Copy, Debug)]
struct Refused {
    since: Instant,
    last: Instant,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: String,
    /// Place of those that are taken.
    pub(super) place: String,
    /// Those who were seen with it.
    pub(super) by: BTreeMap<Source, Seen>,
    /// Those who are refused, with the id and the place that they tell.
    refused: BTreeMap<(Source, String, String), Refused>,
    /// Registrations and votes of another database that were refused, and when they were last told of.
    pub(super) others: u64,
    pub(super) told_at: Option<Instant>,
}

impl Known {
    pub(super) fn new(id: &str) -> Self {
        let (id, place) = (id.to_owned(), String::new());
        let (by, refused) = (BTreeMap::new(), BTreeMap::new());
        Self { id, place, by, refused, others: 0, told_at: None }
    }

    /// Notes a registration that is refused, and tells whether a process with the known database, in the known place,
    /// has registered since that one came first.
    pub(super) fn both_live(&mut self, source: &Source, database: &Database, now: Instant) -> bool {
        self.refused
            .retain(|_, refused| now.saturating_duration_since(refused.last) <= REFUSED_LIVES);
        let key = (source.clone(), database.id.clone(), database.place.clone());
        if self.refused.len() >= REFUSED_MAX && !self.refused.contains_key(&key) {
            return true;
        }
        let refused = self.refused.entry(key).or_insert(Refused { since: now, last: now });
        refused.last = now;
        let since = refused.since;
        let is_copy = database.id == self.id;
        self.by.iter().any(|(other, seen)| {
            let is_there = !is_copy || (other != source && seen.place == self.place);
            other.is_process() && seen.at > since && is_there
        })
    }

    /// Notes that a process is taken: it is refused no more, with the database that it tells.
    pub(super) fn takes(&mut self, source: Source, seen: Seen) {
        let is_taken = |(other, id, place): &(Source, String, String)| {
            *other == source && *id == self.id && *place == seen.place
        };
        self.refused.retain(|key, _| !is_taken(key));
        self.by.insert(source, seen);
    }

    /// Returns the refusal of another database.
    pub(super) fn other(
        &self,
        participant: &ParticipantName,
        database: &Database,
        both_live: bool,
    ) -> Other {
        let (known, found) = match database.id == self.id {
            true => (at(&self.id, &self.place), at(&database.id, &database.place)),
            false => (self.id.clone(), database.id.clone()),
        };
        Other { participant: participant.clone(), known, found, both_live }
    }

    /// Refuses what comes from another database, with one alarm for all of it, if both are known to live.
    pub(super) fn refuse(
        &mut self,
        participant: &ParticipantName,
        (what, endpoint): (&str, &str),
        (database, both_live): (&Database, bool),
        now: Instant,
    ) -> Other {
        let other = self.other(participant, database, both_live);
        self.others += 1;
        if !both_live {
            tracing::info!(
                %participant, what, endpoint, error = %other,
                "a process with another database is refused; those with the known one have not been seen since"
            );
        } else if self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_INTERVAL) {
            self.told_at = Some(now);
            tracing::error!(
                alarm = PARTICIPANT_OTHER_DATABASE, %participant, what, endpoint, refused = self.others,
                error = %other, "a process of the participant has another database, and is refused"
            );
        }
        other
    }
}

fn at(id: &str, place: &str) -> String {
    format!("{id} at {place}")
}
