//! Conditions under which a transaction leaves memory, and its return.

use tokio::time::Instant;

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
