//! Participants that transactions out of memory wait for.
//!
//! Who cannot be reached is owed the ends of transactions that need not be in memory meanwhile. Their rows say that they
//! sleep; the waits say for whom, so that they are found when that one answers again.
//!
//! A wait is noted before the row says that the transaction sleeps, and goes with the claim that wakes it. So none sleeps
//! for a participant that nobody looks for; a wait of one that is awake means nothing.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, Timestamp, TxId};

use super::{Claimed, Error};

/// Most waits for one participant that are counted: who needs the number needs no larger one exactly.
pub const WAITS_COUNT_MAX: i64 = 20_000;

/// A wait that is to be noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Who waits.
    pub tx_id: TxId,
    /// For whom.
    pub participant: ParticipantName,
    /// When it is tried, whatever is known of the participant.
    pub due_at: Timestamp,
}

/// Transactions that sleep and wait for a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asleep {
    /// All, the oldest first, from the one after this on.
    After(Option<TxId>),
    /// Those that are due by then, the first to be due first.
    Due(Timestamp),
}

/// Waits, noted and looked for.
#[async_trait]
pub trait Waits: Send + Sync {
    /// Notes for whom transactions wait that are about to sleep. A fenced incarnation notes nothing.
    async fn note(&self, me: Incarnation, waits: Vec<Wait>) -> Result<(), Error>;

    /// Forgets for whom these transactions wait, but for those that sleep.
    async fn forget(&self, me: Incarnation, tx_ids: Vec<TxId>) -> Result<(), Error>;

    /// Lists the participants that transactions wait for, by name. Some may have gone on meanwhile.
    async fn names(&self) -> Result<Vec<ParticipantName>, Error>;

    /// Counts the waits for a participant, up to [`WAITS_COUNT_MAX`]. Some may have gone on meanwhile.
    async fn count(&self, participant: &ParticipantName) -> Result<usize, Error>;

    /// Lists transactions that sleep and wait for this participant, of fenced incarnations or this one; none that is
    /// set aside.
    async fn of(
        &self,
        me: Incarnation,
        participant: &ParticipantName,
        asleep: Asleep,
        limit: u32,
    ) -> Result<Vec<TxId>, Error>;

    /// Adopts those of these transactions that sleep, and are of fenced incarnations or the claimant's own. They sleep
    /// no longer, and their waits are gone.
    async fn wake(&self, me: Incarnation, tx_ids: Vec<TxId>) -> Result<Claimed, Error>;
}

/// Makes the list of participants from its rows. A name that makes no sense is nobody's.
pub(super) fn named(rows: Vec<(String,)>) -> Vec<ParticipantName> {
    rows.into_iter().filter_map(|(name,)| ParticipantName::full(&name).ok()).collect()
}
