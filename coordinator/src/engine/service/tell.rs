//! What the log tells of a transition.

use unanimo_core::{Event, EventKind, Transition};

use super::Service;
use crate::alarm;

impl Service {
    /// Logs what a person should know.
    pub(super) fn tell(&self, transition: &Transition) {
        let Some(live) = self.live.get(&transition.tx_id) else { return };
        let identity = live.tx.identity();
        for Event { kind, number, detail, .. } in &transition.events {
            let branch = number.and_then(|number| live.tx.branch(number));
            let branch_id = branch.map_or("", |branch| branch.spec.branch_id.as_str());
            let (tx_id, gid) = (transition.tx_id, &identity.gid);
            match kind {
                EventKind::Stalled => tracing::error!(
                    alarm = alarm::TRANSACTION_STALLED, %tx_id, %gid, branch_id, detail,
                    "phase two takes too long"
                ),
                EventKind::Heuristic => tracing::error!(
                    alarm = alarm::HEURISTIC_OUTCOME, %tx_id, %gid, branch_id, detail,
                    "a branch ended by itself"
                ),
                EventKind::OutputDropped => {
                    tracing::warn!(%tx_id, %gid, branch_id, detail, "an output was dropped");
                }
                EventKind::Resolved | EventKind::Forgotten | EventKind::Retried => {
                    tracing::warn!(%tx_id, %gid, branch_id, detail, act = kind.as_str(), "operator");
                }
                EventKind::Adopted => tracing::debug!(%tx_id, %gid, detail, "adopted"),
            }
        }
    }
}
