//! Incarnations: who may write, and who no longer may.

use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::Incarnation;
use uuid::Uuid;

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
    /// Length of its lease, as it counts it itself; `None` if it did not say.
    pub lease: Option<Duration>,
}

impl LiveIncarnation {
    pub(super) fn from_columns(
        incarnation: i64,
        node: String,
        counter: i64,
        lease_ms: i64,
    ) -> Self {
        let lease = u64::try_from(lease_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
        Self { incarnation: Incarnation(incarnation), node, counter, lease }
    }
}

/// Incarnation that the database knows, whether it may write or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownIncarnation {
    /// Its number.
    pub incarnation: Incarnation,
    /// Its node's name.
    pub node: String,
    /// Length of its lease, as it counts it itself; `None` if it did not say.
    pub lease: Option<Duration>,
    /// Its rival, in words that follow "fenced"; `None` while it may write.
    pub fenced_by: Option<String>,
}

/// Row of an incarnation: number, node, length of its lease, its end, and its rival in words.
pub(super) type KnownRow = (i64, String, i64, bool, Option<String>);

/// Returns the last `$1` incarnations, the newest first.
pub(super) const SELECT_LAST: &str = "
SELECT incarnation, node, coalesce(lease_ms, 0), fences.fenced, fenced_by
FROM fences LEFT JOIN heartbeats USING (incarnation) ORDER BY incarnation DESC LIMIT $1";

impl KnownIncarnation {
    pub(super) fn from_row((incarnation, node, lease_ms, fenced, by): KnownRow) -> Self {
        let live = LiveIncarnation::from_columns(incarnation, node, 0, lease_ms);
        let fenced_by = fenced.then(|| by.unwrap_or_default());
        Self { incarnation: live.incarnation, node: live.node, lease: live.lease, fenced_by }
    }
}

pub(super) fn lease_to_column(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
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

    /// Lists the last incarnations, the newest first, and no more than so many.
    async fn last(&self, most: u32) -> Result<Vec<KnownIncarnation>, Error>;

    /// Ends the right of an incarnation to write, for ever. `by` tells in words who did it. Commits
    /// alone. One that this store has created is left alone if its number is another one's by now.
    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error>;

    /// Ends the right of an incarnation to write, if its heartbeat's counter is still the one that was
    /// watched; compared in the same statement, so that of a fence and a renewal at once one wins.
    /// `false` if the counter has moved: then nothing has changed.
    async fn fence_silent(
        &self,
        incarnation: Incarnation,
        counter: i64,
        by: &str,
    ) -> Result<bool, Error>;

    /// Creates an incarnation, if exactly `created` were created before; `None` if somebody else
    /// was faster. Rivals wait for `lease` before they fence it. It gets a random nonce as well, which all of
    /// its statements match with its number: so one store alone can write as this incarnation, also where the
    /// database has gone back and gives the number to another one.
    async fn create(
        &self,
        node: &str,
        created: i64,
        lease: Duration,
    ) -> Result<Option<Incarnation>, Error>;

    /// Moves the heartbeat. A try that takes longer than `patience` is given up, and the next one uses
    /// nothing of it.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn renew(&self, me: Incarnation, patience: Duration) -> Result<(), Error>;

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

/// Rival of an incarnation that the database does not know.
const GONE_BACK: &str =
    "by a restore or a failover of the database, which went back to a time before its birth";

/// Row of a fence, of which `own` is the nonce that this process has for it, if it has one: its end, its rival
/// in words, and its nonce.
pub(super) type FenceRow = (bool, Option<String>, Option<Uuid>);

/// Returns the columns of [`FenceRow`].
pub(super) const SELECT_FENCE: &str =
    "SELECT fenced, fenced_by, nonce FROM fences WHERE incarnation = $1";

/// Returns the rival of an incarnation in words, if it is fenced. One that was created by this process is so,
/// too, if its row is not there, or is another one's of the same number.
pub(super) fn rival(own: Option<Uuid>, row: Option<FenceRow>) -> Option<String> {
    let is_own = own.is_none() || row.as_ref().is_some_and(|row| row.2 == own);
    match row {
        _ if !is_own => Some(GONE_BACK.to_owned()),
        Some((true, by, _)) => Some(by.unwrap_or_default()),
        _ => None,
    }
}

/// Returns whether the last predecessor of incarnation `$1` with node name `$2` was displaced.
pub(super) const HAS_DISPLACED: &str = "
SELECT displaced FROM fences WHERE node = $2 AND incarnation < $1
ORDER BY incarnation DESC LIMIT 1";

/// Notes that a fenced incarnation, with its nonce, was alive.
pub(super) const NOTE_DISPLACED: &str =
    "UPDATE fences SET displaced = true WHERE incarnation = $1 AND nonce = $2 AND fenced";
