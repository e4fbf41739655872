//! Maintenance: periodic work of the coordinator.

mod places;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use unanimo_core::Incarnation;

use crate::engine::Handle;
use crate::metrics::Metrics;
use crate::participants::directory::Directory;
use crate::store::{Purged, Retention, Store, in_full};

/// Pause between two counts of the transactions that need attention.
const ATTENTION_INTERVAL: Duration = Duration::from_secs(5);

/// Pause between two purges while the last one found something to purge.
const PURGE_PAUSE: Duration = Duration::from_millis(100);

/// Starts all of it.
pub(super) fn start(
    tasks: &mut JoinSet<()>,
    engine: Handle,
    directory: Arc<Directory>,
    purge: Purge,
) {
    let (store, metrics) = (Arc::clone(&purge.store), Arc::clone(&purge.metrics));
    tasks.spawn(wake_returned(Arc::clone(&directory), engine));
    tasks.spawn(places::forget_stale(directory, Arc::clone(&store), purge.me));
    tasks.spawn(purge.run());
    tasks.spawn(count_attention(store, metrics));
}

/// Purges transactions whose retention is over.
#[derive(Debug)]
pub(super) struct Purge {
    pub(super) store: Arc<dyn Store>,
    pub(super) me: Incarnation,
    pub(super) retention: Retention,
    pub(super) interval: Duration,
    pub(super) metrics: Arc<Metrics>,
}

impl Purge {
    async fn run(self) {
        loop {
            let more = match self.store.purge().run(self.me, self.retention).await {
                Ok(purged) => {
                    self.metrics.purged(purged);
                    purged != Purged::default()
                }
                Err(error) => {
                    let error = in_full(&error);
                    tracing::warn!(error, "failed to purge ended transactions; it is repeated");
                    false
                }
            };
            tokio::time::sleep(if more { PURGE_PAUSE } else { self.interval }).await;
        }
    }
}

/// Updates the gauges of the alarms at each [`ATTENTION_INTERVAL`].
async fn count_attention(store: Arc<dyn Store>, metrics: Arc<Metrics>) {
    loop {
        match store.transactions().attention().await {
            Ok(count) => metrics.attention(count),
            Err(error) => {
                let error = in_full(&error);
                tracing::debug!(error, "failed to count the transactions that need attention");
            }
        }
        tokio::time::sleep(ATTENTION_INTERVAL).await;
    }
}

/// Most names in a log line.
const NAMES_SHOWN: usize = 8;

/// Sends waiting calls to participants that have registered again.
async fn wake_returned(directory: Arc<Directory>, engine: Handle) {
    loop {
        let mut names = directory.returned().await;
        names.sort();
        names.dedup();
        tracing::info!(
            participants = ?&names[..names.len().min(NAMES_SHOWN)], count = names.len(),
            "participants have registered; calls that wait for them are sent"
        );
        engine.returned(names);
    }
}
