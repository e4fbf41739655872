//! Participants that transactions out of memory wait for.
//!
//! Who cannot be reached is owed the ends of transactions that need not be in memory meanwhile. Their rows say that they
//! sleep; the waits say for whom, so that they are found when that one answers again.
//!
//! A wait is noted before the row says that the transaction sleeps, and goes with the claim that wakes it. So none sleeps
//! for a participant that nobody looks for; a wait of one that is awake means nothing.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, TxId};

use super::{Claimed, Error};

/// Most waits for one participant that are counted: who needs the number needs no larger one exactly.
pub const WAITS_COUNT_MAX: i64 = 100_000;

/// Waits, noted and looked for.
#[async_trait]
pub trait Waits: Send + Sync {
    /// Notes for whom transactions wait that are about to sleep. A fenced incarnation notes nothing.
    async fn note(&self, me: Incarnation, waits: Vec<(TxId, ParticipantName)>)
    -> Result<(), Error>;

    /// Lists the participants that transactions wait for, by name, with the numbers of these, counted up to
    /// [`WAITS_COUNT_MAX`] each. Some may have gone on meanwhile.
    async fn all(&self) -> Result<Vec<(ParticipantName, usize)>, Error>;

    /// Lists transactions that sleep and wait for this participant, the oldest first, from the one after this
    /// on; none that is set aside.
    async fn of(
        &self,
        participant: &ParticipantName,
        after: Option<TxId>,
        limit: u32,
    ) -> Result<Vec<TxId>, Error>;

    /// Adopts those of these transactions that sleep, and are of fenced incarnations or the claimant's own. They sleep
    /// no longer, and their waits are gone.
    async fn wake(&self, me: Incarnation, tx_ids: Vec<TxId>) -> Result<Claimed, Error>;
}

/// Makes the list of participants from its rows. A name that makes no sense is nobody's.
pub(super) fn counted(rows: Vec<(String, i64)>) -> Vec<(ParticipantName, usize)> {
    let count = |count| usize::try_from(count).unwrap_or(0);
    let named = rows.into_iter();
    named.filter_map(|(name, n)| Some((ParticipantName::known(&name).ok()?, count(n)))).collect()
}
