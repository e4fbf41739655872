//! Alarms of branches that only a person can end: raised once, and again from time to time while it
//! lasts.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::doubt::{BranchName, Doubt, STEP_PAUSE_MAX};

/// Pause before the same branch raises its alarm again.
const REPEAT: Duration = Duration::from_secs(60 * 60);

/// Branches that are remembered, and so told one by one. Beyond, what is wrong is wrong with all of
/// them.
const REMEMBERED_MAX: usize = 1000;

/// Sweeps in a row that must find the same before it is an alarm: between the look at the database
/// and the coordinator's answer a branch may have ended.
const SIGHTS: u32 = 2;

/// Reason to do nothing with a branch in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The coordinator never saw it.
    NeverSeen,
    /// The coordinator has forgotten it.
    Purged,
    /// A step of a saga that the coordinator has forgotten.
    PurgedStep,
    /// It has ended against the decision, as far as the coordinator knows.
    Heuristic,
    /// It has ended, as far as the coordinator knows, who will therefore send nothing.
    Ended,
    /// No coordinator that is asked is of its cluster.
    OtherCluster,
    /// The database does not let it be ended as it was decided.
    Refused,
    /// No coordinator that could be of its cluster has answered for too long.
    Unanswered,
    /// Its transaction is not decided, for too long.
    NotDecided,
    /// It was decided long ago, and its Commit or Cancel has not come or does not get done.
    NotEnded,
    /// The participant's living processes have another database.
    OtherDatabase,
}

impl Why {
    /// Stable name of the alarm, and what it says.
    fn alarm(self) -> (&'static str, &'static str) {
        match self {
            Self::NeverSeen => (
                "in_doubt_unknown",
                "a branch is in doubt, and the coordinator has never seen it: was the coordinator's \
                 database restored?",
            ),
            Self::Purged => (
                "in_doubt_unknown",
                "a branch is in doubt, and the coordinator has purged its transaction: was this \
                 database restored?",
            ),
            Self::PurgedStep => (
                "in_doubt_unknown",
                "a step of a saga is done, and the coordinator has purged the saga before this \
                 participant asked about it: was this participant, or its sweeper, away for longer \
                 than the coordinator's retention, or its database restored?",
            ),
            Self::Heuristic => (
                "in_doubt_ended",
                "a branch is in doubt, and the coordinator was told that it ended against the \
                 decision",
            ),
            Self::Ended => (
                "in_doubt_ended",
                "a branch is in doubt, and the coordinator was told that it had ended: it was \
                 resolved by an operator, or this database was restored",
            ),
            Self::Refused => (
                "in_doubt_refused",
                "a branch is in doubt, and the database does not end it as it was decided; the \
                 warning before this line gives the reason",
            ),
            Self::Unanswered => (
                "in_doubt_unanswered",
                "a branch is in doubt, and no coordinator has answered for it for too long: are their \
                 addresses right, and do they run?",
            ),
            Self::NotDecided => (
                "in_doubt_not_decided",
                "a branch is in doubt, and its transaction is not decided long after it should be: does the \
                 coordinator keep its deadlines, is it of a later version, or does a parent transaction wait?",
            ),
            Self::NotEnded => (
                "in_doubt_not_ended",
                "a branch is in doubt, and was decided long ago: its Commit or Cancel does not arrive, or is \
                 not done",
            ),
            Self::OtherDatabase => (
                "participant_other_database",
                "a branch is in doubt in this database, and the participant's processes that are alive have \
                 another one",
            ),
            Self::OtherCluster => (
                "in_doubt_other_cluster",
                "a branch is in doubt, and none of this participant's coordinators is of its \
                 transaction's group",
            ),
        }
    }
}

#[derive(Debug)]
struct Seen {
    why: Why,
    sights: u32,
    told_at: Option<Instant>,
}

/// Branches whose alarm is raised, or will be if the next sweep finds the same.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    seen: HashMap<(Uuid, BranchName), Seen>,
    /// Steps of sagas that nobody answers for, or that are to be compensated, and since when, as far as this process
    /// has seen.
    waiting: HashMap<(Uuid, BranchName), Instant>,
    /// Of this sweep, beyond those that are remembered.
    more: u64,
}

impl Alarms {
    /// The branch cannot be ended.
    pub(super) fn raise(&mut self, participant: &str, doubt: &Doubt, why: Why, now: Instant) {
        let key = (doubt.tx_id, doubt.branch.clone());
        if self.seen.len() >= REMEMBERED_MAX && !self.seen.contains_key(&key) {
            self.more += 1;
            return;
        }
        let seen = self.seen.entry(key).or_insert(Seen { why, sights: 0, told_at: None });
        if seen.why != why {
            *seen = Seen { why, sights: 0, told_at: None };
        }
        seen.sights = seen.sights.saturating_add(1);
        let due = seen.told_at.is_none_or(|told_at| now.duration_since(told_at) >= REPEAT);
        if seen.sights >= SIGHTS && due {
            seen.told_at = Some(now);
            tell(participant, doubt, why);
        }
    }

    /// Returns the time for which a step has waited. Its age does not tell that: a healthy one may not have been
    /// asked about for an hour.
    pub(super) fn waits(&mut self, doubt: &Doubt, now: Instant) -> Duration {
        let key = (doubt.tx_id, doubt.branch.clone());
        let is_full = self.waiting.len() >= REMEMBERED_MAX && !self.waiting.contains_key(&key);
        let since = if is_full { now } else { *self.waiting.entry(key).or_insert(now) };
        // A process that was started again has seen little.
        now.duration_since(since).max(doubt.age.saturating_sub(STEP_PAUSE_MAX))
    }

    /// The coordinator knows the branch, and what to do with it.
    pub(super) fn clear(&mut self, doubt: &Doubt) {
        self.seen.remove(&(doubt.tx_id, doubt.branch.clone()));
    }

    /// The coordinator knows the step, and nothing is owed to it.
    pub(super) fn clear_step(&mut self, doubt: &Doubt) {
        self.waiting.remove(&(doubt.tx_id, doubt.branch.clone()));
        self.clear(doubt);
    }

    /// Forgets what is in doubt no longer; answers with how many have raised their alarm.
    pub(super) fn end_sweep(&mut self, listed: Option<&HashSet<(Uuid, BranchName)>>) -> u64 {
        if let Some(listed) = listed {
            self.seen.retain(|key, _| listed.contains(key));
            self.waiting.retain(|key, _| listed.contains(key));
        }
        let more = std::mem::take(&mut self.more);
        if more > 0 {
            tracing::error!(
                alarm = "in_doubt_unknown",
                more,
                "branches beyond those that were told one by one are in doubt and cannot be ended"
            );
        }
        let told = self.seen.values().filter(|seen| seen.told_at.is_some()).count();
        more + u64::try_from(told).unwrap_or(u64::MAX)
    }
}

fn tell(participant: &str, doubt: &Doubt, why: Why) {
    let Doubt { cluster_id, tx_id, branch, age, .. } = doubt;
    let (alarm, message) = why.alarm();
    let (branch_id, branch_number) = match branch {
        BranchName::Id(id) => (id.as_str(), 0),
        BranchName::Number(number) => ("", *number),
    };
    tracing::error!(
        alarm,
        participant,
        cluster_id,
        %tx_id,
        branch_id,
        branch_number,
        age_s = age.as_secs(),
        "{message}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(number: u16) -> Doubt {
        Doubt {
            cluster_id: "c".into(),
            tx_id: Uuid::nil(),
            branch: BranchName::Number(number),
            age: Duration::ZERO,
            is_step: false,
            is_ahead: false,
        }
    }

    #[test]
    fn l4_an_alarm_needs_two_sights_and_comes_again_at_a_bounded_rate() {
        let mut alarms = Alarms::default();
        let start = Instant::now();
        let listed = HashSet::from([(Uuid::nil(), BranchName::Number(1))]);
        let mut sweep = |after: Duration| {
            alarms.raise("p", &doubt(1), Why::NeverSeen, start + after);
            let alarmed = alarms.end_sweep(Some(&listed));
            let told_at = alarms.seen.values().next().and_then(|seen| seen.told_at);
            (alarmed, told_at.map(|at| at.duration_since(start)))
        };
        let second = Duration::from_secs(1);
        assert_eq!(sweep(Duration::ZERO), (0, None));
        assert_eq!(sweep(second), (1, Some(second)));
        assert_eq!(sweep(second * 2), (1, Some(second)));
        assert_eq!(sweep(REPEAT), (1, Some(second)));
        assert_eq!(sweep(REPEAT + second), (1, Some(REPEAT + second)));
        // A sweep that could not list them all forgets none.
        assert_eq!(alarms.end_sweep(None), 1);
        assert_eq!(alarms.end_sweep(Some(&HashSet::new())), 0);
    }

    #[test]
    fn l4_a_step_waits_since_it_was_found_so_and_not_since_it_was_last_asked_about() {
        let mut alarms = Alarms::default();
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let step = |age| Doubt { age, is_step: true, ..doubt(1) };
        assert_eq!(alarms.waits(&step(minute * 55), start), Duration::ZERO);
        assert_eq!(alarms.waits(&step(minute * 56), start + minute), minute);
        // A sweep that could not list them all forgets none; one that did, forgets what is gone.
        alarms.end_sweep(None);
        assert_eq!(alarms.waits(&step(minute * 57), start + minute * 2), minute * 2);
        alarms.clear_step(&step(minute));
        assert_eq!(alarms.waits(&step(minute), start + minute * 3), Duration::ZERO);
        alarms.end_sweep(Some(&HashSet::new()));
        assert_eq!(alarms.waits(&step(minute), start + minute * 4), Duration::ZERO);
        // Longer than any pause: another process has seen it.
        assert_eq!(alarms.waits(&step(minute * 70), start + minute * 4), minute * 10);
    }

    #[test]
    fn memory_is_bounded() {
        let mut alarms = Alarms::default();
        for number in 0..2 * REMEMBERED_MAX {
            let number = u16::try_from(number).expect("a number");
            alarms.waits(&doubt(number), Instant::now());
        }
        assert_eq!(alarms.waiting.len(), REMEMBERED_MAX);
        let beyond = 7;
        for _ in 0..SIGHTS {
            for number in 0..REMEMBERED_MAX + beyond {
                let number = u16::try_from(number).expect("a number");
                alarms.raise("p", &doubt(number), Why::Purged, Instant::now());
            }
            assert_eq!(alarms.seen.len(), REMEMBERED_MAX);
            assert_eq!(alarms.more, beyond as u64);
            alarms.more = 0;
        }
        assert_eq!(alarms.end_sweep(None), REMEMBERED_MAX as u64);
    }
}
