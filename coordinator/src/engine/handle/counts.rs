//! Counts of what is in memory.

use tokio::sync::oneshot;
use unanimo_core::ParticipantName;

use super::super::Bounds;
use super::super::message::Message;
use super::super::service::survey::Survey;
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

    /// Returns numbers and ages of the transactions in memory; `None` if the engine has ended. It answers
    /// nothing while the lease is not held.
    pub(crate) async fn survey(&self) -> Option<Survey> {
        let (reply, survey) = oneshot::channel();
        self.send(Message::Survey { reply }).ok()?;
        survey.await.ok()
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
