//! Bytes that transactions hold in memory, as they are counted against the bound on all of them.
//!
//! Everything is counted that a client or a participant chose the length of. What each transaction and
//! each branch takes besides is bounded by their number.

use std::collections::BTreeMap;

use crate::branch::{Attempts, Branch, PhaseTwo, Progress, Refusal};
use crate::definition::{BranchSpec, Definition, Lock, TraceContext};
use crate::history::Step;
use crate::payload::Payload;
use crate::transaction::{Identity, Transaction};

/// Bytes that an entry of a map or a list takes besides its texts.
const ENTRY: usize = 64;

impl Transaction {
    /// Bytes that it holds in memory: payloads, outputs, metadata, names and texts.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let Identity { gid, locks, metadata, trace, initiator, .. } = &**self.identity();
        let own = gid.as_str().len() + initiator.len() + text(self.abort_detail());
        own + of_metadata(metadata)
            + of_trace(trace)
            + of_locks(locks)
            + self.branches().iter().map(of_branch).sum::<usize>()
            + self.unrecorded.iter().map(Step::size).sum::<usize>()
    }
}

impl Definition {
    /// Bytes that the transaction will hold in memory when it begins.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.gid.as_str().len()
            + self.initiator.len()
            + of_metadata(&self.metadata)
            + of_trace(&self.trace)
            + of_locks(&self.locks)
            + self.branches.iter().map(of_spec).sum::<usize>()
    }
}

fn of_branch(branch: &Branch) -> usize {
    of_spec(&branch.spec)
        + branch.output.as_ref().map_or(0, Payload::held_bytes)
        + of_progress(&branch.progress, str::len)
}

/// Bytes of the texts that a branch's progress holds, each counted by `len`.
pub(crate) fn of_progress(progress: &Progress, len: fn(&str) -> usize) -> usize {
    let Progress { refusal, phase_two, prepare_attempts, phase_two_attempts, database_id, .. } =
        progress;
    let text = |text: &Option<String>| text.as_deref().map_or(0, len);
    let refusal =
        refusal.as_ref().map_or(0, |Refusal { reason, message }| len(reason) + len(message));
    let note = match phase_two {
        PhaseTwo::Heuristic { note, operator, .. } => len(note) + text(operator),
        _ => 0,
    };
    let errors = |attempts: &Attempts| text(&attempts.first_error) + text(&attempts.last_error);
    let errors = errors(prepare_attempts) + errors(phase_two_attempts);
    refusal + note + errors + len(database_id)
}

/// Bytes that a text takes inside JSON.
pub(crate) fn as_json(text: &str) -> usize {
    let byte = |byte| match byte {
        b'"' | b'\\' => 2,
        0..=0x1f => "\\u0000".len(),
        _ => 1,
    };
    text.bytes().map(byte).sum()
}

fn of_spec(spec: &BranchSpec) -> usize {
    let names = spec.branch_id.as_str().len()
        + spec.participant.as_str().len()
        + spec.action.as_str().len();
    names + spec.payload.held_bytes() + spec.step.held_bytes()
}

pub(crate) fn of_metadata(metadata: &BTreeMap<String, String>) -> usize {
    metadata.iter().map(|(key, value)| ENTRY + key.len() + value.len()).sum()
}

pub(crate) fn of_trace(trace: &TraceContext) -> usize {
    text(trace.traceparent.as_deref()) + text(trace.tracestate.as_deref())
}

fn of_locks(locks: &[Lock]) -> usize {
    locks.iter().map(|lock| ENTRY + lock.name.as_str().len()).sum()
}

fn text(text: Option<&str>) -> usize {
    text.map_or(0, str::len)
}
