//! Rows that nobody can need any more are purged.
//!
//! - Rows of branches that left nothing behind (refused, read-only, cancelled, tombstones): some time
//!   after their `prepare_until`. A Prepare that comes later finds no row, and is refused because it
//!   is late; a Cancel leaves another tombstone, and is done; a Commit is never sent to them.
//! - Rows of committed branches: when besides that the coordinator says that their transaction has
//!   ended, or has purged it. It then sends nothing for it any more, so that no Commit can miss the
//!   row.
//! - All others, and rows without `prepare_until`: never.

use std::collections::BTreeMap;
use std::time::Duration;

use unanimo_proto::v1::{BranchVerdict, Verdict};

use super::inquiry::{Asked, BATCH};
use super::pass::Pass;
use crate::doubt::{BranchName, Committed, RowKey};
use crate::resource::{Fault, Resource};

/// Rows that one run looks at: half a minute's work at most. What is left is for the next one.
const ROWS_MAX: usize = 20_000;

impl<R: Resource> Pass<R> {
    /// Purges what may go; answers whether something may be left.
    pub(super) async fn purge(&mut self, retention: Duration) -> Result<bool, Fault> {
        let committed_left = self.purge_committed(retention).await?;
        Ok(self.purge_undone(retention).await? || committed_left)
    }

    async fn purge_undone(&self, retention: Duration) -> Result<bool, Fault> {
        let (name, resource) = (self.service.participant(), &self.service.inner.resource);
        let mut purged = 0;
        while purged < ROWS_MAX {
            if self.is_stopped() {
                return Ok(false);
            }
            let batch = resource.purge_undone(name, retention, BATCH);
            let batch = usize::try_from(self.service.queried(batch).await?).unwrap_or(BATCH);
            purged += batch;
            if batch < BATCH {
                tell(name, "undone", purged);
                return Ok(false);
            }
        }
        tell(name, "undone", purged);
        Ok(true)
    }

    async fn purge_committed(&mut self, retention: Duration) -> Result<bool, Fault> {
        let service = self.service.clone();
        let (name, resource) = (service.participant(), &service.inner.resource);
        let (mut purged, mut seen) = (0, 0);
        let mut after: Option<Committed> = None;
        while seen < ROWS_MAX && !self.is_stopped() {
            let rows = resource.committed_rows(name, retention, after.as_ref(), BATCH);
            let rows = service.queried(rows).await?;
            let over = self.over(&rows).await;
            purged += service.queried(resource.purge_committed(name, &over)).await?;
            seen += rows.len();
            if rows.len() < BATCH {
                break;
            }
            after = rows.into_iter().next_back();
        }
        let purged = usize::try_from(purged).unwrap_or(usize::MAX);
        tell(name, "committed", purged);
        // Rows that must stay do not make the next run come sooner.
        Ok(seen >= ROWS_MAX && purged > 0)
    }

    /// Those whose coordinator will never speak of them again.
    async fn over(&mut self, rows: &[Committed]) -> Vec<RowKey> {
        let mut clusters: BTreeMap<&str, Vec<(BranchName, &RowKey)>> = BTreeMap::new();
        for Committed { cluster_id, key, .. } in rows {
            clusters.entry(cluster_id).or_default().push((BranchName::Id(key.1.clone()), key));
        }
        let mut over = Vec::new();
        for (cluster_id, rows) in clusters {
            let branches = rows.iter().map(|(name, key)| (key.0, name));
            if let Asked::Told(results) = self.inquirer.ask(cluster_id, branches).await {
                let keys = rows.iter().map(|(_, key)| *key).zip(results);
                over.extend(keys.filter(|(_, told)| is_over(told)).map(|(key, _)| key.clone()));
            }
        }
        over
    }
}

fn is_over(told: &BranchVerdict) -> bool {
    match told.verdict() {
        Verdict::Purged => true,
        Verdict::Commit => told.ended,
        // A row that does not fit the decision is evidence.
        Verdict::Cancel
        | Verdict::Heuristic
        | Verdict::Running
        | Verdict::NeverSeen
        | Verdict::Unspecified => false,
    }
}

fn tell(participant: &str, rows: &'static str, purged: usize) {
    if purged > 0 {
        tracing::debug!(participant, rows, purged, "purged barrier rows");
    }
}
