//! Pages of transactions: put together from identifiers that a store reads, newest first.

use unanimo_core::{Timestamp, TxId};
use uuid::Uuid;

use super::rows::{Read, fitting};
use super::{Filter, Page, PhaseName};

/// Identifiers that are read at once.
pub(super) const CHUNK_MAX: i64 = 256;

/// Bytes of rows that are read at once, unless one transaction has more.
const CHUNK_BYTES_MAX: i64 = 4 << 20;

/// Transactions that are looked at for one page: some tens of milliseconds of work, however few of them match.
const LOOKED_MAX: usize = 4_096;

/// Bytes of rows that are read for one page.
const LOOKED_BYTES_MAX: i64 = 32 << 20;

/// Places in which the transactions of a page are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Among all.
    All,
    /// Among those that need a person.
    Attention,
    /// Among those that are open, and some that are not.
    Open,
}

/// Range of identifiers to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) source: Source,
    /// This one or newer.
    pub(super) from: Uuid,
    /// Older than this one.
    pub(super) before: Uuid,
}

/// A search for the transactions of a page.
#[derive(Debug)]
pub(super) struct Search<'a> {
    filter: &'a Filter,
    source: Source,
    from: Uuid,
    /// Older than this one; `None` at the end.
    before: Option<Uuid>,
    looked_at: usize,
    looked_at_bytes: i64,
    page: Page,
}

impl<'a> Search<'a> {
    pub(super) fn new(filter: &'a Filter) -> Self {
        let is_open =
            !filter.phases.is_empty() && !filter.phases.iter().any(|phase| phase.is_end());
        let source = match filter.attention {
            true => Source::Attention,
            false if is_open => Source::Open,
            false => Source::All,
        };
        let last = filter.before.map_or(Uuid::max(), |TxId(before)| before);
        let until = filter.created_until.map_or(Uuid::max(), first_of);
        let from = filter.created_from.map_or(Uuid::nil(), first_of);
        let before = Some(last.min(until));
        Self {
            filter,
            source,
            from,
            before,
            looked_at: 0,
            looked_at_bytes: 0,
            page: Page::default(),
        }
    }

    /// Returns where to look next; `None` once the page is full, there are no more, or enough were looked at.
    pub(super) fn next(&self) -> Option<Range> {
        let (source, from) = (self.source, self.from);
        let goes_on = !self.is_full()
            && self.looked_at < LOOKED_MAX
            && self.looked_at_bytes < LOOKED_BYTES_MAX;
        self.before.filter(|_| goes_on).map(|before| Range { source, from, before })
    }

    /// Takes the identifiers of the range and the bytes of each one's rows, and returns those to read: the rest is of
    /// the next range.
    pub(super) fn take(&mut self, sized: &[(Uuid, i64)]) -> Vec<Uuid> {
        let ids = fitting(sized, CHUNK_BYTES_MAX);
        let is_last =
            ids.len() == sized.len() && i64::try_from(ids.len()).is_ok_and(|len| len < CHUNK_MAX);
        self.before = ids.last().copied().filter(|_| !is_last);
        self.looked_at += ids.len();
        self.looked_at_bytes += sized[..ids.len()].iter().map(|(_, bytes)| bytes).sum::<i64>();
        ids
    }

    /// Adds the transactions that were read of these.
    pub(super) fn add(&mut self, ids: &[Uuid], mut read: Vec<Read>) {
        if self.source == Source::Attention {
            // Nothing but a gid is stored of it, and a person has to know.
            let is_read = |id: &Uuid| read.iter().any(|read| read.tx_id == *id);
            let missing: Vec<Uuid> = ids.iter().copied().filter(|id| !is_read(id)).collect();
            read.extend(missing.into_iter().map(Read::without_rows));
            read.sort_by_key(|read| std::cmp::Reverse(read.tx_id));
        }
        for read in read {
            if self.is_full() {
                return;
            }
            if self.is_wanted(&read) {
                let found = read.into_found();
                self.page.found.push(found.map(|mut stored| {
                    stored.record.branches.clear();
                    stored.record.outputs.clear();
                    stored
                }));
            }
        }
    }

    pub(super) fn finish(mut self) -> Page {
        let last = self.page.found.last().map(|found| match found {
            Ok(stored) => stored.record.identity.tx_id,
            Err(unreadable) => unreadable.tx_id,
        });
        self.page.next = if self.is_full() { last } else { self.before.map(TxId) };
        self.page
    }

    fn is_full(&self) -> bool {
        self.page.found.len() >= self.filter.limit as usize
    }

    fn is_wanted(&self, read: &Read) -> bool {
        let Filter {
            phases, gid_prefix, participant, initiator, created_from, created_until, ..
        } = self.filter;
        let is_phase = |phase: &PhaseName| phase.as_str() == read.phase();
        let created = read.created_at();
        (phases.is_empty() || phases.iter().any(is_phase))
            && read.gid().starts_with(gid_prefix.as_str())
            && participant.as_ref().is_none_or(|participant| read.has_branch_of(participant))
            && initiator.as_ref().is_none_or(|initiator| initiator == read.initiator())
            && created_from.is_none_or(|from| created >= from)
            && created_until.is_none_or(|until| created < until)
    }
}

/// First identifier that is made at a time, which is that of the transaction's begin.
fn first_of(at: Timestamp) -> Uuid {
    Uuid::from_u128(u128::from(at.0.min((1 << 48) - 1)) << 80)
}
