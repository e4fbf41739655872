//! Digest that tells whether two requests under one gid are the same request (promise S9).

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::definition::{BranchSpec, Definition, Drive, Mode};

/// Version of the rule that makes a digest. It is stored beside it: digests of different rules
/// never compare equal, so a change of the rule must keep the old one for as long as gids live.
pub const DIGEST_VERSION: i16 = 1;

/// SHA-256 over what an initiator asked for, in a written order.
///
/// Version 1: a byte for the drive (1 declarative, 2 interactive), a byte for the mode (1
/// two-phase commit, 2 TCC), the number of branches, then for each branch in the request's order
/// its id, participant, action and payload. Numbers and lengths are 8 bytes, big endian; each text
/// is preceded by its length. Timeout, metadata, trace context and caller are left out: a client
/// that tries again may change them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// The rule: [`DIGEST_VERSION`] for one that was made here.
    pub version: i16,
    /// The hash.
    pub hash: [u8; 32],
}

impl Digest {
    pub(crate) fn of(definition: &Definition) -> Self {
        let mut hash = Sha256::new();
        hash.update([match definition.drive {
            Drive::Declarative => 1,
            Drive::Interactive => 2,
        }]);
        hash.update([match definition.mode {
            Mode::TwoPhaseCommit => 1,
            Mode::Tcc => 2,
        }]);
        hash.update((definition.branches.len() as u64).to_be_bytes());
        for BranchSpec { branch_id, participant, action, payload } in &definition.branches {
            for part in [
                branch_id.as_str().as_bytes(),
                participant.as_str().as_bytes(),
                action.as_str().as_bytes(),
                payload,
            ] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        Self { version: DIGEST_VERSION, hash: hash.finalize().into() }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}:", self.version)?;
        self.hash[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
