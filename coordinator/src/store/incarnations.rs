//! Incarnations: who may write, and who no longer may.

use async_trait::async_trait;
use unanimo_core::Incarnation;

use super::Error;

/// An incarnation that may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveIncarnation {
    /// Its number.
    pub incarnation: Incarnation,
    /// Its node's name.
    pub node: String,
    /// Counter of its heartbeat: while it moves, the incarnation is alive.
    pub counter: i64,
}

/// All incarnations that may write, and the number of all that were ever created, of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncarnationList {
    /// Number of incarnations ever created: what [`Incarnations::create`] compares.
    pub created: i64,
    /// Those that are not fenced.
    pub live: Vec<LiveIncarnation>,
}

/// The right to write: given at birth, kept alive by a heartbeat, ended by a fence (promise S5).
#[async_trait]
pub trait Incarnations: Send + Sync {
    /// Lists who may write.
    async fn list(&self) -> Result<IncarnationList, Error>;

    /// Ends the right of an incarnation to write, for ever. `by` tells in words who did it. Commits
    /// alone.
    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error>;

    /// Creates an incarnation, if exactly `created` were created before; `None` if somebody else
    /// was faster.
    async fn create(&self, node: &str, created: i64) -> Result<Option<Incarnation>, Error>;

    /// Moves the heartbeat.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn renew(&self, me: Incarnation) -> Result<(), Error>;

    /// Notes about a fenced incarnation that it was alive when it was fenced. Its own process says so,
    /// which may write nothing else any more.
    async fn note_displaced(&self, incarnation: Incarnation) -> Result<(), Error>;

    /// Tells whether the last predecessor of an incarnation, of its own node name, was alive when it
    /// was fenced.
    async fn has_displaced(&self, live: &LiveIncarnation) -> Result<bool, Error>;

    /// Tells whether no other process can have this database.
    fn is_alone(&self) -> bool;

    /// Tells who fenced this incarnation, in words; `None` if nobody has.
    async fn fenced_by(&self, incarnation: Incarnation) -> Result<Option<String>, Error>;
}

/// Returns whether the last predecessor of incarnation `$1` with node name `$2` was displaced.
pub(super) const HAS_DISPLACED: &str = "
SELECT displaced FROM fences WHERE node = $2 AND incarnation < $1
ORDER BY incarnation DESC LIMIT 1";

/// Notes that a fenced incarnation was alive.
pub(super) const NOTE_DISPLACED: &str =
    "UPDATE fences SET displaced = true WHERE incarnation = $1 AND fenced";
