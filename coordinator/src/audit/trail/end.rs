//! The end of the chain, as its writer knows it: what it wrote last, and whether the database has said that it is there.

use std::collections::VecDeque;

use crate::audit::Entry;
use crate::store::{AuditLink, AuditRow};

/// Most entries that are remembered once they are written.
const REMEMBERED_MAX: usize = 1_024;

/// Most bytes of these.
const REMEMBERED_BYTES_MAX: usize = 4 << 20;

/// The end of the chain.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Link that the first of `rows` follows; `None` before the first look.
    before: Option<AuditLink>,
    /// Entries that were written last.
    rows: VecDeque<AuditRow>,
    bytes: usize,
    /// Number of those at the end of `rows` of which nobody knows whether they are written.
    open: usize,
    /// Last entry that is purged together with these.
    purged: Option<AuditLink>,
    /// The entry that follows on these if they turn out to be written later.
    otherwise: Option<Entry>,
    /// The database has said that all of it is there.
    is_sure: bool,
}

impl End {
    /// Returns the last link, if the database has said that it is there.
    pub(super) fn sure(&self) -> Option<&AuditLink> {
        self.last().filter(|_| self.is_sure)
    }

    pub(super) fn last(&self) -> Option<&AuditLink> {
        self.rows.back().map(|row| &row.link).or(self.before.as_ref())
    }

    /// Returns the last link that the database has acknowledged.
    pub(super) fn acknowledged(&self) -> Option<&AuditLink> {
        let index = (self.rows.len() - self.open).checked_sub(1);
        index.map(|index| &self.rows[index].link).or(self.before.as_ref())
    }

    /// Returns the number of the first entry of which nobody knows whether it is written.
    pub(super) fn first_open(&self) -> u64 {
        self.acknowledged().map_or(0, |link| link.number) + 1
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &AuditRow> {
        self.rows.iter().skip(self.rows.len() - self.open)
    }

    /// Returns what is remembered behind a link; `None` if that is not remembered.
    pub(super) fn behind(&self, link: &AuditLink) -> Option<Vec<AuditRow>> {
        let from = match self.before.as_ref() == Some(link) {
            true => 0,
            false => self.rows.iter().position(|row| row.link == *link)? + 1,
        };
        Some(self.rows.iter().skip(from).cloned().collect())
    }

    pub(super) fn purged(&self) -> Option<AuditLink> {
        self.purged.clone()
    }

    /// Adds what is about to be written.
    pub(super) fn push(
        &mut self,
        rows: &[AuditRow],
        purged: Option<AuditLink>,
        otherwise: Option<Entry>,
    ) {
        self.bytes += rows.iter().map(|row| row.body.len()).sum::<usize>();
        self.rows.extend(rows.iter().cloned());
        (self.open, self.is_sure) = (self.open + rows.len(), false);
        (self.purged, self.otherwise) = (purged, otherwise);
    }

    /// Notes that the database has all of it.
    pub(super) fn is_there(&mut self) {
        (self.open, self.purged, self.is_sure) = (0, None, true);
        while self.rows.len() > REMEMBERED_MAX || self.bytes > REMEMBERED_BYTES_MAX {
            let Some(row) = self.rows.pop_front() else { break };
            self.bytes -= row.body.len();
            self.before = Some(row.link);
        }
    }

    /// Notes that nobody knows any more whether it has all of it.
    pub(super) fn doubt(&mut self) {
        self.is_sure = false;
    }

    /// Takes the entry that follows on entries that turned out to be written.
    pub(super) fn otherwise(&mut self) -> Option<Entry> {
        self.otherwise.take()
    }

    /// Removes what is not written, and returns it.
    pub(super) fn take_back(&mut self) -> Vec<AuditRow> {
        let rows: Vec<_> = self.rows.drain(self.rows.len() - self.open..).collect();
        self.bytes -= rows.iter().map(|row| row.body.len()).sum::<usize>();
        (self.open, self.purged) = (0, None);
        rows
    }

    /// Forgets all of it, and begins behind a link.
    pub(super) fn begin(&mut self, link: AuditLink) {
        self.rows.clear();
        (self.before, self.bytes, self.open, self.purged) = (Some(link), 0, 0, None);
    }
}
