//! Counts of what is in memory.

use unanimo_core::ParticipantName;

use super::super::Bounds;
use super::Handle;

impl Handle {
    /// Returns the number of transactions in memory, and the bytes of their payloads.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        let admission = &self.shared.admission;
        (admission.transactions() + admission.aside(), admission.bytes())
    }

    /// Returns the number of transactions in memory that hold no place: they wait for nothing but calls that
    /// fail.
    #[must_use]
    pub fn without_place(&self) -> usize {
        self.shared.admission.aside()
    }

    /// Returns the names of participants that fail or have calls waiting, with the number of these.
    pub(crate) fn troubled(&self) -> Vec<(ParticipantName, bool, usize)> {
        self.shared.directory.troubled()
    }

    /// Counts the places that are free in this share of all: in half of them for 2.
    pub(in crate::engine) fn free_places(&self, share: usize) -> usize {
        let (transactions, bytes) =
            (self.shared.admission.transactions(), self.shared.admission.bytes());
        let Bounds { transactions_max, bytes_max, .. } = self.shared.options.bounds;
        if bytes >= bytes_max / share {
            return 0;
        }
        (transactions_max / share).saturating_sub(transactions)
    }
}
