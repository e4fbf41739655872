//! Branches are enlisted: what is new, and its place in the order.

use std::sync::Arc;

use super::{Change, Step};
use crate::branch::{Branch, Enlistment, Progress};
use crate::decision::Phase;
use crate::definition::rules::namespace;
use crate::definition::rules::step::{self as rules, Around};
use crate::definition::rules::too_many_names;
use crate::definition::{
    BranchRequest, BranchSpec, Drive, Mode, StepInput, StepSpec, Violation, too_large,
};
use crate::effects::EventKind;
use crate::graph::{Cycles, Graph};
use crate::ids::BranchNumber;
use crate::input::Rejection;
use crate::policy::RulesVersion;
use crate::transaction::Identity;

impl Step<'_> {
    pub(super) fn begun(&mut self, specs: Vec<BranchSpec>) {
        // The definition has no violations: there is an order.
        self.tx.graph = Arc::new(Graph::of(specs.iter()).unwrap_or_default());
        for spec in specs {
            self.add(spec, Enlistment::Coordinator);
        }
        self.changed(Change::Awaited);
    }

    /// The transaction's time has come. Nothing is sent before that is durable.
    pub(super) fn start(&mut self) {
        self.tx.phase = Phase::Active;
        self.tx.started_at = Some(self.now);
        self.event(EventKind::Started, None, String::new());
        self.changed(Change::Awaited);
    }

    pub(super) fn enlist(
        &mut self,
        branch: BranchRequest,
        enlistment: Enlistment,
    ) -> Result<(), Rejection> {
        // A tombstone takes no branch.
        let of_transaction = self.tx.identity.mode().ok_or(Rejection::Closed)?;
        let spec = branch.in_mode(of_transaction);
        if let Some(known) = self.tx.branch_by_id(&spec.branch_id) {
            return if known.spec.is_same(&spec) && known.enlistment == enlistment {
                Ok(())
            } else {
                Err(Rejection::BranchReused(spec.branch_id))
            };
        }
        if self.tx.identity.drive() == Some(Drive::Declarative) {
            return Err(Rejection::NotInteractive);
        }
        if self.tx.phase != Phase::Active || self.tx.commit_asked {
            return Err(Rejection::Closed);
        }
        if spec.mode != of_transaction && of_transaction != Mode::Saga {
            return Err(Rejection::OtherMode(of_transaction));
        }
        let strange = namespace::strangers(&self.tx.identity.gid, "branch", &[&spec]);
        if let Some(violation) = strange.into_iter().next() {
            return Err(violation.into());
        }
        let limits = &self.policy.limits;
        if self.tx.branches.len() >= limits.branches_max {
            let rule = format!("would be one more than {} of a transaction", limits.branches_max);
            return Err(Violation::new("branch", rule).into());
        }
        let payload = spec.payload.data.len();
        let total =
            payload + self.tx.branches.iter().map(|b| b.spec.payload.data.len()).sum::<usize>();
        let over = (spec.payload.bad_media_type("branch.payload"))
            .or_else(|| too_large("branch.payload", payload, limits.payload_bytes_max))
            .or_else(|| too_large("payloads of all branches", total, limits.payloads_bytes_max));
        let known = self.tx.branches.iter().map(|branch| &*branch.spec);
        let over =
            over.or_else(|| too_many_names(&self.tx.identity.locks, known.chain([&spec]), limits));
        if let Some(violation) = over {
            return Err(violation.into());
        }
        self.order(&spec, enlistment, of_transaction)?;
        self.add(spec, enlistment);
        self.changed(Change::Awaited);
        Ok(())
    }

    /// Puts a new branch into the order of the others, if it breaks no rule.
    fn order(
        &mut self,
        spec: &BranchSpec,
        enlistment: Enlistment,
        of_transaction: Mode,
    ) -> Result<(), Rejection> {
        let first = |violations: Vec<Violation>| match violations.into_iter().next() {
            Some(violation) => Err(Rejection::from(violation)),
            None => Ok(()),
        };
        if of_transaction != Mode::Saga {
            return first(rules::only_in_sagas("branch", &spec.step));
        }
        if enlistment == Enlistment::Initiator {
            // The coordinator sends it nothing before the decision.
            let depends_on = spec.step.depends_on.clone();
            let compensation = spec.step.compensation;
            let ordered = StepSpec { depends_on, compensation, ..StepSpec::default() };
            if ordered != spec.step {
                let rule = "must only say depends_on and compensation of a branch that its initiator calls";
                return Err(Violation::new("branch", rule).into());
            }
        }
        let known = self.tx.branches.iter().map(|branch| &*branch.spec);
        let branches: Vec<&BranchSpec> = known.chain([spec]).collect();
        let index = branches.len() - 1;
        // A new branch closes no circle: none of the others names it.
        let graph = Graph::of(branches.iter().copied()).unwrap_or_default();
        let Identity { created_at, deadline, .. } = *self.tx.identity;
        let children: Vec<usize> = match self.goes_by(RulesVersion::THIRD) {
            true => (0..branches.len()).filter(|at| branches[*at].is_child()).collect(),
            false => Vec::new(),
        };
        let around = Around {
            branches: &branches,
            graph: &graph,
            cycles: &Cycles::default(),
            children: &children,
            children_may_have_inputs: !self.goes_by(RulesVersion::FOURTH),
            no_pivot: Some("the initiator of an interactive saga decides"),
            timeout: created_at.until(deadline),
            limits: &self.policy.limits,
        };
        first(rules::violations("branch", index, around))?;
        if self.goes_by(RulesVersion::SECOND) {
            first(self.lacking_inputs(spec))?;
            first(self.starts_too_late(spec))?;
        }
        self.tx.graph = Arc::new(graph);
        Ok(())
    }

    fn starts_too_late(&self, spec: &BranchSpec) -> Vec<Violation> {
        let deadline = self.tx.deadline();
        let is_late = spec.step.start_at.is_some_and(|at| at >= deadline);
        let rule = "must be before the deadline of the transaction";
        is_late.then(|| Violation::new("branch.start_at", rule)).into_iter().collect()
    }

    /// Inputs of a new branch that will never be there: it could not be done without them.
    fn lacking_inputs(&self, spec: &BranchSpec) -> Vec<Violation> {
        let lacks = |(at, input): (usize, &StepInput)| {
            let of = self.tx.branch_by_id(&input.branch_id)?;
            let why = match of.enlistment {
                Enlistment::Coordinator if !of.progress.output_dropped => return None,
                Enlistment::Coordinator => "was over a limit, and was dropped",
                Enlistment::Initiator => "is known to its initiator only, which calls it",
            };
            let field = format!("branch.inputs[{at}].branch_id");
            let id = &input.branch_id;
            Some(Violation::new(
                field,
                format!("must name a branch with an output: that of {id} {why}"),
            ))
        };
        spec.step.inputs.iter().enumerate().filter_map(lacks).collect()
    }

    /// The branch becomes durable, and is called only then (promise S6).
    fn add(&mut self, spec: BranchSpec, enlistment: Enlistment) {
        let number = BranchNumber::from_index(self.tx.branches.len());
        let branch = Branch::new(number, Arc::new(spec), enlistment, Progress::default());
        self.tx.branches.push(branch);
    }
}
