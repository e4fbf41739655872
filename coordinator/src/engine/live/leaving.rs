//! Conditions under which a transaction leaves memory, and its return.

use std::sync::Arc;

use tokio::time::Instant;
use unanimo_core::Sleeper;

use super::super::quotas::{Counts, OverQuota};
use super::super::service::sleep::UNTIL_DECIDED;
use super::super::waiting::next_kind;
use super::Live;

impl Live {
    /// Tells whether it has ended or sleeps, all of that is durable, and no caller waits.
    pub(in crate::engine) fn may_leave(&self) -> bool {
        let complete = self.durable == self.tx.version() && self.waiters.is_empty();
        complete && (self.has_ended() || self.sleeps())
    }

    /// Tells whether nothing but time is waited for, and all of that is durable: another incarnation may go
    /// on with it as well.
    pub(in crate::engine) fn waits_for_time(&self) -> bool {
        let complete = self.durable == self.tx.version() && self.held.is_empty();
        complete && (self.tx.sleeps_until().is_some() || self.is_in_doubt())
    }

    /// Tells whether nothing but time is waited for, nobody follows it, and its row says so.
    fn sleeps(&self) -> bool {
        let until = match self.rests_in_doubt && self.is_in_doubt() {
            true => Some(UNTIL_DECIDED),
            false => self.parked_until.or_else(|| self.tx.sleeps_until()),
        };
        self.asleep_until.is_some() && self.asleep_until == until && self.is_left_alone()
    }

    /// Lets go of what it counts for its identity, once its row says that it has ended, or that it sleeps.
    pub(super) fn count_as_it_is_stored(&mut self) {
        if self.durable != self.tx.version() {
            return;
        }
        if self.has_ended() {
            *self.permit.held() = None;
        } else if self.asleep_until.is_some()
            && let Some(holding) = self.permit.held().take()
        {
            holding.sleeps();
        }
    }

    /// Counts it for its identity, unless it is counted or has ended: its row will not say that it sleeps.
    pub(in crate::engine) fn counts(&mut self, counts: &Arc<Counts>) {
        if !self.has_ended() && self.permit.held().is_none() {
            let (identity, bytes) = (&self.tx.identity().initiator, self.tx.held_bytes());
            *self.permit.held() = Some(counts.awake(identity, bytes));
        }
    }

    /// Describes it for its row, which says that it sleeps.
    pub(in crate::engine) fn as_sleeper(&self) -> Sleeper {
        Sleeper { initiator: self.tx.identity().initiator.clone(), bytes: self.tx.held_bytes() }
    }

    /// Tells whether its identity may hold so many bytes more.
    pub(in crate::engine) fn may_grow(&mut self, bytes: usize) -> Result<(), OverQuota> {
        self.permit.held().as_ref().map_or(Ok(()), |holding| holding.may_grow(bytes))
    }

    /// Tells whether it is not to be looked at, and nothing of it waits for a write.
    fn is_left_alone(&self) -> bool {
        let followed = self.watchers.as_ref().is_some_and(|w| w.receiver_count() > 0);
        self.stays_until.is_none_or(|until| Instant::now() >= until)
            && self.held.is_empty()
            && !followed
    }

    /// Tells whether nobody waits for it, all of it is durable, and it is not about to sleep.
    pub(in crate::engine) fn may_be_parked(&self) -> bool {
        let complete = self.durable == self.tx.version() && self.waiters.is_empty();
        complete && self.is_left_alone() && self.parked_until.is_none()
    }

    /// It was brought back because it waits for a participant that may have answered again.
    pub(in crate::engine) fn was_woken(&mut self) {
        let now = Instant::now();
        for branch in self.tx.branches().iter().filter(|branch| branch.is_owed()) {
            self.failing.woken(branch.number, next_kind(branch), now);
        }
    }
}
