//! A transaction in memory, and its stored form.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::branch::{Attempts, Branch, Enlistment, Locks, Progress, Vote};
use crate::decision::{AbortCause, Decision, Heuristic, Operation, Outcome, Phase};
use crate::definition::{BranchSpec, Drive, Lock, Mode, Parent, StepInput, TraceContext};
use crate::digest::Digest;
use crate::effects::State;
use crate::graph::Graph;
use crate::history;
use crate::ids::{BranchId, BranchNumber, Gid, InputName, TxId, Version};
use crate::input::Obstacle;
use crate::payload::Payload;
use crate::policy::RulesVersion;
use crate::time::Timestamp;

/// The way in which a transaction came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An initiator asked for it: Submit or Begin.
    Request {
        /// Its mode.
        mode: Mode,
        /// Who says when to commit.
        drive: Drive,
    },
    /// A rollback of a gid that was never seen: the transaction has no branches, no mode, and was
    /// aborted from the start. It answers whatever comes later under its gid.
    Tombstone,
}

/// The part of a transaction that never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The coordinator's name for it.
    pub tx_id: TxId,
    /// The client's name for it.
    pub gid: Gid,
    /// The way in which it came to be.
    pub origin: Origin,
    /// Digest of the request: another request under the same gid must have the same one.
    pub digest: Digest,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When ABORT is decided if nothing else was, if it starts in time.
    pub deadline: Timestamp,
    /// When it starts, if not at once.
    pub start_at: Option<Timestamp>,
    /// Locks to be had before any branch is sent.
    pub locks: Vec<Lock>,
    /// The branch that it is, if it is a child.
    pub parent: Option<Parent>,
    /// Carried along for participants.
    pub metadata: BTreeMap<String, String>,
    /// Carried along for participants.
    pub trace: TraceContext,
    /// Who began it.
    pub initiator: String,
}

impl Identity {
    /// Its mode; a tombstone has none.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        match self.origin {
            Origin::Request { mode, .. } => Some(mode),
            Origin::Tombstone => None,
        }
    }

    /// Who says when to commit; nobody does in a tombstone.
    #[must_use]
    pub fn drive(&self) -> Option<Drive> {
        match self.origin {
            Origin::Request { drive, .. } => Some(drive),
            Origin::Tombstone => None,
        }
    }
}

/// A transaction as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The part that never changes.
    pub identity: Arc<Identity>,
    /// The version of `state`.
    pub version: Version,
    /// The part that changes.
    pub state: State,
    /// Its branches, by number.
    pub branches: Vec<(Enlistment, Arc<BranchSpec>)>,
    /// Outputs of their Prepares, where they were kept.
    pub outputs: Vec<(BranchNumber, Payload)>,
}

/// A live transaction: the state machine's state.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub(crate) identity: Arc<Identity>,
    pub(crate) version: Version,
    pub(crate) phase: Phase,
    pub(crate) branches: Vec<Branch>,
    /// The order of its branches.
    pub(crate) graph: Arc<Graph>,
    /// The transaction's own locks.
    pub(crate) locks: Locks,
    /// When it started, where it was to start later than at once.
    pub(crate) started_at: Option<Timestamp>,
    /// It does not start before this time. Not stored: what is late after a long stop is spread out.
    pub(crate) not_before: Timestamp,
    /// More about the cause of an ABORT.
    pub(crate) abort_detail: Option<String>,
    /// Nothing was under way when it was last written, and whatever is sent next is written before.
    pub(crate) quiet: bool,
    /// The rules by which it goes, as its last input had them. Not stored.
    pub(crate) rules: RulesVersion,
    /// The transaction that stood in the way of its own locks when they were asked for last. Not stored.
    pub(crate) obstacle: Option<Obstacle>,
    /// Until when it sleeps, as it was last written. Not stored.
    pub(crate) written_wake_at: Option<Timestamp>,
    /// When the last transition was made. Not stored.
    pub(crate) written_at: Timestamp,
    pub(crate) stalled: bool,
    /// Heuristic outcome as stored. Nothing else tells it once the branches are purged.
    pub(crate) known_heuristic: Heuristic,
    pub(crate) forgotten: bool,
    /// The initiator has asked for COMMIT. While some vote is out this is stored with each branch
    /// (`listed`): the transaction goes on without its initiator.
    pub(crate) commit_asked: bool,
    /// Branches from this index on, and no others, are not in any transition yet.
    pub(crate) unwritten_branches: usize,
    /// Outputs that are in no transition yet.
    pub(crate) unwritten_outputs: Vec<BranchNumber>,
    /// Recorded inputs that are in no transition yet.
    pub(crate) unrecorded: Vec<history::Step>,
}

impl Transaction {
    /// A transaction to which nothing has happened.
    pub(crate) fn unwritten(identity: Identity) -> Self {
        Self {
            graph: Arc::default(),
            locks: Locks::of(&identity.locks),
            started_at: None,
            not_before: Timestamp::default(),
            abort_detail: None,
            quiet: false,
            rules: RulesVersion::CURRENT,
            obstacle: None,
            written_at: identity.created_at,
            written_wake_at: None,
            phase: if identity.start_at.is_some() { Phase::Scheduled } else { Phase::Active },
            identity: Arc::new(identity),
            version: Version::default(),
            branches: Vec::new(),
            stalled: false,
            known_heuristic: Heuristic::None,
            forgotten: false,
            commit_asked: false,
            unwritten_branches: 0,
            unwritten_outputs: Vec::new(),
            unrecorded: Vec::new(),
        }
    }

    /// Brings a stored transaction back to memory. Nothing of it may be acted upon before its
    /// adopter has durably written that it owns it; then [`crate::Input::Recovered`] sets it going.
    #[must_use]
    pub fn restore(record: Record) -> Self {
        let Record { identity, version, state, branches, outputs } = record;
        let mut progress = state.branches.into_iter();
        let mut branches: Vec<Branch> = branches
            .into_iter()
            .enumerate()
            .map(|(index, (enlistment, spec))| {
                let progress = progress.next().unwrap_or_default();
                Branch::new(BranchNumber::from_index(index), spec, enlistment, progress)
            })
            .collect();
        for (number, output) in outputs {
            if let Some(branch) = branches.get_mut(number.index()) {
                branch.output = Some(output);
            }
        }
        // Whoever wrote it had checked it: what has no order was never stored.
        let graph = Graph::of(branches.iter().map(|branch| &*branch.spec)).unwrap_or_default();
        Self {
            graph: Arc::new(graph),
            locks: Locks::of(&identity.locks),
            started_at: state.started_at,
            not_before: Timestamp::default(),
            abort_detail: state.abort_detail,
            quiet: state.quiet,
            rules: RulesVersion::CURRENT,
            obstacle: None,
            written_at: Timestamp::default(),
            written_wake_at: state.wake_at,
            identity,
            version,
            phase: state.phase,
            commit_asked: branches.iter().any(|branch| branch.progress.listed),
            unwritten_branches: branches.len(),
            branches,
            stalled: state.stalled,
            known_heuristic: state.heuristic,
            forgotten: state.forgotten,
            unwritten_outputs: Vec::new(),
            unrecorded: Vec::new(),
        }
    }

    /// The stored form of the transaction as it is now.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            identity: Arc::clone(&self.identity),
            version: self.version,
            state: self.state(),
            branches: self.branches.iter().map(|b| (b.enlistment, Arc::clone(&b.spec))).collect(),
            outputs: self
                .branches
                .iter()
                .filter_map(|b| Some((b.number, b.output.clone()?)))
                .collect(),
        }
    }

    /// Returns the part that changes.
    #[must_use]
    pub fn state(&self) -> State {
        let progress: Vec<Progress> = self.branches.iter().map(|b| b.progress.clone()).collect();
        State {
            phase: self.phase,
            heuristic: self.heuristic(),
            stalled: self.stalled,
            forgotten: self.forgotten,
            started_at: self.started_at,
            abort_detail: self.abort_detail.clone(),
            wake_at: self.sleeps_until(),
            quiet: self.quiet,
            branches: progress,
        }
    }

    /// Returns the part that never changes.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The coordinator's name for it.
    #[must_use]
    pub fn tx_id(&self) -> TxId {
        self.identity.tx_id
    }

    /// The version of the last transition.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the outcome that a client may conclude, once the last transition is durable.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.phase.into()
    }

    /// Its branches, by number.
    #[must_use]
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The branch of this number.
    #[must_use]
    pub fn branch(&self, number: BranchNumber) -> Option<&Branch> {
        self.branches.get(number.index())
    }

    /// Notes the database that holds a branch's vote, before the vote comes. It decides nothing, and is stored
    /// with the next transition.
    pub fn note_database(&mut self, number: BranchNumber, database_id: String) {
        let branch = self.branches.get_mut(number.index());
        if let Some(branch) = branch.filter(|branch| branch.progress.vote.is_none()) {
            branch.progress.database_id = database_id;
        }
    }

    /// The branch of this name.
    #[must_use]
    pub fn branch_by_id(&self, id: &BranchId) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.spec.branch_id == *id)
    }

    /// Returns the worst heuristic outcome of any branch.
    #[must_use]
    pub fn heuristic(&self) -> Heuristic {
        let decision = self.phase.decision();
        let of_branches = self.branches.iter().map(|branch| branch.heuristic(decision)).max();
        of_branches.map_or(self.known_heuristic, |worst| worst.max(self.known_heuristic))
    }

    /// Returns the outputs of earlier branches that go with the calls of this one, as far as they are
    /// known.
    #[must_use]
    pub fn inputs_of(&self, branch: &Branch) -> Vec<(InputName, Payload)> {
        let known = |input: &StepInput| {
            let of = self.branch_by_id(&input.branch_id)?;
            // An output without bytes is not kept, and is known all the same. That of a branch that its
            // initiator calls is not told here. An operator's word has one only if it was given: after COMMIT.
            let is_done = of.progress.vote == Some(Vote::Prepared) || of.progress.output_by_word;
            let is_empty =
                is_done && of.enlistment == Enlistment::Coordinator && !of.progress.output_dropped;
            let output = of.output.clone().or_else(|| is_empty.then(Payload::default))?;
            Some((input.name.clone(), output))
        };
        branch.spec.step.inputs.iter().filter_map(known).collect()
    }

    /// Returns the time at which the branch is sent, where it waits for nothing else.
    #[must_use]
    pub fn due_at(&self, branch: &Branch) -> Option<Timestamp> {
        let index = branch.number.index();
        let waits = self.owes(index) == Some(Operation::Prepare) && branch.was_never_called();
        self.ready_at(index).filter(|_| waits)
    }

    /// More about the cause of an ABORT.
    #[must_use]
    pub fn abort_detail(&self) -> Option<&str> {
        self.abort_detail.as_deref()
    }

    /// Explains an ABORT in a sentence, where there is more to say than its cause: also that of a
    /// deadline, by the first branch that had not voted.
    #[must_use]
    pub fn abort_explanation(&self) -> Option<String> {
        if self.abort_detail.is_some() {
            return self.abort_detail.clone();
        }
        if self.phase.decision() != Some(Decision::Abort(AbortCause::Deadline)) {
            return None;
        }
        let silent = self.branches.iter().filter(|branch| branch.progress.vote.is_none());
        let mut silent = silent.filter(|branch| !branch.was_never_called());
        let Some(branch) = silent.next() else {
            let all_voted = !self.branches.is_empty()
                && self.branches.iter().all(|branch| branch.progress.vote.is_some());
            let waited = self.identity.drive() == Some(Drive::Interactive) && !self.commit_asked;
            return (all_voted && waited)
                .then(|| "every branch had voted, and nobody asked for COMMIT".to_owned());
        };
        let id = &branch.spec.branch_id;
        let Attempts { count, last_error, .. } = &branch.progress.prepare_attempts;
        Some(match last_error {
            Some(error) => {
                format!("branch {id} had no vote after {count} attempt(s), last: {error}")
            }
            None => format!("branch {id} had not answered"),
        })
    }

    /// When it started, where it was to start later than at once.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// Tells whether it, or any of its branches, takes locks.
    #[must_use]
    pub fn takes_locks(&self) -> bool {
        let of_branch = |branch: &Branch| !branch.spec.step.locks.is_empty();
        !self.identity.locks.is_empty() || self.branches.iter().any(of_branch)
    }

    /// Tells whether it holds the locks that it takes for itself.
    #[must_use]
    pub fn has_its_locks(&self) -> bool {
        self.locks.are_granted()
    }

    /// Returns the time until which it need not be in memory: nothing happens by itself before.
    #[must_use]
    pub fn sleeps_until(&self) -> Option<Timestamp> {
        self.quiet_until()
    }
}
