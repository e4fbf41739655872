//! Features that a request needs, so that a coordinator which does not know one refuses it.

use unanimo_proto::v1::{BranchSpec, Mode};

/// Returns the features without which a transaction, or a branch of one, would mean something else.
/// `locked` tells that the transaction has locks of its own, `later` that it starts later.
pub(super) fn requires(
    mode: Mode,
    branches: &[BranchSpec],
    locked: bool,
    later: bool,
) -> Vec<String> {
    let needed = [
        ("saga", mode == Mode::Saga || branches.iter().any(is_step)),
        ("locks", locked || branches.iter().any(has_locks)),
        ("start_later", later),
    ];
    needed.into_iter().filter(|(_, is)| *is).map(|(name, _)| name.to_owned()).collect()
}

/// Returns the feature of a request that begins nothing.
pub(super) fn existing() -> String {
    "require_existing".to_owned()
}

/// Tells whether a branch says more than a branch of two-phase commit or TCC may.
fn is_step(branch: &BranchSpec) -> bool {
    let plain = BranchSpec {
        branch_id: branch.branch_id.clone(),
        participant: branch.participant.clone(),
        action: branch.action.clone(),
        payload: branch.payload.clone(),
        mode: branch.mode,
        ..Default::default()
    };
    *branch != plain || branch.mode() == Mode::Saga
}

fn has_locks(branch: &BranchSpec) -> bool {
    let within = |child: &unanimo_proto::v1::ChildTransaction| {
        !child.locks.is_empty() || child.branches.iter().any(has_locks)
    };
    !branch.locks.is_empty() || branch.child.as_ref().is_some_and(within)
}
