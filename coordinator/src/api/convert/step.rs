//! The part of a transaction that only sagas have, and locks, as answers.

use unanimo_core::{
    Branch, Compensation, Decision, Lock, LockMode, Mode, Obstacle, Phase, StepInput, Transaction,
};
use unanimo_proto::v1;

use crate::engine::children::gid_of_child;

pub(super) fn input(input: &StepInput) -> v1::StepInput {
    v1::StepInput { name: input.name.to_string(), branch_id: input.branch_id.to_string() }
}

/// Returns the way in which ABORT undoes a saga's own step; a branch of another mode has none.
pub(super) fn compensation(branch: &Branch) -> v1::Compensation {
    if branch.spec.mode != Mode::Saga {
        return v1::Compensation::Unspecified;
    }
    match branch.spec.step.compensation {
        Compensation::Compensate => v1::Compensation::Compensate,
        Compensation::None => v1::Compensation::None,
        Compensation::Kept => v1::Compensation::Kept,
    }
}

/// Returns the gid of the child that a branch is; empty if it is none.
pub(super) fn child_gid(tx: &Transaction, branch: &Branch) -> String {
    if !branch.spec.is_child() {
        return String::new();
    }
    gid_of_child(tx.identity(), &branch.spec.branch_id, branch.number).to_string()
}

/// Returns the locks of a transaction and of its branches; none once it has ended.
pub(super) fn held_locks(tx: &Transaction) -> Vec<v1::HeldLock> {
    if matches!(tx.phase(), Phase::Ended { .. }) {
        return Vec::new();
    }
    // Without them it would not have come so far. What is in memory of them does not outlive a crash.
    let all_held = match tx.phase() {
        Phase::InDoubt { .. } => true,
        phase => phase.decision() == Some(Decision::Commit),
    };
    let shown = |locks: &[Lock], granted: bool, obstacle: Option<&Obstacle>, branch_id: &str| {
        let one = |lock: &Lock| {
            let waits_for = obstacle.filter(|obstacle| obstacle.lock == lock.name && !all_held);
            v1::HeldLock {
                name: lock.name.to_string(),
                mode: lock_mode(lock.mode).into(),
                granted: granted || all_held,
                branch_id: branch_id.to_owned(),
                holder_gid: waits_for.map_or_else(String::new, |at| at.holder.to_string()),
                holder_waits: waits_for.is_some_and(|at| at.waits),
            }
        };
        locks.iter().map(one).collect::<Vec<_>>()
    };
    let mut all = shown(&tx.identity().locks, tx.has_its_locks(), tx.obstacle(), "");
    for branch in tx.branches() {
        let id = branch.spec.branch_id.as_str();
        let (granted, obstacle) = (branch.has_its_locks(), branch.obstacle());
        all.extend(shown(&branch.spec.step.locks, granted, obstacle, id));
    }
    all
}

fn lock_mode(mode: LockMode) -> v1::LockMode {
    match mode {
        LockMode::Exclusive => v1::LockMode::Exclusive,
        LockMode::Shared => v1::LockMode::Shared,
    }
}
