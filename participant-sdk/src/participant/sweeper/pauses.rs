//! Reserved branches that are not asked about for a while: their transaction runs.
//!
//! A reservation in a saga may be held for days, and its coordinator sends Commit or Cancel by itself: a question is for
//! what went wrong. The next one comes after half of the time for which the branch has been held, an hour at most.
//!
//! - Prepared transactions are asked about in each sweep: they hold locks. Rows of steps have pauses of their own, in the
//!   database.
//! - One that has an alarm is asked about in each sweep, so that the alarm ends when its cause does.
//! - Of each coordinator group one branch at least is asked about in each sweep, or nobody would know that no coordinator
//!   answers any more.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_proto::v1::{BranchVerdict, Verdict};

use crate::doubt::{BranchName, Doubt, RowKey};

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// Branches that are remembered: some 10 MB. Those beyond are asked about in each sweep.
const REMEMBERED_MAX: usize = 100_000;

/// Branches that run, and when they are asked about next.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    until: HashMap<RowKey, Instant>,
    /// Groups of which a coordinator has answered in this sweep.
    answered: HashSet<String>,
}

impl Pauses {
    /// A new sweep begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.answered.clear();
        self.until.retain(|_, until| *until > now);
    }

    /// Returns those of a group's branches that are to be asked about.
    pub(super) fn to_ask<'d>(
        &self,
        cluster_id: &str,
        doubts: &[&'d Doubt],
        now: Instant,
    ) -> Vec<&'d Doubt> {
        let is_due = |doubt: &&Doubt| {
            let until = key(doubt).and_then(|key| self.until.get(&key));
            until.is_none_or(|until| *until <= now)
        };
        let mut due: Vec<&Doubt> = doubts.iter().copied().filter(is_due).collect();
        if due.is_empty() && !self.answered.contains(cluster_id) {
            due.extend(doubts.first());
        }
        due
    }

    /// A coordinator of the group has answered.
    pub(super) fn answered(&mut self, cluster_id: &str) {
        if !self.answered.contains(cluster_id) {
            self.answered.insert(cluster_id.to_owned());
        }
    }

    /// Takes the coordinator's word about a branch.
    pub(super) fn told(&mut self, doubt: &Doubt, result: &BranchVerdict, now: Instant) {
        let Some(key) = key(doubt) else { return };
        let runs = result.verdict() == Verdict::Running;
        if runs && self.until.len() < REMEMBERED_MAX {
            self.until.insert(key, now + (doubt.age / 2).min(PAUSE_MAX));
        } else {
            self.until.remove(&key);
        }
    }

    /// Has a branch asked about in the next sweep.
    pub(super) fn end(&mut self, doubt: &Doubt) {
        if let Some(key) = key(doubt) {
            self.until.remove(&key);
        }
    }
}

/// Returns the key of a branch that has pauses here.
fn key(doubt: &Doubt) -> Option<RowKey> {
    match &doubt.branch {
        BranchName::Id(id) if !doubt.is_step => Some((doubt.tx_id, id.clone())),
        BranchName::Id(_) | BranchName::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn doubt(age_s: u64, is_step: bool) -> Doubt {
        Doubt {
            cluster_id: "group".to_owned(),
            tx_id: Uuid::from_u128(u128::from(age_s)),
            branch: BranchName::Id("b".to_owned()),
            age: Duration::from_secs(age_s),
            is_step,
            is_ahead: false,
        }
    }

    fn verdict(verdict: Verdict) -> BranchVerdict {
        BranchVerdict { verdict: verdict.into(), ..BranchVerdict::default() }
    }

    #[test]
    fn a_reservation_that_runs_is_asked_about_after_half_of_its_age() {
        let start = Instant::now();
        let (young, old, step) = (doubt(60, false), doubt(1_000_000, false), doubt(70, true));
        let all = [&young, &old, &step];
        let mut pauses = Pauses::default();
        for doubt in all {
            pauses.told(doubt, &verdict(Verdict::Running), start);
        }
        pauses.answered("group");
        let ids = |pauses: &Pauses, secs| {
            let asked = pauses.to_ask("group", &all, start + Duration::from_secs(secs));
            asked.iter().map(|doubt| doubt.age.as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&pauses, 29), [70]);
        assert_eq!(ids(&pauses, 30), [60, 70]);
        assert_eq!(ids(&pauses, 3_599), [60, 70]);
        assert_eq!(ids(&pauses, 3_600), [60, 1_000_000, 70]);
        // One that is decided, or that nobody tells anything of, is asked about again.
        pauses.told(&young, &verdict(Verdict::Cancel), start);
        pauses.end(&old);
        assert_eq!(ids(&pauses, 0), [60, 1_000_000, 70]);
    }

    #[test]
    fn of_each_group_one_is_asked_about_in_each_sweep() {
        let (start, branch) = (Instant::now(), doubt(60, false));
        let mut pauses = Pauses::default();
        pauses.told(&branch, &verdict(Verdict::Running), start);
        let asked = |pauses: &Pauses| pauses.to_ask("group", &[&branch], start).len();
        assert_eq!(asked(&pauses), 1);
        pauses.answered("group");
        assert_eq!(asked(&pauses), 0);
        pauses.begin(start);
        assert_eq!(asked(&pauses), 1);
    }
}
