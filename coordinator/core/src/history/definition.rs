//! Digests of what was begun and added, as a history records them.
//!
//! A pivot that is the last step, or the mode of a branch that only ever votes, shows in no call: without the
//! digests, a document in which they were changed would be equal to its replay.
//!
//! A digest is the first 8 bytes of a SHA-256 in hexadecimal, over each value in an order that never changes: numbers
//! and lengths as 8 bytes, big endian, each text behind its length, an absent value as a byte 0, a present one
//! behind a byte 1. A value that is added later is covered only where it is not the default.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Caller;
use crate::definition::{BranchSpec, Drive, Lock, LockMode, Parent, RetryPolicy, StepSpec};
use crate::digest::{compensation_byte, mode_byte, number, text};
use crate::transaction::{Identity, Origin};

/// Bytes of a SHA-256 that are kept: enough to tell a change, and short where 64 branches are begun at once.
const BYTES: usize = 8;

/// Digests of a transaction and of the branches with which it was begun.
pub(super) fn of_begin<'a>(
    identity: &Identity,
    branches: impl IntoIterator<Item = (&'a BranchSpec, Caller)>,
) -> Vec<String> {
    let branches = branches.into_iter().map(|(spec, by)| of_branch(spec, by));
    std::iter::once(of_transaction(identity)).chain(branches).collect()
}

/// Digest of a transaction: what a document says of it, without the version.
fn of_transaction(identity: &Identity) -> String {
    let Identity { tx_id, gid, origin, created_at, deadline, start_at, locks, parent, .. } =
        identity;
    let mut hash = Sha256::new();
    hash.update(tx_id.0.as_bytes());
    text(&mut hash, gid.as_str().as_bytes());
    if let Origin::Request { mode, drive } = origin {
        hash.update([mode_byte(*mode), u8::from(*drive == Drive::Declarative)]);
    }
    let start_at = start_at.map(|at| at.0);
    hash.update(created_at.0.to_be_bytes());
    hash.update(deadline.0.to_be_bytes());
    optional(&mut hash, start_at, |hash, at| hash.update(at.to_be_bytes()));
    all_locks(&mut hash, locks);
    optional(&mut hash, *parent, |hash, Parent { tx_id, number, root }| {
        hash.update(tx_id.0.as_bytes());
        hash.update(u64::from(number.get()).to_be_bytes());
        hash.update(root.0.as_bytes());
    });
    in_hexadecimal(hash)
}

/// Digest of a branch, with the size of its payload.
pub(super) fn of_branch(spec: &BranchSpec, by: Caller) -> String {
    let BranchSpec { branch_id, participant, action, payload, mode, step } = spec;
    let mut hash = Sha256::new();
    for name in [branch_id.as_str(), participant.as_str(), action.as_str(), &payload.media_type] {
        text(&mut hash, name.as_bytes());
    }
    number(&mut hash, payload.data.len());
    hash.update([mode_byte(*mode), u8::from(by == Caller::Initiator)]);
    let StepSpec { depends_on, inputs, pivot, compensation, retry, .. } = step;
    number(&mut hash, depends_on.len());
    depends_on.iter().for_each(|id| text(&mut hash, id.as_str().as_bytes()));
    number(&mut hash, inputs.len());
    for input in inputs {
        text(&mut hash, input.name.as_str().as_bytes());
        text(&mut hash, input.branch_id.as_str().as_bytes());
    }
    hash.update([u8::from(*pivot), compensation_byte(*compensation)]);
    optional(&mut hash, *retry, |hash, retry| {
        let RetryPolicy { attempts_max, backoff_min, backoff_max, give_up_after } = retry;
        optional(hash, attempts_max, |hash, max| hash.update(u64::from(max).to_be_bytes()));
        for time in [backoff_min, backoff_max, give_up_after] {
            optional(hash, time, millis);
        }
    });
    optional(&mut hash, step.attempt_timeout, millis);
    optional(&mut hash, step.delay, millis);
    optional(&mut hash, step.start_at, |hash, at| hash.update(at.0.to_be_bytes()));
    all_locks(&mut hash, &step.locks);
    in_hexadecimal(hash)
}

fn all_locks(hash: &mut Sha256, locks: &[Lock]) {
    number(hash, locks.len());
    for Lock { name, mode, wait_max } in locks {
        text(hash, name.as_str().as_bytes());
        hash.update([u8::from(*mode == LockMode::Shared)]);
        millis(hash, *wait_max);
    }
}

fn optional<T>(hash: &mut Sha256, value: Option<T>, present: impl Fn(&mut Sha256, T)) {
    hash.update([u8::from(value.is_some())]);
    if let Some(value) = value {
        present(hash, value);
    }
}

/// Adds a duration as it is recorded.
fn millis(hash: &mut Sha256, duration: Duration) {
    hash.update(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
}

fn in_hexadecimal(hash: Sha256) -> String {
    let hash = hash.finalize();
    hash[..BYTES].iter().fold(String::with_capacity(2 * BYTES), |mut text, byte| {
        // A text takes whatever is written into it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
