//! Branches that are in doubt under another name: each participant looks after its own, so that those of a
//! participant that was renamed are nobody's. So are steps of its sagas, whose rows would be kept for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::pass::Pass;
use crate::doubt::Named;
use crate::resource::{Fault, Resource};

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Age of a branch of another name, at least: a neighbour in the same database ends its own before that.
const AGE_MIN: Duration = Duration::from_secs(5 * 60);

impl<R: Resource> Pass<R> {
    /// Tells the names that something is in doubt under for too long, of the coordinators' groups.
    pub(super) async fn check_names(&mut self) -> Result<(), Fault> {
        if self.names_at.is_some_and(|at| at.elapsed() < LOOK_PAUSE) {
            return Ok(());
        }
        let too_old = self.sweep.alarm_age(AGE_MIN);
        let names = self.service.queried(self.service.inner.resource.names(too_old)).await?;
        self.names_at = Some(Instant::now());
        self.check_readable().await?;
        let mut others: BTreeMap<(String, String), (u64, Duration)> = BTreeMap::new();
        for Named { participant, cluster_id, count, oldest } in names {
            if !self.names.contains(&participant) && oldest >= too_old {
                let known = others.entry((participant, cluster_id)).or_default();
                *known = (known.0 + count, known.1.max(oldest));
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        let clusters = self.inquirer.clusters().await;
        for ((other, cluster_id), (count, oldest)) in others {
            if clusters.contains(&cluster_id) {
                tracing::error!(
                    alarm = "in_doubt_other_name",
                    participant = self.service.participant(),
                    other,
                    cluster_id,
                    branches = count,
                    oldest_s = oldest.as_secs(),
                    "branches are in doubt in this database under another participant's name, or steps of sagas \
                     whose rows nobody has changed for hours: that one's sweeper does not run. If it was renamed, and no \
                     process bears that name any more, name it with `formerly`"
                );
            }
        }
        Ok(())
    }

    /// Tells of rows that no sweep can ask about.
    async fn check_readable(&self) -> Result<(), Fault> {
        for name in &self.names {
            let rows = self.service.inner.resource.unreadable_rows(name);
            let rows = self.service.queried(rows).await?;
            if rows > 0 {
                tracing::error!(
                    alarm = "in_doubt_unreadable",
                    participant = name,
                    rows,
                    "rows of branches in doubt have a tx_id that is none: somebody has written them by hand, and nobody \
                     can ask about them"
                );
            }
        }
        Ok(())
    }
}
