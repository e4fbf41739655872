//! Transactions as they are read, and their change of owner. They are written in
//! [batches](super::batch).

use std::collections::BTreeMap;

use async_trait::async_trait;
use unanimo_core::{
    Decision, Event, Gid, Incarnation, Mode, ParticipantName, Phase, Record, Timestamp, TxId,
    Version,
};
use uuid::Uuid;

use super::{Error, PhaseCount};

/// A transaction's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The coordinator's.
    Tx(TxId),
    /// The client's.
    Gid(Gid),
}

impl Key {
    /// Tells whether it is this transaction's: of two gids the stored keys could be the same.
    pub(super) fn is_of(&self, stored: &Stored) -> bool {
        let identity = &stored.record.identity;
        match self {
            Self::Tx(tx_id) => identity.tx_id == *tx_id,
            Self::Gid(gid) => identity.gid == *gid,
        }
    }
}

/// A transaction as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its content; without branches where they were purged or not asked for.
    pub record: Record,
    /// The incarnation that may write it.
    pub owner: Incarnation,
    /// Its details are purged.
    pub stripped: bool,
}

impl Stored {
    /// Tells whether its branches were read at another moment than its state.
    pub(super) fn is_torn(&self) -> bool {
        !self.stripped && self.record.branches.len() != self.record.state.branches.len()
    }
}

/// A transaction whose rows this version of the program cannot read: they are damaged, or a later
/// version wrote them. Nothing is done with it, and others are not concerned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "transaction {tx_id} (gid {gid:?}) is stored in a form that cannot be read: failed to {problem}"
)]
pub struct Unreadable {
    /// Its name; zero if that cannot be read.
    pub tx_id: TxId,
    /// The client's name for it, as far as it can be read.
    pub gid: String,
    /// The part that cannot be read, in words that fit after "failed to".
    pub problem: String,
}

/// A transaction that was found, if it can be read.
pub type Found = Result<Stored, Unreadable>;

/// Transactions that an incarnation has made its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Those that it can go on with.
    pub records: Vec<Record>,
    /// Those that it cannot read. They are its own as well.
    pub unreadable: Vec<Unreadable>,
}

/// Choice of transactions to adopt.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// Unended ones of fenced incarnations, at most so many. None that sleeps.
    OfFenced(u32),
    /// Those that sleep until this time or shorter, and are of fenced incarnations or the claimant's
    /// own; the soonest first. They sleep no longer.
    Due {
        /// The time.
        until: Timestamp,
        /// At most so many.
        limit: u32,
    },
    /// This one, if it still has this owner and version, even if it sleeps: it does so no longer. The
    /// owner must be the claimant itself or fenced.
    One(TxId, Incarnation, Version),
}

/// Choice of transactions to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one of these phases; none means all.
    pub phases: Vec<PhaseName>,
    /// Only those that need a person, those that are set aside among them.
    pub attention: bool,
    /// Of one of these modes; none means all.
    pub modes: Vec<Mode>,
    /// Only those with all of these entries in their metadata.
    pub metadata: BTreeMap<String, String>,
    /// Only gids that begin so.
    pub gid_prefix: String,
    /// Only those with a branch there.
    pub participant: Option<ParticipantName>,
    /// Only those that this initiator began.
    pub initiator: Option<String>,
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_until: Option<Timestamp>,
    /// Older than this one: the last of the page before.
    pub before: Option<TxId>,
    /// For a reader that may see some alone: where to go on names no other one, and tells of none.
    pub confined: bool,
    /// At most so many.
    pub limit: u32,
}

/// A page of transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Those that were found, newest first, at most as many as were asked for.
    pub found: Vec<Found>,
    /// Where to go on: there may be more, older than this one. Nothing if there are none. A filter that few match
    /// does not look through everything for one page, which may then hold few, or none.
    pub next: Option<TxId>,
}

/// A phase and its decision, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhaseName {
    /// Begun, not started.
    Scheduled,
    /// Not decided.
    Active,
    /// A child that waits for its parent's decision.
    InDoubt,
    /// COMMIT, not ended.
    Committing,
    /// ABORT, not ended.
    Aborting,
    /// COMMIT, ended.
    Committed,
    /// ABORT, ended.
    Aborted,
}

impl PhaseName {
    /// Every word.
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Active,
        Self::InDoubt,
        Self::Committing,
        Self::Aborting,
        Self::Committed,
        Self::Aborted,
    ];

    /// Tells whether it is a transaction's end.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Committed | Self::Aborted)
    }

    /// Returns the word for a phase.
    #[must_use]
    pub fn of(phase: Phase) -> Self {
        match phase {
            Phase::Scheduled => Self::Scheduled,
            Phase::Active => Self::Active,
            Phase::InDoubt { .. } => Self::InDoubt,
            Phase::Decided { decision: Decision::Commit, .. } => Self::Committing,
            Phase::Decided { decision: Decision::Abort(_), .. } => Self::Aborting,
            Phase::Ended { decision: Decision::Commit, .. } => Self::Committed,
            Phase::Ended { decision: Decision::Abort(_), .. } => Self::Aborted,
        }
    }

    /// Returns the word as it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Active => "active",
            Self::InDoubt => "in_doubt",
            Self::Committing => "committing",
            Self::Aborting => "aborting",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
        }
    }
}

/// Numbers of transactions that need a person, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct AttentionCount {
    /// Something holds them up: they take too long, or a branch has an alarm.
    pub stalled: i64,
    /// A pivot has no answer.
    pub unanswered: i64,
    /// A step was refused after COMMIT.
    pub refused: i64,
    /// An output is too large for the step that reads it.
    pub too_large: i64,
    /// Branches ended against the decision, or cannot tell.
    pub heuristic: i64,
    /// They are set aside, because they cannot be read.
    pub unreadable: i64,
    /// Places of damage in the log of which not even the names of their transactions are known.
    #[sqlx(default)]
    pub damaged_ranges: i64,
}

/// Number of transactions that sleep, of one initiator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsleepOf {
    /// Name of the identity that began them; empty without one.
    pub initiator: String,
    /// Number of transactions.
    pub transactions: i64,
    /// Bytes that they hold.
    pub bytes: i64,
}

/// Most rows that one statement counts of what sleeps. A database that is slow reads so many in its time, however many
/// there are in all.
pub const ASLEEP_PAGE_MAX: i64 = 20_000;

/// Counts what sleeps among the next rows. A first part has the number of all of these and the last one.
pub(super) const ASLEEP: &str = "
WITH page AS (SELECT tx_id, initiator, bytes, wake_ms FROM parked WHERE tx_id > $1 ORDER BY tx_id LIMIT $2)
SELECT CAST(0 AS bigint), '', count(*), CAST(0 AS bigint),
  (SELECT tx_id FROM page ORDER BY tx_id DESC LIMIT 1) FROM page
UNION ALL
SELECT CAST(1 AS bigint), initiator, count(*), CAST(sum(coalesce(bytes, 0)) AS bigint), NULL
FROM page WHERE wake_ms IS NOT NULL AND initiator IS NOT NULL GROUP BY initiator";

/// Row of [`ASLEEP`]: part, initiator, number, bytes, last transaction.
pub(super) type AsleepRow = (i64, String, i64, i64, Option<Uuid>);

/// Part of the count of what sleeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsleepPage {
    /// Numbers by initiator, of these rows alone.
    pub counted: Vec<AsleepOf>,
    /// The last row; none if there are no more behind it.
    pub last: Option<TxId>,
}

impl AsleepPage {
    pub(super) fn of_rows(rows: Vec<AsleepRow>) -> Self {
        let mut page = Self::default();
        for (part, initiator, transactions, bytes, last) in rows {
            match part {
                0 if transactions == ASLEEP_PAGE_MAX => page.last = last.map(TxId),
                0 => {}
                _ => page.counted.push(AsleepOf { initiator, transactions, bytes }),
            }
        }
        page
    }
}

/// Transactions, read and adopted.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// Adopts transactions: rewrites each durably with `me` as its owner and the next version, and
    /// only then answers with it. A fenced claimant gets none. What somebody holds a lock on is left
    /// out, and what the claimant itself has set aside unless it is asked for by name.
    async fn claim(&self, me: Incarnation, claim: Claim) -> Result<Claimed, Error>;

    /// Sets transactions aside that cannot be read, for as long as this incarnation lives, or takes them
    /// back. It waits for nobody who holds their rows.
    async fn set_aside(&self, me: Incarnation, tx_ids: &[TxId], aside: bool) -> Result<(), Error>;

    /// Lists transactions that are set aside, whoever has done it, in the order of their identifiers.
    async fn all_set_aside(&self, after: Option<TxId>, limit: u32) -> Result<Vec<TxId>, Error>;

    /// Lists unended transactions of this owner, without those that sleep or are set aside.
    async fn open_of(&self, owner: Incarnation) -> Result<Vec<(TxId, Version)>, Error>;

    /// Reads a transaction.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if its rows make no sense.
    async fn find(&self, key: &Key) -> Result<Option<Stored>, Error>;

    /// Reads a transaction's events, oldest first, without those that cannot be read.
    async fn events(&self, tx_id: TxId) -> Result<Vec<Event>, Error>;

    /// Reads a transaction's recorded history after a version: the JSON of each entry, by version. Empty where
    /// none was recorded, and once its details are purged. Entries beyond the first 4 MiB are empty texts.
    async fn history(&self, tx_id: TxId, after: Version) -> Result<Vec<String>, Error>;

    /// Reads a page of transactions without their branches, newest first, with a bounded amount of work.
    async fn list(&self, filter: &Filter) -> Result<Page, Error>;

    /// Counts transactions by phase; of the ended ones those that ended at this time or later.
    async fn count(&self, ended_from: Timestamp) -> Result<Vec<PhaseCount>, Error>;

    /// Counts the transactions that sleep by who began them, but for those that were left asleep by a version that did not
    /// note it: among the next [`ASLEEP_PAGE_MAX`] rows after this one. The nil id comes before all.
    async fn asleep(&self, after: TxId) -> Result<AsleepPage, Error>;

    /// Counts the transactions that need a person.
    async fn attention(&self) -> Result<AttentionCount, Error>;

    /// Keeps what clients' names are looked for by, so that a begin costs the same beside many names: to be called now
    /// and then. A store on a file has nothing of the kind.
    async fn keep_names(&self, _me: Incarnation) -> Result<(), Error> {
        Ok(())
    }
}
