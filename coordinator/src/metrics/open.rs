//! Metrics of what is open.

use prometheus_client::encoding::EncodeLabelSet;
use unanimo_core::Timestamp;

use super::Metrics;
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
}
