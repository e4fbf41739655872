//! Rows that nobody can need any more are purged.
//!
//! - Rows of branches that left nothing behind (refused, read-only, cancelled, tombstones): some time
//!   after their `prepare_until`. A Prepare that comes later finds no row, and is refused because it
//!   is late; a Cancel leaves another tombstone, and is done; a Commit is never sent to them.
//! - Rows of committed branches: when besides that the coordinator says that their transaction has
//!   ended, or has purged it. It then sends nothing for it any more, so that no Commit can miss the
//!   row.
//! - Rows of committed branches without `prepare_until`, which a saga has after its pivot: when they have
//!   been committed for as long, and the coordinator says that their transaction has ended, they get
//!   the present as their `prepare_until`. From then on they are as all others: a message that was
//!   under way when the transaction ended still finds its row.
//! - All others: never.
//!
//! Nothing is purged while the [clocks](super::clock) do not agree.
//!
//! A run that ends before the last row is gone on with by the next one, behind the rows that it has looked
//! at: however many must stay, those behind them have their turn.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_proto::v1::{BranchVerdict, Verdict};

use super::clock::{PurgeClock, Reading, Verdict as Time};
use super::inquiry::{About, Asked, BATCH};
use super::pass::Pass;
use crate::doubt::{BranchName, Committed, RowChange, RowKey, millis};
use crate::resource::{Fault, Resource};

/// Rows that one run looks at: half a minute's work at most. What is left is for the next one.
const ROWS_MAX: usize = 20_000;

/// Looks for rows without a bound in the time of a retention.
const LOOKS: u32 = 24;

/// Longest pause between two of them, however long the retention is.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// Clock of the purge, and its looks.
#[derive(Debug, Default)]
pub(super) struct Purging {
    clock: PurgeClock,
    /// Time at which rows without a bound were looked for.
    looked_at: Option<Instant>,
}

impl<R: Resource> Pass<R> {
    /// Purges what may go; answers whether something may be left.
    pub(super) async fn purge(&mut self, retention: Duration) -> Result<bool, Fault> {
        let Some(now_ms) = self.time_to_purge_by().await? else { return Ok(false) };
        let until_ms = now_ms.saturating_sub(millis(retention));
        let mut is_left = false;
        let looks = self.is_due_to_look(retention);
        let mut looked = looks;
        for name in self.names.clone() {
            if looks {
                looked &= self.bound(&name, retention).await?;
            }
            is_left |= self.purge_committed(&name, retention).await?;
            is_left |= self.purge_undone(&name, until_ms).await?;
        }
        if looked {
            self.purging.looked_at = Some(Instant::now());
        }
        Ok(is_left)
    }

    /// Returns the time of day on which the clocks agree, in milliseconds since 1970.
    async fn time_to_purge_by(&mut self) -> Result<Option<i64>, Fault> {
        let database_ms = self.service.queried(self.service.inner.resource.clock_ms()).await?;
        let reading = Reading::now(database_ms);
        let verdict = self.purging.clock.judge(reading);
        self.purging.clock.tell(self.service.participant(), verdict, reading);
        Ok(match verdict {
            Time::Agreed(now_ms) => Some(now_ms),
            Time::Differ | Time::Stepped => None,
        })
    }

    /// Rows without a bound are looked for seldom: no index finds them on SQLite, and they are kept for
    /// another retention.
    fn is_due_to_look(&self, retention: Duration) -> bool {
        let pause = (retention / LOOKS).min(LOOK_PAUSE_MAX);
        self.purging.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= pause)
    }

    async fn purge_undone(&self, name: &str, until_ms: i64) -> Result<bool, Fault> {
        let resource = &self.service.inner.resource;
        let mut purged = 0;
        while purged < ROWS_MAX {
            if self.is_stopped() {
                return Ok(false);
            }
            let batch = resource.purge_undone(name, until_ms, BATCH);
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

    async fn purge_committed(&mut self, name: &str, retention: Duration) -> Result<bool, Fault> {
        let service = self.service.clone();
        let resource = &service.inner.resource;
        let (mut purged, mut seen) = (0, 0);
        let mut after = self.purged_to.remove(name);
        while seen < ROWS_MAX && !self.is_stopped() {
            let rows = resource.committed_rows(name, retention, after.as_ref(), BATCH);
            let rows = service.queried(rows).await?;
            let over = self.over(name, &rows).await;
            let purge = resource.change_rows(name, &over, RowChange::Purge);
            purged += service.queried(purge).await?;
            seen += rows.len();
            let is_last = rows.len() < BATCH;
            after = rows.into_iter().next_back().filter(|_| !is_last);
            if is_last {
                break;
            }
        }
        if let Some(after) = after {
            self.purged_to.insert(name.to_owned(), after);
        }
        let purged = usize::try_from(purged).unwrap_or(usize::MAX);
        tell(name, "committed", purged);
        // Rows that must stay do not make the next run come sooner.
        Ok(seen >= ROWS_MAX && purged > 0)
    }

    /// Gives a bound to rows without one whose transaction has ended; tells whether it has looked at the
    /// last one.
    async fn bound(&mut self, name: &str, retention: Duration) -> Result<bool, Fault> {
        let service = self.service.clone();
        let resource = &service.inner.resource;
        let mut seen = 0;
        let mut after = self.bound_to.remove(name);
        while seen < ROWS_MAX && !self.is_stopped() {
            let rows = resource.unbounded_rows(name, retention, after.as_ref(), BATCH);
            let rows = service.queried(rows).await?;
            let over = self.over(name, &rows).await;
            service.queried(resource.change_rows(name, &over, RowChange::Bound)).await?;
            seen += rows.len();
            if rows.len() < BATCH {
                return Ok(true);
            }
            after = rows.into_iter().next_back().map(|row| row.key);
        }
        if let Some(after) = after {
            self.bound_to.insert(name.to_owned(), after);
        }
        Ok(false)
    }

    /// Those whose coordinator will never speak of them again.
    async fn over(&mut self, name: &str, rows: &[Committed]) -> Vec<RowKey> {
        let database_id = self.database_id();
        let mut clusters: BTreeMap<&str, Vec<(BranchName, &RowKey)>> = BTreeMap::new();
        for Committed { cluster_id, key, .. } in rows {
            clusters.entry(cluster_id).or_default().push((BranchName::Id(key.1.clone()), key));
        }
        let mut over = Vec::new();
        for (cluster_id, rows) in clusters {
            let branches = rows.iter().map(|(branch, key)| (key.0, branch));
            let about = About { participant: name, database_id: &database_id, cluster_id };
            if let Asked::Told(results) = self.inquirer.ask(about, branches).await {
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
