//! Batches of writes: how transactions get into the store.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use unanimo_core::{BranchNumber, Digest, Incarnation, Transition, TxId, Version};
use uuid::Uuid;

use super::Unreadable;

/// One stay of a transaction in memory. Its writes are the transitions that it went through; those of
/// an earlier stay, which lost its row, go with that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(u64);

impl Life {
    /// Returns a life that no transaction had before in this process.
    #[must_use]
    pub fn begin() -> Self {
        static LIVES: AtomicU64 = AtomicU64::new(0);
        Self(LIVES.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// One transition of one transaction on its way into the store.
#[derive(Clone, Debug)]
pub struct Write {
    /// The life that went through it.
    pub life: Life,
    /// Tells this write from every other, also from one with the same version.
    pub write_id: Uuid,
    /// The version that the transaction must have; the write gives it `transition.version`. A
    /// transition that begins a transaction has none: its gid must be new instead.
    pub base: Version,
    /// The owner that the transaction must have, if it is another one than the writer: see [`Earlier`].
    pub former: Option<Incarnation>,
    /// The content.
    pub transition: Transition,
}

impl Write {
    /// Returns the version from which on a row is not of an earlier time. A write from memory is newer than whatever
    /// the database has, also if that was claimed since by this incarnation's own search, which knows no better.
    pub(super) fn known_from(&self) -> Version {
        if self.former.is_some() { self.transition.version } else { self.base }
    }
}

/// Fate of a write in a batch that the database has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is durable.
    Applied,
    /// Somebody else has locked the transaction: it was not touched, try again.
    Busy,
    /// Its gid belongs to another transaction.
    GidHeld(GidHolder),
    /// The transaction is not as this writer left it: somebody else owns it, or wrote it.
    Lost,
    /// The transaction is as it was before this writer wrote it last: the database has lost that.
    WentBack(Earlier),
    /// It cannot be written, for a reason that is its own.
    Refused(String),
}

/// Stored state of a transaction that is older than what its writer was told to be durable. Nobody else writes
/// it, so a failover or a restore of the database has lost the rest. Whoever has that in memory writes it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// The owner, which is the writer or fenced, and the version; nothing if there is no row.
    pub row: Option<(Incarnation, Version)>,
    /// Number of branches that are stored.
    pub branches: usize,
    /// Branches whose outputs are stored.
    pub outputs: Vec<BranchNumber>,
}

/// The transaction that holds a gid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GidHolder {
    /// Its name.
    pub tx_id: TxId,
    /// Digest of the request that was made under the gid.
    pub digest: Digest,
}

/// Returns the reason for which a transaction cannot have a gid whose holder cannot be read.
pub(super) fn unreadable_holder(holder: &Unreadable) -> String {
    format!("its gid belongs to a transaction that cannot be read: {holder}")
}

/// Cause of an error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Failure of a batch as a whole.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Nothing was written: the writer is fenced.
    #[error("incarnation {0} is fenced")]
    Fenced(Incarnation),
    /// Nothing was written, and some row is to blame: it must not hold up the others.
    #[error("write a batch: a row is refused")]
    Refused(#[source] Cause),
    /// Nothing was written, and the server calls it more than it takes. A row may be to blame, or the server
    /// protects itself.
    #[error("write a batch: the server takes no more")]
    TooMuch(#[source] Cause),
    /// Nothing was written, because a page of the database is damaged. It may be one that a row needs, or all do.
    #[error("write a batch: the database is damaged")]
    Damaged(#[source] Cause),
    /// Nothing was written: it took too long. A smaller batch may be fast enough.
    #[error("write a batch: it took too long")]
    TimedOut(#[source] Cause),
    /// Nothing was written: a lock was not had in time.
    #[error("write a batch: a lock was not had in time")]
    LockTimeout(#[source] Cause),
    /// Nothing was written, through no fault of a row: try again.
    #[error("write a batch")]
    Failed(#[source] Cause),
    /// Nothing was written: the server takes no writes. This writer must not be used again.
    #[error("write a batch: the server takes no writes")]
    WrongServer(#[source] Cause),
    /// Nothing was written: the server is the one before a promoted one. This writer must not be used again.
    #[error("write a batch: another server was promoted in this one's place")]
    Former(#[source] Cause),
    /// Nothing was written: the database is in another place than the one that was opened.
    #[error("write a batch")]
    Elsewhere(#[source] Cause),
    /// The batch may be written or not: the acknowledgement was lost. This writer must not be used
    /// again.
    #[error("learn whether a batch was written")]
    Indeterminate(#[source] Cause),
    /// The batch is committed, and the standbys that commits wait for do not have it yet. Written once
    /// more on this writer, the same batch is not sent, but they are asked on.
    #[error("write a batch: the synchronous standbys do not have it yet")]
    Unproven(#[source] Cause),
    /// The batch is committed, and some of it was found to be there before: the write of one's own that proves it durable
    /// waits for a lock. Written once more on this writer, the same batch is not sent, and that write is tried again.
    #[error("write a batch: the fence is locked, so that what was found of it is not proven yet")]
    Unaffirmed(#[source] Cause),
    /// The batch may be written or not, and reading it back would prove nothing: the process must
    /// end and recover.
    #[error("write to the database file; the process must restart and recover")]
    Fatal(#[source] Cause),
}

/// A connection for batches alone, outside any pool.
#[async_trait]
pub trait BatchWriter: Send + fmt::Debug {
    /// Writes all in one database transaction, and tells the fate of each. A write whose id is
    /// found on its transaction counts as applied: an earlier connection made it and did not live
    /// to tell, and it is durable, since this connection began with a write of its own.
    ///
    /// # Errors
    /// See [`BatchError`]; after any but `Indeterminate`, `Unproven`, `Unaffirmed` and `Fatal` nothing of the batch is
    /// written.
    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError>;

    /// Makes a write that concerns no transaction: where that fails, no row is to blame for what else does. One that
    /// knows none takes its database for well.
    ///
    /// # Errors
    /// See [`BatchError`].
    async fn write_own(&mut self) -> Result<(), BatchError> {
        Ok(())
    }

    /// Tells whether the database can read what it needs for a write that it has refused as damaged, however it is made.
    ///
    /// # Errors
    /// See [`BatchError`].
    async fn can_read(&mut self, _write: &Write) -> Result<bool, BatchError> {
        Ok(false)
    }
}
