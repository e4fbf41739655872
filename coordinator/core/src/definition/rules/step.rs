//! The rules for the part of a branch that only sagas have.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::{BranchSpec, Compensation, Lock, Mode, RetryPolicy, StepInput, StepSpec};
use super::Violation;
use crate::graph::{Cycle, Cycles, Graph};
use crate::ids::BranchId;
use crate::policy::Limits;

/// Shortest pause, delay or patience: times are kept in milliseconds.
const DURATION_MIN: Duration = Duration::from_millis(1);

/// The transaction around a branch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around<'a> {
    /// All branches, by index.
    pub(crate) branches: &'a [&'a BranchSpec],
    /// Their order.
    pub(crate) graph: &'a Graph,
    /// Circles in it.
    pub(crate) cycles: &'a Cycles,
    /// Those that are children, by index.
    pub(crate) children: &'a [usize],
    /// Inputs of a child are passed over, as under the rules before the fourth.
    pub(crate) children_may_have_inputs: bool,
    /// Reason for which there can be no pivot; `None` if there can.
    pub(crate) no_pivot: Option<&'static str>,
    /// Time until ABORT.
    pub(crate) timeout: Duration,
    pub(crate) limits: &'a Limits,
}

/// Every rule that the step at `index` breaks; `field` is the path of the branch.
pub(crate) fn violations(field: &str, index: usize, around: Around<'_>) -> Vec<Violation> {
    let branch = around.branches[index];
    let rules = Rules { field, index, branch, around };
    let mut found = rules.dependencies();
    found.extend(rules.inputs());
    found.extend(rules.pivot());
    found.extend(rules.compensation());
    found.extend(rules.attempts());
    found.extend(rules.times());
    found.extend(rules.locks());
    found
}

/// Every field that is for sagas alone, and set in a branch of a transaction that is none.
pub(crate) fn only_in_sagas(field: &str, step: &StepSpec) -> Vec<Violation> {
    let StepSpec {
        depends_on,
        inputs,
        pivot,
        compensation,
        retry,
        attempt_timeout,
        delay,
        start_at,
        locks,
    } = step;
    let set = [
        ("depends_on", !depends_on.is_empty()),
        ("inputs", !inputs.is_empty()),
        ("pivot", *pivot),
        ("compensation", *compensation != Compensation::default()),
        ("retry", retry.is_some()),
        ("attempt_timeout", attempt_timeout.is_some()),
        ("delay", delay.is_some()),
        ("start_at", start_at.is_some()),
        ("locks", !locks.is_empty()),
    ];
    let rule = "must not be set: the transaction is no saga";
    let of = |name: &str| Violation::new(format!("{field}.{name}"), rule);
    set.into_iter().filter(|(_, set)| *set).map(|(name, _)| of(name)).collect()
}

/// Steps that delays keep back until ABORT is decided: their own, those of the steps before them, and those within a child,
/// of which `children` has the sum. A delay that is too long by itself is told elsewhere.
pub(super) fn late_by_delays(around: Around<'_>, children: &[(usize, Duration)]) -> Vec<Violation> {
    let count = around.branches.len();
    let delay_of = |index: usize| around.branches[index].step.delay.unwrap_or_default();
    let sums = sums_of_delays(count, around.graph, delay_of, children);
    let timeout = around.timeout;
    let mut found = Vec::new();
    for index in around.graph.in_order(count) {
        let before = around.graph.before(index).iter().map(|at| sums[*at]).max();
        let (before, delay) = (before.unwrap_or_default(), delay_of(index));
        let (begins, sum) = (before.saturating_add(delay), sums[index]);
        let before_commit =
            !around.graph.is_after_pivot(index) && around.cycles.leave_placed(index);
        if before >= timeout || delay >= timeout || sum < timeout || !before_commit {
            continue;
        }
        let (sum, timeout_secs) = (sum.as_secs(), timeout.as_secs());
        let (name, rule) = match begins >= timeout {
            true => (
                "delay",
                format!(
                    "must be less: with the delays before it that is {sum} s, and the timeout of the transaction is \
                     {timeout_secs} s"
                ),
            ),
            false => (
                "child",
                format!(
                    "must have less delays: with the delays before it they are {sum} s, and the timeout of the \
                     transaction is {timeout_secs} s"
                ),
            ),
        };
        found.push(Violation::new(format!("branches[{index}].{name}"), rule));
    }
    found
}

/// Returns for each branch the time that delays take until it has been sent, and for a child until its last step has.
pub(super) fn sums_of_delays(
    count: usize,
    graph: &Graph,
    delay_of: impl Fn(usize) -> Duration,
    children: &[(usize, Duration)],
) -> Vec<Duration> {
    let mut sums = vec![Duration::ZERO; count];
    for index in graph.in_order(count) {
        let before = graph.before(index).iter().map(|at| sums[*at]).max().unwrap_or_default();
        let within = children.iter().find(|(at, _)| *at == index).map(|(_, delays)| *delays);
        let own = delay_of(index).saturating_add(within.unwrap_or_default());
        sums[index] = before.saturating_add(own);
    }
    sums
}

/// The violation of branches that wait for each other in a circle.
pub(crate) fn cycle(branches: &[&BranchSpec], Cycle(path): &Cycle) -> Violation {
    let name = |index: &usize| branches[*index].branch_id.as_str();
    let first = path.first().copied().unwrap_or_default();
    let names: Vec<&str> = path.iter().chain([&first]).map(name).collect();
    let rule = format!("must not lead back to the branch: {}", names.join(" depends on "));
    Violation::new(format!("branches[{first}].depends_on"), rule)
}

/// Every rule that a list of locks breaks.
pub(crate) fn lock_violations(field: &str, locks: &[Lock], limits: &Limits) -> Vec<Violation> {
    let count = locks.len();
    if count > limits.locks_max {
        let rule = format!("must have at most {} locks, has {count}", limits.locks_max);
        return vec![Violation::new(field, rule)];
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, Lock { name, wait_max, .. }) in locks.iter().enumerate() {
        if !seen.insert(name) {
            let rule = format!("must be unique, {} came before", name.local());
            found.push(Violation::new(format!("{field}[{at}].name"), rule));
        }
        found.extend(too_long(format!("{field}[{at}].wait_max"), *wait_max, limits.timeout_max));
    }
    found
}

/// The violation of a bound on a duration, if it is one.
pub(super) fn too_long(field: String, found: Duration, max: Duration) -> Option<Violation> {
    (found > max).then(|| {
        let rule = format!("must be at most {} s, is {} s", max.as_secs(), found.as_secs());
        Violation::new(field, rule)
    })
}

struct Rules<'a> {
    field: &'a str,
    index: usize,
    branch: &'a BranchSpec,
    around: Around<'a>,
}

impl Rules<'_> {
    fn violation(&self, name: &str, rule: impl Into<String>) -> Violation {
        Violation::new(format!("{}.{name}", self.field), rule)
    }

    fn index_of(&self, id: &BranchId) -> Option<usize> {
        self.around.branches.iter().position(|branch| branch.branch_id == *id)
    }

    fn is_child(&self) -> bool {
        self.around.children.contains(&self.index)
    }

    /// Tells whether it is known on which side of the pivot the branch stands: no circle leaves it open, and there are not
    /// two of them.
    fn is_placed(&self) -> bool {
        let pivots = self.around.branches.iter().filter(|branch| branch.step.pivot).count();
        pivots <= 1 && self.around.cycles.leave_placed(self.index)
    }

    fn dependencies(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for (at, id) in self.branch.step.depends_on.iter().enumerate() {
            let name = format!("depends_on[{at}]");
            if *id == self.branch.branch_id {
                if self.around.cycles.have_loop(self.index) {
                    continue;
                }
                found.push(self.violation(&name, "must not name the branch itself"));
            } else if self.index_of(id).is_none() {
                let rule = format!("must name a branch of the transaction, {id} is none");
                found.push(self.violation(&name, rule));
            } else if !seen.insert(id) {
                found.push(self.violation(&name, format!("must be unique, {id} came before")));
            }
        }
        found
    }

    fn inputs(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let is_refused = self.is_child() && !self.around.children_may_have_inputs;
        if is_refused && !self.branch.step.inputs.is_empty() {
            let rule = "must not be set together with child: the child's steps cannot read them";
            return vec![self.violation("inputs", rule)];
        }
        let (mut seen, mut sources) = (BTreeSet::new(), BTreeSet::new());
        for (at, StepInput { name, branch_id }) in self.branch.step.inputs.iter().enumerate() {
            if !sources.insert(branch_id) {
                // Each is sent with every call.
                let rule = format!("must be unique, the output of {branch_id} came before");
                found.push(self.violation(&format!("inputs[{at}].branch_id"), rule));
            }
            if !seen.insert(name) {
                let rule = format!("must be unique, {name} came before");
                found.push(self.violation(&format!("inputs[{at}].name"), rule));
            }
            let of = format!("inputs[{at}].branch_id");
            let Some(source) = self.index_of(branch_id) else {
                let rule = format!("must name a branch of the transaction, {branch_id} is none");
                found.push(self.violation(&of, rule));
                continue;
            };
            if !self.around.graph.depends(self.index, source) {
                let rule = format!(
                    "must name a branch that {} depends on, directly or not; {branch_id} is none",
                    self.branch.branch_id
                );
                found.push(self.violation(&of, rule));
            } else if self.around.children.contains(&source) {
                let rule = format!(
                    "must name a branch with an output, {branch_id} is a child and has none"
                );
                found.push(self.violation(&of, rule));
            } else if self.around.branches[source].mode == Mode::TwoPhaseCommit {
                let rule = format!(
                    "must name a branch with an output, {branch_id} is in two-phase commit and has none"
                );
                found.push(self.violation(&of, rule));
            }
        }
        found
    }

    fn pivot(&self) -> Vec<Violation> {
        if !self.branch.step.pivot {
            return Vec::new();
        }
        let first = self.around.branches.iter().position(|branch| branch.step.pivot);
        let mode = self.branch.mode;
        let rules = [
            self.around.no_pivot.map(|why| format!("must not be set: {why}")),
            first.filter(|first| *first != self.index).map(|first| {
                let first = &self.around.branches[first].branch_id;
                format!(
                    "must be set in one branch at most, {first} is the pivot; let a step that may only succeed \
                     come after it"
                )
            }),
            match self.is_child() {
                true => Some(
                    "must not be set together with child: a child waits for its parent's decision, which \
                     the pivot is"
                        .to_owned(),
                ),
                false => (mode != Mode::Saga).then(|| {
                    format!(
                        "must not be set in a branch of mode {}: the pivot is a step of mode saga",
                        mode.name()
                    )
                }),
            },
        ];
        rules.into_iter().flatten().map(|rule| self.violation("pivot", rule)).collect()
    }

    fn compensation(&self) -> Option<Violation> {
        let compensation = self.branch.step.compensation;
        if compensation != Compensation::Compensate && self.branch.mode != Mode::Saga {
            let rule = match self.is_child() {
                true => "must not be set together with child: the child's own steps say how each is undone"
                    .to_owned(),
                false => format!(
                    "must not be set: a branch of mode {} is cancelled",
                    self.branch.mode.name()
                ),
            };
            return Some(self.violation("compensation", rule));
        }
        if !self.is_placed() {
            return None;
        }
        let undoable = self.around.graph.may_be_undone(self.index);
        let rule = match compensation {
            Compensation::None if undoable => {
                "must not be none: an ABORT may follow the branch; say kept if its effect is to stay"
            }
            Compensation::Kept if !undoable => {
                "must not be kept: no ABORT follows the pivot; say none"
            }
            _ => return None,
        };
        Some(self.violation("compensation", rule))
    }

    fn attempts(&self) -> Vec<Violation> {
        let Some(retry) = self.branch.step.retry else { return Vec::new() };
        let mut found = Vec::new();
        let RetryPolicy { attempts_max, backoff_min, backoff_max, give_up_after } = retry;
        if self.is_placed() && !self.around.graph.may_be_undone(self.index) {
            let rule = "must not be set in the pivot or after it: it is sent until it is answered";
            let set = [
                ("retry.attempts_max", attempts_max.is_some()),
                ("retry.give_up_after", give_up_after.is_some()),
            ];
            let set = set.into_iter().filter(|(_, is_set)| *is_set);
            found.extend(set.map(|(name, _)| self.violation(name, rule)));
        }
        if attempts_max == Some(0) {
            found.push(self.violation("retry.attempts_max", "must be at least 1"));
        }
        for (name, duration) in [
            ("retry.backoff_min", backoff_min),
            ("retry.backoff_max", backoff_max),
            ("retry.give_up_after", give_up_after),
        ] {
            found.extend(self.in_range(name, duration, self.around.limits.timeout_max));
        }
        if let (Some(min), Some(max)) = (backoff_min, backoff_max)
            && max < min
        {
            found.push(self.violation("retry.backoff_max", "must be at least backoff_min"));
        }
        found
    }

    fn times(&self) -> Vec<Violation> {
        let StepSpec { attempt_timeout, delay, .. } = &self.branch.step;
        let limits = self.around.limits;
        let mut found: Vec<Violation> = self
            .in_range("attempt_timeout", *attempt_timeout, limits.timeout_max)
            .into_iter()
            .collect();
        if let Some(delay) = *delay {
            found.extend(too_long(format!("{}.delay", self.field), delay, limits.start_delay_max));
            let before_commit = !self.around.graph.is_after_pivot(self.index);
            if self.is_placed() && before_commit && delay >= self.around.timeout {
                let rule = format!(
                    "must be less than the timeout of the transaction, {} s",
                    self.around.timeout.as_secs()
                );
                found.push(self.violation("delay", rule));
            }
        }
        found
    }

    fn in_range(&self, name: &str, found: Option<Duration>, max: Duration) -> Option<Violation> {
        let found = found?;
        if found < DURATION_MIN {
            return Some(self.violation(name, "must be at least 1 ms"));
        }
        too_long(format!("{}.{name}", self.field), found, max)
    }

    fn locks(&self) -> Vec<Violation> {
        let locks = &self.branch.step.locks;
        let mut found = Vec::new();
        let after_pivot = self.is_placed() && self.around.graph.is_after_pivot(self.index);
        if !locks.is_empty() && after_pivot {
            let rule = "must not be set after the pivot: nothing could be undone for a lock that is \
                        not had; take it before";
            found.push(self.violation("locks", rule));
        }
        found.extend(lock_violations(&format!("{}.locks", self.field), locks, self.around.limits));
        found
    }
}
