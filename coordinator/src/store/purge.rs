//! The purge: what has ended long ago goes, first its details, later its gid.

use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use super::Error;
use super::rows::{Encoded, Read};

/// Bytes of the rows that one run strips, unless one transaction has more: a payload or a recorded history may have
/// megabytes. What is deleted was stripped before, and is small.
pub(super) const PURGE_BYTES_MAX: i64 = 8 << 20;

/// Longest pause after which a participant asks about a step of a saga again. The pause is half of what the
/// step has lived, so that of a saga half of its life is long enough. A saga is kept for so long after its end,
/// whatever the retention: a participant that finds it purged has to raise an alarm.
pub(super) const STEPS_ASKED_MS: i64 = 60 * 60 * 1000;

/// Time for which a participant waits besides: the grace and the interval of its sweeper, and as much again
/// for a sweep that takes long.
pub(super) const STEPS_SWEPT_MS: i64 = 3 * 60 * 1000;

/// Time for which ended transactions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Branches, outputs and history.
    pub details: Duration,
    /// Gid, digest and outcome: for so long the same gid means the same transaction.
    pub gids: Duration,
}

impl Retention {
    /// Returns the cutoffs at a time.
    pub(super) fn cutoffs(self, now: Timestamp) -> Cutoffs {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let now_ms = i64::try_from(now.0).unwrap_or(i64::MAX);
        let before = |duration| now_ms.saturating_sub(ms(duration));
        Cutoffs {
            now_ms,
            details_ms: before(self.details),
            gids_ms: before(self.gids),
            stripped_ms: before(self.gids.saturating_sub(self.details).max(self.gids / 2)),
        }
    }
}

/// Times of a run, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cutoffs {
    pub(super) now_ms: i64,
    /// Details of what ended before this go.
    pub(super) details_ms: i64,
    /// Gids of what ended before this go. The watermark.
    pub(super) gids_ms: i64,
    /// Gids go only if their details went at this time or before: half of their retention ago at least, also
    /// where details are kept for as long.
    pub(super) stripped_ms: i64,
}

impl Cutoffs {
    /// Returns the end before which gids may go as far as their details tell, which stay for a time of their own after it:
    /// none of the later ones is looked at.
    pub(super) fn deleted_ms(&self) -> i64 {
        self.stripped_ms.saturating_sub(self.now_ms.saturating_sub(self.details_ms))
    }
}

/// Numbers of what a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Transactions whose details are gone.
    pub stripped: u64,
    /// Transactions that are gone.
    pub deleted: u64,
}

/// Times that a purge needs to know before it may believe any clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeTimes {
    /// Time of day of the database.
    pub database: Timestamp,
    /// Time by which the last purge went; `None` if there was none.
    pub last: Option<Timestamp>,
}

/// Removal of old transactions (promises S4, S10, S11).
#[async_trait]
pub trait Purge: Send + Sync {
    /// Reads the watermark: transactions with an id from before it may have been purged.
    async fn watermark(&self) -> Result<Timestamp, Error>;

    /// Reads the database's clock, and the time of the last purge.
    async fn times(&self) -> Result<PurgeTimes, Error>;

    /// Deletes the details of a bounded number of transactions that ended longer ago than the retention
    /// and need nobody, and returns that number. `now` is a time on which the clocks agree; neither the
    /// database's clock nor any other counts beside it.
    async fn strip(
        &self,
        me: Incarnation,
        retention: Retention,
        now: Timestamp,
    ) -> Result<u64, Error>;

    /// Raises the watermark, and then deletes a bounded number of transactions whose details are gone,
    /// and returns that number.
    ///
    /// A gid goes no sooner after its details than the two retentions differ, and than half of its own: an end
    /// that was stored by a clock that was behind does not shorten that.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn delete(
        &self,
        me: Incarnation,
        retention: Retention,
        now: Timestamp,
    ) -> Result<u64, Error>;

    /// Does both, the second one whatever became of the first.
    ///
    /// # Errors
    /// The first one that there was.
    async fn run(
        &self,
        me: Incarnation,
        retention: Retention,
        now: Timestamp,
    ) -> Result<Purged, Error> {
        let stripped = self.strip(me, retention, now).await;
        let deleted = self.delete(me, retention, now).await;
        Ok(Purged { stripped: stripped?, deleted: deleted? })
    }
}

/// A transaction without its details, in the row that is left of it.
#[derive(Debug)]
pub(super) struct Stripped {
    pub(super) tx_id: Uuid,
    /// The last version that was read.
    pub(super) version: i64,
    pub(super) owner: i64,
    pub(super) row: Encoded,
}

impl Stripped {
    /// Strips what can be read, and returns the names of what cannot.
    pub(super) fn of(found: Vec<Read>) -> (Vec<Self>, Vec<Uuid>) {
        let (whole, broken): (Vec<Read>, Vec<Read>) = found.into_iter().partition(Read::is_whole);
        let strip = |Read { tx_id, mut content, .. }: Read| {
            content.strip();
            let (version, owner) = content.written();
            Self { tx_id, version, owner, row: Encoded::whole(&content) }
        };
        let broken = broken.into_iter().map(|read| read.tx_id).collect();
        (whole.into_iter().map(strip).collect(), broken)
    }
}

/// The parts of a purge, in words that fit after "failed to", each with its statement's name.
pub(super) const STRIPPING: &str = "delete the details of ended transactions (STRIP)";
pub(super) const RAISING: &str = "raise the purge's watermark (RAISE_WATERMARK)";
pub(super) const DELETING: &str = "delete the gids of ended transactions (DELETE)";
