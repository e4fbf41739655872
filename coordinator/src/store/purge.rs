//! The purge: what has ended long ago goes, first its details, later its gid.

use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};

use super::Error;

/// Transactions that one run takes for each of its two steps. Small: its locks and its log must not
/// hold up the journal.
pub(super) const PURGE_ROWS_MAX: i64 = 500;

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
    /// Both times in milliseconds, details first.
    pub(super) fn as_ms(self) -> (i64, i64) {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        (ms(self.details), ms(self.gids))
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

/// Removal of old transactions (promises S4, S10, S11).
#[async_trait]
pub trait Purge: Send + Sync {
    /// Reads the watermark: transactions with an id from before it may have been purged.
    async fn watermark(&self) -> Result<Timestamp, Error>;

    /// Takes a bounded number of transactions that ended longer ago than the retention and need
    /// nobody.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn run(&self, me: Incarnation, retention: Retention) -> Result<Purged, Error>;
}
