//! Metrics of participants. Their names come from outside, so the number of labels is bounded.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use tokio::time::Instant;
use unanimo_core::ParticipantName;

use super::labels::Place;
use super::pulse::Calls;
use super::{
    AlarmLabel, CallLabels, CallResult, CallSpan, Gauge01, Metrics, OperationLabel,
    ParticipantLabel,
};
use crate::alarm::{CLOCK_SKEW, FILES_NOT_USED, KEYS_NOT_FETCHED, QUOTAS_NOT_COUNTED};

/// Most participants with calls waiting that have one: those with the most.
const WAITING_LABELS_MAX: usize = 64;

/// Operations of calls to participants, as they are shown.
const OPERATIONS: [&str; 3] = ["prepare", "commit", "cancel"];

/// Label of all other participants. No participant has such a name.
const OTHER: &str = "(other)";

impl Metrics {
    /// Does it with the label of a participant that is called: its name, or that of all others where there are many. What
    /// became of its calls lately is kept for as many.
    fn labelled(&self, participant: &str, f: impl FnOnce(&str, Option<&Calls>)) {
        let now = Instant::now();
        {
            // As long as this is held none leaves, and no series is made of one that has left.
            let labels = self.labelled.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(calls) = labels.used(participant, now) {
                return f(participant, Some(calls));
            }
            if labels.is_refused(participant, now) {
                return f(OTHER, None);
            }
        }
        let mut labels = self.labelled.write().unwrap_or_else(PoisonError::into_inner);
        match labels.place(participant, now) {
            Place::None => return f(OTHER, None),
            Place::InsteadOf(other) => self.forget_series(&other),
            Place::Own => {}
        }
        f(participant, labels.get(participant));
    }

    /// Takes the series of a participant away, which has no label any more.
    fn forget_series(&self, participant: &str) {
        let participant = participant.to_owned();
        self.answer_seconds.remove(&ParticipantLabel { participant: participant.clone() });
        for operation in OPERATIONS {
            for result in [CallResult::answered, CallResult::failed] {
                let participant = participant.clone();
                self.calls.remove(&CallLabels { participant, operation, result });
            }
        }
    }

    /// Counts and measures a call to a participant that has ended, with an answer or without.
    pub fn called(
        &self,
        participant: &str,
        operation: &'static str,
        answered: bool,
        took: Duration,
    ) {
        let result = if answered { CallResult::answered } else { CallResult::failed };
        self.labelled(participant, |name, calls| {
            calls.into_iter().for_each(|calls| calls.note(answered, took));
            let label = ParticipantLabel { participant: name.to_owned() };
            self.answer_seconds.get_or_create_owned(&label).observe(took.as_secs_f64());
            let participant = label.participant;
            self.calls.get_or_create(&CallLabels { participant, operation, result }).inc();
        });
        self.call_seconds.get_or_create(&OperationLabel { operation }).observe(took.as_secs_f64());
    }

    /// Keeps the error of the last call that failed.
    pub(crate) fn call_failed(&self, participant: &str, error: &str) {
        self.labelled(participant, |_, calls| {
            calls.into_iter().for_each(|calls| calls.failed(error, Instant::now()));
        });
    }

    /// Returns what became of the calls to a participant in the last ten minutes; `None` without any, and if it has no
    /// label of its own.
    pub(crate) fn calls_lately(&self, participant: &str, at: Instant) -> Option<CallSpan> {
        let labels = self.labelled.read().unwrap_or_else(PoisonError::into_inner);
        labels.get(participant).map(|calls| calls.span(at))
    }

    /// Notes what the counters of calls are now: once a minute.
    pub(crate) fn sample_calls(&self, at: Instant) {
        let labels = self.labelled.read().unwrap_or_else(PoisonError::into_inner);
        labels.all().for_each(|calls| calls.sample(at));
    }

    /// Sets the numbers of participants that fail, and of calls that wait.
    pub fn participants(&self, set_aside: usize, troubled: Vec<(ParticipantName, bool, usize)>) {
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.set_aside.set(count(set_aside));
        self.failing.set(count(troubled.iter().filter(|(_, failing, _)| *failing).count()));
        let waiting = troubled.into_iter().map(|(name, _, waiting)| (name, waiting));
        set_most(&self.calls_waiting, waiting.collect());
    }

    /// Sets the numbers of transactions out of memory that wait for participants.
    pub fn parked(&self, parked: Vec<(ParticipantName, usize)>) {
        set_most(&self.parked, parked);
    }

    /// Sets the number of participants whose clocks are ahead.
    pub fn skewed(&self, participants: usize) {
        self.skewed.store(i64::try_from(participants).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.show_skew();
    }

    /// Sets the alarm of the coordinator's own clocks, which counts as one more.
    pub fn clock_skew(&self, raised: bool) {
        self.own_skew.store(i64::from(raised), Ordering::Relaxed);
        self.show_skew();
    }

    /// Sets the number of sets of files that have changed and cannot be used.
    pub fn files_not_used(&self, sets: usize) {
        let value = i64::try_from(sets).unwrap_or(i64::MAX);
        self.alarms.get_or_create(&AlarmLabel { alarm: FILES_NOT_USED }).set(value);
    }

    /// Sets the alarm of an issuer's keys that cannot be fetched.
    pub fn keys_not_fetched(&self, raised: bool) {
        self.alarms.get_or_create(&AlarmLabel { alarm: KEYS_NOT_FETCHED }).set(raised.into());
    }

    /// Sets the alarm of quotas without a count of what sleeps.
    pub fn quotas_not_counted(&self, raised: bool) {
        self.alarms.get_or_create(&AlarmLabel { alarm: QUOTAS_NOT_COUNTED }).set(raised.into());
    }

    /// Returns the alarms of the process that are raised, with the number of what each is about.
    pub fn process_alarms(&self) -> Vec<(&'static str, u64)> {
        let all = [CLOCK_SKEW, FILES_NOT_USED, KEYS_NOT_FETCHED, QUOTAS_NOT_COUNTED];
        let count = |alarm| self.alarms.get_or_create(&AlarmLabel { alarm }).get();
        let raised = all.into_iter().map(|alarm| (alarm, u64::try_from(count(alarm)).unwrap_or(0)));
        raised.filter(|(_, count)| *count > 0).collect()
    }

    fn show_skew(&self) {
        let own = self.own_skew.load(Ordering::Relaxed);
        let value = self.skewed.load(Ordering::Relaxed).saturating_add(own);
        self.alarms.get_or_create(&AlarmLabel { alarm: CLOCK_SKEW }).set(value);
    }
}

/// Sets a number for each participant; for all but those with the most together.
fn set_most(
    family: &Family<ParticipantLabel, Gauge01>,
    mut numbers: Vec<(ParticipantName, usize)>,
) {
    family.clear();
    numbers.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    for (place, (name, number)) in numbers.into_iter().enumerate() {
        let name = if place < WAITING_LABELS_MAX { name.as_str() } else { OTHER };
        let gauge = family.get_or_create_owned(&ParticipantLabel { participant: name.to_owned() });
        gauge.inc_by(i64::try_from(number).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::labels::LABELS_MAX;
    use super::*;

    /// Series of one that has left its place leave with it.
    #[test]
    fn a_tenant_with_many_names_leaves_another_one_its_series() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            for operation in OPERATIONS {
                metrics.called(&format!("a/invented-{n}"), operation, n % 2 == 0, Duration::ZERO);
            }
        }
        metrics.called("b/bank", "prepare", true, Duration::ZERO);
        metrics.called("b/bank", "prepare", true, Duration::ZERO);
        let text = metrics.encode();
        let own = "unanimo_participant_calls_total{participant=\"b/bank\",operation=\"prepare\",result=\"answered\"} 2";
        assert!(text.contains(own), "{text}");
        let series = |of: &str| text.lines().filter(|line| line.starts_with(of)).count();
        // The others have answered and failed calls.
        let of_calls = 3 * (LABELS_MAX - 1) + 1 + 6;
        assert_eq!(series("unanimo_participant_calls_total{"), of_calls);
        assert_eq!(series("unanimo_participant_answer_seconds_count{"), LABELS_MAX + 1);
    }

    #[test]
    fn participants_are_told_apart_up_to_a_number() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.called(&format!("invented-{n}"), "prepare", true, Duration::ZERO);
        }
        let names = (0..1000).map(|n| ParticipantName::new(&format!("p{n}")).expect("a name"));
        metrics.participants(0, names.map(|name| (name, true, 1)).collect());
        assert_eq!(
            metrics.calls_lately("invented-0", Instant::now()).map(|span| span.calls),
            Some(1)
        );
        assert_eq!(metrics.calls_lately("invented-200", Instant::now()), None);
        let text = metrics.encode();
        let series = |of: &str| text.lines().filter(|line| line.starts_with(of)).count();
        assert_eq!(series("unanimo_participant_calls_total{"), LABELS_MAX + 1);
        assert_eq!(series("unanimo_participant_calls_waiting{"), WAITING_LABELS_MAX + 1);
        assert!(
            text.contains("participant=\"(other)\",operation=\"prepare\",result=\"answered\"} 800")
        );
        assert!(text.contains("waiting{participant=\"(other)\"} 936"), "{text}");
    }
}
