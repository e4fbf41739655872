//! Effects: the writes and calls that the core asks for, as data that the engine obeys.

use std::sync::Arc;

use crate::branch::{Enlistment, Progress};
use crate::decision::{Heuristic, Operation, Phase};
use crate::definition::{BranchSpec, StepSpec};
use crate::held::{as_json, of_metadata, of_progress, of_trace};
use crate::history;
use crate::ids::{BranchNumber, TxId, Version};
use crate::payload::Payload;
use crate::time::Timestamp;
use crate::transaction::Identity;

/// Result of an input.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// To be written, if anything changed that must survive.
    pub transition: Option<Transition>,
    /// To be sent as soon as every awaited transition of the transaction, up to and including this
    /// one, is durable; not before (promises S3 and S6). The same holds for whatever is told of the
    /// transaction to anybody.
    pub calls: Vec<Call>,
    /// Locks to be taken, at the time at which calls may be sent.
    pub locks: Vec<LockRequest>,
}

/// A request for locks: those of a branch, or of the transaction itself, all or none. Its end comes
/// back as [`crate::Input::LocksAnswered`], whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// Number of the branch; `None` for the transaction's own.
    pub number: Option<BranchNumber>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

/// A call to a participant, unless [`crate::Branch::awaits`] says by then that it is no longer
/// wanted. Its end comes back as an input, whatever it is: a call whose end is never reported is
/// never sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Number of the branch.
    pub number: BranchNumber,
    /// Operation to call.
    pub operation: Operation,
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

/// The part of a transaction that changes, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where it stands.
    pub phase: Phase,
    /// Branches that ended against the decision, or may have.
    pub heuristic: Heuristic,
    /// It takes too long.
    pub stalled: bool,
    /// An operator has cleared the alarm of its heuristic outcome.
    pub forgotten: bool,
    /// When it started, where it was to start later than at once.
    pub started_at: Option<Timestamp>,
    /// More about the cause of an ABORT.
    pub abort_detail: Option<String>,
    /// Nothing happens before this time, unless somebody asks for something: it need not be in memory
    /// until then.
    pub wake_at: Option<Timestamp>,
    /// Nothing was under way when it was written, and whatever is sent next is written before: so nothing was sent
    /// since.
    pub quiet: bool,
    /// Each branch, by number.
    pub branches: Vec<Progress>,
}

impl State {
    /// Something holds it up that a person has to look at: it is stalled, or a branch has an alarm.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        let ended = matches!(self.phase, Phase::Ended { .. });
        !ended && (self.stalled || self.branches.iter().any(Progress::has_alarm))
    }

    /// Returns the names of its alarms that say more than that it is stalled.
    #[must_use]
    pub fn alarms(&self) -> Vec<&'static str> {
        if matches!(self.phase, Phase::Ended { .. }) {
            return Vec::new();
        }
        let any = |alarm: fn(&Progress) -> bool| self.branches.iter().any(alarm);
        let of = [
            (self.stalled && self.phase.decision().is_none(), EventKind::PivotUnanswered),
            (any(|branch| branch.refused_after_commit), EventKind::RefusedAfterCommit),
            (any(|branch| branch.output_too_large), EventKind::OutputTooLarge),
        ];
        of.into_iter().filter(|(raised, _)| *raised).map(|(_, kind)| kind.as_str()).collect()
    }

    /// Somebody has to look at it.
    #[must_use]
    pub fn attention(&self) -> bool {
        self.is_held_up() || (self.heuristic != Heuristic::None && !self.forgotten)
    }
}

/// A transaction that sleeps, for whoever counts what each caller has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sleeper {
    /// Name of the identity that began it; empty without one.
    pub initiator: String,
    /// Bytes that it holds.
    pub bytes: usize,
}

/// A durable step of one transaction. Several that follow one another can be folded into one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Of which transaction.
    pub tx_id: TxId,
    /// The version that it makes.
    pub version: Version,
    /// Present in a transaction's first one: it is to be created, and only if its gid is new.
    pub begins: Option<Arc<Identity>>,
    /// The transaction's state after it.
    pub state: State,
    /// Branches that are new with it.
    pub enlisted: Vec<(BranchNumber, Enlistment, Arc<BranchSpec>)>,
    /// Outputs that are new with it.
    pub outputs: Vec<(BranchNumber, Payload)>,
    /// Lines for the history.
    pub events: Vec<Event>,
    /// Recorded history of it and of those folded into it; none where nothing is recorded.
    pub history: Vec<history::Entry>,
    /// The transaction has ended, and held locks: they are given back with this write.
    pub releases_locks: bool,
    /// The time from which on its details are gone, if they are: what is written has none.
    pub stripped_at: Option<Timestamp>,
    /// Initiator and bytes, if its row says that it sleeps.
    pub sleeper: Option<Sleeper>,
    /// Something waits until it is durable. If not, it may be written whenever it suits.
    pub awaited: bool,
}

impl Transition {
    /// Makes one of two that follow one another.
    pub fn fold(&mut self, later: Self) {
        debug_assert_eq!(self.tx_id, later.tx_id);
        debug_assert!(self.version < later.version && later.begins.is_none());
        self.version = later.version;
        self.state = later.state;
        self.enlisted.extend(later.enlisted);
        self.outputs.extend(later.outputs);
        self.events.extend(later.events);
        self.history.extend(later.history);
        self.releases_locks |= later.releases_locks;
        self.stripped_at = self.stripped_at.or(later.stripped_at);
        self.sleeper = later.sleeper;
        self.awaited |= later.awaited;
    }

    /// About how many bytes it takes to write.
    #[must_use]
    pub fn size(&self) -> usize {
        // What a row costs besides its payload: identifiers, state as JSON, headers.
        const ROW: usize = 256;
        // The longest name, and what stands around it in JSON.
        const NAME: usize = 192;
        let step = |step: &StepSpec| {
            let StepSpec { depends_on, inputs, locks, .. } = step;
            let names = depends_on.len() + 2 * inputs.len() + locks.len();
            if *step == StepSpec::default() { 0 } else { ROW + NAME * names }
        };
        let branch = |spec: &BranchSpec| ROW + spec.payload.held_bytes() + step(&spec.step);
        let branches: usize = self.enlisted.iter().map(|(_, _, spec)| branch(spec)).sum();
        let identity = self.begins.as_ref().map_or(0, |identity| {
            let Identity { locks, metadata, trace, initiator, .. } = &**identity;
            NAME * locks.len() + of_metadata(metadata) + of_trace(trace) + initiator.len()
        });
        let outputs: usize = self.outputs.iter().map(|(_, output)| ROW + output.held_bytes()).sum();
        let history: usize = self.history.iter().map(history::Entry::size).sum();
        let details: usize = self.events.iter().map(|event| event.detail.len()).sum();
        let progress: usize =
            self.state.branches.iter().map(|progress| of_progress(progress, as_json)).sum();
        let abort_detail = self.state.abort_detail.as_deref().map_or(0, as_json);
        let rows = 1 + self.state.branches.len() + self.events.len();
        ROW * rows + branches + outputs + identity + history + details + progress + abort_detail
    }
}

/// A line of a transaction's history that its state alone would not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Kind of event.
    pub kind: EventKind,
    /// To which branch.
    pub number: Option<BranchNumber>,
    /// More about it.
    pub detail: String,
}

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// Kind of an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventKind {
            $($(#[$doc])* $kind,)*
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The stable name, as stored and shown.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

event_kinds! {
    /// Another incarnation adopted the transaction.
    Adopted = "adopted",
    /// Phase two takes too long.
    Stalled = "stalled",
    /// A branch ended by itself.
    Heuristic = "heuristic",
    /// An output was over a limit.
    OutputDropped = "output_dropped",
    /// An operator had what was owed sent at once.
    Retried = "retried",
    /// An operator ended a branch.
    Resolved = "resolved",
    /// An operator cleared the alarm.
    Forgotten = "forgotten",
    /// The transaction's time has come.
    Started = "started",
    /// All branches of a child voted yes.
    InDoubt = "in_doubt",
    /// A step that may only succeed was refused; it is sent again.
    RefusedAfterCommit = "refused_after_commit",
    /// The output of the pivot, or of a step after it, is too large for the step that reads it: that is no
    /// vote, and it is sent again.
    OutputTooLarge = "output_too_large",
    /// The pivot's answer is waited for, past the deadline.
    PivotUnanswered = "pivot_unanswered",
}

impl EventKind {
    /// It is an operator's act, and outlives the transaction.
    #[must_use]
    pub fn is_audit(self) -> bool {
        matches!(self, Self::Retried | Self::Resolved | Self::Forgotten)
    }
}
