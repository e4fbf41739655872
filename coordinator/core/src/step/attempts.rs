//! Attempts of calls that told nothing: when the next one is sent.

use std::time::Duration;

use super::{Change, Step};
use crate::branch::Attempts;
use crate::decision::Operation;
use crate::time::Timestamp;

impl Step<'_> {
    /// The attempt is over and told nothing: when to send the next one.
    pub(super) fn failed(&mut self, index: usize, error: String) {
        self.try_again(index, error, None);
        let branch = &self.tx.branches[index];
        let Attempts { count, working, .. } = branch.progress.prepare_attempts;
        let attempts_max = branch.spec.step.retry.and_then(|retry| retry.attempts_max);
        let failures = count.saturating_sub(working);
        let phase_one = self.tx.owes(index) == Some(Operation::Prepare);
        if phase_one && attempts_max.is_some_and(|max| failures >= max) {
            self.gave_up(index);
        }
    }

    /// The participant is at it: when to ask again.
    pub(super) fn working(&mut self, index: usize, retry_after: Duration) {
        if self.tx.owes(index) == Some(Operation::Prepare) {
            let attempts = &mut self.branch(index).progress.prepare_attempts;
            attempts.working = attempts.working.saturating_add(1);
        }
        let pause = (!retry_after.is_zero()).then_some(retry_after);
        self.try_again(index, "the participant answered WORKING".to_owned(), pause);
    }

    /// The child waits for nothing but time: it is asked again then.
    pub(super) fn asleep(&mut self, index: usize, until: Timestamp) {
        self.working(index, Duration::ZERO);
        let branch = self.branch(index);
        if branch.retry_at.is_some_and(|at| at < until) {
            branch.retry_at = Some(until);
            branch.is_asleep = true;
        }
    }

    fn try_again(&mut self, index: usize, error: String, pause: Option<Duration>) {
        let (tx_id, now, policy) = (self.tx.identity.tx_id, self.now, self.policy);
        let decided = self.tx.phase.decision().is_some();
        let phase_one = self.tx.owes(index) == Some(Operation::Prepare);
        let branch = self.branch(index);
        let (attempts, backoff) = if phase_one {
            branch.progress.unanswered = true;
            // A step after the pivot goes on for ever, as phase two does.
            let usual = if decided { policy.phase_two_backoff } else { policy.prepare_backoff };
            let backoff = usual.for_step(branch.spec.step.retry);
            (&mut branch.progress.prepare_attempts, backoff)
        } else {
            (&mut branch.progress.phase_two_attempts, policy.phase_two_backoff)
        };
        attempts.failed(error);
        let count = attempts.count;
        let pause = match pause {
            Some(asked) => asked.min(policy.retry_after_max),
            None => backoff.pause(tx_id, branch.number, count),
        };
        branch.retry_at = Some(now.after(pause.max(backoff.base)));
        branch.in_flight = None;
        // Each failure is worth a note, and a participant that is down for a day is not worth a
        // write for each: the count is noted whenever it has doubled.
        if count.is_power_of_two() {
            self.changed(Change::Noted);
        }
    }
}
