//! Settings that influence the state machine, as they are recorded when it begins or recovers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::{Backoff, Limits, Policy, Record, RulesVersion};
use crate::time::millis_of;

/// The policy's values that the state machine follows; durations in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Between attempts of Prepare.
    pub prepare_backoff: Pauses,
    /// Between attempts of Commit and Cancel.
    pub phase_two_backoff: Pauses,
    /// Between attempts to take locks.
    pub lock_backoff: Pauses,
    /// A step's vote is written by itself if the last write is longer ago.
    #[serde(with = "millis_of")]
    pub vote_noted_after: Duration,
    /// Transactions that are late start within this time.
    #[serde(with = "millis_of")]
    pub late_starts_spread: Duration,
    /// Longest pause that WORKING may ask for.
    #[serde(with = "millis_of")]
    pub retry_after_max: Duration,
    /// Phase two that lasts longer is stalled.
    #[serde(with = "millis_of")]
    pub stalled_after: Duration,
    /// Allowance for a participant's clock.
    #[serde(with = "millis_of")]
    pub clock_skew: Duration,
    /// Rules by which the state machine goes.
    #[serde(default, skip_serializing_if = "RulesVersion::is_first")]
    pub rules: RulesVersion,
    /// Limits on what is added to a transaction that has begun.
    pub limits: Bounds,
}

/// Shortest and longest pause between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    /// Pause after the first failure.
    #[serde(with = "millis_of")]
    pub base: Duration,
    /// Longest pause.
    #[serde(with = "millis_of")]
    pub cap: Duration,
}

/// Limits on branches and outputs, which come while a transaction runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Branches of a transaction.
    pub branches_max: usize,
    /// Bytes of one branch's payload.
    pub payload_bytes_max: usize,
    /// Bytes of all payloads.
    pub payloads_bytes_max: usize,
    /// Bytes of one output.
    pub output_bytes_max: usize,
    /// Bytes of all outputs.
    pub outputs_bytes_max: usize,
}

impl Settings {
    /// Takes the values of a policy.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let pauses = |Backoff { base, cap }: Backoff| Pauses { base, cap };
        let limits = &policy.limits;
        Self {
            prepare_backoff: pauses(policy.prepare_backoff),
            phase_two_backoff: pauses(policy.phase_two_backoff),
            lock_backoff: pauses(policy.lock_backoff),
            vote_noted_after: policy.vote_noted_after,
            late_starts_spread: policy.late_starts_spread,
            retry_after_max: policy.retry_after_max,
            stalled_after: policy.stalled_after,
            clock_skew: policy.clock_skew,
            rules: policy.rules,
            limits: Bounds {
                branches_max: limits.branches_max,
                payload_bytes_max: limits.payload_bytes_max,
                payloads_bytes_max: limits.payloads_bytes_max,
                output_bytes_max: limits.output_bytes_max,
                outputs_bytes_max: limits.outputs_bytes_max,
            },
        }
    }

    /// A policy with these values, which records nothing.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let backoff = |Pauses { base, cap }: Pauses| Backoff { base, cap };
        Policy {
            limits: Limits {
                branches_max: self.limits.branches_max,
                payload_bytes_max: self.limits.payload_bytes_max,
                payloads_bytes_max: self.limits.payloads_bytes_max,
                output_bytes_max: self.limits.output_bytes_max,
                outputs_bytes_max: self.limits.outputs_bytes_max,
                // Whatever was accepted was within the others.
                metadata_bytes_max: usize::MAX,
                names_bytes_max: usize::MAX,
                locks_max: usize::MAX,
                family_max: usize::MAX,
                children_depth_max: usize::MAX,
                start_delay_max: Duration::MAX,
                timeout_max: Duration::MAX,
                timeout_default: Limits::default().timeout_default,
            },
            prepare_backoff: backoff(self.prepare_backoff),
            phase_two_backoff: backoff(self.phase_two_backoff),
            lock_backoff: backoff(self.lock_backoff),
            vote_noted_after: self.vote_noted_after,
            late_starts_spread: self.late_starts_spread,
            retry_after_max: self.retry_after_max,
            stalled_after: self.stalled_after,
            clock_skew: self.clock_skew,
            rules: self.rules,
            record: Record::None,
        }
    }
}
