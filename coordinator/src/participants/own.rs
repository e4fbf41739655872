//! The coordinator itself as a participant: a branch of it is a transaction of its own, a *child*.

use std::fmt;

use async_trait::async_trait;
use unanimo_core::{ActionName, ParticipantName, PhaseTwoAnswer, PhaseTwoOperation, PrepareAnswer};

use super::caller::BranchCall;

/// Name of the participant. Nobody else has it.
pub const NAME: &str = unanimo_core::COORDINATOR;

/// The rule for names of participants that it breaks.
pub const RESERVED: &str = "must not be unanimo: that is the name of the coordinator itself";

/// Name of its only action.
const ACTION: &str = "transaction";

/// Returns the name as a participant's.
#[must_use]
pub fn name() -> ParticipantName {
    ParticipantName::new(NAME).expect("a name")
}

/// Returns the name of its action.
#[must_use]
pub fn action() -> ActionName {
    ActionName::new(ACTION).expect("a name")
}

/// The participant. It is called in the process, with the core's types; a call may be dropped before it
/// has answered.
#[async_trait]
pub(crate) trait Own: Send + Sync + fmt::Debug {
    /// Begins the child, and waits for its vote.
    async fn prepare(&self, call: &BranchCall) -> PrepareAnswer;

    /// Hands the parent's decision to the child, and waits for its end.
    async fn phase_two(&self, operation: PhaseTwoOperation, call: &BranchCall) -> PhaseTwoAnswer;
}
