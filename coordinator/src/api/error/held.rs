//! Refusal of what a participant may still hold something of.

use tonic::Status;
use unanimo_core::ParticipantName;
use unanimo_proto::v1;

use super::reasons::Reason;

/// Branches that the message names.
const NAMED_MAX: usize = 5;

/// Makes the error of a transaction whose branches an operator has resolved, while nobody says that their participants hold
/// nothing more.
pub(in crate::api) fn still_held(tx: &v1::Transaction) -> Status {
    let resolved = tx.branches.iter().filter(|branch| !branch.resolved_by.is_empty());
    let named = resolved.map(|of| {
        let name = ParticipantName::full(&of.participant);
        let participant = name.as_ref().map_or(of.participant.as_str(), ParticipantName::local);
        format!("{} of {participant}", of.branch_id)
    });
    let mut named: Vec<_> = named.take(NAMED_MAX + 1).collect();
    if named.len() > NAMED_MAX {
        named[NAMED_MAX] = "others".to_owned();
    }
    Reason::StillHeld.status(format!(
        "an operator has resolved {}, of which no participant has confirmed the end: it may still hold what was prepared \
         or reserved, or its step may not be as it was decided",
        named.join(", ")
    ))
}
