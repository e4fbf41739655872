//! Branches that are open at the start, and that the handlers cannot finish: their action is gone, or their
//! output is not what its handler reads. That is told at once, and not when their Commit comes.

use std::collections::BTreeMap;

use super::pass::Pass;
use crate::doubt::Open;
use crate::resource::{Fault, Resource};

/// Rows of a question: an output may take 1 MiB.
const BATCH: usize = 32;

/// Rows that are looked at. Beyond, what is wrong is wrong with these, too.
const ROWS_MAX: usize = 10_000;

/// Reason for which branches of an action cannot be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    ActionGone,
    OutputUnreadable,
}

/// Branches of one action.
struct Found {
    count: u64,
    first: Open,
    error: String,
}

impl<R: Resource> Pass<R> {
    /// Tells the actions whose open branches cannot be finished.
    pub(super) async fn check_open(&self) -> Result<(), Fault> {
        let resource = &self.service.inner.resource;
        for name in &self.names {
            let mut found: BTreeMap<(Why, String, String), Found> = BTreeMap::new();
            let (mut after, mut seen) = (None, 0);
            while seen < ROWS_MAX && !self.is_stopped() {
                let rows = resource.open_rows(name, after.as_ref(), BATCH);
                let rows = self.service.queried(rows).await?;
                seen += rows.len();
                after = rows.last().map(|row| row.key.clone());
                let is_last = rows.len() < BATCH;
                for row in rows {
                    if let Some((why, error)) = self.unfinishable(&row) {
                        let key = (why, row.action.clone(), row.mode.clone());
                        let first = |first| Found { count: 0, first, error };
                        found.entry(key).or_insert_with(|| first(row)).count += 1;
                    }
                }
                if is_last {
                    break;
                }
            }
            found
                .iter()
                .for_each(|((why, action, mode), found)| tell(name, *why, action, mode, found));
        }
        Ok(())
    }

    fn unfinishable(&self, row: &Open) -> Option<(Why, String)> {
        let actions = &self.served.inner.actions;
        let action = actions
            .get(&row.action)
            .filter(|action| crate::wire::mode_name(action.mode) == row.mode);
        match action {
            None => {
                let error = format!("there is no action {} in mode {} here", row.action, row.mode);
                Some((Why::ActionGone, error))
            }
            Some(action) => {
                let error = action.action.read_output(&row.output).err()?;
                Some((Why::OutputUnreadable, error.to_string()))
            }
        }
    }
}

fn tell(participant: &str, why: Why, action: &str, mode: &str, found: &Found) {
    let alarm = match why {
        Why::ActionGone => "open_action_gone",
        Why::OutputUnreadable => "open_output_unreadable",
    };
    let Found { count, first, error } = found;
    let (tx_id, branch_id) = &first.key;
    tracing::error!(
        alarm, participant, action, mode, branches = count, first_tx_id = %tx_id,
        first_branch_id = branch_id, error,
        "branches are open that this version cannot finish: bring back what they need"
    );
}
