//! Metrics of the feed of events, and of webhooks.

mod webhooks;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Metrics, Registrar, Seconds};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Metrics of the feed.
#[derive(Debug, Default)]
pub(super) struct Feed {
    events: Family<KindLabel, Counter>,
    lag: Seconds,
    webhooks: webhooks::Webhooks,
}

impl Feed {
    pub(super) fn register(&self, all: &mut Registrar<'_>) {
        all.add("unanimo_events_total", self.events.clone());
        all.add("unanimo_events_lag_seconds", self.lag.clone());
        self.webhooks.register(all);
    }
}

impl Metrics {
    /// Counts an event that was added.
    pub fn event(&self, kind: &'static str) {
        self.feed.events.get_or_create(&KindLabel { kind }).inc();
    }

    /// Sets the time for which the feed has lacked something.
    pub fn events_lag(&self, lag: Duration) {
        self.feed.lag.set(lag.as_secs_f64());
    }
}
