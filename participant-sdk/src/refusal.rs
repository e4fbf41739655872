//! A business no.

use unanimo_proto::v1;

/// A business no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code for programs, such as `INSUFFICIENT_FUNDS`: 1 to 64 bytes of
    /// `[A-Za-z0-9_.:-]`.
    pub reason: String,
    /// One sentence for people; at most 1,024 bytes are kept.
    pub message: String,
}

impl Refusal {
    /// A no with its reason.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }
}

impl From<v1::Refusal> for Refusal {
    fn from(v1::Refusal { reason, message }: v1::Refusal) -> Self {
        Self { reason, message }
    }
}
