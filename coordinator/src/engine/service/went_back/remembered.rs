//! Ends of transactions that have left memory.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Gid, Record, Transaction, TxId, Version};

/// Ends that are remembered. A standby that is promoted is behind by less: seconds, at ten thousand in each.
const ENDS_MAX: usize = 65_536;

/// Bytes of all of them. One without branches takes half a kilobyte, and metadata comes in any size.
const BYTES_MAX: usize = 32 << 20;

/// Bytes of the latest ones, which are remembered with their branches: some thousands. Payloads come in any size.
const WHOLE_BYTES_MAX: usize = 16 << 20;

/// Time for which an end may be missing where a standby is promoted. A row that is gone later was deleted, as when its
/// retention was over.
pub(in crate::engine) const MAY_MISS: Duration = Duration::from_secs(10 * 60);

/// Bytes of an end besides its texts and payloads; of its branches each.
const END: usize = 512;
const BRANCH: usize = 768;

/// An end that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    /// As it was written last. The table of all of them grows by its size.
    pub(super) record: Box<Record>,
    /// Its branches are remembered, too.
    pub(super) is_whole: bool,
    /// Promoted servers that were known when it was written.
    pub(super) generation: Option<u64>,
    left_at: Instant,
    bytes: usize,
}

/// The ends. Of the earlier ones no more is remembered than their outcomes.
#[derive(Debug, Default)]
pub(super) struct Ends {
    ends: HashMap<TxId, Remembered>,
    by_gid: HashMap<Gid, TxId>,
    /// In the order in which they left memory.
    order: VecDeque<TxId>,
    /// The latest so many are whole.
    whole: usize,
    bytes: usize,
    whole_bytes: usize,
    /// Time for which the row of one is kept: it is not yet deleted.
    kept_for: Duration,
    /// The last server that was promoted.
    promoted: Option<Promoted>,
}

/// A server that was promoted.
#[derive(Clone, Copy, Debug)]
struct Promoted {
    noticed_at: Instant,
    /// When the last end before it left memory. How far it was behind counts from there: while no server answered,
    /// nothing was written that it could lack.
    last_end_at: Instant,
}

impl Ends {
    /// Makes none, where the rows of ends are kept for so long.
    pub(super) fn kept_for(gid_retention: Duration) -> Self {
        Self { kept_for: gid_retention, ..Self::default() }
    }

    /// Notes that another server was promoted.
    pub(super) fn promoted(&mut self) {
        self.promoted_by(Instant::now());
    }

    fn promoted_by(&mut self, noticed_at: Instant) {
        let last_end = self.order.back().and_then(|tx_id| self.ends.get(tx_id));
        let mut last_end_at = last_end.map_or(noticed_at, |end| end.left_at);
        // A server that was promoted before it may be looked through still: what that one lacks is not forgotten.
        if let Some(former) = self.promoted
            && noticed_at.saturating_duration_since(former.noticed_at) < MAY_MISS
        {
            last_end_at = last_end_at.min(former.last_end_at);
        }
        self.promoted = Some(Promoted { noticed_at, last_end_at });
    }

    /// Tells whether the purge may have deleted it.
    pub(super) fn may_be_purged(&self, end: &Remembered) -> bool {
        end.left_at.elapsed() >= self.kept_for
    }

    /// Tells that the server which was promoted last may lack an end.
    pub(super) fn may_miss(&self, end: &Remembered) -> bool {
        self.promoted.is_some_and(|promoted| {
            let before = |at: Instant| at.saturating_duration_since(end.left_at);
            before(promoted.noticed_at) < self.kept_for && before(promoted.last_end_at) < MAY_MISS
        })
    }

    /// Remembers an end. It stands in the database, as far as `generation` knows that.
    pub(super) fn insert(&mut self, tx: &Transaction, generation: Option<u64>) {
        let (tx_id, record) = (tx.tx_id(), Box::new(tx.record()));
        self.forget(tx_id);
        let bytes = END + BRANCH * record.branches.len() + tx.held_bytes();
        self.by_gid.insert(record.identity.gid.clone(), tx_id);
        let (is_whole, left_at) = (true, Instant::now());
        let end = Remembered { record, is_whole, generation, left_at, bytes };
        self.ends.insert(tx_id, end);
        self.order.push_back(tx_id);
        self.whole += 1;
        self.bytes += bytes;
        self.whole_bytes += bytes;
        while self.whole_bytes > WHOLE_BYTES_MAX && self.whole > 0 {
            self.strip_the_first();
        }
        self.let_go(Instant::now());
        while self.bytes > BYTES_MAX || self.order.len() > ENDS_MAX {
            let Some(&first) = self.order.front() else { return };
            self.forget(first);
        }
    }

    pub(super) fn get(&self, tx_id: TxId) -> Option<&Remembered> {
        self.ends.get(&tx_id)
    }

    /// Names them, from the latest to the earliest.
    pub(super) fn latest_first(&self) -> impl Iterator<Item = TxId> {
        self.order.iter().rev().copied()
    }

    pub(super) fn find(&self, gid: &Gid) -> Option<TxId> {
        self.by_gid.get(gid).copied()
    }

    /// Notes that it is being written again.
    pub(super) fn written_at(&mut self, tx_id: TxId, generation: Option<u64>) {
        if let Some(end) = self.ends.get_mut(&tx_id) {
            end.generation = generation;
        }
    }

    /// Notes the version as which it was written again.
    pub(super) fn rewritten(&mut self, tx_id: TxId, version: Version, generation: Option<u64>) {
        if let Some(end) = self.ends.get_mut(&tx_id) {
            end.record.version = end.record.version.max(version);
            end.generation = generation;
        }
    }

    /// Forgets those that no server lacks which is promoted from now on. A server that was promoted may be looked through
    /// for as long again.
    fn let_go(&mut self, now: Instant) {
        let may_miss = self.kept_for.min(MAY_MISS);
        let is_over = |since: Instant| now.saturating_duration_since(since) >= may_miss;
        let looked_through = self.promoted.is_none_or(|promoted| is_over(promoted.noticed_at));
        while let Some(&first) = self.order.front()
            && let Some(end) = self.ends.get(&first)
            && is_over(end.left_at)
            && (looked_through || !self.may_miss(end))
        {
            self.forget(first);
        }
    }

    /// Lets go of the branches of the earliest that has them.
    fn strip_the_first(&mut self) {
        let index = self.order.len().saturating_sub(self.whole);
        self.whole = self.whole.saturating_sub(1);
        let Some(end) = self.order.get(index).and_then(|tx_id| self.ends.get_mut(tx_id)) else {
            return;
        };
        (self.whole_bytes, self.bytes) = (self.whole_bytes - end.bytes, self.bytes - end.bytes);
        end.is_whole = false;
        end.record.branches = Vec::new();
        end.record.outputs = Vec::new();
        end.record.state.branches = Vec::new();
        end.bytes = END + Transaction::restore((*end.record).clone()).held_bytes();
        self.bytes += end.bytes;
    }

    fn forget(&mut self, tx_id: TxId) {
        let Some(end) = self.ends.remove(&tx_id) else { return };
        self.bytes -= end.bytes;
        if end.is_whole {
            self.whole -= 1;
            self.whole_bytes -= end.bytes;
        }
        let gid = &end.record.identity.gid;
        if self.by_gid.get(gid) == Some(&tx_id) {
            self.by_gid.remove(gid);
        }
        match self.order.front() == Some(&tx_id) {
            true => drop(self.order.pop_front()),
            // It ended once more: one of a few that were written again.
            false => self.order.retain(|other| *other != tx_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use unanimo_core::{Policy, Timestamp};
    use uuid::Uuid;

    use super::*;

    fn tombstone(n: u128, initiator: &str) -> Transaction {
        let (tx_id, gid) = (TxId(Uuid::from_u128(n)), Gid::new(&format!("g-{n}")).expect("a gid"));
        let policy = Policy::default();
        Transaction::tombstone(tx_id, gid, initiator.into(), Timestamp(1), &policy).0
    }

    #[test]
    fn the_earliest_are_forgotten_by_number() {
        let mut ends = Ends::kept_for(MAY_MISS);
        let count = ENDS_MAX as u128 + 10;
        for n in 0..count {
            ends.insert(&tombstone(n, ""), Some(0));
        }
        assert_eq!((ends.ends.len(), ends.by_gid.len()), (ends.order.len(), ends.order.len()));
        assert!(ends.order.len() <= ENDS_MAX && ends.bytes <= BYTES_MAX);
        assert!(ends.find(&Gid::new("g-0").expect("a gid")).is_none());
        let last = ends.get(TxId(Uuid::from_u128(count - 1))).expect("it");
        assert!(last.is_whole);
        let early = ends.order[0];
        assert!(!ends.get(early).expect("it").is_whole, "its branches went before it");
    }

    #[test]
    fn what_no_server_lacks_any_more_is_forgotten() {
        let mut ends = Ends::kept_for(MAY_MISS);
        for n in 0..3 {
            ends.insert(&tombstone(n, ""), Some(0));
        }
        let begun = Instant::now();
        ends.let_go(begun + MAY_MISS - Duration::from_secs(1));
        assert_eq!(ends.order.len(), 3, "a server that is promoted now may lack them");
        ends.promoted();
        ends.let_go(begun + MAY_MISS);
        assert_eq!(ends.order.len(), 3, "a server that was promoted is still looked through");
        ends.let_go(Instant::now() + MAY_MISS);
        assert_eq!((ends.order.len(), ends.ends.len(), ends.bytes, ends.whole_bytes), (0, 0, 0, 0));
        // Without a promotion they are of no use for longer.
        let mut ends = Ends::kept_for(MAY_MISS);
        ends.insert(&tombstone(1, ""), Some(0));
        ends.let_go(Instant::now() + MAY_MISS);
        assert!(ends.order.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let (mut ends, long) = (Ends::kept_for(MAY_MISS), "x".repeat(1 << 20));
        for n in 0..100 {
            ends.insert(&tombstone(n, &long), Some(0));
        }
        assert_eq!((ends.order.len(), ends.whole), (31, 15));
        for n in 69..100 {
            ends.forget(TxId(Uuid::from_u128(n)));
        }
        assert_eq!((ends.bytes, ends.whole_bytes, ends.whole), (0, 0, 0));
    }

    #[test]
    fn an_end_of_long_ago_is_not_taken_for_a_lost_one() {
        let second = Duration::from_secs(1);
        let mut ends = Ends::kept_for(MAY_MISS * 2);
        ends.insert(&tombstone(1, ""), Some(0));
        let end = ends.get(TxId(Uuid::from_u128(1))).expect("it is remembered").clone();
        assert!(!ends.may_miss(&end), "nothing was promoted");
        let mut may_miss = |noticed_after, last_end_after| {
            let (noticed_at, last_end_at) =
                (end.left_at + noticed_after, end.left_at + last_end_after);
            ends.promoted = Some(Promoted { noticed_at, last_end_at });
            ends.may_miss(&end)
        };
        assert!(may_miss(second, Duration::ZERO));
        assert!(may_miss(MAY_MISS, MAY_MISS - second));
        assert!(!may_miss(MAY_MISS, MAY_MISS), "no server is behind by so much");
        let long_without_server = MAY_MISS * 2 - second;
        assert!(may_miss(long_without_server, second), "nothing was written meanwhile");
        assert!(!may_miss(MAY_MISS * 2, second), "its row was deleted");
    }

    /// A database that is away for longer than any standby is behind, and comes back as a standby that was promoted.
    #[test]
    fn ends_outlast_a_database_that_is_away() {
        let mut ends = Ends::kept_for(MAY_MISS * 10);
        for n in 0..2 {
            ends.insert(&tombstone(n, ""), Some(0));
        }
        let noticed_at = Instant::now() + MAY_MISS * 3;
        ends.promoted_by(noticed_at);
        let first = ends.get(TxId(Uuid::from_u128(0))).expect("it is remembered").clone();
        assert!(ends.may_miss(&first), "the server may lack what was written last before it");
        ends.let_go(noticed_at + MAY_MISS / 2);
        assert_eq!(ends.order.len(), 2, "the server is still looked through");
        // Another server is promoted before that is over, and something has ended meanwhile.
        ends.insert(&tombstone(2, ""), Some(1));
        let last = ends.ends.get_mut(&TxId(Uuid::from_u128(2))).expect("it is remembered");
        last.left_at = noticed_at + Duration::from_secs(1);
        ends.promoted_by(noticed_at + Duration::from_secs(2));
        assert!(ends.may_miss(&first), "neither server was seen to have it");
        ends.let_go(noticed_at + 2 * MAY_MISS);
        assert!(ends.order.is_empty());
    }

    #[test]
    fn an_end_that_was_written_again_is_remembered_as_it_stands() {
        let (mut ends, mut tx) = (Ends::kept_for(MAY_MISS), tombstone(1, ""));
        ends.insert(&tx, Some(0));
        tx.next_version();
        ends.rewritten(tx.tx_id(), tx.version(), Some(1));
        let end = ends.get(tx.tx_id()).expect("it is remembered");
        assert_eq!((end.record.version, end.generation), (tx.version(), Some(1)));
    }
}
