//! Attempts that a step wants to last longer than any call does.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Branch, Gid};

/// Time in which it is told once: a definition with such a step may run many times a second.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Bound on what is told of steps whose `attempt_timeout` has no effect.
#[derive(Debug, Default)]
pub(in crate::engine) struct Told {
    at: Option<Instant>,
    /// Steps since then that were not told.
    others: u64,
}

impl Told {
    /// Looks at branches that are new, with the index of the first: what they want beyond the setting is told.
    pub(super) fn look(
        &mut self,
        gid: &Gid,
        (first, branches): (usize, &[Branch]),
        call_timeout: Duration,
    ) {
        for (index, branch) in branches.iter().enumerate() {
            let wanted = branch.spec.step.attempt_timeout.filter(|wanted| *wanted > call_timeout);
            let Some(wanted) = wanted else { continue };
            if self.at.is_some_and(|at| at.elapsed() < TELL_INTERVAL) {
                self.others += 1;
                continue;
            }
            tracing::warn!(
                %gid,
                branch_id = %branch.spec.branch_id,
                field = format!("branches[{}].attempt_timeout", first + index),
                attempt_timeout = ?wanted,
                ?call_timeout,
                others = self.others,
                "a step's attempt_timeout is beyond the setting call-timeout, which ends its calls; make it \
                 shorter, or the setting longer"
            );
            (self.at, self.others) = (Some(Instant::now()), 0);
        }
    }
}
