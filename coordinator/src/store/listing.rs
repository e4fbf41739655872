//! Pages of transactions: put together from identifiers that a store reads, newest first.

use unanimo_core::TxId;
use uuid::Uuid;

use super::rows::Read;
use super::transactions::Found;
use super::{Filter, PhaseName};

/// Identifiers that are read at once.
pub(super) const PAGE_MAX: i64 = 256;

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

/// A page that is being put together.
#[derive(Debug)]
pub(super) struct Page<'a> {
    filter: &'a Filter,
    source: Source,
    /// Older than this one; `None` at the end.
    before: Option<Uuid>,
    found: Vec<Found>,
}

impl<'a> Page<'a> {
    pub(super) fn new(filter: &'a Filter) -> Self {
        let is_open =
            !filter.phases.is_empty() && !filter.phases.iter().any(|phase| phase.is_end());
        let source = match filter.attention {
            true => Source::Attention,
            false if is_open => Source::Open,
            false => Source::All,
        };
        let before = Some(filter.before.map_or(Uuid::max(), |TxId(before)| before));
        Self { filter, source, before, found: Vec::new() }
    }

    /// Returns where to look next, and the identifier before which; `None` once the page is full, or there are no
    /// more.
    pub(super) fn next(&self) -> Option<(Source, Uuid)> {
        let is_full = self.found.len() >= self.filter.limit as usize;
        self.before.filter(|_| !is_full).map(|before| (self.source, before))
    }

    /// Adds the transactions of these identifiers.
    pub(super) fn add(&mut self, ids: &[Uuid], read: Vec<Read>) {
        let is_last = i64::try_from(ids.len()).is_ok_and(|len| len < PAGE_MAX);
        self.before = ids.last().copied().filter(|_| !is_last);
        for read in read {
            if self.found.len() < self.filter.limit as usize && self.is_wanted(&read) {
                let found = read.into_found();
                self.found.push(found.map(|mut stored| {
                    stored.record.branches.clear();
                    stored.record.outputs.clear();
                    stored
                }));
            }
        }
    }

    pub(super) fn finish(self) -> Vec<Found> {
        self.found
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
