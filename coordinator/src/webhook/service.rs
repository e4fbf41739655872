//! Tasks of all webhooks: one for each in the file, as it is now.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use unanimo_core::Incarnation;

use super::delivery::Sender;
use super::{Files, Handle, Live, Render};
use crate::cluster::lease::Lease;
use crate::env::Env;
use crate::feed::Follower;
use crate::metrics::Metrics;
use crate::store::{Store, in_full};

/// Interval at which changes of the file take effect, and the gauges are set.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time that a webhook which has changed may take to write how far it is.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Interval at which dead letters are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Parts that webhooks work with.
pub(crate) struct Parts {
    pub(crate) me: Incarnation,
    pub(crate) lease: Lease,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) follower: Follower,
    pub(crate) render: Render,
}

/// Tasks of all webhooks: to be run.
pub(crate) struct Service {
    parts: Arc<Parts>,
    files: Files,
    handle: Handle,
    tasks: JoinSet<()>,
    running: BTreeMap<String, (Live, AbortHandle)>,
    count_at: Instant,
}

impl Service {
    pub(crate) fn new(parts: Parts, files: Files, handle: Handle) -> Self {
        let (parts, tasks, running) = (Arc::new(parts), JoinSet::new(), BTreeMap::new());
        Self { parts, files, handle, tasks, running, count_at: Instant::now() }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        loop {
            self.follow_file();
            self.measure();
            self.count().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Ends the tasks of webhooks that have gone or changed, and begins those of new ones.
    fn follow_file(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a task of a webhook has failed; it begins again");
            }
        }
        let current = self.files.webhooks.current();
        self.running.retain(|name, (live, task)| {
            let is_same = current.all.get(name).is_some_and(|now| now.told == live.webhook.told);
            // It writes how far it is, and ends. An answer that does not come is not waited for.
            if !is_same && live.end() >= END_PATIENCE {
                task.abort();
            }
            !task.is_finished()
        });
        for (name, webhook) in &current.all {
            if self.running.contains_key(name) {
                continue;
            }
            let Some(outbound) = self.handle.outbound.clone() else { continue };
            let live = Live::new(Arc::clone(webhook));
            let source = Arc::clone(&self.handle.source);
            let sender = Sender::new(Arc::clone(&self.parts), (outbound, source), live.clone());
            let task = self.tasks.spawn(sender.run());
            self.running.insert(name.clone(), (live, task));
        }
        let live = self.running.iter().map(|(name, (live, _))| (name.clone(), live.clone()));
        let gone: HashSet<String> = {
            let mut known = self.handle.lock();
            let before: HashSet<String> = known.keys().cloned().collect();
            *known = live.collect();
            before.into_iter().filter(|name| !known.contains_key(name)).collect()
        };
        gone.iter().for_each(|name| self.parts.metrics.webhook_removed(name));
    }

    fn measure(&self) {
        let now = self.parts.env.now();
        for (name, (live, _)) in &self.running {
            let standing = live.standing();
            let lag = standing.next_at.map(|at| at.until(now)).unwrap_or_default();
            let failing = standing.failing_since.map(|since| since.until(now)).unwrap_or_default();
            self.parts.metrics.webhook_state(name, (lag, failing), standing.is_stopped);
        }
    }

    async fn count(&mut self) {
        let began = Instant::now();
        if began < self.count_at {
            return;
        }
        match self.parts.store.webhooks().count_dead().await {
            Ok(counts) => {
                let counts: BTreeMap<String, u64> = counts.into_iter().collect();
                for name in self.running.keys() {
                    let count = counts.get(name).copied().unwrap_or(0);
                    self.parts.metrics.webhook_dead(name, count);
                }
            }
            Err(error) => {
                let error = in_full(&error);
                tracing::debug!(error, "failed to count dead letters");
            }
        }
        // A count of very many takes no more than a twentieth of the time.
        self.count_at = Instant::now() + COUNT_INTERVAL.max(20 * began.elapsed());
    }
}
