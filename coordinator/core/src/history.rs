//! Recorded history of a transaction: its inputs and what they led to, for export and replay.
//!
//! Each [`Entry`] is one transition: the inputs since the one before it, the calls and lock requests
//! that each led to, and how the transaction stood after the last of them. A [`Document`] is all of it, with
//! the definition, and with no byte of a payload. [`replay()`] applies the inputs to this code, and tells
//! the first [`Difference`]; [`Replay`] goes step by step.
//!
//! A crash takes it from both: inputs that led to no transition, and the state that they led
//! to. So a replay that comes to a recovery goes on from the last transition, as the coordinator did.

mod check;
mod definition;
mod document;
mod input;
mod recording;
mod replay;
mod settings;
mod standing;
mod words;

use serde::{Deserialize, Serialize};

pub use self::document::{BranchShape, Cut, Document, End, FORMAT, Order, Program, Subject};
pub use self::input::{
    Caller, Input, LockResult, PhaseTwoResult, PrepareResult, RecordedOperation, Size,
    TEXT_BYTES_MAX,
};
pub use self::replay::{Difference, Error, Moment, Replay, Replayed, replay};
pub use self::settings::{Bounds, Pauses, Settings};
pub use self::standing::Standing;
use crate::decision::Operation;
use crate::effects;
use crate::ids::{BranchNumber, InputName, Version};
use crate::payload::Payload;
use crate::policy::{Policy, RulesVersion};
use crate::time::Timestamp;
use crate::transaction::Transaction;

/// Most inputs that wait for a transition to be written with. One more makes a transition of its own, so
/// that neither memory nor what a crash loses grows without end.
pub const PENDING_MAX: usize = 64;

/// Last version that is recorded. A participant that is down makes an entry for each [`PENDING_MAX`] inputs:
/// that is an entry in 16 minutes for one branch, and the first ten days of it.
pub const LAST_VERSION: Version = Version(1_000);

/// One transition, and the inputs that led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The version that the transition made.
    pub version: Version,
    /// When.
    pub at: Timestamp,
    /// The inputs since the last transition, oldest first. The last one made this one.
    pub steps: Vec<Step>,
    /// The inputs changed nothing that must survive: it was made because so many waited.
    #[serde(default, skip_serializing_if = "is_false")]
    pub forced: bool,
    /// Calls and answers waited until it was durable.
    #[serde(default, skip_serializing_if = "is_false")]
    pub awaited: bool,
    /// Its locks were given back with it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub releases_locks: bool,
    /// Names of the events that were written with it, as the timeline has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// The transaction after it.
    pub after: Standing,
}

impl Entry {
    /// About how many bytes it takes to write.
    #[must_use]
    pub fn size(&self) -> usize {
        // What a word costs as JSON.
        const WORD: usize = 16;
        let steps: usize = self.steps.iter().map(Step::size).sum();
        Step::SIZE + steps + Call::SIZE * self.events.len() + WORD * self.after.branches.len()
    }
}

impl Step {
    /// Bytes of a step, in memory or as JSON, a short text included.
    const SIZE: usize = 256;
    /// Bytes of a digest, as JSON or in memory.
    const DIGEST: usize = 40;

    /// About how many bytes it takes.
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        let inputs: usize = self.calls.iter().map(|call| call.inputs.len()).sum();
        let digests = match &self.input {
            Input::Begin { definition, .. } => definition.len(),
            _ => 0,
        };
        let calls = Call::SIZE * (self.calls.len() + inputs + self.locks.len());
        Self::SIZE + calls + Self::DIGEST * digests
    }
}

/// One input, and what it led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub at: Timestamp,
    /// The input.
    pub input: Input,
    /// Calls that were to be sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// Locks that were to be taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<LockRequest>,
    /// When time alone was to be the next input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<Timestamp>,
}

/// A call to a participant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Number of the branch.
    #[serde(rename = "branch")]
    pub number: BranchNumber,
    /// Operation.
    pub operation: RecordedOperation,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// A Prepare that starts later is refused by its participant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// It may only succeed: it was sent after the pivot.
    #[serde(default, skip_serializing_if = "is_false")]
    pub must_succeed: bool,
    /// Outputs of other branches that went with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Delivered>,
    /// The branch's own output, which goes with a Commit or Cancel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Size>,
    /// Most bytes that its output may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes_max: Option<usize>,
}

/// An output that went with a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Name by which the participant knows it.
    pub name: InputName,
    /// Its size.
    #[serde(flatten)]
    pub size: Size,
}

impl Call {
    /// Bytes of a call, in memory or as JSON.
    const SIZE: usize = 64;

    /// Returns the recorded form of a call.
    pub(crate) fn of(call: &effects::Call, tx: &Transaction, policy: &Policy) -> Self {
        let branch = &tx.branches[call.number.index()];
        let prepare = call.operation == Operation::Prepare;
        // The first rules recorded nothing of it.
        let recorded = tx.rules >= RulesVersion::SECOND;
        let delivered =
            |(name, output): (InputName, Payload)| Delivered { name, size: (&output).into() };
        let inputs = match recorded {
            true => tx.inputs_of(branch).into_iter().map(delivered).collect(),
            false => Vec::new(),
        };
        let output = branch.output.as_ref().filter(|_| recorded && !prepare);
        let share = || tx.output_bytes_max(branch, policy);
        Self {
            number: call.number,
            operation: call.operation.into(),
            attempt: call.attempt,
            until: tx.prepare_until(branch, policy).filter(|_| prepare),
            must_succeed: prepare && tx.must_succeed(branch),
            inputs,
            output: output.map(Size::from),
            output_bytes_max: (recorded && prepare).then(share).flatten(),
        }
    }
}

/// A request for locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    /// Number of the branch; absent for the transaction's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "branch")]
    pub number: Option<BranchNumber>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

impl From<&effects::LockRequest> for LockRequest {
    fn from(request: &effects::LockRequest) -> Self {
        Self { number: request.number, attempt: request.attempt }
    }
}

/// An event that was written with a transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Number of the branch, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "branch")]
    pub number: Option<BranchNumber>,
}

impl From<&effects::Event> for Event {
    fn from(event: &effects::Event) -> Self {
        Self { name: event.kind.as_str().to_owned(), number: event.number }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}
