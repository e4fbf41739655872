//! Status of a coordinator, for probes and scrapes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::cluster::lease::{Failure, Lease};
use crate::engine::Handle;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::journal;

/// Time that a probe waits for the engine or the store.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time that a scrape waits for the engine.
const SURVEY_TIMEOUT: Duration = Duration::from_millis(500);

/// Status of a coordinator, from the first moment of its start on.
#[derive(Debug)]
pub struct Status {
    /// Stage of a start, as an obstacle to new work.
    starting: Mutex<String>,
    /// Parts of a coordinator that has started.
    started: OnceLock<Started>,
    metrics: Arc<Metrics>,
    draining: AtomicBool,
}

/// Parts of a coordinator that tell how it is.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) store: Arc<dyn Store>,
    pub(super) engine: Handle,
    pub(super) lease: Lease,
    pub(super) journal: journal::Handle,
}

impl Status {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let starting = Mutex::new("it is starting".to_owned());
        Self { starting, started: OnceLock::new(), metrics, draining: AtomicBool::new(false) }
    }

    /// Notes what the start is at.
    pub(super) fn starts(&self, at: String) {
        *self.starting.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    pub(super) fn has_started(&self, parts: Started) {
        // It starts once.
        let _ = self.started.set(parts);
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Tells whether the engine answers. If it does not for a long time, only a restart helps.
    pub async fn is_alive(&self) -> bool {
        // A start ends by itself, and a standby waits for as long as another node serves.
        let Some(Started { engine, lease, .. }) = self.started.get() else { return true };
        // Without its lease the engine pauses, which is not a fault of the process.
        let answering = engine.not_live(Vec::new());
        !lease.is_held() || tokio::time::timeout(PROBE_TIMEOUT, answering).await.is_ok()
    }

    /// Returns the obstacles to new work; none if the coordinator is ready.
    pub async fn obstacles(&self) -> Vec<String> {
        let Some(Started { store, engine, lease, journal }) = self.started.get() else {
            return vec![self.starting.lock().unwrap_or_else(PoisonError::into_inner).clone()];
        };
        let mut obstacles = Vec::new();
        let mut note = |obstacle: bool, what: &str| {
            if obstacle {
                obstacles.push(what.to_owned());
            }
        };
        note(self.draining.load(Ordering::Relaxed), "it is stopping");
        let failure = lease.failure();
        match (lease.is_held(), failure) {
            (true, None | Some(Failure { is_full: false, .. })) => {}
            (true, Some(Failure { text, .. })) => {
                note(true, &format!("its database has no space for writes: failed to {text}"));
            }
            (false, None) => note(true, "its lease has run out"),
            (false, Some(Failure { text, .. })) => {
                note(true, &format!("its lease has run out: failed to {text}"));
            }
        }
        if let Some(text) = journal.trouble() {
            note(true, &format!("its journal is held up: failed to {text}"));
        }
        note(!engine.has_adopted(), "it is adopting transactions of an earlier incarnation");
        // The query runs in a task of the store, so the timeout does not interrupt it.
        let answer = tokio::time::timeout(PROBE_TIMEOUT, store.incarnations().list()).await;
        note(!matches!(answer, Ok(Ok(_))), "its database does not answer");
        obstacles
    }

    /// Returns all metrics in the OpenMetrics text format.
    #[must_use]
    pub async fn metrics(&self) -> String {
        self.metrics.process();
        if let Some(Started { store, engine, lease, journal }) = self.started.get() {
            let (live, bytes) = engine.in_flight();
            self.metrics.gauges(live, bytes, journal.backlog(), lease.is_held());
            self.metrics.log_bytes(store.log_bytes().unwrap_or(0));
            self.metrics.participants(engine.without_place(), engine.troubled());
            self.metrics.parked(engine.parked());
            // Without its lease the engine rests, and the last numbers stay.
            if let Ok(Some(survey)) =
                tokio::time::timeout(SURVEY_TIMEOUT, engine.survey(None)).await
            {
                self.metrics.open(&survey);
            }
        }
        self.metrics.encode()
    }
}
