//! Definition of a transaction and its branches, as its initiator states it, and the rules for it.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Digests};
use crate::ids::{ActionName, BranchId, Gid, NAME_BYTES_MAX, ParticipantName, check_alphabet};
use crate::payload::Payload;
use crate::policy::Limits;

/// Protocol that brings the branches of a transaction to one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// X/Open XA: work is held prepared, invisible to others.
    TwoPhaseCommit,
    /// Try, confirm, cancel: work is reserved in a visible local transaction.
    Tcc,
}

/// Name of a mode that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 2pc or tcc, is {0:?}")]
pub struct UnknownMode(String);

impl Mode {
    /// The stable name, as stored, logged and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwoPhaseCommit => "2pc",
            Self::Tcc => "tcc",
        }
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        [Self::TwoPhaseCommit, Self::Tcc]
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

/// Who says which branches there are, and when to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drive {
    /// All branches came with the first call; COMMIT follows from the votes.
    Declarative,
    /// Branches come one by one; COMMIT needs the initiator's word.
    Interactive,
}

/// One participant's share of a transaction, as its initiator states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchSpec {
    /// The initiator's name for it.
    pub branch_id: BranchId,
    /// Who holds it.
    pub participant: ParticipantName,
    /// The action to be done.
    pub action: ActionName,
    /// The action's argument, opaque.
    pub payload: Payload,
    /// Its mode.
    pub mode: Mode,
}

/// A branch as a request states it that names a transaction which has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchRequest {
    /// The initiator's name for it.
    pub branch_id: BranchId,
    /// Who holds it.
    pub participant: ParticipantName,
    /// The action to be done.
    pub action: ActionName,
    /// The action's argument, opaque.
    pub payload: Payload,
    /// Its mode; `None` for the transaction's.
    pub mode: Option<Mode>,
}

impl BranchRequest {
    /// The branch, in a transaction of this mode.
    #[must_use]
    pub fn in_mode(self, of_transaction: Mode) -> BranchSpec {
        let Self { branch_id, participant, action, payload, mode } = self;
        BranchSpec { branch_id, participant, action, payload, mode: mode.unwrap_or(of_transaction) }
    }
}

impl From<BranchSpec> for BranchRequest {
    fn from(spec: BranchSpec) -> Self {
        let BranchSpec { branch_id, participant, action, payload, mode } = spec;
        Self { branch_id, participant, action, payload, mode: Some(mode) }
    }
}

/// W3C Trace Context of the call that began the transaction, handed to participants as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceContext {
    /// Header `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Header `tracestate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// A transaction, as its initiator states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The client's name for it.
    pub gid: Gid,
    /// Its mode.
    pub mode: Mode,
    /// Who says when to commit.
    pub drive: Drive,
    /// Its branches; none when interactive.
    pub branches: Vec<BranchSpec>,
    /// Time until ABORT; `None` for the default.
    pub timeout: Option<Duration>,
    /// Carried along for participants.
    pub metadata: BTreeMap<String, String>,
    /// Carried along for participants.
    pub trace: TraceContext,
    /// Who began it; empty without authentication.
    pub initiator: String,
}

/// A field of a request, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct Violation {
    /// Path of the field, as the request spells it: `branches[2].payload`.
    pub field: String,
    /// The rule, fitting after the field: `must be at most 10 bytes, has 12`.
    pub rule: String,
}

impl Violation {
    /// A violation of `rule` by `field`.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), rule: rule.into() }
    }
}

impl Definition {
    /// Every rule that the definition breaks.
    #[must_use]
    pub fn violations(&self, limits: &Limits) -> Vec<Violation> {
        let mut found = Vec::new();
        let count = self.branches.len();
        if self.drive == Drive::Declarative && count == 0 {
            found.push(Violation::new("branches", "must have at least 1 branch, has none"));
        }
        if count > limits.branches_max {
            let rule = format!("must have at most {} branches, has {count}", limits.branches_max);
            found.push(Violation::new("branches", rule));
            // A list that is too long is not gone through.
            return found;
        }
        let mut seen = BTreeSet::new();
        for (index, branch) in self.branches.iter().enumerate() {
            if !seen.insert(&branch.branch_id) {
                let rule = format!("must be unique, {} came before", branch.branch_id);
                found.push(Violation::new(format!("branches[{index}].branch_id"), rule));
            }
            let field = format!("branches[{index}].payload");
            found.extend(branch.payload.bad_media_type(&field));
            found.extend(too_large(field, branch.payload.data.len(), limits.payload_bytes_max));
            if branch.mode != self.mode {
                let rule = format!("must be the mode of the transaction, {}", self.mode.name());
                found.push(Violation::new(format!("branches[{index}].mode"), rule));
            }
        }
        let total = self.branches.iter().map(|b| b.payload.data.len()).sum();
        found.extend(too_large("branches.payload", total, limits.payloads_bytes_max).map(
            |mut v| {
                v.rule.push_str(" over all branches");
                v
            },
        ));
        found.extend(self.timeout.and_then(|timeout| bad_timeout(timeout, limits.timeout_max)));
        found.extend(self.bad_metadata(limits));
        found
    }

    fn bad_metadata(&self, limits: &Limits) -> Vec<Violation> {
        let size = self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let mut found: Vec<_> =
            too_large("metadata", size, limits.metadata_bytes_max).into_iter().collect();
        for (key, value) in &self.metadata {
            if let Err(rule) = check_alphabet(key, NAME_BYTES_MAX) {
                found.push(Violation::new(format!("metadata key {key:?}"), rule.to_string()));
            }
            if value.contains('\0') {
                found.push(Violation::new(format!("metadata[{key:?}]"), "must hold no NUL byte"));
            }
        }
        found
    }

    /// Returns the digest, which two equal requests share: it covers everything but timeouts,
    /// metadata, trace and caller.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digests().newest()
    }

    /// Returns the digest by an earlier rule; `None` if there is no such rule.
    #[must_use]
    pub fn digest_by(&self, version: i16) -> Option<Digest> {
        self.digests().by(version)
    }

    /// Returns the digests by every rule, to compare with a stored one.
    #[must_use]
    pub fn digests(&self) -> Digests {
        Digests::of(self)
    }

    /// Bytes that the transaction will hold in memory for its branches.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.branches.iter().map(|branch| branch.payload.held_bytes()).sum()
    }
}

/// The violation of a size bound, if it is one.
#[must_use]
pub fn too_large(field: impl Into<String>, found: usize, max: usize) -> Option<Violation> {
    (found > max)
        .then(|| Violation::new(field, format!("must be at most {max} bytes, has {found}")))
}

fn bad_timeout(timeout: Duration, max: Duration) -> Option<Violation> {
    if timeout < Duration::from_millis(1) {
        return Some(Violation::new("timeout", "must be at least 1 ms"));
    }
    (timeout > max).then(|| {
        let rule = format!("must be at most {} s, is {} s", max.as_secs(), timeout.as_secs());
        Violation::new("timeout", rule)
    })
}
