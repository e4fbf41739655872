//! Branches that are open at the start, and that the handlers cannot finish: their action is gone, or their
//! output is not what its handler reads. That is told at once, and not when their Commit comes. Their payloads are
//! [looked at](super::payloads) once a coordinator answers.

use std::collections::BTreeMap;

use super::pass::Pass;
use crate::doubt::Open;
use crate::resource::{Fault, Resource};

/// Rows of a question: they come without their outputs.
const BATCH: usize = 1_000;

/// Rows that are looked at. Beyond, what is wrong is wrong with these, too.
const ROWS_MAX: usize = 10_000;

/// Outputs that are read: one may take 1 MiB, and a start must not wait for gigabytes. Of each action they
/// are those of its rows number 1, 2, 4, 8 and so on, oldest first, so that those of every age are among
/// them.
const OUTPUTS_MAX: usize = 64;

/// Reason for which branches of an action cannot be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    ActionGone,
    OutputUnreadable,
    PayloadUnreadable,
}

/// Open branches of one action.
#[derive(Debug)]
struct Found {
    count: u64,
    first: Open,
    /// Some of them, whose outputs are read.
    sample: Vec<Open>,
}

/// Open branches by action and mode.
type Actions = BTreeMap<(String, String), Found>;

impl<R: Resource> Pass<R> {
    /// Tells the actions whose open branches cannot be finished.
    pub(super) async fn check_open(&mut self) -> Result<(), Fault> {
        let mut outputs = 0;
        for name in &self.names.clone() {
            for ((action, mode), found) in self.open_actions(name).await? {
                if let Some(error) = self.is_gone(&action, &mode) {
                    tell(name, Why::ActionGone, found.count, &found.first, &error);
                    continue;
                }
                self.unread.add(name, found.count, &found.sample);
                for open in found.sample.iter().take(OUTPUTS_MAX.saturating_sub(outputs)) {
                    outputs += 1;
                    if let Some(error) = self.is_unreadable(name, open).await? {
                        tell(name, Why::OutputUnreadable, found.count, open, &error);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn open_actions(&self, name: &str) -> Result<Actions, Fault> {
        let resource = &self.service.inner.resource;
        let mut actions = Actions::new();
        let (mut after, mut seen) = (None, 0);
        while seen < ROWS_MAX && !self.is_stopped() {
            let rows = resource.open_rows(name, after.as_ref(), BATCH);
            let rows = self.service.queried(rows).await?;
            seen += rows.len();
            after = rows.last().map(|row| row.key.clone());
            let is_last = rows.len() < BATCH;
            for row in rows {
                let first = || Found { count: 0, first: row.clone(), sample: Vec::new() };
                let key = (row.action.clone(), row.mode.clone());
                let found = actions.entry(key).or_insert_with(first);
                found.count += 1;
                if found.count.is_power_of_two() {
                    found.sample.push(row);
                }
            }
            if is_last {
                break;
            }
        }
        Ok(actions)
    }

    fn is_gone(&self, name: &str, mode: &str) -> Option<String> {
        let action = self.served.inner.actions.get(name);
        let is_there = action.is_some_and(|action| crate::wire::mode_name(action.mode) == mode);
        (!is_there).then(|| format!("there is no action {name} in mode {mode} here"))
    }

    async fn is_unreadable(&self, name: &str, open: &Open) -> Result<Option<String>, Fault> {
        let output = self.service.inner.resource.open_output(name, &open.key);
        let output = self.service.queried(output).await?;
        let action = self.served.inner.actions.get(&open.action);
        Ok(action.zip(output).and_then(|(action, output)| {
            action.action.read_output(&output).err().map(|error| error.to_string())
        }))
    }
}

pub(super) fn tell(participant: &str, why: Why, branches: u64, which: &Open, error: &str) {
    let alarm = match why {
        Why::ActionGone => "open_action_gone",
        Why::OutputUnreadable => "open_output_unreadable",
        Why::PayloadUnreadable => "open_payload_unreadable",
    };
    let ((tx_id, branch_id), Open { action, mode, .. }) = (&which.key, which);
    tracing::error!(
        alarm, participant, action, mode, branches, first_tx_id = %tx_id,
        first_branch_id = branch_id, error,
        "branches are open that this version cannot finish: bring back what they need"
    );
}
