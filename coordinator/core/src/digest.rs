//! Digest that tells whether two requests under one gid are the same request (promise S9).
//!
//! Each rule is written in an order that never changes. Numbers and lengths are 8 bytes, big endian;
//! each text is preceded by its length. Timeout, metadata, trace context and caller are in none of
//! them: a client that tries again may change them.
//!
//! - Rule 1: SHA-256 over a byte for the drive (1 declarative, 2 interactive), a byte for the mode
//!   of the transaction (1 two-phase commit, 2 TCC), the number of branches, and for each branch in
//!   the request's order its id, participant, action, and the bytes of its payload.
//! - Rule 2: SHA-256 over the 32 bytes that rule 1 makes, and for each branch in the request's
//!   order a byte for its mode (as above; 3 for a saga) and the media type of its payload.
//! - Rule 3: SHA-256 over the 32 bytes that rule 2 makes, the transaction's locks, and for each branch
//!   in the request's order: the number of ids that it depends on and each of them; the number of its
//!   inputs, and the name and branch id of each; a byte for the pivot (0 or 1), a byte for its
//!   compensation (0 compensate, 1 none, 2 kept), and its locks. Locks are their number, and for each its
//!   name and a byte for its mode (1 exclusive, 2 shared). It is the rule for sagas and for transactions
//!   with locks; rule 2 is the rule for all others, to which it would add nothing.
//!
//! In the place of the payload of a branch that is a child, the hash of the child's own digest is taken:
//! its times and attempts are compared no more than its parent's.
//!
//! The rule's number is stored with the digest. A request is compared by the rule of the digest that
//! is stored: [`Digests`] has one for every rule, so that a request that comes again is recognised
//! for as long as its gid lives, whichever version of the program stored it.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::definition::{BranchSpec, Compensation, Definition, Drive, Lock, LockMode, Mode};

/// The newest rule by which digests are made. A change of the rule gets the next number, and the old
/// ones stay.
pub const DIGEST_VERSION: i16 = 3;

/// Digest of a request, as it is stored with its transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// The rule that made it, from 1, or 0 for [`Digest::TOMBSTONE`].
    pub version: i16,
    /// The hash.
    pub hash: [u8; 32],
}

impl Digest {
    /// Digest of a tombstone, which stands for every request: whatever comes later under its gid is
    /// answered with it.
    pub const TOMBSTONE: Self = Self { version: 0, hash: [0; 32] };
}

/// Digests of one request, by every rule that covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests([Digest; 2]);

impl Digests {
    pub(crate) fn of(definition: &Definition) -> Self {
        let first = Digest { version: 1, hash: rule_1(definition) };
        let second = Digest { version: 2, hash: rule_2(&first.hash, definition) };
        if has_more(definition) {
            // The earlier rules would take it for a request that says less.
            let third = Digest { version: 3, hash: rule_3(&second.hash, definition) };
            return Self([third, third]);
        }
        Self([first, second])
    }

    /// The digest by the rule for new ones.
    #[must_use]
    pub fn newest(&self) -> Digest {
        let [.., newest] = self.0;
        newest
    }

    /// The digest by this rule; `None` if there is no such rule.
    #[must_use]
    pub fn by(&self, version: i16) -> Option<Digest> {
        self.0.into_iter().find(|digest| digest.version == version)
    }

    /// Tells whether the request is the one that a stored digest was made of. A tombstone's stands
    /// for every request.
    #[must_use]
    pub fn matches(&self, stored: Digest) -> bool {
        stored == Digest::TOMBSTONE || self.by(stored.version) == Some(stored)
    }
}

fn rule_1(definition: &Definition) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([match definition.drive {
        Drive::Declarative => 1,
        Drive::Interactive => 2,
    }]);
    hash.update([mode_byte(definition.mode)]);
    hash.update((definition.branches.len() as u64).to_be_bytes());
    for (index, branch) in definition.branches.iter().enumerate() {
        let BranchSpec { branch_id, participant, action, payload, mode: _, step: _ } = branch;
        for part in [branch_id.as_str(), participant.as_str(), action.as_str()] {
            text(&mut hash, part.as_bytes());
        }
        match definition.children.iter().find(|(at, _)| *at == index) {
            Some((_, child)) => text(&mut hash, &child.digest().hash),
            None => text(&mut hash, &payload.data),
        }
    }
    hash.finalize().into()
}

fn rule_2(rule_1: &[u8; 32], definition: &Definition) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(rule_1);
    for BranchSpec { payload, mode, .. } in &definition.branches {
        hash.update([mode_byte(*mode)]);
        text(&mut hash, payload.media_type.as_bytes());
    }
    hash.finalize().into()
}

/// Tells whether the definition holds anything that rule 3 covers.
fn has_more(definition: &Definition) -> bool {
    definition.mode == Mode::Saga || !definition.locks.is_empty()
}

fn rule_3(rule_2: &[u8; 32], definition: &Definition) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(rule_2);
    locks(&mut hash, &definition.locks);
    for BranchSpec { step, .. } in &definition.branches {
        number(&mut hash, step.depends_on.len());
        step.depends_on.iter().for_each(|id| text(&mut hash, id.as_str().as_bytes()));
        number(&mut hash, step.inputs.len());
        for input in &step.inputs {
            text(&mut hash, input.name.as_str().as_bytes());
            text(&mut hash, input.branch_id.as_str().as_bytes());
        }
        hash.update([u8::from(step.pivot), compensation_byte(step.compensation)]);
        locks(&mut hash, &step.locks);
    }
    hash.finalize().into()
}

fn locks(hash: &mut Sha256, locks: &[Lock]) {
    number(hash, locks.len());
    for Lock { name, mode, wait_max: _ } in locks {
        text(hash, name.as_str().as_bytes());
        hash.update([match mode {
            LockMode::Exclusive => 1,
            LockMode::Shared => 2,
        }]);
    }
}

pub(crate) fn number(hash: &mut Sha256, number: usize) {
    hash.update((number as u64).to_be_bytes());
}

pub(crate) fn mode_byte(mode: Mode) -> u8 {
    match mode {
        Mode::TwoPhaseCommit => 1,
        Mode::Tcc => 2,
        Mode::Saga => 3,
    }
}

pub(crate) fn compensation_byte(compensation: Compensation) -> u8 {
    match compensation {
        Compensation::Compensate => 0,
        Compensation::None => 1,
        Compensation::Kept => 2,
    }
}

pub(crate) fn text(hash: &mut Sha256, text: &[u8]) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}:", self.version)?;
        self.hash[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
