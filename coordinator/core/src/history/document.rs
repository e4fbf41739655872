//! The exported form of a history: versioned, without payloads, and enough to be replayed.

use serde::{Deserialize, Serialize};

use super::{Caller, Entry, Input, LAST_VERSION, Size};
use crate::branch::Enlistment;
use crate::definition::{
    BranchSpec, Compensation, Definition, Drive, Lock, Mode, Parent, RetryPolicy, Start, StepInput,
    StepSpec,
};
use crate::ids::{
    ActionName, BranchId, BranchNumber, Gid, InputName, ParticipantName, TxId, Version,
};
use crate::payload::Payload;
use crate::policy::RulesVersion;
use crate::time::{Timestamp, millis_of};
use crate::transaction::{Origin, Record};

/// Name and version of the format.
pub const FORMAT: &str = "unanimo.history/1";

/// A history as it is exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// [`FORMAT`].
    pub format: String,
    /// The program that exported it.
    pub program: Program,
    /// The transaction.
    pub transaction: Subject,
    /// Its branches, by number.
    pub branches: Vec<BranchShape>,
    /// Its transitions, oldest first.
    pub entries: Vec<Entry>,
    /// Entries that were left out at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// End of what was recorded; absent where entries were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The part of a transaction that never changes, without metadata, trace and initiator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The coordinator's name for it.
    pub tx_id: TxId,
    /// The client's name for it.
    pub gid: Gid,
    /// Its version when it was exported.
    pub version: Version,
    /// Its mode.
    #[serde(with = "mode_by_name")]
    pub mode: Mode,
    /// Its branches came with the first call, and no others.
    pub declarative: bool,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When ABORT is decided if nothing else was.
    pub deadline: Timestamp,
    /// When it starts, if not at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// Its own locks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<Lock>,
    /// The branch that it is, if it is a child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// A branch, without its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchShape {
    /// The initiator's name for it.
    pub branch_id: BranchId,
    /// Who holds it.
    pub participant: ParticipantName,
    /// The action.
    pub action: ActionName,
    /// Its mode.
    #[serde(with = "mode_by_name")]
    pub mode: Mode,
    /// Who sends its Prepare.
    pub by: Caller,
    /// Size of its payload.
    #[serde(default)]
    pub payload: Size,
    /// Numbers of the branches that it depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<BranchNumber>,
    /// Outputs that go with its calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Order>,
    /// Its yes decides COMMIT.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub pivot: bool,
    /// The way in which ABORT undoes it.
    #[serde(default)]
    pub compensation: Compensation,
    /// Bounds on its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Time to wait for one answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "millis_of::optional")]
    pub attempt_timeout: Option<std::time::Duration>,
    /// Time between the last vote that it waits for and its first attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "millis_of::optional")]
    pub delay: Option<std::time::Duration>,
    /// Earliest time of its first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// Its locks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<Lock>,
}

/// An output that goes with a branch's calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Name by which its participant knows it.
    pub name: InputName,
    /// Number of the branch whose output it is.
    #[serde(rename = "branch")]
    pub number: BranchNumber,
}

/// Remark on what was left out, because a message has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Number of entries after the last one that is there.
    pub entries: usize,
}

/// Remark on where a record ends, by which a document that lost its end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Version of the last entry.
    pub version: Version,
    /// Number of entries; absent if they came in pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<usize>,
}

impl End {
    /// Makes the end of a list with all entries; `None` if it is empty.
    #[must_use]
    pub fn of(entries: &[Entry]) -> Option<Self> {
        let last = entries.last()?;
        Some(Self { version: last.version, entries: Some(entries.len()) })
    }
}

impl Document {
    /// Makes the document of a stored transaction and its entries; `None` if it is a tombstone, to which
    /// nothing happened.
    #[must_use]
    pub fn of(record: &Record, entries: Vec<Entry>, program: Program) -> Option<Self> {
        let identity = &record.identity;
        let Origin::Request { mode, drive } = identity.origin else { return None };
        let ids: std::collections::BTreeMap<&BranchId, BranchNumber> = record
            .branches
            .iter()
            .enumerate()
            .map(|(index, (_, spec))| (&spec.branch_id, BranchNumber::from_index(index)))
            .collect();
        let shape = |(enlistment, spec): &(Enlistment, std::sync::Arc<BranchSpec>)| {
            BranchShape::of(spec, *enlistment, &ids)
        };
        let end = End::of(&entries);
        Some(Self {
            format: FORMAT.to_owned(),
            program,
            transaction: Subject {
                tx_id: identity.tx_id,
                gid: identity.gid.clone(),
                version: record.version,
                mode,
                declarative: drive == Drive::Declarative,
                created_at: identity.created_at,
                deadline: identity.deadline,
                start_at: identity.start_at,
                locks: identity.locks.clone(),
                parent: identity.parent,
            },
            branches: record.branches.iter().map(shape).collect(),
            entries,
            cut: None,
            end,
        })
    }

    /// Returns what is missing of what was recorded, in words; `None` if it is whole.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let (count, last) = (self.entries.len(), self.entries.last()?.version);
        let of = self.transaction.version;
        if let Some(Cut { entries }) = self.cut {
            return Some(format!(
                "it ends at version {} of {}: {entries} entries were left out",
                last.0, of.0
            ));
        }
        match self.end {
            Some(End { version, .. }) if last < version => Some(format!(
                "it ends at version {}, and was recorded to version {}",
                last.0, version.0
            )),
            Some(End { entries: Some(entries), .. }) if count < entries => {
                Some(format!("it has {count} entries, and {entries} were recorded"))
            }
            // Before there was an end, and before the recording ended by itself.
            None if last < of && last < LAST_VERSION => {
                Some(format!("it ends at version {} of {}, and has no end", last.0, of.0))
            }
            _ => None,
        }
    }

    /// Returns the numbers of the rules by which it went, from its begin and from each adoption on.
    #[must_use]
    pub fn rules(&self) -> Vec<RulesVersion> {
        let steps = self.entries.iter().flat_map(|entry| &entry.steps);
        let mut rules: Vec<RulesVersion> = steps
            .filter_map(|step| match &step.input {
                Input::Begin { settings, .. } | Input::Recovered { settings, .. } => {
                    Some(settings.rules)
                }
                _ => None,
            })
            .collect();
        rules.dedup();
        rules
    }

    /// The transaction as it was begun, with its first branches. Zeroes stand for payloads.
    pub(super) fn definition(&self, branches: usize, zeroes: &bytes::Bytes) -> Definition {
        let subject = &self.transaction;
        let from = subject.start_at.unwrap_or(subject.created_at);
        Definition {
            gid: subject.gid.clone(),
            mode: subject.mode,
            drive: if subject.declarative { Drive::Declarative } else { Drive::Interactive },
            branches: (0..branches).map(|index| self.spec(index, zeroes)).collect(),
            timeout: Some(from.until(subject.deadline)),
            start: subject.start_at.map_or(Start::AtOnce, Start::At),
            locks: subject.locks.clone(),
            parent: subject.parent,
            children: Vec::new(),
            metadata: Default::default(),
            trace: Default::default(),
            initiator: String::new(),
        }
    }

    /// The branch at this index. Zeroes stand for its payload.
    pub(super) fn spec(&self, index: usize, zeroes: &bytes::Bytes) -> BranchSpec {
        let shape = &self.branches[index];
        let id = |number: &BranchNumber| self.branches[number.index()].branch_id.clone();
        BranchSpec {
            branch_id: shape.branch_id.clone(),
            participant: shape.participant.clone(),
            action: shape.action.clone(),
            payload: shape.payload.of_zeroes(zeroes),
            mode: shape.mode,
            step: StepSpec {
                depends_on: shape.depends_on.iter().map(id).collect(),
                inputs: shape
                    .inputs
                    .iter()
                    .map(|order| StepInput {
                        name: order.name.clone(),
                        branch_id: id(&order.number),
                    })
                    .collect(),
                pivot: shape.pivot,
                compensation: shape.compensation,
                retry: shape.retry,
                attempt_timeout: shape.attempt_timeout,
                delay: shape.delay,
                start_at: shape.start_at,
                locks: shape.locks.clone(),
            },
        }
    }
}

impl BranchShape {
    fn of(
        spec: &BranchSpec,
        enlistment: Enlistment,
        ids: &std::collections::BTreeMap<&BranchId, BranchNumber>,
    ) -> Self {
        let BranchSpec { branch_id, participant, action, payload, mode, step } = spec;
        let order = |input: &StepInput| {
            Some(Order { name: input.name.clone(), number: *ids.get(&input.branch_id)? })
        };
        Self {
            branch_id: branch_id.clone(),
            participant: participant.clone(),
            action: action.clone(),
            mode: *mode,
            by: enlistment.into(),
            payload: payload.into(),
            depends_on: step.depends_on.iter().filter_map(|id| ids.get(id).copied()).collect(),
            inputs: step.inputs.iter().filter_map(order).collect(),
            pivot: step.pivot,
            compensation: step.compensation,
            retry: step.retry,
            attempt_timeout: step.attempt_timeout,
            delay: step.delay,
            start_at: step.start_at,
            locks: step.locks.clone(),
        }
    }
}

impl Size {
    /// A payload of this size and type, all zero.
    pub(super) fn of_zeroes(&self, zeroes: &bytes::Bytes) -> Payload {
        let data = zeroes.slice(..self.bytes.min(zeroes.len()));
        Payload { data, media_type: self.media_type.clone() }
    }
}

/// Modes by their names.
mod mode_by_name {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::definition::Mode;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(mode.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Mode, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
