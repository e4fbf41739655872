//! Alarms that concern a participant, and not one transaction: a line for each participant with a count,
//! and not for each transaction that waits for it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

/// Between two lines of an alarm of one participant that goes on.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Time without news after which an alarm counts as over: the next one is told at once.
const OVER_AFTER: Duration = Duration::from_secs(10 * 60);

/// Between two looks at what is to be told.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Alarms by name and participant.
#[derive(Debug)]
pub(in crate::engine) struct Alarms {
    raised: HashMap<(&'static str, ParticipantName), Raised>,
    look_at: Instant,
}

#[derive(Debug)]
struct Raised {
    count: u64,
    told: u64,
    told_at: Instant,
    last_at: Instant,
    last_error: String,
}

/// An alarm that goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    pub(super) alarm: &'static str,
    pub(super) participant: ParticipantName,
    pub(super) count: u64,
    pub(super) last_error: String,
}

impl Alarms {
    pub(in crate::engine) fn new() -> Self {
        Self { raised: HashMap::new(), look_at: Instant::now() }
    }

    /// Counts a transaction, and tells whether the alarm is to be told now, because it is new.
    pub(super) fn raise(
        &mut self,
        alarm: &'static str,
        participant: &ParticipantName,
        last_error: &str,
        now: Instant,
    ) -> bool {
        let key = (alarm, participant.clone());
        let new = !self.raised.contains_key(&key);
        let raised = self.raised.entry(key).or_insert_with(|| Raised {
            count: 0,
            told: 1,
            told_at: now,
            last_at: now,
            last_error: String::new(),
        });
        raised.count += 1;
        raised.last_at = now;
        last_error.clone_into(&mut raised.last_error);
        new
    }

    /// Takes the alarms that have grown since they were told; `None` if it is not time to look.
    pub(super) fn repeated(&mut self, now: Instant) -> Option<Vec<Repeated>> {
        if now < self.look_at {
            return None;
        }
        self.look_at = now + LOOK_INTERVAL;
        self.raised.retain(|_, raised| now - raised.last_at < OVER_AFTER);
        let grown = self.raised.iter_mut().filter(|(_, raised)| {
            raised.count > raised.told && now - raised.told_at >= REPEAT_INTERVAL
        });
        let repeated = grown.map(|((alarm, participant), raised)| {
            (raised.told, raised.told_at) = (raised.count, now);
            let (count, last_error) = (raised.count, raised.last_error.clone());
            Repeated { alarm, participant: participant.clone(), count, last_error }
        });
        Some(repeated.collect())
    }

    /// Counts the participants for which an alarm is raised.
    pub(super) fn count(&self, alarm: &'static str) -> usize {
        self.raised.keys().filter(|(name, _)| *name == alarm).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_participant_and_the_count_later() {
        let mut alarms = Alarms::new();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let [sick, other] = ["sick", "other"].map(|n| ParticipantName::new(n).expect("a name"));
        assert!(alarms.raise("stalled", &sick, "no", at(1)));
        for _ in 0..50_000 {
            assert!(!alarms.raise("stalled", &sick, "still no", at(1)));
        }
        assert!(alarms.raise("stalled", &other, "no", at(1)), "another participant");
        assert!(alarms.raise("skew", &sick, "", at(1)), "another alarm");
        assert_eq!(alarms.repeated(at(2)), Some(vec![]));
        assert_eq!(alarms.repeated(at(2)), None);
        let repeated = Repeated {
            alarm: "stalled",
            participant: sick.clone(),
            count: 50_001,
            last_error: "still no".to_owned(),
        };
        assert_eq!(alarms.repeated(at(61)), Some(vec![repeated]));
        assert_eq!(alarms.repeated(at(180)), Some(vec![]), "nothing new");
        assert_eq!(alarms.count("stalled"), 2);
        alarms.repeated(at(602));
        assert_eq!(alarms.count("stalled"), 0);
        assert!(alarms.raise("stalled", &sick, "no", at(603)), "it begins anew");
    }
}
