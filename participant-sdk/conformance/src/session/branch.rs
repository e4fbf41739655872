//! A branch that a check made up, and the calls for it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use unanimo_proto::v1::{BranchContext, CancelRequest, CommitRequest, Payload, PrepareRequest};

use crate::Options;

/// A branch that a check made up, and what is sent with its operations.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Its context.
    pub context: BranchContext,
    /// Name of the work.
    pub action: String,
    /// The action's argument.
    pub payload: Bytes,
    /// Its media type.
    pub payload_type: String,
    /// Inputs, by name. Where there are any, Prepare requires `step_inputs` besides `requires`.
    pub inputs: BTreeMap<String, Bytes>,
    /// Their media types, by name.
    pub input_types: BTreeMap<String, String>,
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
    /// Most bytes of the output. Where it is there, Prepare requires `output_bytes_max` besides `requires`.
    pub output_bytes_max: Option<u64>,
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

    /// The same branch with the argument that is to be refused.
    #[must_use]
    pub fn with_refused(self, payload: &Bytes, options: &Options) -> Self {
        let payload_type = options.refused_payload_type.clone();
        Self { payload: payload.clone(), payload_type, ..self }
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
    let inputs = (!branch.inputs.is_empty()).then(|| STEP_INPUTS.to_owned());
    let bounded = branch.output_bytes_max.map(|_| OUTPUT_BYTES_MAX.to_owned());
    PrepareRequest {
        // That of a message without one.
        context: Some(branch.context.clone())
            .filter(|context| *context != BranchContext::default()),
        action: branch.action.clone(),
        payload: payload(branch),
        prepare_until: branch.prepare_until.map(prost_types::Timestamp::from),
        metadata: HashMap::new(),
        attempt,
        requires: branch.requires.iter().cloned().chain(inputs).chain(bounded).collect(),
        must_succeed: branch.must_succeed,
        output_bytes_max: branch.output_bytes_max,
        inputs: inputs_of(branch),
    }
}

/// Feature of a Prepare with inputs.
const STEP_INPUTS: &str = "step_inputs";

/// Feature of a Prepare whose output has a bound of its own.
const OUTPUT_BYTES_MAX: &str = "output_bytes_max";

fn inputs_of(branch: &Branch) -> HashMap<String, Payload> {
    let inputs = branch.inputs.iter().map(|(name, data)| {
        let media_type = branch.input_types.get(name).cloned().unwrap_or_default();
        (name.clone(), Payload { data: data.clone(), media_type })
    });
    inputs.collect()
}

fn payload(branch: &Branch) -> Option<Payload> {
    let (data, media_type) = (branch.payload.clone(), branch.payload_type.clone());
    output(&Payload { data, media_type })
}

pub(super) fn commit(branch: &Branch, attempt: u32) -> CommitRequest {
    CommitRequest {
        context: Some(branch.context.clone()),
        action: branch.action.clone(),
        payload: payload(branch),
        output: output(&branch.output),
        metadata: HashMap::new(),
        attempt,
        requires: branch.phase_two_requires.clone(),
        inputs: inputs_of(branch),
    }
}

pub(super) fn cancel(branch: &Branch, attempt: u32) -> CancelRequest {
    CancelRequest {
        context: Some(branch.context.clone()),
        action: branch.action.clone(),
        payload: payload(branch),
        output: output(&branch.output),
        metadata: HashMap::new(),
        attempt,
        prepare_until: branch.prepare_until.map(prost_types::Timestamp::from),
        requires: branch.phase_two_requires.clone(),
        inputs: inputs_of(branch),
    }
}

fn output(output: &Payload) -> Option<Payload> {
    (*output != Payload::default()).then(|| output.clone())
}
