//! Pages of transactions: put together from identifiers that a store reads, newest first.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use unanimo_core::{Timestamp, TxId};
use uuid::Uuid;

use super::rows::{Begin, Read, fitting};
use super::{Filter, Found, Page, PhaseName};

/// Identifiers that are read at once.
pub(super) const CHUNK_MAX: i64 = 256;

/// Bytes of rows that are read at once, unless one transaction has more.
const CHUNK_BYTES_MAX: i64 = 4 << 20;

/// Transactions that are looked at for one page: some tens of milliseconds of work, however few of them match.
const LOOKED_MAX: usize = 4_096;

/// Time after which a page ends with what it has found by then, if not all match: whoever reads it goes on with the next
/// one. So a database that is slow, or transactions of many rows, make a page shorter, and no reader waits. Where all
/// match a page is as long as was asked for.
const TIME_MAX: Duration = Duration::from_millis(100);

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
    /// Older than this one, at first.
    start: Uuid,
    /// Older than this one; `None` at the end.
    before: Option<Uuid>,
    looked_at: usize,
    looked_at_bytes: i64,
    /// Time at which the page ends, if some that were looked at by then do not match.
    until: Instant,
    page: Page,
}

impl<'a> Search<'a> {
    pub(super) fn new(filter: &'a Filter, now: Instant) -> Self {
        let is_open =
            !filter.phases.is_empty() && !filter.phases.iter().any(|phase| phase.is_end());
        let source = match filter.attention {
            true => Source::Attention,
            false if is_open => Source::Open,
            false => Source::All,
        };
        let last = match filter.before {
            // All of that millisecond are looked at, so that where a page ends says nothing of a single one.
            Some(TxId(before)) if filter.confined => last_of_same_ms(before),
            Some(TxId(before)) => before,
            None => Uuid::max(),
        };
        let until = filter.created_until.map_or(Uuid::max(), first_of);
        let from = filter.created_from.map_or(Uuid::nil(), first_of);
        let start = last.min(until);
        Self {
            filter,
            source,
            from,
            start,
            before: Some(start),
            looked_at: 0,
            looked_at_bytes: 0,
            until: now + TIME_MAX,
            page: Page::default(),
        }
    }

    /// Returns where to look next; `None` once the page is full, there are no more, or enough were looked at.
    pub(super) fn next(&self, now: Instant) -> Option<Range> {
        let (source, from) = (self.source, self.from);
        let is_enough = self.looked_at >= LOOKED_MAX
            || self.looked_at_bytes >= LOOKED_BYTES_MAX
            || (self.looked_at > self.page.found.len() && now >= self.until);
        // The next page of a confined list begins with a whole millisecond, and has to be another one.
        let is_stuck =
            self.filter.confined && self.before.is_some_and(|before| ms(before) == ms(self.start));
        let goes_on = !self.is_full() && (!is_enough || is_stuck);
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

    /// Tells whether the begin of a transaction, or its last phase, may tell that it is not wanted: then its other rows
    /// need not be read. Of those that need a person nothing is left out: they may be damaged.
    pub(super) fn chooses_early(&self) -> bool {
        let Filter { modes, metadata, gid_prefix, participant, initiator, .. } = self.filter;
        let is_any = modes.is_empty()
            && metadata.is_empty()
            && gid_prefix.is_empty()
            && participant.is_none()
            && initiator.is_none();
        self.source == Source::All && (self.asks_for_phases() || !is_any)
    }

    /// Tells whether the phase matters.
    pub(super) fn asks_for_phases(&self) -> bool {
        !self.filter.phases.is_empty()
    }

    /// Returns those of which nothing that was read tells that they are not wanted.
    pub(super) fn choose(&self, ids: Vec<Uuid>, begins: &[Begin]) -> Vec<Uuid> {
        let unwanted = begins.iter().filter(|begin| !self.may_be_wanted(begin));
        let unwanted: HashSet<Uuid> = unwanted.map(|begin| begin.read.tx_id).collect();
        ids.into_iter().filter(|id| !unwanted.contains(id)).collect()
    }

    fn may_be_wanted(&self, Begin { read, phase }: &Begin) -> bool {
        let Filter { phases, participant, .. } = self.filter;
        let may_get_branches = !read.is_declarative();
        !read.is_whole()
            || (phase.is_none_or(|phase| phases.is_empty() || phases.contains(&phase))
                && self.is_begun_as_wanted(read)
                && participant
                    .as_ref()
                    .is_none_or(|participant| may_get_branches || read.has_branch_of(participant)))
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
        self.page.next = match self.before {
            _ if self.is_full() => self.page.found.last().map(tx_id),
            // This identifier may be of a transaction that the reader does not see.
            Some(before) if self.filter.confined => {
                self.page.found.retain(|found| ms(tx_id(found).0) != ms(before));
                Some(TxId(last_of_same_ms(before)))
            }
            before => before.map(TxId),
        };
        self.page
    }

    fn is_full(&self) -> bool {
        self.page.found.len() >= self.filter.limit as usize
    }

    fn is_wanted(&self, read: &Read) -> bool {
        let Filter { phases, participant, before, .. } = self.filter;
        let is_phase = |phase: &PhaseName| phase.as_str() == read.phase();
        (phases.is_empty() || phases.iter().any(is_phase))
            && self.is_begun_as_wanted(read)
            && participant.as_ref().is_none_or(|participant| read.has_branch_of(participant))
            && before.is_none_or(|TxId(before)| read.tx_id < before)
    }

    /// Tells whether that is wanted which is never changed after the begin.
    fn is_begun_as_wanted(&self, read: &Read) -> bool {
        let Filter { modes, metadata, gid_prefix, initiator, created_from, created_until, .. } =
            self.filter;
        let created = read.created_at();
        (modes.is_empty() || modes.iter().any(|mode| mode.name() == read.mode()))
            && read.gid().starts_with(gid_prefix.as_str())
            && (metadata.is_empty() || read.has_metadata(metadata))
            && initiator.as_ref().is_none_or(|initiator| initiator == read.initiator())
            && created_from.is_none_or(|from| created >= from)
            && created_until.is_none_or(|until| created < until)
    }
}

fn tx_id(found: &Found) -> TxId {
    match found {
        Ok(stored) => stored.record.identity.tx_id,
        Err(unreadable) => unreadable.tx_id,
    }
}

/// Bits of an identifier behind those of its time.
const RANDOM_BITS: u32 = 80;

/// Millisecond in which an identifier is made.
fn ms(id: Uuid) -> u128 {
    id.as_u128() >> RANDOM_BITS
}

/// Last identifier of the same millisecond, which is nobody's.
fn last_of_same_ms(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128() | ((1 << RANDOM_BITS) - 1))
}

/// First identifier that is made at a time, which is that of the transaction's begin.
fn first_of(at: Timestamp) -> Uuid {
    Uuid::from_u128(u128::from(at.0.min((1 << 48) - 1)) << RANDOM_BITS)
}
