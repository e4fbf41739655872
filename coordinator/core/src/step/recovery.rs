//! The first input after a crash.

use std::time::Duration;

use super::Step;
use crate::decision::Phase;
use crate::effects::EventKind;
use crate::ids::{BranchNumber, Incarnation};
use crate::policy::spread;
use crate::time::millis;
use crate::transaction::Transaction;

impl Step<'_> {
    pub(super) fn recovered(&mut self, by: Incarnation) {
        if matches!(self.tx.phase, Phase::Ended { .. }) {
            return;
        }
        self.event(EventKind::Adopted, None, format!("by incarnation {by}"));
        match self.tx.phase {
            Phase::Scheduled => self.spread_a_late_start(),
            Phase::Active => {
                self.mark_unanswered();
                if self.tx.has_deadline() && self.now >= self.tx.deadline() {
                    self.deadline_passed();
                } else {
                    // Votes may have been noted by a transition that came before the decision's.
                    self.evaluate();
                }
            }
            Phase::InDoubt { .. } | Phase::Decided { .. } | Phase::Ended { .. } => {}
        }
    }

    /// After a long stop many are late: each starts at a time of its own.
    fn spread_a_late_start(&mut self) {
        let late = self.tx.starts_at().until(self.now);
        let within = millis(late.min(self.policy.late_starts_spread));
        let first = BranchNumber::from_index(0);
        let pause = spread(self.tx.identity.tx_id, first, 0) % (within + 1);
        self.tx.not_before = self.now.after(Duration::from_millis(pause));
    }

    /// Whatever the earlier incarnation may have sent is unanswered. Steps are sent as soon as those
    /// before them have voted, and no vote is awaited: so the record does not tell which were sent. Only
    /// the pivot's sending is in it, and nothing behind it is sent before COMMIT.
    fn mark_unanswered(&mut self) {
        let Transaction { branches, graph, .. } = &mut *self.tx;
        for (index, branch) in branches.iter_mut().enumerate() {
            let sent = graph.may_be_undone(index) || branch.progress.released;
            branch.progress.unanswered |= sent && branch.progress.vote.is_none();
        }
    }
}
