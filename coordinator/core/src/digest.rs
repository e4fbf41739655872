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
//!   order a byte for its mode (as above) and the media type of its payload.
//!
//! The rule's number is stored with the digest. A request is compared by the rule of the digest that
//! is stored: [`Digests`] has one for every rule, so that a request that comes again is recognised
//! for as long as its gid lives, whichever version of the program stored it.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::definition::{BranchSpec, Definition, Drive, Mode};

/// The rule by which new digests are made. A change of the rule gets the next number, and the old
/// ones stay.
pub const DIGEST_VERSION: i16 = 2;

/// Digest of a request, as it is stored with its transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// The rule that made it: 1 or 2, or 0 for [`Digest::TOMBSTONE`].
    pub version: i16,
    /// The hash.
    pub hash: [u8; 32],
}

impl Digest {
    /// Digest of a tombstone, which stands for every request: whatever comes later under its gid is
    /// answered with it.
    pub const TOMBSTONE: Self = Self { version: 0, hash: [0; 32] };
}

/// Digests of one request, by every rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests([Digest; 2]);

impl Digests {
    pub(crate) fn of(definition: &Definition) -> Self {
        let first = Digest { version: 1, hash: rule_1(definition) };
        let second = Digest { version: 2, hash: rule_2(&first.hash, definition) };
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
    for BranchSpec { branch_id, participant, action, payload, mode: _, step: _ } in
        &definition.branches
    {
        for part in [branch_id.as_str(), participant.as_str(), action.as_str()] {
            text(&mut hash, part.as_bytes());
        }
        text(&mut hash, &payload.data);
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

fn mode_byte(mode: Mode) -> u8 {
    match mode {
        Mode::TwoPhaseCommit => 1,
        Mode::Tcc => 2,
        Mode::Saga => 3,
    }
}

fn text(hash: &mut Sha256, text: &[u8]) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}:", self.version)?;
        self.hash[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
