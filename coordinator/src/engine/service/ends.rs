//! Log lines of transactions that have ended: one each, and no more of them in a second than a person
//! reads.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::timeline::cause_in_words;
use unanimo_core::{BranchId, Decision, Heuristic, Phase, Transaction};

use super::traces::Traces;
use crate::metrics::Metrics;

/// Target of these lines, so that a filter can switch them off: `--log info,unanimo::ended=off`.
const TARGET: &str = "unanimo::ended";

/// Most lines of each outcome in a second. What goes beyond is counted, and told in one line. At a
/// thousand transactions a second a line for each would be 20 GB of log in a day.
const LINES_MAX: u64 = 20;

/// Time in which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts the decision of a transaction, if it is decided and no tombstone.
pub(super) fn count_decision(metrics: &Metrics, tx: &Transaction) {
    let identity = tx.identity();
    if let (Some(mode), Some(at)) = (identity.mode(), tx.phase().decided_at()) {
        metrics.decided(mode, tx.outcome(), identity.created_at.until(at));
    }
}

/// Counts the ends that were logged, and those that were not.
#[derive(Debug)]
pub(in crate::engine) struct Ends {
    since: Instant,
    /// Of COMMIT, and of ABORT.
    ended: [u64; 2],
}

impl Default for Ends {
    fn default() -> Self {
        Self { since: Instant::now(), ended: [0, 0] }
    }
}

impl Ends {
    /// Logs the end of a transaction, unless there were too many in this second.
    pub(super) fn log(&mut self, tx: &Transaction, traces: &Traces) {
        let Phase::Ended { decision, at, .. } = tx.phase() else { return };
        self.tell_the_rest();
        let index = usize::from(decision != Decision::Commit);
        self.ended[index] += 1;
        if self.ended[index] > LINES_MAX {
            return;
        }
        let identity = tx.identity();
        let (tx_id, gid, trace_id) = (identity.tx_id, &identity.gid, traces.id(identity));
        let mode = identity.mode().map_or("none", |mode| mode.name());
        let begun = tx.started_at().unwrap_or(identity.created_at);
        let duration_ms = u64::try_from(begun.until(at).as_millis()).unwrap_or(u64::MAX);
        let branches = tx.branches().len();
        let heuristic = (tx.heuristic() != Heuristic::None).then_some(true);
        match decision {
            Decision::Commit => tracing::info!(
                target: TARGET, %tx_id, %gid, trace_id, mode, branches, duration_ms, heuristic,
                outcome = "committed", "a transaction has ended"
            ),
            Decision::Abort(cause) => {
                let branch = cause.number().and_then(|number| tx.branch(number));
                let branch_id =
                    branch.map_or("", |branch| BranchId::as_str(&branch.spec.branch_id));
                let mut cause = cause_in_words(cause, branch_id);
                let refusal = branch.and_then(|branch| branch.progress.refusal.as_ref());
                let refusal = refusal.map(|no| format!("{}: {}", no.reason, no.message));
                if let Some(more) = tx.abort_explanation().or(refusal) {
                    cause = format!("{cause}: {more}");
                }
                tracing::info!(
                    target: TARGET, %tx_id, %gid, trace_id, mode, branches, duration_ms, heuristic,
                    outcome = "aborted", cause, "a transaction has ended"
                );
            }
        }
    }

    /// Logs how many ends were not logged one by one, once their second is over.
    pub(super) fn tell_the_rest(&mut self) {
        if self.since.elapsed() < WINDOW {
            return;
        }
        let [committed, aborted] = self.ended.map(|ended| ended.saturating_sub(LINES_MAX));
        if committed + aborted > 0 {
            tracing::info!(
                target: TARGET, committed, aborted,
                "more transactions have ended than are logged one by one"
            );
        }
        *self = Self::default();
    }
}
