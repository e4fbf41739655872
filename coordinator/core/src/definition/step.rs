//! The part of a branch that only sagas have: order, inputs, pivot, compensation, attempts, locks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{BranchId, InputName, LockName};
use crate::time::{Timestamp, millis_of};

/// A branch's place and manners in its saga. The default is that of a branch of any other mode: it
/// depends on nothing, and is tried until the deadline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepSpec {
    /// Branches that must have voted yes before it is sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<BranchId>,
    /// Outputs of earlier branches that go with its calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<StepInput>,
    /// Its yes decides COMMIT.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pivot: bool,
    /// The way in which ABORT undoes it.
    #[serde(skip_serializing_if = "Compensation::is_default")]
    pub compensation: Compensation,
    /// Bounds on its attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Time to wait for the answer of one attempt.
    #[serde(skip_serializing_if = "Option::is_none", with = "millis_of::optional")]
    pub attempt_timeout: Option<Duration>,
    /// Time between the last vote that it waits for and its first attempt.
    #[serde(skip_serializing_if = "Option::is_none", with = "millis_of::optional")]
    pub delay: Option<Duration>,
    /// Earliest time of its first attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// Locks to be had before it is sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<Lock>,
}

impl StepSpec {
    /// Bytes that its lists hold in memory, about.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        // A name's count and length, besides its text.
        const NAME: usize = 32;
        let ids: usize = self.depends_on.iter().map(|id| NAME + id.as_str().len()).sum();
        let inputs = self.inputs.iter();
        let inputs: usize = inputs
            .map(|input| 2 * NAME + input.name.as_str().len() + input.branch_id.as_str().len())
            .sum();
        let locks: usize = self.locks.iter().map(|lock| 2 * NAME + lock.name.as_str().len()).sum();
        ids + inputs + locks
    }

    /// Returns the bytes of the names in its lists. A lock is told with the branch that takes it.
    #[must_use]
    pub fn names_bytes(&self, own: &BranchId) -> usize {
        let ids: usize = self.depends_on.iter().map(|id| id.as_str().len()).sum();
        let inputs = self.inputs.iter();
        let inputs: usize =
            inputs.map(|i| i.name.as_str().len() + i.branch_id.as_str().len()).sum();
        let locks = self.locks.iter();
        let locks: usize = locks.map(|lock| lock.name.as_str().len() + own.as_str().len()).sum();
        ids + inputs + locks
    }

    /// Tells whether another one asks for the same: times and attempts are not compared.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let comparable = |step: &Self| Self {
            retry: None,
            attempt_timeout: None,
            delay: None,
            start_at: None,
            locks: step
                .locks
                .iter()
                .map(|lock| Lock { wait_max: Duration::ZERO, ..lock.clone() })
                .collect(),
            ..step.clone()
        };
        comparable(self) == comparable(other)
    }
}

/// The output of an earlier branch, under the name by which a participant knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInput {
    /// The name.
    pub name: InputName,
    /// The branch whose output it is.
    pub branch_id: BranchId,
}

/// The way in which ABORT undoes a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compensation {
    /// Its participant compensates it.
    #[default]
    Compensate,
    /// No ABORT can follow it.
    None,
    /// Its effect stays.
    Kept,
}

impl Compensation {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_default(&self) -> bool {
        *self == Self::Compensate
    }
}

/// Bounds on the attempts of one Prepare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Most attempts that are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Pause after the first failure.
    #[serde(skip_serializing_if = "Option::is_none", with = "millis_of::optional")]
    pub backoff_min: Option<Duration>,
    /// Longest pause.
    #[serde(skip_serializing_if = "Option::is_none", with = "millis_of::optional")]
    pub backoff_max: Option<Duration>,
    /// Time after the first attempt at which it is given up.
    #[serde(skip_serializing_if = "Option::is_none", with = "millis_of::optional")]
    pub give_up_after: Option<Duration>,
}

/// A name that transactions hold against each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The name.
    pub name: LockName,
    /// The mode.
    pub mode: LockMode,
    /// Time for which to wait for an older transaction.
    #[serde(with = "millis_of")]
    pub wait_max: Duration,
}

/// Mode of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// One holder.
    Exclusive,
    /// Any number of holders that all hold it so.
    Shared,
}

impl LockMode {
    /// Tells whether two transactions can hold the lock in these modes at once.
    #[must_use]
    pub fn goes_with(self, other: Self) -> bool {
        self == Self::Shared && other == Self::Shared
    }
}
