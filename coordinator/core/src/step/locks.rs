//! Locks: taken by the store, in the order of age, and waited for here.

use super::{Change, Step};
use crate::branch::{Branch, Locks, clip};
use crate::decision::{AbortCause, Decision, Phase};
use crate::definition::Lock;
use crate::ids::{BranchNumber, LockName};
use crate::input::{LockAnswer, Obstacle};
use crate::policy::RulesVersion;
use crate::time::Timestamp;
use crate::transaction::Transaction;

/// Words of one that gives up at once for an older one.
const YIELDS: &str = "; an older transaction waits for a lock that this one holds";

impl Transaction {
    /// Tells whether it may hold a lock while it waits for another one: it was granted some, or shares those of
    /// its parent and children.
    #[must_use]
    pub fn may_hold_locks(&self) -> bool {
        let own = self.has_its_locks() && !self.identity.locks.is_empty();
        let of_branch = |branch: &Branch| {
            // A branch with a vote had its locks, perhaps in an earlier life, and keeps them until the end.
            let had_them = branch.locks.are_granted() || branch.progress.vote.is_some();
            had_them && !branch.spec.step.locks.is_empty() || branch.spec.is_child()
        };
        own || self.identity.parent.is_some() || self.branches.iter().any(of_branch)
    }

    /// Returns the transaction that stands in the way of its own locks, as far as is known.
    #[must_use]
    pub fn obstacle(&self) -> Option<&Obstacle> {
        self.obstacle.as_ref().filter(|_| !self.has_its_locks())
    }
}

impl Step<'_> {
    pub(super) fn locks_of(&mut self, owner: Option<usize>) -> &mut Locks {
        match owner {
            Some(index) => &mut self.branch(index).locks,
            None => &mut self.tx.locks,
        }
    }

    fn obstacle_of(&mut self, owner: Option<usize>) -> &mut Option<Obstacle> {
        match owner {
            Some(index) => &mut self.branch(index).obstacle,
            None => &mut self.tx.obstacle,
        }
    }

    /// Returns when locks were asked for first, perhaps in an earlier life. The transaction's own are asked for as soon
    /// as it has started.
    pub(super) fn asked_before(&self, owner: Option<usize>) -> Option<Timestamp> {
        if !self.goes_by(RulesVersion::THIRD) {
            return None;
        }
        match owner {
            Some(index) => self.tx.branches[index].progress.locks_asked_at,
            None => Some(self.tx.started_at.unwrap_or(self.tx.identity.created_at)),
        }
    }

    /// Has it stored since when a branch waits for its locks: one write for each that has to wait.
    fn note_wait(&mut self, owner: Option<usize>, since: Timestamp) {
        let Some(index) = owner.filter(|_| self.goes_by(RulesVersion::THIRD)) else { return };
        let asked_at = &mut self.branch(index).progress.locks_asked_at;
        if asked_at.is_none() {
            *asked_at = Some(since);
            self.changed(Change::Noted);
        }
    }

    pub(super) fn locks_answered(
        &mut self,
        owner: Option<usize>,
        attempt: u32,
        answer: LockAnswer,
    ) {
        let Locks::Asked { attempt: current, since } = *self.locks_of(owner) else { return };
        if current != attempt || self.tx.phase != Phase::Active {
            return;
        }
        let number = owner.map(BranchNumber::from_index);
        let (now, tx_id) = (self.now, self.tx.identity.tx_id);
        let at_number = number.unwrap_or_else(|| BranchNumber::from_index(0));
        let pause = self.policy.lock_backoff.pause(tx_id, at_number, attempt);
        let mut retry_at = now.after(pause);
        match answer {
            LockAnswer::Granted => {
                *self.locks_of(owner) = Locks::Granted;
                *self.obstacle_of(owner) = None;
                if let Some(index) = owner {
                    self.branch(index).progress.locks_asked_at = None;
                }
                return self.evaluate();
            }
            LockAnswer::Held { lock, holder, older, waits, blocks_older } => {
                // An older transaction waits for a younger one until its deadline. In a circle of several that wait
                // for each other the youngest waits for an older one, and an older one waits for it. That one does
                // not go first there, so that it waits for a lock that is held: the youngest gives up at once.
                let gives_up_at = since.after(self.wait_max(owner, &lock));
                let obstacle = Obstacle { lock, holder, waits };
                let must_yield = blocks_older && self.goes_by(RulesVersion::FOURTH);
                // Once the pivot was sent only its answer decides. It had its locks then; they are asked for
                // again after a crash.
                if older && (must_yield || now >= gives_up_at) && !self.tx.is_pivot_sent() {
                    let why = if must_yield { YIELDS } else { "" };
                    self.tx.abort_detail = Some(clip(format!("{obstacle}{why}")));
                    return self.decide(Decision::Abort(AbortCause::Locked(number)));
                }
                *self.obstacle_of(owner) = Some(obstacle);
                if older && now < gives_up_at {
                    retry_at = retry_at.min(gives_up_at);
                }
                self.note_wait(owner, since);
            }
            // It may have been granted all the same: nothing is known to stand in the way.
            LockAnswer::Failed(_) => *self.obstacle_of(owner) = None,
        }
        *self.locks_of(owner) = Locks::Waiting { attempt, since, retry_at };
    }

    fn wait_max(&self, owner: Option<usize>, lock: &LockName) -> std::time::Duration {
        let of_owner: &[Lock] = match owner {
            Some(index) => &self.tx.branches[index].spec.step.locks,
            None => &self.tx.identity.locks,
        };
        of_owner.iter().find(|own| own.name == *lock).map_or_else(Default::default, |l| l.wait_max)
    }
}
