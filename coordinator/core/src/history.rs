//! Recorded history of a transaction: its inputs and what they led to, for export and replay.

use serde::{Deserialize, Serialize};

use crate::ids::Version;
use crate::time::Timestamp;

/// Inputs that led to one transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The version that the transition made.
    pub version: Version,
    /// When.
    pub at: Timestamp,
}
