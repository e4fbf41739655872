//! One namespace for all names of a transaction.

use super::Violation;
use crate::definition::{BranchSpec, Lock};
use crate::ids::Gid;

const RULE: &str = "must be in the namespace of the transaction";

/// Returns the names that are not in the namespace of this gid. Without such a rule a mistake in front of the core would
/// make a tenant's transaction reach another one's participants.
pub(crate) fn strangers(gid: &Gid, field: &str, branches: &[&BranchSpec]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, branch) in branches.iter().enumerate() {
        let at = if field.is_empty() { format!("branches[{index}]") } else { field.to_owned() };
        // The coordinator itself is a participant of every namespace.
        if !branch.is_child() && !branch.participant.is_beside(gid) {
            found.push(Violation::new(format!("{at}.participant"), RULE));
        }
        found.extend(strange_locks(gid, &format!("{at}.locks"), &branch.step.locks));
    }
    found
}

/// Returns the locks that are not in the namespace of this gid.
pub(crate) fn strange_locks(gid: &Gid, field: &str, locks: &[Lock]) -> Vec<Violation> {
    let strange = locks.iter().enumerate().filter(|(_, lock)| !lock.name.is_beside(gid));
    strange.map(|(at, _)| Violation::new(format!("{field}[{at}].name"), RULE)).collect()
}
