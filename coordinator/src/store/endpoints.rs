//! Participants' endpoints, as the participants registered them.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, Timestamp};

use super::Error;

/// An endpoint that a participant registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The participant.
    pub name: ParticipantName,
    /// Address where it answers; `None` if it has left every endpoint.
    pub endpoint: Option<String>,
    /// The life of its process that registered there last; empty if that is not known.
    pub instance: String,
    /// Time of its last registration there.
    pub last_seen: Timestamp,
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

    /// Takes an endpoint away, unless another life of the participant's process has registered it
    /// since: then the answer is `false`. The participant's name stays known.
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

    /// Lists every participant's endpoints.
    async fn list(&self) -> Result<Vec<Registration>, Error>;
}
