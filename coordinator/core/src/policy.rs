//! Policy that an operator sets: limits on transactions, and the pauses between attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::definition::{Mode, RetryPolicy};
use crate::ids::{BranchNumber, TxId};
use crate::time::{Timestamp, millis};

/// Most branches that their limit may allow: branch numbers are stored in two bytes, and a
/// transaction's state is one row. A longer list is refused before any of it is read.
pub const BRANCHES_MAX: usize = 1024;

/// Bounds on what one transaction may hold. Past one of them: a clear error, and nothing lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Branches of a transaction. A larger fan-out would hold too many participants' locks at once.
    pub branches_max: usize,
    /// Bytes of one branch's payload. Larger values belong into a store, with their key here.
    pub payload_bytes_max: usize,
    /// Bytes of all payloads of a transaction.
    pub payloads_bytes_max: usize,
    /// Bytes of the output of one branch's Prepare; a larger one is dropped and the vote stands.
    pub output_bytes_max: usize,
    /// Bytes of all outputs of a transaction; what goes beyond is dropped.
    pub outputs_bytes_max: usize,
    /// Bytes of the keys and values of a transaction's metadata. It travels in every call.
    pub metadata_bytes_max: usize,
    /// Bytes of the names of dependencies, inputs and locks of a transaction. They are told with it, and its
    /// answers have a bound.
    pub names_bytes_max: usize,
    /// Locks of one list: a transaction's own, or a branch's.
    pub locks_max: usize,
    /// Transactions that one request begins: its own, its children, and theirs.
    pub family_max: usize,
    /// Children that stand in each other.
    pub children_depth_max: usize,
    /// Longest time ahead of a start, and longest delay of a step.
    pub start_delay_max: Duration,
    /// Longest timeout that a client may ask for.
    pub timeout_max: Duration,
    /// Timeout of a transaction whose client asked for none.
    pub timeout_default: Duration,
}

/// Time for which the answer of one call is waited for, where no setting says another one.
pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

impl Default for Limits {
    fn default() -> Self {
        Self {
            branches_max: 64,
            payload_bytes_max: 1 << 20,
            payloads_bytes_max: 3 << 19,
            output_bytes_max: 1 << 20,
            outputs_bytes_max: 3 << 19,
            metadata_bytes_max: 16 << 10,
            names_bytes_max: 96 << 10,
            locks_max: 16,
            family_max: 64,
            children_depth_max: 4,
            start_delay_max: Duration::from_secs(366 * 24 * 60 * 60),
            timeout_max: Duration::from_secs(24 * 60 * 60),
            timeout_default: Duration::from_secs(60),
        }
    }
}

/// Pauses between the attempts of one call: doubling from `base` up to `cap`, each cut by up to
/// half, so that calls that failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Pause after the first failure.
    pub base: Duration,
    /// Longest pause.
    pub cap: Duration,
}

impl Backoff {
    /// Returns these pauses as a step wants them.
    pub(crate) fn for_step(self, retry: Option<RetryPolicy>) -> Self {
        let Some(retry) = retry else { return self };
        let base = retry.backoff_min.unwrap_or(self.base);
        Self { base, cap: retry.backoff_max.unwrap_or(self.cap).max(base) }
    }

    /// The pause after the `attempt`-th failure, from 1. The same arguments give the same pause:
    /// the spread comes from the transaction's own identifier.
    #[must_use]
    pub fn pause(&self, tx_id: TxId, number: BranchNumber, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(32);
        let full = millis(self.base).saturating_mul(1 << doublings).min(millis(self.cap)).max(1);
        let half = full / 2;
        Duration::from_millis(full - half + spread(tx_id, number, attempt) % (half + 1))
    }
}

/// A number that differs between calls and attempts as if it were random (the finalizer of
/// SplitMix64, Steele et al. 2014).
pub(crate) fn spread(tx_id: TxId, number: BranchNumber, attempt: u32) -> u64 {
    let (high, low) = tx_id.0.as_u64_pair();
    let mut z = high ^ low.rotate_left(32) ^ (u64::from(number.get()) << 40) ^ u64::from(attempt);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Version of the rules by which the state machine goes. A change of what a recorded input means makes a new one: a
/// history is replayed by the rules under which it was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RulesVersion(pub u16);

impl RulesVersion {
    /// One alarm hides the others, after a crash every step is unanswered that may be undone, a record has neither
    /// what goes with a call nor stored flags.
    pub const FIRST: Self = Self(0);
    /// An alarm is its branch's; what slept has sent nothing; late steps are spread; a delay counts from an
    /// operator's word; an input that was dropped is refused.
    pub const SECOND: Self = Self(1);
    /// The wait for a lock counts from its first request, over crashes, too; a step is asked once more after a crash before
    /// it is given up; one that is due at a recovery may have been sent; a child has no output that a step which is added
    /// could read.
    pub const THIRD: Self = Self(2);
    /// A child that is added to an interactive saga has no inputs. A transaction that holds a lock for which an older one
    /// waits does not wait for an older one.
    pub const FOURTH: Self = Self(3);
    /// The rules of this version of the program.
    pub const CURRENT: Self = Self::FOURTH;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(crate) fn is_first(&self) -> bool {
        *self == Self::FIRST
    }
}

/// Transactions of which a [history](crate::history) is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Record {
    /// Sagas. They are long, and each costs many calls: a record costs them little.
    #[default]
    Sagas,
    /// All.
    All,
    /// None.
    None,
}

impl Record {
    /// Every choice.
    pub const ALL: &[Self] = &[Self::Sagas, Self::All, Self::None];

    /// Returns the stable name, as it is set and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sagas => "sagas",
            Self::All => "all",
            Self::None => "none",
        }
    }

    /// Tells whether the history of a transaction of this mode is recorded; a tombstone has none.
    #[must_use]
    pub fn applies_to(self, mode: Option<Mode>) -> bool {
        match self {
            Self::Sagas => mode == Some(Mode::Saga),
            Self::All => mode.is_some(),
            Self::None => false,
        }
    }
}

/// Settings that the state machine follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Bounds on what one transaction may hold.
    pub limits: Limits,
    /// Between attempts of Prepare.
    pub prepare_backoff: Backoff,
    /// Between attempts of Commit and Cancel, which go on for ever.
    pub phase_two_backoff: Backoff,
    /// Between attempts to take locks that others hold.
    pub lock_backoff: Backoff,
    /// A vote of a saga's step is written down by itself if the last write is longer ago than this.
    /// Before that it is not worth a write: a crash loses the vote, and the step is asked again.
    pub vote_noted_after: Duration,
    /// Transactions that are late after a long stop start within this time.
    pub late_starts_spread: Duration,
    /// Longest pause that a participant's WORKING may ask for.
    pub retry_after_max: Duration,
    /// Phase two that lasts longer than this is stalled, and raises an alarm.
    pub stalled_after: Duration,
    /// Allowance for a participant's clock that runs behind: a Prepare may start this much after
    /// the deadline.
    pub clock_skew: Duration,
    /// Transactions of which a history is recorded.
    pub record: Record,
    /// Rules by which the state machine goes.
    pub rules: RulesVersion,
}

impl Policy {
    /// Returns the time at which something starts that is late by so much, as many others are: each has a time of its
    /// own, and none is twice as late.
    #[must_use]
    pub fn late_start(
        &self,
        tx_id: TxId,
        number: BranchNumber,
        now: Timestamp,
        late: Duration,
    ) -> Timestamp {
        let within = millis(late.min(self.late_starts_spread));
        now.after(Duration::from_millis(spread(tx_id, number, 0) % (within + 1)))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            prepare_backoff: Backoff {
                base: Duration::from_millis(50),
                cap: Duration::from_secs(2),
            },
            phase_two_backoff: Backoff {
                base: Duration::from_millis(100),
                cap: Duration::from_secs(30),
            },
            lock_backoff: Backoff { base: Duration::from_millis(20), cap: Duration::from_secs(5) },
            vote_noted_after: Duration::from_secs(1),
            late_starts_spread: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(60),
            stalled_after: Duration::from_secs(60),
            clock_skew: Duration::from_secs(5),
            record: Record::default(),
            rules: RulesVersion::CURRENT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_are_capped_and_spread() {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(30) };
        let tx = |n: u128| TxId(uuid::Uuid::from_u128(n));
        let number = BranchNumber::from_index(0);
        for (attempt, full) in [(1, 100), (2, 200), (9, 25_600), (10, 30_000), (u32::MAX, 30_000)] {
            let pauses: Vec<u64> =
                (0..100).map(|n| millis(backoff.pause(tx(n), number, attempt))).collect();
            assert!(pauses.iter().all(|&p| p >= full / 2 && p <= full), "{attempt}: {pauses:?}");
            let low = pauses.iter().min().expect("100 of them");
            let high = pauses.iter().max().expect("100 of them");
            assert!(high - low > full / 4, "attempt {attempt} is hardly spread: {low} to {high}");
        }
    }
}
