//! Participants' endpoints, as the participants registered them.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, Timestamp};

use super::Error;

/// An endpoint, as one life of a participant's process registered it. Several of them may answer at one
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The participant.
    pub name: ParticipantName,
    /// Address where it answers; `None` if it has left every endpoint.
    pub endpoint: Option<String>,
    /// The life of its process that registered there; empty if that is not known.
    pub instance: String,
    /// Time of its last registration there.
    pub last_seen: Timestamp,
    /// Id of its database; empty if it is not known.
    pub database_id: String,
    /// Place of that database; empty if it is not known.
    pub database_place: String,
}

/// Durable registrations: after a restart the coordinator knows whom to call.
#[async_trait]
pub trait Endpoints: Send + Sync {
    /// Keeps a participant's endpoint for this life of its process, or moves its time.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn register(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Keeps the id and the place of the database that this life of the process works on.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn keep_database(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
        database: (&str, &str),
    ) -> Result<(), Error>;

    /// Takes this life of the participant's process away from an endpoint, and tells whether no other one
    /// is left there. The participant's name stays known.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn deregister(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
    ) -> Result<bool, Error>;

    /// Forgets a participant's name, with whatever endpoints it has.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn forget(&self, me: Incarnation, name: &ParticipantName) -> Result<(), Error>;

    /// Lists every participant's endpoints.
    async fn list(&self) -> Result<Vec<Registration>, Error>;
}
