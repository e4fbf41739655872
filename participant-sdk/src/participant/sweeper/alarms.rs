//! Alarms of branches that only a person can end: raised once, and again from time to time while it
//! lasts.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::doubt::{BranchName, Doubt, STEP_PAUSE_MAX};

/// Pause before the same branch raises its alarm again.
const REPEAT: Duration = Duration::from_secs(60 * 60);

/// Branches that are remembered, and so told one by one: of rows the oldest ones, as they are listed. Those beyond are
/// counted, and the first and the last of them are named.
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
    /// Round in which it was listed last.
    round: u64,
}

/// Branches of one alarm beyond those that are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct More {
    count: u64,
    first: Uuid,
    last: Uuid,
}

/// Those of each alarm.
type Beyond = BTreeMap<&'static str, More>;

/// Branches whose alarm is raised, or will be if the next sweep finds the same.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    seen: HashMap<(Uuid, BranchName), Seen>,
    /// Steps of sagas that nobody answers for, or that are to be compensated, and since when, as far as this process
    /// has seen.
    waiting: HashMap<(Uuid, BranchName), Waiting>,
    /// Beyond those that are remembered: prepared transactions, which each sweep lists.
    more_prepared: Beyond,
    /// The same of rows, of which a round takes as many sweeps as it needs.
    more_rows: Beyond,
    /// Number of them in the last round that has come to its end.
    more_rows_before: u64,
    /// Number of the present round, in which everything in doubt is listed once.
    round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    round: u64,
}

/// Part of a round that a sweep was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The last one: everything in doubt was listed.
    Last,
    /// The next sweep goes on.
    Earlier,
    /// The database did not list everything.
    Failed,
}

impl Alarms {
    /// The branch cannot be ended.
    pub(super) fn raise(&mut self, participant: &str, doubt: &Doubt, why: Why, now: Instant) {
        let key = (doubt.tx_id, doubt.branch.clone());
        if self.seen.len() >= REMEMBERED_MAX && !self.seen.contains_key(&key) {
            self.is_more(doubt, why);
            return;
        }
        let new = Seen { why, sights: 0, told_at: None, round: self.round };
        let seen = self.seen.entry(key).or_insert(new);
        if seen.why != why {
            *seen = Seen { why, sights: 0, told_at: None, round: self.round };
        }
        seen.sights = seen.sights.saturating_add(1);
        let due = seen.told_at.is_none_or(|told_at| now.duration_since(told_at) >= REPEAT);
        if seen.sights >= SIGHTS && due {
            seen.told_at = Some(now);
            tell(participant, doubt, why);
        }
    }

    fn is_more(&mut self, doubt: &Doubt, why: Why) {
        let beyond = match doubt.branch {
            BranchName::Number(_) => &mut self.more_prepared,
            BranchName::Id(_) => &mut self.more_rows,
        };
        let new = More { count: 0, first: doubt.tx_id, last: doubt.tx_id };
        let more = beyond.entry(why.alarm().0).or_insert(new);
        more.count += 1;
        more.first = more.first.min(doubt.tx_id);
        more.last = more.last.max(doubt.tx_id);
    }

    /// Returns the time for which a step has waited. Its age does not tell that: a healthy one may not have been
    /// asked about for an hour.
    pub(super) fn waits(&mut self, doubt: &Doubt, now: Instant) -> Duration {
        let key = (doubt.tx_id, doubt.branch.clone());
        let is_full = self.waiting.len() >= REMEMBERED_MAX && !self.waiting.contains_key(&key);
        let new = Waiting { since: now, round: self.round };
        let since = if is_full { now } else { self.waiting.entry(key).or_insert(new).since };
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

    /// Begins a sweep, and with it a round unless it goes on with one.
    pub(super) fn begin_sweep(&mut self, begins_round: bool) {
        self.more_prepared.clear();
        if begins_round {
            self.round += 1;
            self.more_rows.clear();
        }
    }

    /// The branch is in doubt still.
    pub(super) fn listed(&mut self, doubt: &Doubt) {
        let key = (doubt.tx_id, doubt.branch.clone());
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.round = self.round;
        }
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.round = self.round;
        }
    }

    /// Forgets what is in doubt no longer, once everything in doubt was listed, however many sweeps that has taken; answers
    /// with how many have raised their alarm.
    pub(super) fn end_sweep(&mut self, participant: &str, part: Part) -> u64 {
        let (prepared, rows) = (count(&self.more_prepared), count(&self.more_rows));
        if part == Part::Last {
            let round = self.round;
            self.seen.retain(|_, seen| seen.round == round);
            self.waiting.retain(|_, waiting| waiting.round == round);
            self.more_rows_before = rows;
        }
        if part != Part::Earlier {
            for beyond in [&self.more_prepared, &self.more_rows] {
                beyond.iter().for_each(|(alarm, more)| tell_more(participant, alarm, *more));
            }
        }
        let told = self.seen.values().filter(|seen| seen.told_at.is_some()).count();
        // A round that is not over has counted only some.
        prepared + rows.max(self.more_rows_before) + u64::try_from(told).unwrap_or(u64::MAX)
    }
}

fn count(beyond: &Beyond) -> u64 {
    beyond.values().map(|more| more.count).sum()
}

fn tell_more(participant: &str, alarm: &str, More { count, first, last }: More) {
    tracing::error!(
        alarm,
        participant,
        more = count,
        first_tx_id = %first,
        last_tx_id = %last,
        "branches beyond those that were told one by one are in doubt and cannot be ended"
    );
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
mod tests;
