//! The rules for a definition.

use std::collections::BTreeSet;
use std::time::Duration;

pub(crate) mod namespace;
pub(crate) mod step;

use self::step::Around;
use super::{BranchSpec, Definition, Drive, Lock, Mode, Start};
use crate::graph::Graph;
use crate::ids::{NAME_BYTES_MAX, check_alphabet};
use crate::policy::Limits;
use crate::time::Timestamp;

/// A field of a request, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct Violation {
    /// Path of the field, as the request spells it: `branches[2].payload`.
    pub field: String,
    /// The rule, fitting after the field: `must be at most 10 bytes, has 12`.
    pub rule: String,
}

impl Violation {
    /// A violation of `rule` by `field`.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), rule: rule.into() }
    }
}

impl Definition {
    /// Every rule that the definition breaks, and those that its children break.
    #[must_use]
    pub fn violations(&self, limits: &Limits) -> Vec<Violation> {
        self.violations_at_depth(limits, 0)
    }

    fn violations_at_depth(&self, limits: &Limits, depth: usize) -> Vec<Violation> {
        let mut found = Vec::new();
        let count = self.branches.len();
        if self.drive == Drive::Declarative && count == 0 {
            found.push(Violation::new("branches", "must have at least 1 branch, has none"));
        }
        if count > limits.branches_max {
            let rule = format!("must have at most {} branches, has {count}", limits.branches_max);
            found.push(Violation::new("branches", rule));
            // A list that is too long is not gone through.
            return found;
        }
        let mut seen = BTreeSet::new();
        for (index, branch) in self.branches.iter().enumerate() {
            if !seen.insert(&branch.branch_id) {
                let rule = format!("must be unique, {} came before", branch.branch_id);
                found.push(Violation::new(format!("branches[{index}].branch_id"), rule));
            }
            let field = format!("branches[{index}].payload");
            found.extend(branch.payload.bad_media_type(&field));
            found.extend(too_large(field, branch.payload.data.len(), limits.payload_bytes_max));
            if self.mode == Mode::Saga {
                continue;
            }
            let field = format!("branches[{index}]");
            found.extend(step::only_in_sagas(&field, &branch.step));
            // A child's mode is nobody's word; it is told that it cannot be here.
            let is_child = self.children.iter().any(|(at, _)| *at == index);
            if branch.mode != self.mode && !is_child {
                let rule = format!("must be the mode of the transaction, {}", self.mode.name());
                found.push(Violation::new(format!("branches[{index}].mode"), rule));
            }
        }
        let total = self.branches.iter().map(|b| b.payload.data.len()).sum();
        found.extend(too_large("branches.payload", total, limits.payloads_bytes_max).map(
            |mut v| {
                v.rule.push_str(" over all branches");
                v
            },
        ));
        if self.mode == Mode::Saga {
            found.extend(self.bad_steps(limits));
        }
        found.extend(too_many_names(&self.locks, self.branches.iter(), limits));
        found.extend(self.timeout.and_then(|timeout| bad_timeout(timeout, limits.timeout_max)));
        if let Start::After(delay) = self.start {
            found.extend(step::too_long("start_delay".to_owned(), delay, limits.start_delay_max));
        }
        found.extend(step::lock_violations("locks", &self.locks, limits));
        let branches: Vec<&BranchSpec> = self.branches.iter().collect();
        found.extend(namespace::strangers(&self.gid, "", &branches));
        found.extend(namespace::strange_locks(&self.gid, "locks", &self.locks));
        found.extend(self.bad_metadata(limits));
        let transactions = 1 + self.descendants();
        if depth == 0 && transactions > limits.family_max {
            let rule = format!(
                "must begin at most {} transactions, children included, begin {transactions}",
                limits.family_max
            );
            found.push(Violation::new("branches", rule));
            // A family that is too large is not gone through.
            return found;
        }
        found.extend(self.bad_children(limits, depth));
        found
    }

    /// Number of children, and of theirs.
    fn descendants(&self) -> usize {
        self.children.iter().map(|(_, child)| 1 + child.descendants()).sum()
    }

    fn bad_steps(&self, limits: &Limits) -> Vec<Violation> {
        let branches: Vec<&BranchSpec> = self.branches.iter().collect();
        let (graph, cycles) = Graph::with_cycles(self.branches.iter());
        let no_pivot = match (self.drive, self.parent) {
            (Drive::Interactive, _) => Some("the initiator of an interactive saga decides"),
            (_, Some(_)) => Some("the parent of a child decides"),
            (Drive::Declarative, None) => None,
        };
        let timeout = self.timeout.unwrap_or(limits.timeout_default);
        let children: Vec<usize> = self.children.iter().map(|(index, _)| *index).collect();
        let (branches, graph, cycles) = (&branches[..], &graph, &cycles);
        let children = &children[..];
        let around = Around {
            branches,
            graph,
            cycles,
            children,
            children_may_have_inputs: false,
            no_pivot,
            timeout,
            limits,
        };
        let of_cycle = |cycle| step::cycle(branches, cycle);
        let mut found: Vec<Violation> = cycles.found.iter().map(of_cycle).collect();
        let of = |index| step::violations(&format!("branches[{index}]"), index, around);
        found.extend((0..branches.len()).flat_map(of));
        // A family that is too large is not gone through.
        let children = match self.descendants() < limits.family_max {
            true => self.children.iter().map(|(at, child)| (*at, child.longest_delays())).collect(),
            false => Vec::new(),
        };
        found.extend(step::late_by_delays(around, &children));
        found
    }

    /// Least time that its steps take: the delays of those that wait for each other, and of their children.
    fn longest_delays(&self) -> Duration {
        let children: Vec<(usize, Duration)> =
            self.children.iter().map(|(at, child)| (*at, child.longest_delays())).collect();
        let (graph, _) = Graph::with_cycles(self.branches.iter());
        let delays = |index: usize| self.branches[index].step.delay.unwrap_or_default();
        let sums = step::sums_of_delays(self.branches.len(), &graph, delays, &children);
        sums.into_iter().max().unwrap_or_default()
    }

    /// Every rule that a time of day breaks, if the transaction is begun at `now`.
    #[must_use]
    pub fn violations_at(&self, now: Timestamp, limits: &Limits) -> Vec<Violation> {
        let mut found = self.too_far_ahead(now, limits);
        let starts_at = match self.start {
            Start::AtOnce => now,
            Start::At(at) => at.max(now),
            Start::After(delay) => now.after(delay),
        };
        let deadline = starts_at.after(self.timeout.unwrap_or(limits.timeout_default));
        let (graph, cycles) = Graph::with_cycles(self.branches.iter());
        for (index, branch) in self.branches.iter().enumerate() {
            let is_late = branch.step.start_at.is_some_and(|at| at >= deadline);
            if is_late && !graph.is_after_pivot(index) && cycles.leave_placed(index) {
                let rule =
                    "must be before the deadline of the transaction, which counts from its start";
                found.push(Violation::new(format!("branches[{index}].start_at"), rule));
            }
        }
        found
    }

    fn too_far_ahead(&self, now: Timestamp, limits: &Limits) -> Vec<Violation> {
        let max = limits.start_delay_max;
        let own = match self.start {
            Start::At(at) => Some(("start_at".to_owned(), at)),
            Start::AtOnce | Start::After(_) => None,
        };
        let of_branch = |(index, branch): (usize, &BranchSpec)| {
            Some((format!("branches[{index}].start_at"), branch.step.start_at?))
        };
        let of_branches = self.branches.iter().enumerate().filter_map(of_branch);
        let too_far = own.into_iter().chain(of_branches).filter(|(_, at)| *at > now.after(max));
        let rule = format!("must be at most {} s ahead", max.as_secs());
        let mut found: Vec<Violation> =
            too_far.map(|(field, _)| Violation::new(field, rule.clone())).collect();
        for (index, child) in &self.children {
            let below = child.too_far_ahead(now, limits).into_iter();
            found.extend(below.map(|Violation { field, rule }| Violation {
                field: format!("branches[{index}].child.{field}"),
                rule,
            }));
        }
        found
    }

    fn bad_children(&self, limits: &Limits, depth: usize) -> Vec<Violation> {
        let mut found = Vec::new();
        let (graph, cycles) = match self.children.is_empty() {
            true => Default::default(),
            false => Graph::with_cycles(self.branches.iter()),
        };
        for (index, child) in &self.children {
            let field = format!("branches[{index}].child");
            if self.mode != Mode::Saga {
                let rule = "must not be set: the transaction is no saga";
                found.push(Violation::new(field, rule));
            } else if graph.is_after_pivot(*index) && cycles.leave_placed(*index) {
                let rule =
                    "must not be set after the pivot: a child that aborts could not be made up for";
                found.push(Violation::new(field, rule));
            } else if depth >= limits.children_depth_max {
                let rule = format!("must stand at most {} deep", limits.children_depth_max);
                found.push(Violation::new(field, rule));
            } else {
                let below = child.violations_at_depth(limits, depth + 1).into_iter();
                found.extend(below.map(|Violation { field: inner, rule }| Violation {
                    field: format!("{field}.{inner}"),
                    rule,
                }));
            }
        }
        found
    }

    fn bad_metadata(&self, limits: &Limits) -> Vec<Violation> {
        let size = self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let mut found: Vec<_> =
            too_large("metadata", size, limits.metadata_bytes_max).into_iter().collect();
        for (key, value) in &self.metadata {
            if let Err(rule) = check_alphabet(key, NAME_BYTES_MAX) {
                found.push(Violation::new(format!("metadata key {key:?}"), rule.to_string()));
            }
            if value.contains('\0') {
                found.push(Violation::new(format!("metadata[{key:?}]"), "must hold no NUL byte"));
            }
        }
        found
    }
}

/// The violation of the bound on names of dependencies, inputs and locks, if it is one.
pub(crate) fn too_many_names<'a>(
    own: &[Lock],
    branches: impl Iterator<Item = &'a BranchSpec>,
    limits: &Limits,
) -> Option<Violation> {
    let own: usize = own.iter().map(|lock| lock.name.as_str().len()).sum();
    let names: usize = branches.map(|branch| branch.step.names_bytes(&branch.branch_id)).sum();
    let field = "names of dependencies, inputs and locks of all branches";
    too_large(field, own + names, limits.names_bytes_max)
}

/// The violation of a size bound, if it is one.
#[must_use]
pub fn too_large(field: impl Into<String>, found: usize, max: usize) -> Option<Violation> {
    (found > max)
        .then(|| Violation::new(field, format!("must be at most {max} bytes, has {found}")))
}

fn bad_timeout(timeout: Duration, max: Duration) -> Option<Violation> {
    if timeout < Duration::from_millis(1) {
        return Some(Violation::new("timeout", "must be at least 1 ms"));
    }
    (timeout > max).then(|| {
        let rule = format!("must be at most {} s, is {} s", max.as_secs(), timeout.as_secs());
        Violation::new("timeout", rule)
    })
}
