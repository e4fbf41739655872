//! Steps and their order, as they are drawn.

use unanimo_core::{BranchSpec, Compensation, Definition, Mode};
use unanimo_proto::v1;

use super::order::Order;
use crate::definition::SagaFile;

/// Steps of a saga and their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Name of the saga or of the transaction, and what is to be said of it as a whole.
    pub title: String,
    /// The steps.
    pub steps: Vec<Step>,
    pub(super) order: Order,
}

/// A step as it is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub id: String,
    /// Participant and action.
    pub work: String,
    /// Its kind.
    pub kind: Kind,
    /// Its progress; `None` in a definition.
    pub state: Option<State>,
    /// More to be said.
    pub notes: Vec<String>,
    /// The transaction that it is, where that is known.
    pub child: Option<Graph>,
}

/// Kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A step that is done at once.
    Plain,
    /// A step in TCC or two-phase commit.
    Reserved,
    /// The pivot.
    Pivot,
    /// A transaction.
    Child,
}

/// Progress of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not sent yet.
    Waiting,
    /// Sent, without a vote.
    Preparing,
    /// Voted yes; the saga is not decided.
    Prepared,
    /// Done for good, or to be committed.
    Done,
    /// Voted no.
    Refused,
    /// Its compensation is owed.
    Cancelling,
    /// Compensated.
    Cancelled,
    /// Nothing was ever sent to it, and nothing will be.
    NotSent,
    /// Its effect stays after an ABORT, by its definition.
    Kept,
    /// It ended against the decision, or nobody can tell.
    Heuristic,
    /// A state that this version does not know.
    Unknown,
}

impl State {
    /// Every state, in the order of a legend.
    pub const ALL: [Self; 11] = [
        Self::Waiting,
        Self::Preparing,
        Self::Prepared,
        Self::Done,
        Self::Refused,
        Self::Cancelling,
        Self::Cancelled,
        Self::NotSent,
        Self::Kept,
        Self::Heuristic,
        Self::Unknown,
    ];

    /// Returns the word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Preparing => "preparing",
            Self::Prepared => "prepared",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::NotSent => "not sent",
            Self::Kept => "kept",
            Self::Heuristic => "heuristic",
            Self::Unknown => "unknown",
        }
    }

    /// Returns the sign for it, one column wide.
    pub(super) fn sign(self) -> char {
        match self {
            Self::Waiting | Self::NotSent => '○',
            Self::Preparing => '◐',
            Self::Prepared | Self::Done => '●',
            Self::Refused => '✗',
            Self::Cancelling | Self::Cancelled => '↶',
            Self::Kept => '▲',
            Self::Heuristic | Self::Unknown => '‼',
        }
    }

    /// Returns the colours of its box: background and border. Texts on it are dark.
    pub(super) fn colors(state: Option<Self>) -> (&'static str, &'static str) {
        match state {
            Some(Self::Waiting | Self::NotSent) => ("#f6f8fa", "#8c959f"),
            Some(Self::Preparing) => ("#fff8c5", "#bf8700"),
            None | Some(Self::Prepared) => ("#ddf4ff", "#0969da"),
            Some(Self::Done) => ("#dafbe1", "#1a7f37"),
            Some(Self::Refused) => ("#ffebe9", "#cf222e"),
            Some(Self::Cancelling) => ("#fff1e5", "#bc4c00"),
            Some(Self::Cancelled) => ("#eaeef2", "#57606a"),
            Some(Self::Kept) => ("#fbefff", "#8250df"),
            Some(Self::Heuristic | Self::Unknown) => ("#ffcecb", "#82071e"),
        }
    }

    fn of(branch: &v1::Branch) -> Self {
        use v1::BranchState as B;
        let is_sent = |attempts: &Option<v1::Attempts>| {
            attempts.as_ref().is_some_and(|attempts| attempts.count > 0)
        };
        let was_sent = is_sent(&branch.prepare_attempts) || is_sent(&branch.phase_two_attempts);
        match branch.state() {
            B::Enlisted | B::Waiting => Self::Waiting,
            B::Preparing => Self::Preparing,
            B::Prepared | B::ReadOnly => Self::Prepared,
            B::Committing | B::Committed | B::Done => Self::Done,
            B::Refused => Self::Refused,
            B::Cancelling => Self::Cancelling,
            B::Cancelled if was_sent => Self::Cancelled,
            B::Cancelled => Self::NotSent,
            B::Kept => Self::Kept,
            B::HeuristicCommit | B::HeuristicRollback | B::HeuristicHazard => Self::Heuristic,
            B::Unspecified => Self::Unknown,
        }
    }
}

impl Step {
    /// Returns the sign of the step, one column wide.
    pub(super) fn sign(&self) -> char {
        match (self.state, self.kind) {
            (Some(state), _) => state.sign(),
            (None, Kind::Plain) => '○',
            (None, Kind::Reserved) => '◇',
            (None, Kind::Pivot) => '◆',
            (None, Kind::Child) => '▣',
        }
    }
}

impl Graph {
    /// Makes the graph of a definition.
    #[must_use]
    pub fn of_definition(file: &SagaFile) -> Self {
        Self::of(file.name().to_owned(), file.definition())
    }

    fn of(title: String, definition: &Definition) -> Self {
        let branches = &definition.branches;
        let child = |index| definition.children.iter().find(|(at, _)| *at == index);
        let step = |(index, branch): (usize, &BranchSpec)| {
            step(branch, child(index).map(|(_, child)| child))
        };
        let ids: Vec<&str> = branches.iter().map(|branch| branch.branch_id.as_str()).collect();
        let after = branches.iter().map(|branch| {
            let names = branch.step.depends_on.iter();
            names.map(unanimo_core::BranchId::as_str).collect::<Vec<_>>()
        });
        let pivot = branches.iter().position(|branch| branch.step.pivot);
        let order = Order::of(&ids, after, pivot);
        Self { title, steps: branches.iter().enumerate().map(step).collect(), order }
    }

    /// Makes the graph of a transaction as the coordinator tells it, with its branches.
    #[must_use]
    pub fn of_transaction(tx: &v1::Transaction) -> Self {
        let ids: Vec<&str> = tx.branches.iter().map(|branch| branch.branch_id.as_str()).collect();
        let after = tx
            .branches
            .iter()
            .map(|branch| branch.depends_on.iter().map(String::as_str).collect::<Vec<_>>());
        let pivot = tx.branches.iter().position(|branch| branch.pivot);
        let order = Order::of(&ids, after, pivot);
        let name = tx.state().as_str_name().trim_start_matches("TRANSACTION_STATE_");
        let title = format!("{}: {}", tx.gid, name.to_ascii_lowercase());
        Self { title, steps: tx.branches.iter().map(step_of).collect(), order }
    }

    /// Returns the steps that this one is drawn to wait for, by its place in [`Self::steps`]; none if it has no such place.
    pub fn before(&self, place: usize) -> impl Iterator<Item = &Step> {
        let before = self.order.before.get(place).into_iter().flatten();
        before.filter_map(|place| self.steps.get(*place))
    }

    /// Puts the graph of a child into the step that it is. Nothing happens if there is no such step.
    pub fn attach(&mut self, step: &str, child: Self) {
        if let Some(step) = self.steps.iter_mut().find(|known| known.id == step) {
            step.child = Some(child);
        }
    }
}

fn step(branch: &BranchSpec, child: Option<&Definition>) -> Step {
    let spec = &branch.step;
    let kind = match (branch.mode, child) {
        _ if spec.pivot => Kind::Pivot,
        (_, Some(_)) => Kind::Child,
        (Mode::Saga, None) => Kind::Plain,
        (Mode::Tcc | Mode::TwoPhaseCommit, None) => Kind::Reserved,
    };
    let work = match child {
        Some(child) => {
            let count = child.branches.len();
            format!(
                "{} of {count} {}",
                child.mode.name(),
                if count == 1 { "step" } else { "steps" }
            )
        }
        None => format!("{}.{}", branch.participant, branch.action),
    };
    let mut notes = Vec::new();
    notes.extend(spec.pivot.then(|| "pivot".to_owned()));
    notes.extend((kind == Kind::Reserved).then(|| branch.mode.name().to_owned()));
    notes.extend(match spec.compensation {
        Compensation::None if !spec.pivot => Some("no compensation".to_owned()),
        Compensation::Kept => Some("kept on abort".to_owned()),
        Compensation::None | Compensation::Compensate => None,
    });
    notes.extend(reads(
        spec.inputs.iter().map(|input| (input.name.as_str(), input.branch_id.as_str())),
    ));
    notes.extend(spec.delay.map(|delay| {
        format!(
            "delay {:#}",
            jiff::SignedDuration::try_from(delay).unwrap_or(jiff::SignedDuration::MAX)
        )
    }));
    if !spec.locks.is_empty() {
        let names: Vec<_> = spec.locks.iter().map(|lock| lock.name.as_str()).collect();
        notes.push(format!("locks {}", names.join(", ")));
    }
    let title = format!("{}, {}", branch.branch_id, work);
    let child = child.map(|child| Graph::of(title, child));
    Step { id: branch.branch_id.to_string(), work, kind, state: None, notes, child }
}

fn step_of(branch: &v1::Branch) -> Step {
    let kind = match branch.mode() {
        _ if branch.pivot => Kind::Pivot,
        _ if !branch.child_gid.is_empty() => Kind::Child,
        v1::Mode::Tcc | v1::Mode::TwoPhaseCommit => Kind::Reserved,
        v1::Mode::Saga | v1::Mode::Unspecified => Kind::Plain,
    };
    let work = match kind {
        Kind::Child => branch.child_gid.clone(),
        _ => format!("{}.{}", branch.participant, branch.action),
    };
    let mut notes = Vec::new();
    notes.extend(branch.pivot.then(|| "pivot".to_owned()));
    notes.extend(match branch.mode() {
        // The mode of a child is told with its own steps.
        _ if kind == Kind::Child => None,
        v1::Mode::Tcc => Some("tcc".to_owned()),
        v1::Mode::TwoPhaseCommit => Some("2pc".to_owned()),
        v1::Mode::Saga | v1::Mode::Unspecified => None,
    });
    let tried = |name: &str, attempts: &Option<v1::Attempts>| {
        let count = attempts.as_ref().map_or(0, |attempts| attempts.count);
        (count > 1).then(|| format!("{name} sent {count} times"))
    };
    notes.extend(tried("prepare", &branch.prepare_attempts));
    notes.extend(tried("phase two", &branch.phase_two_attempts));
    notes.extend(branch.refusal.as_ref().map(|refusal| refusal.reason.clone()));
    if !branch.heuristic_note.is_empty() {
        notes.push(branch.heuristic_note.clone());
    }
    let state = Some(State::of(branch));
    Step { id: branch.branch_id.clone(), work, kind, state, notes, child: None }
}

fn reads<'a>(inputs: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let names = inputs.map(|(name, of)| match name == of {
        true => name.to_owned(),
        false => format!("{name} of {of}"),
    });
    let names: Vec<_> = names.collect();
    (!names.is_empty()).then(|| format!("reads {}", names.join(", ")))
}
