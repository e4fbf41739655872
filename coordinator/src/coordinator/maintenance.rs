//! What is done now and then.

use std::sync::Arc;
use std::time::Duration;

use unanimo_core::Incarnation;

use crate::engine::Handle;
use crate::metrics::Metrics;
use crate::participants::directory::Directory;
use crate::store::{Purged, Retention, Store};

/// How often transactions that need a person are counted.
const ATTENTION_INTERVAL: Duration = Duration::from_secs(5);

/// Between purges while there is more to purge than one takes.
const PURGE_PAUSE: Duration = Duration::from_millis(100);

/// Takes away what has ended long ago.
#[derive(Debug)]
pub(super) struct Purge {
    pub(super) store: Arc<dyn Store>,
    pub(super) me: Incarnation,
    pub(super) retention: Retention,
    pub(super) interval: Duration,
    pub(super) metrics: Arc<Metrics>,
}

impl Purge {
    pub(super) async fn run(self) {
        loop {
            let more = match self.store.purge(self.me, self.retention).await {
                Ok(purged) => {
                    self.metrics.purged(purged);
                    purged != Purged::default()
                }
                Err(error) => {
                    tracing::warn!(%error, "the purge has to wait");
                    false
                }
            };
            tokio::time::sleep(if more { PURGE_PAUSE } else { self.interval }).await;
        }
    }
}

/// Keeps the alarms' gauges true.
pub(super) async fn count_attention(store: Arc<dyn Store>, metrics: Arc<Metrics>) {
    loop {
        match store.attention().await {
            Ok(count) => metrics.attention(count),
            Err(error) => tracing::debug!(%error, "transactions that need a person: not counted"),
        }
        tokio::time::sleep(ATTENTION_INTERVAL).await;
    }
}

/// Sends what waits for participants that came back.
pub(super) async fn wake_returned(directory: Arc<Directory>, engine: Handle) {
    loop {
        let names = directory.returned().await;
        tracing::info!(participants = ?names, "participants are there");
        engine.returned(names);
    }
}
