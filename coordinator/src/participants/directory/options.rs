//! Settings of the calls to participants.

use std::time::Duration;

use super::super::breaker::Pauses;

/// Settings of the calls to participants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Calls under way at one endpoint: Prepares, and apart from them Commits and Cancels.
    pub slots: usize,
    /// Interval in which participants are to register again.
    pub keep_alive_interval: Duration,
    /// Largest message that is accepted from a participant.
    pub message_bytes_max: usize,
    /// Most bytes of participants' answers on their way in, altogether.
    pub replies_bytes_max: usize,
    /// Names that are kept.
    pub participants_max: usize,
    /// Names that are kept of one namespace. Zero is no bound.
    pub participants_per_namespace: usize,
    /// Connections to participants.
    pub connections_max: usize,
    /// Pauses between probes with Prepares.
    pub prepare_pauses: Pauses,
    /// Pauses between probes with Commits and Cancels.
    pub phase_two_pauses: Pauses,
}
