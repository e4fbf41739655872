//! The Unanimo coordinator's state machine: two-phase commit and TCC as pure data.
//!
//! [`Transaction::begin`] makes a transaction, [`Transaction::apply`] feeds it what happens, and both
//! answer with [`Effects`]: a [`Transition`] to be written, and [`Call`]s that wait until it is
//! durable. [`Transaction::restore`] brings a stored one back, and the same table goes on from there.
//! Nothing here knows a runtime, a transport, a database, a clock or randomness, so the same code
//! runs live, in recovery, in replay and in simulation.
//!
//! ```
//! use bytes::Bytes;
//! use unanimo_core::{
//!     ActionName, BranchId, BranchSpec, Definition, Drive, Gid, Input, Mode, Outcome,
//!     ParticipantName, Payload, Policy, PrepareAnswer, Timestamp, Transaction, TxId,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = Policy::default();
//! let definition = Definition {
//!     gid: Gid::new("order-4711")?,
//!     mode: Mode::Tcc,
//!     drive: Drive::Declarative,
//!     branches: vec![BranchSpec {
//!         branch_id: BranchId::new("pay")?,
//!         participant: ParticipantName::new("bank")?,
//!         action: ActionName::new("debit")?,
//!         payload: Payload {
//!             data: Bytes::from_static(b"10 EUR"),
//!             media_type: "text/plain".to_owned(),
//!         },
//!         mode: Mode::Tcc,
//!         step: Default::default(),
//!     }],
//!     timeout: None,
//!     start: Default::default(),
//!     locks: Vec::new(),
//!     parent: None,
//!     children: Vec::new(),
//!     metadata: Default::default(),
//!     trace: Default::default(),
//!     initiator: String::new(),
//! };
//! let (mut tx, effects) =
//!     Transaction::begin(TxId(uuid::Uuid::nil()), definition, Timestamp(1_000), &policy);
//!
//! // First persist, then act: the call waits for the transition.
//! assert!(effects.transition.is_some_and(|transition| transition.awaited));
//! let [call] = effects.calls[..] else { panic!("one branch, one call") };
//!
//! // The participant's yes decides COMMIT, which must be durable before anybody hears of it.
//! let answer = PrepareAnswer::Prepared(Payload::default());
//! let yes = Input::PrepareAnswered { number: call.number, attempt: call.attempt, answer };
//! let effects = tx.apply(yes, Timestamp(1_010), &policy)?;
//! assert!(effects.transition.is_some_and(|transition| transition.awaited));
//! assert_eq!(tx.outcome(), Outcome::Committed);
//! # Ok(())
//! # }
//! ```

mod branch;
mod decision;
mod definition;
mod digest;
mod effects;
mod graph;
mod held;
pub mod history;
pub mod ids;
mod input;
mod outputs;
mod payload;
mod policy;
mod schedule;
mod step;
mod time;
pub mod timeline;
mod transaction;
pub mod waiting;

pub use branch::{
    Attempts, Branch, BranchState, Enlistment, HeuristicKind, PhaseTwo, Progress, Refusal,
    TEXT_BYTES_MAX, Vote, clip,
};
pub use decision::{AbortCause, Decision, Heuristic, Operation, Outcome, Phase, PhaseTwoOperation};
pub use definition::{
    BranchRequest, BranchSpec, COORDINATOR, Compensation, Definition, Drive, Lock, LockMode, Mode,
    Parent, RetryPolicy, Start, StepInput, StepSpec, TraceContext, UnknownMode, Violation,
    too_large,
};
pub use digest::{DIGEST_VERSION, Digest, Digests};
pub use effects::{Call, Effects, Event, EventKind, LockRequest, Sleeper, State, Transition};
pub use ids::{
    ActionName, BranchId, BranchNumber, FeatureName, Gid, Incarnation, InputName, LockName,
    Namespace, ParticipantName, TxId, Version,
};
pub use input::{Input, LockAnswer, Obstacle, PhaseTwoAnswer, PrepareAnswer, Rejection};
pub use payload::{MEDIA_TYPE_BYTES_MAX, Payload};
pub use policy::{
    BRANCHES_MAX, Backoff, CALL_TIMEOUT_DEFAULT, Limits, Policy, Record as RecordPolicy,
    RulesVersion,
};
pub use time::Timestamp;
pub use transaction::{Identity, Origin, Record, Transaction};
