//! Rules of a saga, made of its definition, and the record that is compared with them.

use std::collections::{BTreeMap, BTreeSet};

use unanimo_proto::v1::{BranchSpec, Compensation, Mode};
use unanimo_tests::scripted::Seen;

/// Step as the rules see it. The steps of a child are steps like others.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) id: String,
    pub(super) is_pivot: bool,
    pub(super) is_after_pivot: bool,
    /// Steps that are done before it.
    before: BTreeSet<String>,
    /// It is told COMMIT.
    is_reserved: bool,
    /// Nothing is sent to undo it.
    is_kept: bool,
}

/// Returns the steps of a saga, in the place of children theirs.
pub(super) fn steps(branches: &[BranchSpec]) -> Vec<Step> {
    let mut found = Vec::new();
    add(branches, &BTreeSet::new(), &mut found);
    let ids: BTreeSet<&String> = found.iter().map(|step| &step.id).collect();
    assert_eq!(ids.len(), found.len(), "ids are unique");
    found
}

/// Adds the steps of these branches, which all come after `outer`.
fn add(branches: &[BranchSpec], outer: &BTreeSet<String>, found: &mut Vec<Step>) {
    let before = before(branches);
    for branch in branches {
        let own = &before[&branch.branch_id];
        let inner = branches.iter().filter(|other| own.contains(&other.branch_id));
        let mut all: BTreeSet<String> = inner.flat_map(leaves).collect();
        all.extend(outer.iter().cloned());
        if let Some(child) = &branch.child {
            add(&child.branches, &all, found);
            continue;
        }
        found.push(Step {
            id: branch.branch_id.clone(),
            is_pivot: branch.pivot,
            is_after_pivot: branches.iter().any(|b| b.pivot && own.contains(&b.branch_id)),
            before: all,
            is_reserved: branch.mode() == Mode::Tcc,
            is_kept: branch.compensation() == Compensation::Kept,
        });
    }
}

/// Returns for each branch the branches that come before it, directly or not.
fn before(branches: &[BranchSpec]) -> BTreeMap<String, BTreeSet<String>> {
    let direct = |b: &BranchSpec| (b.branch_id.clone(), b.depends_on.iter().cloned().collect());
    let mut before: BTreeMap<String, BTreeSet<String>> = branches.iter().map(direct).collect();
    // A path has at most as many edges as there are branches.
    for _ in branches {
        for id in before.clone().keys() {
            let further: Vec<_> =
                before[id].iter().flat_map(|earlier| before[earlier].clone()).collect();
            before.get_mut(id).unwrap().extend(further);
        }
    }
    before
}

fn leaves(branch: &BranchSpec) -> Vec<String> {
    match &branch.child {
        Some(child) => child.branches.iter().flat_map(leaves).collect(),
        None => vec![branch.branch_id.clone()],
    }
}

/// Calls of one run, in the order in which the participants got them.
pub(super) struct Record<'a> {
    what: &'a str,
    calls: Vec<(&'static str, &'a str)>,
}

impl<'a> Record<'a> {
    pub(super) fn new(what: &'a str, seen: &'a [Seen]) -> Self {
        let calls = seen.iter().map(|seen| (seen.operation, &*seen.branch_id)).collect();
        Self { what, calls }
    }

    /// Every step is done, in its order, and nothing is undone.
    #[track_caller]
    pub(super) fn check_commit(&self, steps: &[Step]) {
        self.check_forward(steps);
        for step in steps {
            assert!(self.first("prepare", &step.id).is_some(), "{}", self.says(&step.id));
            assert_eq!(self.first("cancel", &step.id), None, "{}", self.says(&step.id));
            let was_told = self.first("commit", &step.id).is_some();
            assert_eq!(was_told, step.is_reserved, "{}", self.says(&step.id));
        }
    }

    /// All that was done is undone, each step after what was done after it.
    #[track_caller]
    pub(super) fn check_abort(&self, steps: &[Step], broken: &Step, refused: bool) {
        self.check_forward(steps);
        for step in steps {
            let id = &step.id;
            let is_done = self.is_done(step, broken, refused);
            assert_eq!(self.first("commit", id), None, "{}", self.says(id));
            if broken.before.contains(id) {
                assert!(is_done, "{}", self.says(id));
            }
            if step.before.contains(&broken.id) {
                assert_eq!(self.first("prepare", id), None, "{}", self.says(id));
            }
            let undone = self.first("cancel", id);
            if step.is_kept {
                assert_eq!(undone, None, "{}", self.says(id));
                continue;
            }
            if !is_done {
                continue;
            }
            assert!(undone > self.last("prepare", id), "{}", self.says(id));
            let later = |later: &&Step| {
                later.before.contains(id) && !later.is_kept && self.is_done(later, broken, refused)
            };
            for later in steps.iter().filter(later) {
                let order = (self.last("cancel", &later.id), undone);
                assert!(order.0 < order.1, "{} is undone after {}", later.id, self.says(id));
            }
        }
    }

    /// No step is sent before a step that comes before it.
    #[track_caller]
    fn check_forward(&self, steps: &[Step]) {
        for step in steps {
            let Some(sent) = self.first("prepare", &step.id) else { continue };
            for earlier in &step.before {
                let earlier_sent = self.first("prepare", earlier);
                assert!(earlier_sent.is_some_and(|e| e < sent), "{}", self.says(&step.id));
            }
        }
    }

    fn is_done(&self, step: &Step, broken: &Step, refused: bool) -> bool {
        let is_refused = refused && step.id == broken.id;
        !is_refused && self.first("prepare", &step.id).is_some()
    }

    fn says(&self, id: &str) -> String {
        format!("{}: {id} in {:?}", self.what, self.calls)
    }

    fn first(&self, operation: &str, id: &str) -> Option<usize> {
        self.calls.iter().position(|call| *call == (operation, id))
    }

    fn last(&self, operation: &str, id: &str) -> Option<usize> {
        self.calls.iter().rposition(|call| *call == (operation, id))
    }
}
