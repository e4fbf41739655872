//! Status of a coordinator, for probes and scrapes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cluster::lease::Lease;
use crate::engine::Handle;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::journal;

/// Time that a probe waits for the engine or the store.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Status of a coordinator.
#[derive(Debug)]
pub struct Status {
    store: Arc<dyn Store>,
    engine: Handle,
    lease: Lease,
    journal: journal::Handle,
    metrics: Arc<Metrics>,
    draining: AtomicBool,
}

impl Status {
    pub(super) fn new(
        store: Arc<dyn Store>,
        engine: Handle,
        lease: Lease,
        journal: journal::Handle,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, engine, lease, journal, metrics, draining: AtomicBool::new(false) }
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Tells whether the engine answers. If it does not for a long time, only a restart helps.
    pub async fn is_alive(&self) -> bool {
        // Without its lease the engine pauses, which is not a fault of the process.
        let answering = self.engine.not_live(Vec::new());
        !self.lease.is_held() || tokio::time::timeout(PROBE_TIMEOUT, answering).await.is_ok()
    }

    /// Returns the obstacles to new work; none if the coordinator is ready.
    pub async fn obstacles(&self) -> Vec<&'static str> {
        let mut obstacles = Vec::new();
        let mut note = |obstacle: bool, what| {
            if obstacle {
                obstacles.push(what);
            }
        };
        note(self.draining.load(Ordering::Relaxed), "it is stopping");
        note(!self.lease.is_held(), "its lease has run out");
        note(!self.engine.has_adopted(), "it is adopting transactions of an earlier incarnation");
        // The query runs in a task of the store, so the timeout does not interrupt it.
        let answer = tokio::time::timeout(PROBE_TIMEOUT, self.store.incarnations().list()).await;
        note(!matches!(answer, Ok(Ok(_))), "its database does not answer");
        obstacles
    }

    /// Returns all metrics in the OpenMetrics text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        let (live, bytes) = self.engine.in_flight();
        self.metrics.gauges(live, bytes, self.journal.backlog(), self.lease.is_held());
        self.metrics.participants(self.engine.without_place(), self.engine.troubled());
        self.metrics.encode()
    }
}
