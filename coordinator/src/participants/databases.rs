//! Databases of participants, by the random id that each keeps beside its barrier.
//!
//! All processes of one name share one database. Where two have one each, both would do a branch's work, and
//! each would hold it for the only one. So the id travels with registrations, calls, votes and questions:
//! while a process with one id is alive, another id is refused, whatever its address: many processes may
//! answer behind one.
//!
//! The ids of those who register are kept beside their endpoints, so that they outlive a restart of the
//! coordinator. A process that registers after all others are gone brings its id: a participant may be given a
//! new database. A branch keeps the id of its vote, and its Commit carries that one.
//!
//! A copy of a database, restored beside it, has the same id. So those who register tell the place of theirs, too: a
//! process whose database is in another place than that of another living process is refused. The place of one
//! database may change: a replica is promoted, a backup takes the original's place. Then all its processes move, one after
//! the other, and nobody has to say so. One that moves is refused until the last one has moved, without an alarm for
//! as long as it would count as alive. No branch is bound to a place, and votes tell none.
//!
//! A process that has died counts as alive for three keep-alive intervals after it was seen last. Whoever comes with another
//! database or place meanwhile, such as its next life, is refused, for nobody can tell the two cases apart; but there is an alarm only
//! once a process with the known one has registered since: those that live do so within one interval.
//!
//! An id is noted only once the request that names it is done: one that is refused leaves nothing behind.

mod known;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

use self::known::{Known, Seen, Source};

/// Time for which a vote keeps its database's id alive. A configured endpoint does not register, so its
/// votes are all that is known of it.
const VOTE_LIVES: Duration = Duration::from_secs(10 * 60);

/// A database, as a process tells of it. An empty text is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// The random id beside its barrier.
    pub id: String,
    /// Place where it is, which a copy of it has not.
    pub place: String,
}

/// Failure to use a participant's database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "participant {} works on the database {known}, and this is {found}: all processes of a \
     participant must share one database",
    .participant.local()
)]
pub struct Other {
    /// Its name.
    pub participant: ParticipantName,
    /// The id of the database that living processes have.
    pub known: String,
    /// The other one.
    pub found: String,
    /// A process with the known one is proven to be alive beside it. Otherwise all of them may have died, or be about
    /// to move, and nobody need be told yet.
    pub both_live: bool,
}

/// Databases of all participants.
#[derive(Debug)]
pub struct Databases {
    gone_after: Duration,
    known: Mutex<BTreeMap<ParticipantName, Known>>,
}

impl Databases {
    /// A process lives for that long after it was seen.
    #[must_use]
    pub fn new(gone_after: Duration) -> Self {
        Self { gone_after, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ParticipantName, Known>> {
        // Nothing panics half way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the database of a process that is about to register, and tells whether it is to be stored: that of
    /// this life of the process was not known. An empty id is that of a process that knows none.
    ///
    /// # Errors
    /// A process is alive that has another database, or a copy of it.
    pub fn registers(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        database: &Database,
    ) -> Result<bool, Other> {
        self.registers_at(participant, endpoint, instance, database, Instant::now())
    }

    fn registers_at(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        database: &Database,
        now: Instant,
    ) -> Result<bool, Other> {
        if database.id.is_empty() {
            return Ok(false);
        }
        let mut databases = self.known();
        let Some(known) = databases.get_mut(participant) else { return Ok(true) };
        let source = Source::process(endpoint, instance);
        let is_copy = known.id == database.id;
        if is_copy {
            if !self.is_held_elsewhere(known, &source, &database.place, now) {
                let seen = known.by.get(&source);
                return Ok(seen.is_none_or(|seen| seen.place != database.place));
            }
        } else if !self.lives(known, &Source::is_process, now) {
            // A registration tells more than votes do.
            return Ok(true);
        }
        let both_live = known.both_live(&source, database, now);
        if is_copy
            && let Some(seen) = known.by.get_mut(&source)
            && self.is_alive(&source, seen.at, now)
        {
            // It moves, and the others may be about to. It does not hold them back.
            seen.place.clear();
            seen.before.clear();
            return Err(known.other(participant, database, false));
        }
        Err(known.refuse(participant, ("a registration", endpoint), (database, both_live), now))
    }

    /// Tells whether a living process other than this one has the database in the known place, and that is not
    /// this one. One whose database does not answer has it there still for whoever is new, which may be a copy's; a process
    /// that is known moves past it.
    fn is_held_elsewhere(&self, known: &Known, source: &Source, place: &str, now: Instant) -> bool {
        let is_new = known.by.get(source).is_none_or(|seen| !self.is_alive(source, seen.at, now));
        let holds = |(other, seen): (&Source, &Seen)| {
            let is_there = seen.place == known.place || is_new && seen.before == known.place;
            other != source && is_there && self.is_alive(other, seen.at, now)
        };
        let are_known = !place.is_empty() && !known.place.is_empty();
        are_known && known.place != place && known.by.iter().any(holds)
    }

    /// Notes the database of a process that has registered. It was checked before.
    pub fn registered(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        database: &Database,
    ) {
        let source = Source::process(endpoint, instance);
        self.note(participant, source, database, Instant::now());
    }

    /// Notes the database of a process that was alive when an earlier life of the coordinator ended. The one
    /// that is noted first stays.
    pub fn was_seen(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        database: &Database,
    ) {
        match self.known().get_mut(participant) {
            Some(known) if known.id == database.id && !known.place.is_empty() => {
                let place = database.place.clone();
                let seen = Seen { at: Instant::now(), place, before: String::new() };
                known.by.insert(Source::process(endpoint, instance), seen);
                return;
            }
            Some(known) if known.id != database.id => return,
            _ => {}
        }
        self.registered(participant, endpoint, instance, database);
    }

    /// Notes the database of a vote.
    ///
    /// # Errors
    /// The participant's living processes have another one: it is no vote.
    pub fn votes(&self, participant: &ParticipantName, id: &str) -> Result<(), Other> {
        self.votes_at(participant, id, Instant::now())
    }

    fn votes_at(&self, participant: &ParticipantName, id: &str, now: Instant) -> Result<(), Other> {
        let database = Database { id: id.to_owned(), place: String::new() };
        if let Some(known) = self.known().get_mut(participant)
            && !id.is_empty()
            && known.id != id
            && self.lives(known, &|_| true, now)
        {
            return Err(known.refuse(participant, ("a vote", ""), (&database, true), now));
        }
        self.note(participant, Source::Vote, &database, now);
        Ok(())
    }

    fn note(
        &self,
        participant: &ParticipantName,
        source: Source,
        database: &Database,
        now: Instant,
    ) {
        let Database { id, place } = database;
        if id.is_empty() {
            // Whatever is known of it stays.
            return;
        }
        let mut databases = self.known();
        let known = match databases.get_mut(participant) {
            Some(known) => known,
            None => databases.entry(participant.clone()).or_insert_with(|| Known::new(id)),
        };
        if known.id != *id {
            tracing::warn!(%participant, former = known.id, id, "a participant has another database");
            *known = Known::new(id);
        }
        if source != Source::Vote {
            // One that comes back later is stored anew: its row may have been forgotten meanwhile.
            let living = |source: &Source, seen: &mut Seen| self.is_alive(source, seen.at, now);
            known.by.retain(living);
        }
        if !place.is_empty() && known.place != *place {
            if !known.place.is_empty() {
                tracing::warn!(
                    %participant, id, former = known.place, place,
                    "the database of a participant is in another place"
                );
            }
            known.place.clone_from(place);
        }
        let before = match known.by.remove(&source) {
            Some(seen) if place.is_empty() && seen.place.is_empty() => seen.before,
            Some(seen) if place.is_empty() => seen.place,
            _ => String::new(),
        };
        known.takes(source, Seen { at: now, place: place.clone(), before });
    }

    /// A process has left an endpoint, and with it whoever was seen there without a name.
    pub fn left(&self, participant: &ParticipantName, endpoint: &str, instance: &str) {
        if let Some(known) = self.known().get_mut(participant) {
            known.by.remove(&Source::process(endpoint, instance));
            known.by.remove(&Source::process(endpoint, ""));
        }
    }

    /// Forgets a participant.
    pub fn forget(&self, participant: &ParticipantName) {
        self.known().remove(participant);
    }

    /// Forgets those of whom nothing is alive and whom nobody knows otherwise.
    pub fn sweep(&self, is_known: impl Fn(&ParticipantName) -> bool) {
        let now = Instant::now();
        let mut databases = self.known();
        databases.retain(|name, known| self.lives(known, &|_| true, now) || is_known(name));
    }

    /// Returns the database that the participant's living processes have; empty if none is known.
    #[must_use]
    pub fn of(&self, participant: &ParticipantName) -> Database {
        let now = Instant::now();
        let databases = self.known();
        let known = databases.get(participant).filter(|known| self.lives(known, &|_| true, now));
        let database = |known: &Known| {
            // A vote tells no place: where no process is there any more, nobody is to be refused for it.
            let there = |(source, seen): (&Source, &Seen)| {
                let is_there = seen.place == known.place || seen.before == known.place;
                is_there && self.is_alive(source, seen.at, now)
            };
            let is_held = known.by.iter().any(there);
            let place = if is_held { known.place.clone() } else { String::new() };
            Database { id: known.id.clone(), place }
        };
        known.map(database).unwrap_or_default()
    }

    /// Tells whether any of these was seen lately.
    fn lives(&self, known: &Known, of: &dyn Fn(&Source) -> bool, now: Instant) -> bool {
        known.by.iter().any(|(source, seen)| of(source) && self.is_alive(source, seen.at, now))
    }

    fn is_alive(&self, source: &Source, at: Instant, now: Instant) -> bool {
        let lifetime = if source.is_process() { self.gone_after } else { VOTE_LIVES };
        now.saturating_duration_since(at) <= lifetime
    }

    /// Checks the database of a process that asks something.
    ///
    /// # Errors
    /// It is not the one that is known.
    pub fn check(&self, participant: &ParticipantName, id: &str) -> Result<(), Other> {
        let known = self.of(participant).id;
        if id.is_empty() || known.is_empty() || known == id {
            return Ok(());
        }
        let participant = participant.clone();
        Err(Other { participant, known, found: id.to_owned(), both_live: true })
    }
}

#[cfg(test)]
mod tests;
