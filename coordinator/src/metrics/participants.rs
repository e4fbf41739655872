//! Metrics of participants. Their names come from outside, so the number of labels is bounded.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use tokio::time::Instant;
use unanimo_core::ParticipantName;

use super::pulse::Calls;
use super::{
    AlarmLabel, CallLabels, CallResult, CallSpan, Gauge01, Metrics, OperationLabel,
    ParticipantLabel,
};
use crate::alarm::{CLOCK_SKEW, FILES_NOT_USED, KEYS_NOT_FETCHED, QUOTAS_NOT_COUNTED};

/// Most participants that have a label of their own. Each is up to six series.
const LABELS_MAX: usize = 200;

/// Most participants with calls waiting that have one: those with the most.
const WAITING_LABELS_MAX: usize = 64;

/// Label of all other participants. No participant has such a name.
const OTHER: &str = "(other)";

impl Metrics {
    /// Returns the label of a participant: its name, or that of all others where there are many. Names come
    /// from outside, and each would be kept for ever. What became of its calls lately is kept for as many.
    fn label(&self, participant: &str) -> (String, Option<Arc<Calls>>) {
        if let Some(calls) = self.calls_of(participant) {
            return (participant.to_owned(), Some(calls));
        }
        let mut labelled = self.labelled.write().unwrap_or_else(PoisonError::into_inner);
        if labelled.len() >= LABELS_MAX && !labelled.contains_key(participant) {
            return (OTHER.to_owned(), None);
        }
        let calls = labelled.entry(participant.to_owned());
        let calls = calls.or_insert_with(|| Arc::new(Calls::new(Instant::now())));
        (participant.to_owned(), Some(Arc::clone(calls)))
    }

    fn calls_of(&self, participant: &str) -> Option<Arc<Calls>> {
        let labelled = self.labelled.read().unwrap_or_else(PoisonError::into_inner);
        labelled.get(participant).cloned()
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
        let (participant, calls) = self.label(participant);
        calls.into_iter().for_each(|calls| calls.note(answered, took));
        let label = ParticipantLabel { participant: participant.clone() };
        self.answer_seconds.get_or_create_owned(&label).observe(took.as_secs_f64());
        self.calls.get_or_create(&CallLabels { participant, operation, result }).inc();
        self.call_seconds.get_or_create(&OperationLabel { operation }).observe(took.as_secs_f64());
    }

    /// Keeps the error of the last call that failed.
    pub(crate) fn call_failed(&self, participant: &str, error: &str) {
        let calls = self.label(participant).1;
        calls.into_iter().for_each(|calls| calls.failed(error, Instant::now()));
    }

    /// Returns what became of the calls to a participant in the last ten minutes; `None` without any, and if it has no
    /// label of its own.
    pub(crate) fn calls_lately(&self, participant: &str, at: Instant) -> Option<CallSpan> {
        self.calls_of(participant).map(|calls| calls.span(at))
    }

    /// Notes what the counters of calls are now: once a minute.
    pub(crate) fn sample_calls(&self, at: Instant) {
        let labelled = self.labelled.read().unwrap_or_else(PoisonError::into_inner);
        labelled.values().for_each(|calls| calls.sample(at));
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

    use super::*;

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
