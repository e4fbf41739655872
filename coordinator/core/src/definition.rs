//! Definition of a transaction and its branches, as its initiator states it, and the rules for it.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) mod rules;
mod step;

pub use self::rules::{Violation, too_large};
pub use self::step::{Compensation, Lock, LockMode, RetryPolicy, StepInput, StepSpec};
use crate::digest::{Digest, Digests};
use crate::ids::{ActionName, BranchId, BranchNumber, Gid, ParticipantName, TxId};
use crate::payload::Payload;
use crate::time::Timestamp;

/// Protocol that brings the branches of a transaction to one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// X/Open XA: work is held prepared, invisible to others.
    TwoPhaseCommit,
    /// Try, confirm, cancel: work is reserved in a visible local transaction.
    Tcc,
    /// Steps with compensations: work is done at once, and made up for if the saga aborts.
    Saga,
}

/// Name of a mode that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 2pc, tcc or saga, is {0:?}")]
pub struct UnknownMode(String);

impl Mode {
    /// The stable name, as stored, logged and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwoPhaseCommit => "2pc",
            Self::Tcc => "tcc",
            Self::Saga => "saga",
        }
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        [Self::TwoPhaseCommit, Self::Tcc, Self::Saga]
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

/// Who says which branches there are, and when to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drive {
    /// All branches came with the first call; COMMIT follows from the votes.
    Declarative,
    /// Branches come one by one; COMMIT needs the initiator's word.
    Interactive,
}

/// Name of the coordinator itself as a participant. Nobody else has it: its branches are children.
pub const COORDINATOR: &str = "unanimo";

/// One participant's share of a transaction, as its initiator states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchSpec {
    /// The initiator's name for it.
    pub branch_id: BranchId,
    /// Who holds it.
    pub participant: ParticipantName,
    /// The action to be done.
    pub action: ActionName,
    /// The action's argument, opaque.
    pub payload: Payload,
    /// Its mode.
    pub mode: Mode,
    /// Its place and manners in a saga.
    pub step: StepSpec,
}

impl BranchSpec {
    /// Tells whether it is a transaction of its own: a child.
    #[must_use]
    pub fn is_child(&self) -> bool {
        self.participant.as_str() == COORDINATOR
    }

    /// Tells whether another one asks for the same: what only says when, and how often, is not
    /// compared.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { branch_id, participant, action, payload, mode, step } = self;
        *branch_id == other.branch_id
            && *participant == other.participant
            && *action == other.action
            && *payload == other.payload
            && *mode == other.mode
            && step.is_same(&other.step)
    }
}

/// A branch as a request states it that names a transaction which has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchRequest {
    /// The initiator's name for it.
    pub branch_id: BranchId,
    /// Who holds it.
    pub participant: ParticipantName,
    /// The action to be done.
    pub action: ActionName,
    /// The action's argument, opaque.
    pub payload: Payload,
    /// Its mode; `None` for the transaction's.
    pub mode: Option<Mode>,
    /// Its place and manners in a saga.
    pub step: StepSpec,
}

impl BranchRequest {
    /// The branch, in a transaction of this mode.
    #[must_use]
    pub fn in_mode(self, of_transaction: Mode) -> BranchSpec {
        let Self { branch_id, participant, action, payload, mode, step } = self;
        let mode = mode.unwrap_or(of_transaction);
        BranchSpec { branch_id, participant, action, payload, mode, step }
    }
}

impl From<BranchSpec> for BranchRequest {
    fn from(spec: BranchSpec) -> Self {
        let BranchSpec { branch_id, participant, action, payload, mode, step } = spec;
        Self { branch_id, participant, action, payload, mode: Some(mode), step }
    }
}

/// W3C Trace Context of the call that began the transaction, handed to participants as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceContext {
    /// Header `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Header `tracestate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// When a transaction starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// As soon as it is durable.
    #[default]
    AtOnce,
    /// At this time, or at once if that has passed.
    At(Timestamp),
    /// So long after its begin.
    After(Duration),
}

/// The branch of another transaction that a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The other transaction.
    pub tx_id: TxId,
    /// Its branch.
    pub number: BranchNumber,
    /// The transaction at the top, for which all below hold their locks together.
    pub root: TxId,
}

/// A transaction, as its initiator states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The client's name for it.
    pub gid: Gid,
    /// Its mode.
    pub mode: Mode,
    /// Who says when to commit.
    pub drive: Drive,
    /// Its branches; none when interactive.
    pub branches: Vec<BranchSpec>,
    /// Time until ABORT; `None` for the default. It counts from the start.
    pub timeout: Option<Duration>,
    /// When it starts.
    pub start: Start,
    /// Locks to be had before any branch is sent.
    pub locks: Vec<Lock>,
    /// The branch that it is, if it is a child.
    pub parent: Option<Parent>,
    /// The children that its branches are, by the branch's index, as they will begin. Their rules are
    /// checked together with its own.
    pub children: Vec<(usize, Definition)>,
    /// Carried along for participants.
    pub metadata: BTreeMap<String, String>,
    /// Carried along for participants.
    pub trace: TraceContext,
    /// Who began it; empty without authentication.
    pub initiator: String,
}

impl Definition {
    /// Returns the digest, which two equal requests share: it covers everything but timeouts,
    /// metadata, trace and caller.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digests().newest()
    }

    /// Returns the digest by an earlier rule; `None` if there is no such rule.
    #[must_use]
    pub fn digest_by(&self, version: i16) -> Option<Digest> {
        self.digests().by(version)
    }

    /// Returns the digests by every rule, to compare with a stored one.
    #[must_use]
    pub fn digests(&self) -> Digests {
        Digests::of(self)
    }
}
