//! Metrics of webhooks: a label for each, of which there are few.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::super::{Gauge01, Metrics, Registrar, Seconds};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabel {
    webhook: String,
}

impl WebhookLabel {
    fn of(name: &str) -> Self {
        Self { webhook: name.to_owned() }
    }
}

/// Metrics of webhooks.
#[derive(Debug, Default)]
pub(super) struct Webhooks {
    delivered: Family<WebhookLabel, Counter<u64, AtomicU64>>,
    failed: Family<WebhookLabel, Counter<u64, AtomicU64>>,
    given_up: Family<WebhookLabel, Counter<u64, AtomicU64>>,
    missed: Family<WebhookLabel, Counter<u64, AtomicU64>>,
    lag: Family<WebhookLabel, Seconds>,
    failing: Family<WebhookLabel, Seconds>,
    stopped: Family<WebhookLabel, Gauge01>,
    dead: Family<WebhookLabel, Gauge01>,
}

impl Webhooks {
    pub(super) fn register(&self, all: &mut Registrar<'_>) {
        all.add("unanimo_webhook_delivered_total", self.delivered.clone());
        all.add("unanimo_webhook_failed_total", self.failed.clone());
        all.add("unanimo_webhook_given_up_total", self.given_up.clone());
        all.add("unanimo_webhook_missed_total", self.missed.clone());
        all.add("unanimo_webhook_lag_seconds", self.lag.clone());
        all.add("unanimo_webhook_failing_seconds", self.failing.clone());
        all.add("unanimo_webhook_stopped", self.stopped.clone());
        all.add("unanimo_webhook_dead_letters", self.dead.clone());
    }
}

impl Metrics {
    /// Counts an attempt to send an event.
    pub fn webhook_sent(&self, name: &str, is_taken: bool) {
        let of = if is_taken { &self.feed.webhooks.delivered } else { &self.feed.webhooks.failed };
        of.get_or_create_owned(&WebhookLabel::of(name)).inc();
    }

    /// Counts an event that was given up.
    pub fn webhook_given_up(&self, name: &str) {
        self.feed.webhooks.given_up.get_or_create_owned(&WebhookLabel::of(name)).inc();
    }

    /// Counts a gap in what a webhook was sent.
    pub fn webhook_missed(&self, name: &str) {
        self.feed.webhooks.missed.get_or_create_owned(&WebhookLabel::of(name)).inc();
    }

    /// Sets the state of a webhook: its lag, and the time for which its receiver has taken nothing.
    pub fn webhook_state(
        &self,
        name: &str,
        (lag, failing): (Duration, Duration),
        is_stopped: bool,
    ) {
        let label = WebhookLabel::of(name);
        self.feed.webhooks.lag.get_or_create_owned(&label).set(lag.as_secs_f64());
        self.feed.webhooks.failing.get_or_create_owned(&label).set(failing.as_secs_f64());
        self.feed.webhooks.stopped.get_or_create_owned(&label).set(is_stopped.into());
    }

    /// Sets the number of a webhook's dead letters.
    pub fn webhook_dead(&self, name: &str, count: u64) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.feed.webhooks.dead.get_or_create_owned(&WebhookLabel::of(name)).set(count);
    }

    /// Forgets a webhook that is configured no more.
    pub fn webhook_removed(&self, name: &str) {
        let label = WebhookLabel::of(name);
        let Webhooks { delivered, failed, given_up, missed, lag, failing, stopped, dead } =
            &self.feed.webhooks;
        for counter in [delivered, failed, given_up, missed] {
            counter.remove(&label);
        }
        for seconds in [lag, failing] {
            seconds.remove(&label);
        }
        for gauge in [stopped, dead] {
            gauge.remove(&label);
        }
    }
}
