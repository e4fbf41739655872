//! Room for outputs.
//!
//! Before the pivot a step whose output is too large, and read by another one, aborts its saga. From the pivot
//! on nothing can be undone for that. So each output of the pivot or of a later step that another one reads
//! has a *share* of the room for outputs, which nobody else can take: at least the room divided by the most
//! branches, and as much more as the outputs before the pivot have left. The share does not change once the
//! pivot is sent, and is told to the participant before it does the work.

use crate::branch::Branch;
use crate::decision::Decision;
use crate::policy::Policy;
use crate::transaction::Transaction;

impl Transaction {
    /// Returns the most bytes that the branch's output may have, where more would hold up the saga for ever: of
    /// the pivot or a later step that another one reads.
    #[must_use]
    pub fn output_bytes_max(&self, branch: &Branch, policy: &Policy) -> Option<usize> {
        self.output_share(branch.number.index(), policy)
    }

    /// Returns the branch's share, if it has one.
    pub(crate) fn output_share(&self, index: usize, policy: &Policy) -> Option<usize> {
        let shares = self.shares();
        if !shares.contains(&index) {
            return None;
        }
        let limits = &policy.limits;
        let before: usize = (0..self.branches.len())
            .filter(|at| self.graph.may_be_undone(*at))
            .map(|at| self.output_bytes(at))
            .sum();
        let room = limits.outputs_bytes_max.saturating_sub(before);
        Some((room / shares.len()).min(limits.output_bytes_max))
    }

    /// Returns the bytes that there are for the output of a branch that votes now. What is set aside for others
    /// is not among them.
    pub(crate) fn room_for_output(&self, index: usize, policy: &Policy) -> usize {
        let limits = &policy.limits;
        let held: usize = (0..self.branches.len()).map(|at| self.output_bytes(at)).sum();
        let aside: usize = if self.graph.may_be_undone(index) {
            self.shares().len() * (limits.outputs_bytes_max / limits.branches_max.max(1))
        } else {
            let others = self.shares().into_iter().filter(|at| *at != index);
            let open = others.filter(|at| self.may_bring_output(*at));
            open.filter_map(|at| self.output_share(at, policy)).sum()
        };
        let free = limits.outputs_bytes_max.saturating_sub(held + aside);
        free.max(self.output_share(index, policy).unwrap_or(0)).min(limits.output_bytes_max)
    }

    /// Returns the branches that read the branch's output, and have neither voted nor ended.
    pub(crate) fn open_readers(&self, index: usize) -> impl Iterator<Item = &Branch> {
        let id = &self.branches[index].spec.branch_id;
        self.branches.iter().filter(move |other| {
            let reads = other.spec.step.inputs.iter().any(|input| input.branch_id == *id);
            reads && other.progress.vote.is_none() && other.progress.ended_at.is_none()
        })
    }

    /// Tells whether a branch is committed by an operator's word that brought no output, and another branch waits
    /// for it. Only earlier versions took such a word.
    pub(crate) fn lacks_output(&self, index: usize) -> bool {
        let branch = &self.branches[index];
        let has_none = branch.output.is_none() && !branch.progress.output_by_word;
        self.phase.decision() == Some(Decision::Commit)
            && branch.progress.vote.is_none()
            && branch.is_committed_by_word()
            && has_none
            && self.open_readers(index).next().is_some()
    }

    /// Tells whether an output of the branch may still come.
    fn may_bring_output(&self, index: usize) -> bool {
        let progress = &self.branches[index].progress;
        let is_open = progress.vote.is_none() && progress.ended_at.is_none();
        is_open || self.lacks_output(index)
    }

    fn output_bytes(&self, index: usize) -> usize {
        self.branches[index].output.as_ref().map_or(0, |output| output.data.len())
    }

    /// Returns the pivot, and the branches after it, whose output another branch reads.
    fn shares(&self) -> Vec<usize> {
        if self.graph.pivot().is_none() {
            return Vec::new();
        }
        let is_read = |index: usize| {
            let id = &self.branches[index].spec.branch_id;
            let mut inputs = self.branches.iter().flat_map(|other| &other.spec.step.inputs);
            inputs.any(|input| input.branch_id == *id)
        };
        let from_pivot = (0..self.branches.len()).filter(|at| !self.graph.may_be_undone(*at));
        from_pivot.filter(|at| is_read(*at)).collect()
    }
}
