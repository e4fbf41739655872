//! A branch that a check made up, and the calls for it.

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use unanimo_proto::v1::{BranchContext, CancelRequest, CommitRequest, Payload, PrepareRequest};

/// A branch that a check made up, and what is sent with its operations.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Its context.
    pub context: BranchContext,
    /// Name of the work.
    pub action: String,
    /// The action's argument.
    pub payload: Bytes,
    /// Time after which a Prepare without a trace is to be refused.
    pub prepare_until: Option<SystemTime>,
    /// Output of Prepare, if Commit and Cancel are to carry it.
    pub output: Payload,
    /// Features that Prepare requires.
    pub requires: Vec<String>,
    /// Features that Commit and Cancel require.
    pub phase_two_requires: Vec<String>,
    /// Prepare may only succeed.
    pub must_succeed: bool,
}

impl Branch {
    pub(super) fn key(&self) -> (String, String) {
        (self.context.tx_id.clone(), self.context.branch_id.clone())
    }

    /// The same branch, asked for by a coordinator that can no longer abort.
    #[must_use]
    pub fn that_must_succeed(self) -> Self {
        let requires = vec!["must_succeed".to_owned()];
        Self { prepare_until: None, requires, must_succeed: true, ..self }
    }

    /// Another branch of the same transaction.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let mut sibling = self.clone();
        sibling.context.branch_number += 1;
        sibling.context.branch_id = format!("b{}", sibling.context.branch_number);
        sibling
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.context.branch_id, self.context.tx_id)
    }
}

pub(super) fn prepare(branch: &Branch, attempt: u32) -> PrepareRequest {
    PrepareRequest {
        // That of a message without one.
        context: Some(branch.context.clone())
            .filter(|context| *context != BranchContext::default()),
        action: branch.action.clone(),
        payload: payload(&branch.payload),
        prepare_until: branch.prepare_until.map(prost_types::Timestamp::from),
        metadata: HashMap::new(),
        attempt,
        requires: branch.requires.clone(),
        must_succeed: branch.must_succeed,
        inputs: HashMap::new(),
    }
}

fn payload(data: &Bytes) -> Option<Payload> {
    (!data.is_empty()).then(|| Payload { data: data.clone(), media_type: String::new() })
}

pub(super) fn commit(branch: &Branch, attempt: u32) -> CommitRequest {
    CommitRequest {
        context: Some(branch.context.clone()),
        action: branch.action.clone(),
        payload: payload(&branch.payload),
        output: output(&branch.output),
        metadata: HashMap::new(),
        attempt,
        requires: branch.phase_two_requires.clone(),
        inputs: HashMap::new(),
    }
}

pub(super) fn cancel(branch: &Branch, attempt: u32) -> CancelRequest {
    CancelRequest {
        context: Some(branch.context.clone()),
        action: branch.action.clone(),
        payload: payload(&branch.payload),
        output: output(&branch.output),
        metadata: HashMap::new(),
        attempt,
        prepare_until: branch.prepare_until.map(prost_types::Timestamp::from),
        requires: branch.phase_two_requires.clone(),
        inputs: HashMap::new(),
    }
}

fn output(output: &Payload) -> Option<Payload> {
    (*output != Payload::default()).then(|| output.clone())
}
