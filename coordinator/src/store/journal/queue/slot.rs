//! A transaction's place in the queue.

use super::super::super::Write;

/// A line of writes that wait, for the lane of that name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store::journal) enum Line {
    /// Writes that have met nothing.
    #[default]
    Fast,
    /// Writes that have met something in a batch: they go in batches that grow.
    Slow,
    /// Writes that have met something alone, or in a small batch: they go one by one.
    Alone,
}

impl Line {
    /// Returns the name of its lane.
    pub(in crate::store::journal) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Slow => "slow",
            Self::Alone => "alone",
        }
    }
}

/// Cause of a refusal that may be a row's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::journal) enum Blame {
    /// The row.
    Row,
    /// It is not known yet.
    Open,
    /// Others are written, and so it is not the server; but an attempt of its own may have fared better, and so it
    /// waits.
    Held,
    /// It is the only one that is refused, and none was written since: it, or the server.
    Alone,
    /// Several are refused, and none is written: it is the server, as far as can be told.
    Nobody,
}

/// A transaction's place in the queue.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Goes as it is, before what waits: it may have been written, or something was found about it.
    pub(super) again: Option<Write>,
    /// Not under way: more can be folded into it.
    pub(super) waiting: Option<Write>,
    /// Some lane is writing an earlier one. It is completed before the next is taken.
    pub(super) under_way: bool,
    pub(super) line: Line,
    /// In the fast line, by itself: the lane that it waited for has no connection.
    pub(super) is_lone: bool,
    /// Attempts that were made alone.
    pub(super) tries_alone: u32,
    /// It took too long alone: no batch can have it.
    pub(super) timed_out_alone: bool,
    /// An attempt to write what is under way, or goes again, had no known end: it may have been written.
    /// It is only ever sent again as it was, until it is written or found written.
    pub(super) sent: bool,
    /// Count of the rows that had been written when the server first refused it, or a batch that it was in,
    /// as more than it takes or as damaged.
    pub(super) refused_at: Option<u64>,
    /// It was refused so without any other.
    pub(super) refused_alone: bool,
    /// It is known to be held up by what only it needs.
    pub(super) is_held: bool,
}

impl Slot {
    /// Tells whether the next write begins a transaction; nothing, if there is none to take.
    pub(super) fn begins(&self) -> Option<bool> {
        if self.under_way {
            return None;
        }
        let next = self.again.as_ref().or(self.waiting.as_ref())?;
        Some(next.transition.begins.is_some())
    }
}
