//! The first input after a crash.

use std::time::Duration;

use super::Step;
use crate::decision::{Operation, Phase};
use crate::effects::EventKind;
use crate::ids::{BranchNumber, Incarnation};
use crate::policy::RulesVersion;
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
                self.spread_late_steps();
                if self.tx.has_deadline() && self.now >= self.tx.deadline() {
                    self.deadline_passed();
                } else {
                    // Votes may have been noted by a transition that came before the decision's.
                    self.evaluate();
                }
            }
            Phase::Decided { .. } => self.spread_late_steps(),
            Phase::InDoubt { .. } | Phase::Ended { .. } => {}
        }
    }

    /// After a long stop many are late: each starts at a time of its own.
    fn spread_a_late_start(&mut self) {
        let late = self.tx.starts_at().until(self.now);
        let first = BranchNumber::from_index(0);
        self.tx.not_before = self.policy.late_start(self.tx.identity.tx_id, first, self.now, late);
    }

    /// The same for steps that waited for their time.
    fn spread_late_steps(&mut self) {
        if !self.goes_by(RulesVersion::SECOND) {
            return;
        }
        // None comes too late for it.
        let time_left = match self.tx.has_deadline() {
            true => self.now.until(self.tx.deadline()) / 2,
            false => Duration::MAX,
        };
        for index in 0..self.tx.branches.len() {
            let branch = &self.tx.branches[index];
            let step = &branch.spec.step;
            let waited = step.delay.is_some() || step.start_at.is_some();
            let is_due = self.tx.owes(index) == Some(Operation::Prepare);
            if !waited || !is_due || !branch.was_never_called() {
                continue;
            }
            let Some(at) = self.tx.ready_at(index).filter(|at| *at < self.now) else { continue };
            let late = at.until(self.now).min(time_left);
            let tx_id = self.tx.identity.tx_id;
            let not_before = self.policy.late_start(tx_id, branch.number, self.now, late);
            self.branch(index).retry_at = Some(not_before);
        }
    }

    /// Whatever the earlier incarnation may have sent is unanswered. Steps are sent as soon as those
    /// before them have voted, and no vote is awaited: so the record does not tell which were sent. Only
    /// the pivot's sending is in it, and nothing behind it is sent before COMMIT.
    ///
    /// What slept had sent nothing that has no answer, and writes before it sends again. But the record may be one from
    /// before that: of a database that was restored, or of a standby that had not all. What is due by now may have
    /// been sent since.
    fn mark_unanswered(&mut self) {
        if self.tx.quiet && !self.goes_by(RulesVersion::THIRD) {
            return;
        }
        if self.tx.quiet && self.tx.written_wake_at.is_some_and(|until| self.now < until) {
            return;
        }
        let earliest = self.tx.quiet.then(|| self.tx.earliest_sendings());
        let (now, Transaction { branches, graph, .. }) = (self.now, &mut *self.tx);
        for (index, branch) in branches.iter_mut().enumerate() {
            let sent = graph.may_be_undone(index) || branch.progress.released;
            let due = earliest.as_ref().is_none_or(|earliest| earliest[index] <= now);
            branch.progress.unanswered |= sent && due && branch.progress.vote.is_none();
        }
    }
}
