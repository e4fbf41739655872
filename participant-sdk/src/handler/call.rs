//! Branches, and the calls of their handlers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use crate::payload::Payload;

/// A branch of a transaction: what a handler works for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The transaction. With `branch_id` the idempotency key for effects outside the database.
    pub tx_id: Uuid,
    /// The initiator's name for the transaction.
    pub gid: String,
    /// The branch.
    pub branch_id: String,
    /// The branch's number within the transaction, from 1.
    pub number: u32,
    /// The coordinator group that the transaction belongs to.
    pub cluster_id: String,
    /// This participant, as the coordinator names it.
    pub participant: String,
}

/// A call of a handler.
#[derive(Clone, Debug)]
pub struct Call<P> {
    /// Whose it is.
    pub branch: Branch,
    /// Name of the work.
    pub action: String,
    /// The action's argument.
    pub payload: P,
    /// Metadata of the transaction, as the initiator gave them.
    pub metadata: HashMap<String, String>,
    /// Number of this attempt, as far as the coordinator remembers; from 1.
    pub attempt: u32,
    pub(crate) must_succeed: bool,
    pub(crate) deadline: Option<SystemTime>,
    pub(crate) inputs: Arc<HashMap<String, Payload>>,
}

impl<P> Call<P> {
    /// Returns the transaction's deadline for its Prepares, with the coordinator's allowance for clocks that
    /// differ: past it no Prepare is taken, and the transaction is aborted unless it is decided. It is
    /// absent where there is none, as behind a saga's pivot, and in phase two after COMMIT. A handler may
    /// bound by it what it waits for.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        self.deadline
    }

    /// Tells whether the work may only succeed: the transaction can no longer be aborted, as a saga
    /// after its pivot. A handler may still refuse. That is then no vote: it is not stored, the
    /// coordinator raises an alarm, and the call comes again.
    #[must_use]
    pub fn must_succeed(&self) -> bool {
        self.must_succeed
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.branch_id, self.tx_id)
    }
}
