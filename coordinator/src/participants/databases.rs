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
//! An id is noted only once the request that names it is done: one that is refused leaves nothing behind.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

use crate::alarm::PARTICIPANT_OTHER_DATABASE;

/// Time for which a vote keeps its database's id alive. A configured endpoint does not register, so its
/// votes are all that is known of it.
const VOTE_LIVES: Duration = Duration::from_secs(10 * 60);

/// Between two alarms of one participant.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

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
}

/// Who told of a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// A vote.
    Vote,
    /// A registration, of this life of a process at this endpoint.
    Process { endpoint: String, instance: String },
}

impl Source {
    fn process(endpoint: &str, instance: &str) -> Self {
        Self::Process { endpoint: endpoint.to_owned(), instance: instance.to_owned() }
    }

    fn is_process(&self) -> bool {
        matches!(self, Self::Process { .. })
    }
}

#[derive(Debug)]
struct Known {
    id: String,
    /// When each was last seen with it.
    by: BTreeMap<Source, Instant>,
    /// Registrations and votes of another database that were refused, and when they were last told of.
    others: u64,
    told_at: Option<Instant>,
}

impl Known {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), by: BTreeMap::new(), others: 0, told_at: None }
    }

    /// Refuses what comes from another database, with one alarm for all of it.
    fn refuse(
        &mut self,
        participant: &ParticipantName,
        (what, endpoint): (&str, &str),
        id: &str,
        now: Instant,
    ) -> Other {
        let (known, found) = (self.id.clone(), id.to_owned());
        let other = Other { participant: participant.clone(), known, found };
        self.others += 1;
        if self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_INTERVAL) {
            self.told_at = Some(now);
            tracing::error!(
                alarm = PARTICIPANT_OTHER_DATABASE, %participant, what, endpoint, refused = self.others,
                error = %other, "a process of the participant has another database, and is refused"
            );
        }
        other
    }
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

    /// Checks the database of a process that is about to register, and tells whether its id is to be stored:
    /// that of this life of the process was not known. An empty id is that of a process that knows none.
    ///
    /// # Errors
    /// A process is alive that has another database.
    pub fn registers(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        id: &str,
    ) -> Result<bool, Other> {
        self.registers_at(participant, endpoint, instance, id, Instant::now())
    }

    fn registers_at(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        id: &str,
        now: Instant,
    ) -> Result<bool, Other> {
        if id.is_empty() {
            return Ok(false);
        }
        let mut databases = self.known();
        let Some(known) = databases.get_mut(participant) else { return Ok(true) };
        if known.id == id {
            return Ok(!known.by.contains_key(&Source::process(endpoint, instance)));
        }
        // A registration tells more than votes do.
        match self.lives(known, &Source::is_process, now) {
            true => Err(known.refuse(participant, ("a registration", endpoint), id, now)),
            false => Ok(true),
        }
    }

    /// Notes the database of a process that has registered. It was checked before.
    pub fn registered(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        id: &str,
    ) {
        let source = Source::process(endpoint, instance);
        self.note(participant, source, id, Instant::now());
    }

    /// Notes the database of a process that was alive when an earlier life of the coordinator ended. The one
    /// that is noted first stays.
    pub fn was_seen(
        &self,
        participant: &ParticipantName,
        endpoint: &str,
        instance: &str,
        id: &str,
    ) {
        let known = self.known().get(participant).map(|known| known.id.clone());
        if known.is_none_or(|known| known == id) {
            self.registered(participant, endpoint, instance, id);
        }
    }

    /// Notes the database of a vote.
    ///
    /// # Errors
    /// The participant's living processes have another one: it is no vote.
    pub fn votes(&self, participant: &ParticipantName, id: &str) -> Result<(), Other> {
        self.votes_at(participant, id, Instant::now())
    }

    fn votes_at(&self, participant: &ParticipantName, id: &str, now: Instant) -> Result<(), Other> {
        if let Some(known) = self.known().get_mut(participant)
            && !id.is_empty()
            && known.id != id
            && self.lives(known, &|_| true, now)
        {
            return Err(known.refuse(participant, ("a vote", ""), id, now));
        }
        self.note(participant, Source::Vote, id, now);
        Ok(())
    }

    fn note(&self, participant: &ParticipantName, source: Source, id: &str, now: Instant) {
        if id.is_empty() {
            // Whatever is known of it stays.
            return;
        }
        let mut databases = self.known();
        let known = match databases.get_mut(participant) {
            Some(known) => known,
            None => databases.entry(participant.clone()).or_insert_with(|| Known::new(id)),
        };
        if known.id != id {
            tracing::warn!(%participant, former = known.id, id, "a participant has another database");
            *known = Known::new(id);
        }
        if source != Source::Vote {
            // One that comes back later is stored anew: its row may have been forgotten meanwhile.
            let living = |source: &Source, at: &mut Instant| self.is_alive(source, *at, now);
            known.by.retain(living);
        }
        known.by.insert(source, now);
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

    /// Returns the id of the database that the participant's living processes have; empty if none is
    /// known.
    #[must_use]
    pub fn id_of(&self, participant: &ParticipantName) -> String {
        let now = Instant::now();
        let databases = self.known();
        let known = databases.get(participant).filter(|known| self.lives(known, &|_| true, now));
        known.map(|known| known.id.clone()).unwrap_or_default()
    }

    /// Tells whether any of these was seen lately.
    fn lives(&self, known: &Known, of: &dyn Fn(&Source) -> bool, now: Instant) -> bool {
        known.by.iter().any(|(source, at)| of(source) && self.is_alive(source, *at, now))
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
        let known = self.id_of(participant);
        if id.is_empty() || known.is_empty() || known == id {
            return Ok(());
        }
        Err(Other { participant: participant.clone(), known, found: id.to_owned() })
    }
}

#[cfg(test)]
mod tests;
