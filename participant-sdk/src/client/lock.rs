//! Names that transactions hold against each other.

use std::time::Duration;

use unanimo_proto::v1;

use super::draft::duration_to_wire;

/// A name that transactions hold against each other, such as `account:42`. It locks nothing at
/// participants: it keeps apart the transactions that name it. It is held until the transaction has
/// ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it is added to a transaction or a step"]
pub struct Lock {
    name: String,
    mode: v1::LockMode,
    wait_max: Option<Duration>,
}

impl Lock {
    /// A lock that one transaction holds. The name has 1 to 128 bytes of `[A-Za-z0-9_.:-]`.
    pub fn exclusive(name: impl Into<String>) -> Self {
        Self { name: name.into(), mode: v1::LockMode::Exclusive, wait_max: None }
    }

    /// A lock that any number of transactions hold that all ask for it so.
    pub fn shared(name: impl Into<String>) -> Self {
        Self { name: name.into(), mode: v1::LockMode::Shared, wait_max: None }
    }

    /// Time to wait for an older transaction that has it, or waits for it; then the transaction aborts
    /// with [`AbortCause::Locked`](super::AbortCause::Locked). Default 10 s; zero is to not wait. For a
    /// younger transaction it waits until its own deadline.
    pub fn wait_at_most(mut self, wait: Duration) -> Self {
        self.wait_max = Some(wait);
        self
    }
}

impl From<Lock> for v1::Lock {
    fn from(Lock { name, mode, wait_max }: Lock) -> Self {
        Self { name, mode: mode.into(), wait_max: wait_max.map(duration_to_wire) }
    }
}
