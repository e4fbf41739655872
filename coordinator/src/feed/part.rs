//! Part of the feed that is shown to those who follow.

use crate::store::{FeedPage, FeedRow};

/// Events that are read at once.
pub(super) const ROWS_MAX: u32 = 32;

/// Bytes of the events of a part, unless one event has more. Each stream may hold a part while its reader is served.
const BYTES_MAX: usize = 256 << 10;

/// Events behind a revision, none of which is not known to be durable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    after: u64,
    /// The last revision that was purged when it was read.
    pub(crate) purged: u64,
    /// The last revision of which it tells: numbers without events are gaps.
    pub(crate) reached: u64,
    pub(crate) events: Vec<FeedRow>,
}

impl Part {
    /// Makes a part of what was read behind a revision. Events up to `told` are durable; others wait.
    pub(super) fn new((after, told): (u64, u64), page: FeedPage) -> Self {
        let FeedPage { events, ends } = page;
        let is_full = events.len() >= ROWS_MAX as usize;
        let is_beyond = events.last().is_some_and(|row| row.revision > told);
        let mut bytes = 0;
        let mut is_whole = !is_full || is_beyond;
        let mut taken: Vec<FeedRow> = Vec::new();
        for row in events.into_iter().filter(|row| row.revision <= told) {
            bytes += row.body.len();
            if bytes > BYTES_MAX && !taken.is_empty() {
                is_whole = false;
                break;
            }
            taken.push(row);
        }
        let last = taken.last().map_or(after, |row| row.revision);
        let reached = if is_whole { told.max(last) } else { last };
        Self { after, purged: ends.purged, reached, events: taken }
    }

    /// Tells whether it has what comes next behind a revision.
    pub(super) fn has_behind(&self, revision: u64) -> bool {
        self.after <= revision && revision < self.reached
    }
}

#[cfg(test)]
mod tests {
    use unanimo_core::TxId;
    use uuid::Uuid;

    use super::*;
    use crate::store::FeedEnds;

    fn page(revisions: impl IntoIterator<Item = u64>, bytes: usize) -> FeedPage {
        let row = |revision| FeedRow { revision, tx_id: TxId(Uuid::nil()), body: vec![0; bytes] };
        let ends = FeedEnds { purged: 2, last: 1_000 };
        FeedPage { events: revisions.into_iter().map(row).collect(), ends }
    }

    fn told(part: &Part) -> (usize, u64) {
        (part.events.len(), part.reached)
    }

    #[test]
    fn s3_a_part_reaches_as_far_as_it_was_read_and_is_durable() {
        let rows = u64::from(ROWS_MAX);
        assert_eq!(told(&Part::new((5, 20), page([6, 9], 1))), (2, 20), "gaps are none");
        assert_eq!(told(&Part::new((5, 8), page([6, 9], 1))), (1, 8), "what is not durable waits");
        assert_eq!(told(&Part::new((5, 900), page(6..6 + rows, 1))), (32, 5 + rows));
        assert_eq!(told(&Part::new((5, 10), page(6..6 + rows, 1))), (5, 10));
        assert_eq!(told(&Part::new((5, 20), page([], 1))), (0, 20));
        let part = Part::new((5, 20), page([6, 9], 1));
        let has = [4, 5, 19, 20].map(|revision| part.has_behind(revision));
        assert_eq!(has, [false, true, true, false]);
    }

    #[test]
    fn l5_a_part_is_bounded_in_bytes_and_has_an_event_at_least() {
        let large = Part::new((0, 20), page([1, 2, 3], BYTES_MAX / 2));
        assert_eq!(told(&large), (2, 2));
        let larger = Part::new((0, 20), page([1, 2, 3], BYTES_MAX + 1));
        assert_eq!(told(&larger), (1, 1));
    }
}
