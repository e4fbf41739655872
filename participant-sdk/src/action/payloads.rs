//! Payloads and outputs of handlers, read and written.

use std::sync::Arc;

use crate::handler::{BoxError, Call, PrepareError};
use crate::panics::caught_in;
use crate::payload::{Decode, Encode, Payload};
use crate::refusal::Refusal;

/// Failure to read the payload or the output of phase one: the handler's types are not those of then.
#[derive(Debug, thiserror::Error)]
#[error("the {what} of phase one cannot be read: {error}")]
pub(crate) struct Unreadable {
    what: &'static str,
    error: String,
}

impl Unreadable {
    /// Tells whether an error is that of a payload.
    pub(crate) fn is_of_the_payload(error: &BoxError) -> bool {
        error.downcast_ref::<Self>().is_some_and(|unreadable| unreadable.what == PAYLOAD)
    }
}

pub(super) const PAYLOAD: &str = "payload";

pub(super) const OUTPUT: &str = "output";

pub(super) fn read<T: Decode>(what: &'static str, payload: &Payload) -> Result<T, Unreadable> {
    T::decode_payload(payload).map_err(|error| Unreadable { what, error: error.to_string() })
}

/// Looks whether it could be read, outside of a handler: a panic is an answer, too.
pub(super) fn readable<T: Decode>(what: &'static str, payload: &Payload) -> Result<(), Unreadable> {
    let read = caught_in(|| read::<T>(what, payload).map(drop));
    read.unwrap_or_else(|text| Err(Unreadable { what, error: format!("it panicked: {text}") }))
}

/// The call with its payload read; one that cannot be read is refused.
pub(super) fn typed<P: Decode>(call: &Call<Payload>) -> Result<Call<P>, PrepareError> {
    match P::decode_payload(&call.payload) {
        Ok(payload) => Ok(with_payload(call, payload)),
        Err(error) => Err(PrepareError::Refused(Refusal::new(
            "PAYLOAD_UNREADABLE",
            format!("payload of action {} must be readable: {error}", call.action),
        ))),
    }
}

/// The output as it is kept; one that cannot be written is refused: it would be no other one if it were asked
/// for again.
pub(super) fn written<P>(output: &impl Encode, call: &Call<P>) -> Result<Payload, PrepareError> {
    Payload::of(output).map_err(|error| {
        let message = format!("output of action {} must be writable: {error}", call.action);
        PrepareError::Refused(Refusal::new("OUTPUT_UNWRITABLE", message))
    })
}

pub(super) fn with_payload<P>(call: &Call<Payload>, payload: P) -> Call<P> {
    Call {
        branch: call.branch.clone(),
        action: call.action.clone(),
        payload,
        metadata: call.metadata.clone(),
        attempt: call.attempt,
        must_succeed: call.must_succeed,
        deadline: call.deadline,
        inputs: Arc::clone(&call.inputs),
    }
}
