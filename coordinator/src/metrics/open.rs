//! Metrics of what is open.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use tokio::time::Instant;
use unanimo_core::Timestamp;

use super::{Metrics, Minutes};
use crate::engine::Survey;

/// Mode of a rollback of a gid that was never seen.
const NO_MODE: &str = "none";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OpenLabels {
    mode: &'static str,
    state: &'static str,
}

impl Metrics {
    /// Sets numbers and ages of the transactions in memory.
    pub(crate) fn open(&self, survey: &Survey) {
        self.open.clear();
        for (&(mode, state), &count) in &survey.open {
            let mode = mode.map_or(NO_MODE, unanimo_core::Mode::name);
            let gauge = self.open.get_or_create_owned(&OpenLabels { mode, state: state.as_str() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.oldest_undecided.set(survey.undecided_for.as_secs_f64());
        self.oldest_owed.set(survey.owed_for.as_secs_f64());
    }

    /// Notes that a purge has not failed.
    pub(crate) fn purge_succeeded(&self, at: Timestamp) {
        self.last_purge.set(Timestamp(0).until(at).as_secs_f64());
    }

    /// Returns the time of the last purge that has not failed, if there was any.
    pub(crate) fn purged_at(&self) -> Option<Timestamp> {
        let seconds = Duration::try_from_secs_f64(self.last_purge.get()).unwrap_or_default();
        let millis = u64::try_from(seconds.as_millis()).unwrap_or(u64::MAX);
        (millis > 0).then_some(Timestamp(millis))
    }

    /// Returns the number of places of damage whose names are lost.
    pub(crate) fn damaged_ranges(&self) -> u64 {
        u64::try_from(self.damaged_ranges.get()).unwrap_or_default()
    }

    /// Notes what the counters are now, for the numbers of the last ten minutes.
    pub(crate) fn sample(&self, at: Instant, time: Timestamp, in_flight: usize) {
        self.pulse.sample(at, time, in_flight);
    }

    /// Returns the numbers of the last ten minutes.
    pub(crate) fn minutes(&self, at: Instant, time: Timestamp, in_flight: usize) -> Minutes {
        self.pulse.minutes(at, time, in_flight)
    }

    /// Sets the gauges of the present moment, before each scrape.
    pub fn gauges(&self, live: usize, live_bytes: usize, backlog: usize, lease_held: bool) {
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.live.set(count(live));
        self.live_bytes.set(count(live_bytes));
        self.backlog.set(count(backlog));
        self.lease_held.set(i64::from(lease_held));
    }

    /// Sets the size of the write-ahead log of an SQLite file.
    pub fn log_bytes(&self, bytes: u64) {
        self.log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
