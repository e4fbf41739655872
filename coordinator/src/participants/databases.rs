//! Databases of participants, by the random id that each keeps beside its barrier.
//!
//! All processes of one name share one database. Where two have one each, both would do a branch's work, and
//! each would hold it for the only one. So the id travels with registrations, calls, votes and questions:
//! while a process with one id is alive, another id is refused.
//!
//! The ids of those who register are kept beside their endpoints, so that they outlive a restart of the
//! coordinator. A process that registers after all others are gone brings its id: a participant may be given a
//! new database. A branch keeps the id of its vote, and its Commit carries that one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

/// Time for which a vote keeps its database's id alive. A configured endpoint does not register, so its
/// votes are all that is known of it.
const VOTE_LIVES: Duration = Duration::from_secs(10 * 60);

/// Stands for the endpoint of a vote. No endpoint is empty.
const VOTE: &str = "";

/// Failure to use a participant's database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "participant {participant} works on the database {known}, and this is {found}: all processes of a \
     participant must share one database"
)]
pub struct Other {
    /// Its name.
    pub participant: ParticipantName,
    /// The id of the database that living processes have.
    pub known: String,
    /// The other one.
    pub found: String,
}

#[derive(Debug)]
struct Known {
    id: String,
    /// Time at which each endpoint was last seen with it, and the life of its process.
    by: BTreeMap<String, (Instant, String)>,
}

/// Note of a registration, until that is stored.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it is to be stored, or to be undone"]
pub struct Noted {
    /// It is to be stored.
    pub is_new: bool,
    /// Life of the endpoint's process before.
    before: Option<String>,
}

/// Databases of all participants.
#[derive(Debug)]
pub struct Databases {
    gone_after: Duration,
    known: Mutex<BTreeMap<ParticipantName, Known>>,
}

impl Databases {
    /// An endpoint lives for that long after it was seen.
    #[must_use]
    pub fn new(gone_after: Duration) -> Self {
        Self { gone_after, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ParticipantName, Known>> {
        // Nothing panics half way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the database of an endpoint that registers, and tells whether it is to be stored: that of this
    /// life of the process was not known. An empty id is that of a process that knows none.
    ///
    /// # Errors
    /// Another endpoint is alive, and has another database.
    pub fn registers(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        id: &str,
    ) -> Result<Noted, Other> {
        self.seen(participant, (endpoint, instance), id, Instant::now())
    }

    /// Undoes the note of a registration that could not be stored, and no more: an endpoint that was known
    /// before lives on, and nobody with another database takes its place.
    pub fn undo(&self, participant: &ParticipantName, endpoint: &str, noted: Noted) {
        let mut databases = self.known();
        let Some(known) = databases.get_mut(participant) else { return };
        match noted.before {
            Some(before) => {
                if let Some((_, instance)) = known.by.get_mut(endpoint) {
                    *instance = before;
                }
            }
            None => drop(known.by.remove(endpoint)),
        }
    }

    /// Notes the database of an endpoint that was alive when an earlier life of the coordinator ended. The one
    /// that is noted first stays.
    pub fn was_seen(&self, participant: &ParticipantName, endpoint: &str, id: &str) {
        let known = self.known().get(participant).map(|known| known.id.clone());
        if known.is_none_or(|known| known == id) {
            // Nobody is alive beside it.
            let _ = self.seen(participant, (endpoint, ""), id, Instant::now());
        }
    }

    /// Notes the database of a vote.
    ///
    /// # Errors
    /// The participant's living processes have another one: it is no vote.
    pub fn votes(&self, participant: &ParticipantName, id: &str) -> Result<(), Other> {
        self.seen(participant, (VOTE, ""), id, Instant::now()).map(drop)
    }

    fn seen(
        &self,
        participant: &ParticipantName,
        (by, instance): (&str, &str),
        id: &str,
        now: Instant,
    ) -> Result<Noted, Other> {
        if id.is_empty() {
            // Whatever is known of it stays.
            let before = self.known().get(participant).and_then(|known| known.by.get(by).cloned());
            return Ok(Noted { is_new: false, before: before.map(|(_, instance)| instance) });
        }
        let mut databases = self.known();
        let known = databases
            .entry(participant.clone())
            .or_insert_with(|| Known { id: id.to_owned(), by: BTreeMap::new() });
        if known.id != id {
            // The endpoint that registers may have got a new database; and a registration tells more than
            // votes do.
            if self.lives(known, by, now) {
                return Err(Other {
                    participant: participant.clone(),
                    known: known.id.clone(),
                    found: id.to_owned(),
                });
            }
            tracing::warn!(%participant, former = known.id, id, "a participant has another database");
            *known = Known { id: id.to_owned(), by: BTreeMap::new() };
        }
        let before = known.by.insert(by.to_owned(), (now, instance.to_owned()));
        let before = before.map(|(_, instance)| instance);
        let is_new = before.as_ref().is_none_or(|before| before != instance);
        Ok(Noted { is_new, before })
    }

    /// An endpoint has left.
    pub fn left(&self, participant: &ParticipantName, endpoint: &str) {
        if let Some(known) = self.known().get_mut(participant) {
            known.by.remove(endpoint);
        }
    }

    /// Returns the id of the database that the participant's living processes have; empty if none is
    /// known.
    #[must_use]
    pub fn id_of(&self, participant: &ParticipantName) -> String {
        let now = Instant::now();
        let databases = self.known();
        let known = databases.get(participant).filter(|known| self.lives(known, "", now));
        known.map(|known| known.id.clone()).unwrap_or_default()
    }

    /// Tells whether an endpoint beside this one was seen lately, or a vote.
    fn lives(&self, known: &Known, beside: &str, now: Instant) -> bool {
        known.by.iter().any(|(by, (at, _))| {
            let lifetime = if by == VOTE { VOTE_LIVES } else { self.gone_after };
            (beside == VOTE || (by != beside && by != VOTE)) && now.duration_since(*at) <= lifetime
        })
    }

    /// Checks the database of a process that asks something.
    ///
    /// # Errors
    /// It is not the one that is known.
    pub fn check(&self, participant: &ParticipantName, id: &str) -> Result<(), Other> {
        let known = self.id_of(participant);
        if id.is_empty() || known.is_empty() || known == id {
            return Ok(());
        }
        Err(Other { participant: participant.clone(), known, found: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> (Databases, ParticipantName, Instant) {
        let shop = ParticipantName::new("shop").expect("a name");
        (Databases::new(Duration::from_secs(15)), shop, Instant::now())
    }

    #[test]
    fn a_second_database_of_a_living_name_is_refused() {
        let (databases, shop, now) = databases();
        let at = |endpoint: &str, id: &str, secs: u64| {
            databases.seen(&shop, (endpoint, ""), id, now + Duration::from_secs(secs)).is_ok()
        };
        assert!(at("http://a", "one", 0) && at("http://b", "one", 0) && at("http://a", "one", 1));
        assert!(!at("http://c", "two", 1), "a and b are alive");
        assert!(!at("http://a", "two", 1), "b is alive");
        assert!(at("http://d", "", 1), "of an SDK that knows none");
        assert_eq!(databases.id_of(&shop), "one");
        assert!(at(VOTE, "one", 1) && at(VOTE, "", 1));
        assert!(!at(VOTE, "two", 1), "S2");
        assert!(databases.check(&shop, "two").is_err() && databases.check(&shop, "one").is_ok());
        databases.left(&shop, "http://b");
        assert!(at("http://a", "two", 2), "the only one that lives has a new database");
        assert!(!at("http://c", "three", 16));
        assert!(at("http://c", "three", 20), "nobody else lives");
        assert!(!at(VOTE, "two", 20));
    }

    #[test]
    fn votes_alone_tell_databases_apart() {
        let (databases, shop, now) = databases();
        let at = |by: &str, id: &str, secs: u64| {
            databases.seen(&shop, (by, ""), id, now + Duration::from_secs(secs)).is_ok()
        };
        assert!(databases.check(&shop, "any").is_ok(), "nothing is known");
        assert!(at(VOTE, "one", 0));
        assert!(!at(VOTE, "two", 60));
        assert!(at("http://a", "two", 60), "a registration tells more");
        assert!(!at(VOTE, "one", 61));
    }

    #[test]
    fn what_is_stored_is_the_known_one_until_its_endpoint_is_gone() {
        let (databases, shop, now) = databases();
        databases.was_seen(&shop, "http://a", "one");
        databases.was_seen(&shop, "http://old", "two");
        assert_eq!(databases.id_of(&shop), "one", "the one that was noted first");
        assert!(databases.votes(&shop, "two").is_err(), "S2");
        let register = |instance: &str, id: &str| {
            databases.registers(&shop, "http://a", instance, id).map(|noted| noted.is_new)
        };
        assert_eq!(register("life", "one"), Ok(true), "a new life is to be stored");
        assert_eq!(register("life", "one"), Ok(false));
        assert_eq!(register("next", "one"), Ok(true));
        assert!(databases.registers(&shop, "http://b", "other", "two").is_err());
        let later = now + Duration::from_secs(30);
        let seen = databases.seen(&shop, ("http://b", "other"), "two", later);
        assert_eq!(seen.map(|noted| noted.is_new), Ok(true));
    }

    #[test]
    fn a_registration_that_is_not_stored_lets_no_second_database_in() {
        let (databases, shop, _) = databases();
        let register = |endpoint: &str, instance: &str, id: &str| {
            databases.registers(&shop, endpoint, instance, id)
        };
        let first = register("http://a", "life", "one").expect("the first");
        databases.undo(&shop, "http://a", first);
        let stored = register("http://b", "life", "two").expect("the other one was never stored");
        assert!(stored.is_new);
        for instance in ["life", "next", "next"] {
            let noted = register("http://b", instance, "two").expect("the same database");
            assert_eq!(noted.is_new, instance == "next", "it is stored when it comes again");
            databases.undo(&shop, "http://b", noted);
            assert!(register("http://c", "life", "three").is_err(), "S2: b is alive");
            let of_an_old_sdk = register("http://b", "life", "").expect("it tells none");
            databases.undo(&shop, "http://b", of_an_old_sdk);
        }
        assert!(databases.votes(&shop, "three").is_err(), "S2");
    }
}
