//! Metrics of callers: their connections, requests and answers.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Gauge01, Metrics, Registrar};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    code: String,
}

/// Metrics of callers.
#[derive(Debug, Default)]
pub(super) struct Callers {
    requests: Family<RequestLabels, Counter>,
    connections: Gauge01,
    connections_refused: Counter,
    unread_bytes: Gauge01,
    answers_refused: Counter,
    calls_limited: Counter,
    audit_failed: Counter,
    spans_dropped: Counter,
}

impl Callers {
    pub(super) fn register(&self, all: &mut Registrar<'_>) {
        all.add("unanimo_requests_total", self.requests.clone());
        all.add("unanimo_connections", self.connections.clone());
        all.add("unanimo_connections_refused_total", self.connections_refused.clone());
        all.add("unanimo_unread_bytes", self.unread_bytes.clone());
        all.add("unanimo_answers_refused_total", self.answers_refused.clone());
        all.add("unanimo_calls_limited_total", self.calls_limited.clone());
        all.add("unanimo_audit_failed_total", self.audit_failed.clone());
        all.add("unanimo_spans_dropped_total", self.spans_dropped.clone());
    }
}

fn count(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Metrics {
    /// Counts a gRPC request that was answered.
    pub fn served(&self, method: &str, code: tonic::Code) {
        let labels = RequestLabels { method: method.to_owned(), code: format!("{code:?}") };
        self.callers.requests.get_or_create(&labels).inc();
    }

    /// Counts a caller's connection.
    pub fn connection_opened(&self) {
        self.callers.connections.inc();
    }

    /// Counts a caller's connection no more.
    pub fn connection_closed(&self) {
        self.callers.connections.dec();
    }

    /// Counts a caller's connection for which there was no place.
    pub fn connection_refused(&self) {
        self.callers.connections_refused.inc();
    }

    /// Counts bytes of an answer that is to be read.
    pub fn answer_handed_over(&self, bytes: usize) {
        self.callers.unread_bytes.inc_by(count(bytes));
    }

    /// Counts bytes of an answer that was read, or given up.
    pub fn answer_read(&self, bytes: usize) {
        self.callers.unread_bytes.dec_by(count(bytes));
    }

    /// Counts a call that was one too many of its identity.
    pub fn call_limited(&self) {
        self.callers.calls_limited.inc();
    }

    /// Counts a write of the audit that failed.
    pub fn audit_failed(&self) {
        self.callers.audit_failed.inc();
    }

    /// Counts spans that the collector did not take.
    pub fn spans_dropped(&self, count: u64) {
        self.callers.spans_dropped.inc_by(count);
    }

    /// Returns how many spans the collector did not take.
    pub fn count_spans_dropped(&self) -> u64 {
        self.callers.spans_dropped.get()
    }

    /// Counts an answer that was replaced by an error.
    pub fn answer_refused(&self) {
        self.callers.answers_refused.inc();
    }
}
