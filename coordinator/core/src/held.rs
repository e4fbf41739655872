//! Bytes that transactions hold in memory, as they are counted against the bound on all of them.
//!
//! Everything is counted that a client or a participant chose the length of. What each transaction and
//! each branch takes besides is bounded by their number.

use std::collections::BTreeMap;

use crate::branch::{Attempts, Branch, PhaseTwo, Progress, Refusal};
use crate::definition::{BranchSpec, Definition, Lock, TraceContext};
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
    let Progress { refusal, phase_two, prepare_attempts, phase_two_attempts, .. } =
        &branch.progress;
    let refusal =
        refusal.as_ref().map_or(0, |Refusal { reason, message }| reason.len() + message.len());
    let note = match phase_two {
        PhaseTwo::Heuristic { note, operator, .. } => note.len() + text(operator.as_deref()),
        _ => 0,
    };
    let errors = |attempts: &Attempts| {
        text(attempts.first_error.as_deref()) + text(attempts.last_error.as_deref())
    };
    of_spec(&branch.spec)
        + branch.output.as_ref().map_or(0, Payload::held_bytes)
        + refusal
        + note
        + errors(prepare_attempts)
        + errors(phase_two_attempts)
}

fn of_spec(spec: &BranchSpec) -> usize {
    let names = spec.branch_id.as_str().len()
        + spec.participant.as_str().len()
        + spec.action.as_str().len();
    names + spec.payload.held_bytes() + spec.step.held_bytes()
}

fn of_metadata(metadata: &BTreeMap<String, String>) -> usize {
    metadata.iter().map(|(key, value)| ENTRY + key.len() + value.len()).sum()
}

fn of_trace(trace: &TraceContext) -> usize {
    text(trace.traceparent.as_deref()) + text(trace.tracestate.as_deref())
}

fn of_locks(locks: &[Lock]) -> usize {
    locks.iter().map(|lock| ENTRY + lock.name.as_str().len()).sum()
}

fn text(text: Option<&str>) -> usize {
    text.map_or(0, str::len)
}
