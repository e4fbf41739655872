//! The audit's entries, as a chain of which each link has a hash.
//!
//! The store keeps bytes: what an entry means, and what its hash is of, is not its business.

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};

use super::Error;

/// Place in the chain: an entry's number and hash. The first entry follows number 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLink {
    /// Number of the entry; numbers have no gap.
    pub number: u64,
    /// Its hash.
    pub hash: Vec<u8>,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place in the chain.
    pub link: AuditLink,
    /// When it was written.
    pub at: Timestamp,
    /// The rest of its content.
    pub body: Vec<u8>,
}

/// Ends of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEnds {
    /// The last entry that was purged; number 0 if none was.
    pub purged: AuditLink,
    /// The last entry; number 0 if there never was one.
    pub last: AuditLink,
}

/// Part of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditRange {
    /// Entries behind this number, in order.
    After(u64),
    /// Entries before this number, from the latest one on.
    Before(u64),
}

/// The chain of audit entries. They are apart from transactions, and from their retention.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Reads both ends.
    async fn ends(&self) -> Result<AuditEnds, Error>;

    /// Adds entries behind the one that they follow, and forgets those up to `purged`, in one step. `false` if
    /// another one is the last by now, or those up to `purged` are gone already: then nothing was done.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn append(
        &self,
        me: Incarnation,
        follows: AuditLink,
        entries: Vec<AuditRow>,
        purged: Option<AuditLink>,
    ) -> Result<bool, Error>;

    /// Reads at most so many entries of a part.
    async fn page(&self, range: AuditRange, limit: u32) -> Result<Vec<AuditRow>, Error>;
}

/// Bytes of a column, and what follows from them.
pub(super) type Columns = (i64, i64, Vec<u8>, Vec<u8>);

/// Makes an entry of the columns number, time, body and hash.
pub(super) fn row((number, at_ms, body, hash): Columns) -> AuditRow {
    AuditRow { link: link(number, hash), at: super::rows::ms_from_column(at_ms), body }
}

/// Makes a link of its columns.
pub(super) fn link(number: i64, hash: Vec<u8>) -> AuditLink {
    AuditLink { number: u64::try_from(number).unwrap_or(0), hash }
}

/// Returns a number as its column has it.
pub(super) fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
