//! Log lines of a transition.

use unanimo_core::{Event, EventKind, Transition};

use super::Service;
use crate::alarm;

impl Service {
    /// Logs the events of a transition: alarms, operators' acts, and dropped outputs.
    pub(super) fn log_events(&self, transition: &Transition) {
        let Some(live) = self.live.get(&transition.tx_id) else { return };
        let identity = live.tx.identity();
        for Event { kind, number, detail, .. } in &transition.events {
            let branch = number.and_then(|number| live.tx.branch(number));
            let branch_id = branch.map_or("", |branch| branch.spec.branch_id.as_str());
            let (tx_id, gid) = (transition.tx_id, &identity.gid);
            match kind {
                EventKind::Stalled => tracing::error!(
                    alarm = alarm::TRANSACTION_STALLED, %tx_id, %gid, branch_id, detail,
                    "a participant has not answered Commit or Cancel for longer than stalled-after"
                ),
                EventKind::Heuristic => tracing::error!(
                    alarm = alarm::HEURISTIC_OUTCOME, %tx_id, %gid, branch_id, detail,
                    "the participant ended a branch against the decision, or cannot tell how it ended"
                ),
                EventKind::OutputDropped => {
                    tracing::warn!(%tx_id, %gid, branch_id, detail, "the output of a Prepare was dropped");
                }
                EventKind::Resolved => tracing::error!(
                    alarm = alarm::HEURISTIC_OUTCOME, %tx_id, %gid, branch_id, detail,
                    "an operator ended a branch by hand, and nothing more is sent to its participant"
                ),
                EventKind::Forgotten | EventKind::Retried => {
                    tracing::warn!(%tx_id, %gid, branch_id, detail, act = kind.as_str(), "an operator acted");
                }
                EventKind::RefusedAfterCommit => tracing::error!(
                    alarm = alarm::REFUSED_AFTER_COMMIT, %tx_id, %gid, branch_id, detail,
                    "a participant refused a step that may only succeed; it is sent again"
                ),
                EventKind::OutputTooLarge => tracing::error!(
                    alarm = alarm::OUTPUT_TOO_LARGE, %tx_id, %gid, branch_id, detail,
                    "the output of a step is too large for the step that reads it; it is sent again"
                ),
                EventKind::PivotUnanswered => tracing::error!(
                    alarm = alarm::PIVOT_UNANSWERED, %tx_id, %gid, branch_id, detail,
                    "the pivot of a saga has no answer long after the saga's deadline"
                ),
                EventKind::Started | EventKind::InDoubt => {
                    tracing::debug!(%tx_id, %gid, event = kind.as_str(), "the transaction moved on");
                }
                EventKind::Adopted => {
                    tracing::debug!(%tx_id, %gid, detail, "the transaction was adopted");
                }
            }
        }
    }
}
