//! Rules of a saga, made of its definition: what the participants' records must be.

use std::collections::{BTreeMap, BTreeSet};

use unanimo_core::Gid;
use unanimo_examples::sagas::Example;
use unanimo_examples::sagas::example::Stage;
use unanimo_proto::v1::{BranchSpec, Compensation, Mode};
use unanimo_saga::{Inputs, SagaFile};

use super::Case;
use super::record::Record;

/// A step as the rules see it. The steps of a child stand for the step that it is.
#[derive(Debug)]
struct Step {
    /// Steps that must be done before it, directly or not.
    after: BTreeSet<String>,
    is_reserved: bool,
    is_kept: bool,
}

/// Rules of an example.
#[derive(Debug)]
pub(super) struct Rules {
    example: &'static Example,
    steps: BTreeMap<String, Step>,
}

impl Rules {
    pub(super) fn of(example: &'static Example) -> Self {
        let file = SagaFile::parse("saga.yaml", example.definition).unwrap();
        let saga = file.with(&Inputs::default()).unwrap();
        let branches = saga.request(&Gid::new("rules").unwrap()).branches;
        let mut steps = BTreeMap::new();
        for branch in &branches {
            let after = before(&branches, branch);
            let after: BTreeSet<_> =
                after.into_iter().flat_map(|id| leaves(&branches, &id)).collect();
            for leaf in branch.child.as_ref().map_or(vec![branch], |c| c.branches.iter().collect())
            {
                let step = Step {
                    after: after.clone(),
                    is_reserved: branch.child.is_some() || branch.mode() == Mode::Tcc,
                    is_kept: branch.compensation() == Compensation::Kept,
                };
                steps.insert(leaf.branch_id.clone(), step);
            }
        }
        Self { example, steps }
    }

    /// Compares the participants' records with the rules.
    pub(super) fn check(&self, case: &Case, record: &Record) -> Result<(), String> {
        self.check_effects(case, record)?;
        self.check_order(record)?;
        for (check, value) in self.example.checks.iter().zip(&record.values) {
            if !check.holds(case.commits, *value) {
                return Err(format!("{} of {}: {value}", check.what, check.participant));
            }
        }
        for (step, mode, state) in &record.barrier {
            let may_stay = mode == "saga" && state == "prepared";
            if state == "running" || (state == "prepared" && !may_stay) {
                return Err(format!("{step} of mode {mode} is left {state}"));
            }
        }
        Ok(())
    }

    /// Every step of a committed saga took effect once; of an aborted one each is undone that was done.
    fn check_effects(&self, case: &Case, record: &Record) -> Result<(), String> {
        for (id, step) in &self.steps {
            let count = |kind| record.times(id, kind).len();
            let found = (count("done"), count("confirmed"), count("undone"));
            let expected = match (case.commits, self.was_done(case, id)) {
                (true, _) => (1, usize::from(step.is_reserved), 0),
                (false, Some(false)) => (0, 0, 0),
                // Perhaps it was done in time, and perhaps not.
                (false, None) if found == (0, 0, 0) => continue,
                (false, Some(true) | None) => (1, 0, usize::from(!step.is_kept)),
            };
            if found != expected {
                return Err(format!(
                    "{id} was done, confirmed, undone {found:?} times, and not {expected:?}"
                ));
            }
        }
        Ok(())
    }

    /// Tells whether a step of a saga that aborts was done; `None` if it may have been.
    fn was_done(&self, case: &Case, id: &str) -> Option<bool> {
        let (fail, hang) = (case.step("--fail"), case.step("--hang"));
        let broken = fail.or(hang)?;
        let before = |a: &str, b: &str| self.steps[b].after.contains(a);
        if id == broken {
            Some(fail.is_none())
        } else if before(id, broken) {
            Some(true)
        } else if before(broken, id) {
            Some(false)
        } else {
            None
        }
    }

    /// A step is done after those that it depends on, and undone before them.
    fn check_order(&self, record: &Record) -> Result<(), String> {
        for (id, step) in &self.steps {
            for earlier in &step.after {
                let all = |step: &str, kind| record.times(step, kind);
                for (first, second, kind) in [(earlier, id, "done"), (id, earlier, "undone")] {
                    let last_of_first = all(first, kind).into_iter().max();
                    let first_of_second = all(second, kind).into_iter().min();
                    if last_of_first.zip(first_of_second).is_some_and(|(a, b)| a >= b) {
                        return Err(format!("{second} was {kind} before {first}"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the branches that come before one, directly or not.
fn before(branches: &[BranchSpec], branch: &BranchSpec) -> BTreeSet<String> {
    let of = |id: &str| branches.iter().find(|branch| branch.branch_id == id).unwrap();
    let mut found = BTreeSet::new();
    let mut next = branch.depends_on.clone();
    if branch.pivot {
        // The definitions have no step beside the pivot.
        let others = branches.iter().filter(|other| !follows(branches, other, &branch.branch_id));
        next.extend(others.map(|other| other.branch_id.clone()));
        next.retain(|id| *id != branch.branch_id);
    }
    while let Some(id) = next.pop() {
        if found.insert(id.clone()) {
            next.extend(of(&id).depends_on.iter().cloned());
        }
    }
    found
}

fn follows(branches: &[BranchSpec], branch: &BranchSpec, pivot: &str) -> bool {
    branch.depends_on.iter().any(|id| {
        id == pivot || branches.iter().any(|b| b.branch_id == *id && follows(branches, b, pivot))
    })
}

/// Returns the steps that a branch stands for: its child's, or itself.
fn leaves(branches: &[BranchSpec], id: &str) -> Vec<String> {
    let branch = branches.iter().find(|branch| branch.branch_id == id).unwrap();
    match &branch.child {
        Some(child) => child.branches.iter().map(|leaf| leaf.branch_id.clone()).collect(),
        None => vec![branch.branch_id.clone()],
    }
}

/// The statement that breaks a step, and the steps after a pivot, belong to steps of the definition.
#[test]
fn every_step_of_a_definition_can_be_broken() {
    use unanimo_examples::sagas::args::Name;
    for name in [Name::Trip, Name::Order, Name::Pipeline] {
        let rules = Rules::of(name.example());
        let named: BTreeSet<_> = rules.example.steps.iter().map(|step| step.id).collect();
        let defined: BTreeSet<_> = rules.steps.keys().map(String::as_str).collect();
        assert_eq!(named, defined);
        let pivots = rules.example.steps.iter().filter(|step| step.stage == Stage::Pivot);
        let pivots: Vec<_> = pivots.map(|step| step.id).collect();
        for step in rules.example.steps {
            let is_after = pivots.iter().any(|pivot| rules.steps[step.id].after.contains(*pivot));
            assert_eq!(matches!(step.stage, Stage::AfterPivot(_)), is_after, "{}", step.id);
        }
    }
}
