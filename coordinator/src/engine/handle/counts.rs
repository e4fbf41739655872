//! Counts of what is in memory.

use tokio::sync::oneshot;
use unanimo_core::{Namespace, ParticipantName};

use super::super::Bounds;
use super::super::message::Message;
use super::super::service::parking::kept;
use super::super::service::survey::Survey;
use super::Handle;
use crate::participants::directory::CallKind;

/// Transactions that come back at once for a participant that has many others, and no calls that wait.
const TRICKLE: usize = 8;

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

    /// Returns the names that transactions out of memory wait for, with the number of these.
    pub(crate) fn parked(&self) -> Vec<(ParticipantName, usize)> {
        self.shared.directory.parked()
    }

    /// Returns numbers and ages of the transactions in memory; `None` if the engine has ended. It answers
    /// nothing while the lease is not held. Those of a namespace are of its transactions alone.
    pub(crate) async fn survey(&self, of: Option<Namespace>) -> Option<Survey> {
        let (reply, survey) = oneshot::channel();
        self.send(Message::Survey { of, reply }).ok()?;
        survey.await.ok()
    }

    /// Has transactions leave memory so long after their last write, where a test promotes no standby.
    #[cfg(feature = "failpoints")]
    pub fn park_after(may_miss: std::time::Duration) {
        super::super::service::parking::set_may_miss(may_miss);
    }

    /// Returns how many of the transactions that are out of memory may come back for this participant, one of so many
    /// that transactions wait for, or that fail. While it fails as many are in memory as find out that it is back, fewer
    /// than leave, or they would come and go. Otherwise as many come as have ended, as long as others find places.
    pub(in crate::engine) fn room_for(&self, name: &ParticipantName, participants: usize) -> usize {
        let shared = &self.shared;
        let transactions_max = shared.options.bounds.transactions_max;
        let Some(entry) = shared.directory.find(name) else { return 0 };
        let kept = kept(transactions_max, participants);
        let waiting: usize = CallKind::ALL.into_iter().map(|kind| entry.waiting(kind)).sum();
        // Those whose calls are sent, or fail and are about to wait, count as well.
        let here = entry.load().here();
        if entry.is_failing() {
            let one = usize::from(waiting.max(entry.load().lasting()) == 0);
            return (kept / 2).max(1).saturating_sub(here).max(one);
        }
        // However busy it is, and however few places are free, some come.
        let some = if waiting == 0 { TRICKLE } else { 0 };
        let room = kept.saturating_sub(waiting).min((2 * kept).saturating_sub(here).max(some));
        let free = self.free_places(2).max(some);
        // One at least comes back, whatever else fails: nothing else would bring it (promise L1). Not where many are
        // here: they fail by themselves, and more of them would fill the memory.
        let one = usize::from(here < kept);
        let lasting = (transactions_max / 2).saturating_sub(shared.admission.lasting()).max(one);
        room.min(free).min(lasting)
    }

    /// Tells whether this participant has a registration, or stands in the configuration.
    pub(in crate::engine) fn knows(&self, name: &ParticipantName) -> bool {
        self.shared.directory.find(name).is_some()
    }

    /// Returns how many of those whose time to be tried has come may come back though this participant fails, or is
    /// unknown: a few more than stay, so that others leave instead.
    pub(in crate::engine) fn room_to_try(
        &self,
        name: &ParticipantName,
        participants: usize,
    ) -> usize {
        let directory = &self.shared.directory;
        if directory.find(name).is_some_and(|entry| !entry.is_failing()) {
            return 0;
        }
        let kept = kept(self.shared.options.bounds.transactions_max, participants);
        (kept + (kept / 4).max(1)).saturating_sub(directory.load_of(name).here())
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
