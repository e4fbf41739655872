//! Comparison of what a coordinator knows to be committed with what this database has.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use tonic::{Code, Status};
use unanimo_proto::v1::{
    Branch, BranchState, GetTransactionRequest, ListTransactionsRequest, Mode, Outcome,
    Transaction, TransactionState, Vote, get_transaction_request,
};
use uuid::Uuid;

use super::super::inquiry::{BATCH, Group, bounded};
use super::super::pass::Pass;
use super::LOOK_BACK;
use crate::doubt::{BranchName, RowKey};
use crate::resource::{Fault, Resource};

/// Time before the end of what is here at which a transaction has ended, so that it is surely here: clocks
/// differ.
const MARGIN: Duration = Duration::from_secs(60);

/// Transactions of a page.
const PAGE: u32 = 500;

/// Transactions that are compared: each is a question to the coordinator.
const COMPARED_MAX: usize = 20_000;

/// Lost branches that are told one by one. Beyond, what is lost is a matter for a backup.
const TOLD_MAX: usize = 1_000;

/// Result of a comparison with one group.
#[derive(Debug, Default)]
pub(super) struct Compared {
    transactions: usize,
    branches: usize,
    lost: usize,
    /// There are more transactions than are compared.
    is_cut: bool,
}

/// Failure to compare.
pub(super) enum NotCompared {
    Database(Fault),
    Coordinator(Status),
}

impl From<Fault> for NotCompared {
    fn from(fault: Fault) -> Self {
        Self::Database(fault)
    }
}

impl From<Status> for NotCompared {
    fn from(status: Status) -> Self {
        Self::Coordinator(status)
    }
}

/// A branch whose effect must be here.
struct Expected {
    key: RowKey,
    number: u32,
    gid: String,
    action: String,
}

impl<R: Resource> Pass<R> {
    /// Asks a group for transactions, and looks for the rows of their branches.
    pub(super) async fn compare(
        &self,
        name: &str,
        cluster_id: &str,
        mut group: Group,
        kept_until: SystemTime,
    ) -> Result<Compared, NotCompared> {
        let mut result = Compared::default();
        let mut expected = Vec::new();
        let asked = self.list(name, &mut group, kept_until).await?;
        result.is_cut = asked.len() > COMPARED_MAX;
        for tx_id in asked.into_iter().rev().take(COMPARED_MAX) {
            if self.is_stopped() {
                return Err(Status::unavailable("the participant is stopping").into());
            }
            let key = Some(get_transaction_request::Key::TxId(tx_id));
            let request = GetTransactionRequest { key, ..GetTransactionRequest::default() };
            let told = match group.client.get_transaction(bounded(request)).await {
                Ok(told) => told.into_inner().transaction.unwrap_or_default(),
                // Purged meanwhile.
                Err(status) if status.code() == Code::NotFound => continue,
                Err(status) => return Err(status.into()),
            };
            result.transactions += 1;
            expected.extend(effects(name, &told));
            if expected.len() >= BATCH {
                self.look_for(name, cluster_id, &mut expected, &mut result).await?;
            }
        }
        self.look_for(name, cluster_id, &mut expected, &mut result).await?;
        Ok(result)
    }

    /// Lists transactions whose branches may be lost, one more than are compared at most.
    async fn list(
        &self,
        name: &str,
        group: &mut Group,
        kept_until: SystemTime,
    ) -> Result<BTreeSet<String>, Status> {
        use TransactionState::{Aborted, Aborting, Active, Committed, Committing, InDoubt};
        let of = |states: &[TransactionState]| states.iter().map(|state| (*state).into()).collect();
        let questions: [(Vec<i32>, _); 2] = [
            (of(&[Active, Aborting, Committing, InDoubt]), None),
            (of(&[Aborted, Committed]), Some((kept_until - LOOK_BACK).into())),
        ];
        // One may end between the two questions.
        let (mut listed, now) = (BTreeSet::new(), SystemTime::now());
        for (states, created_from) in questions {
            let mut request = ListTransactionsRequest {
                states,
                participant: name.to_owned(),
                created_from,
                page_size: PAGE,
                ..ListTransactionsRequest::default()
            };
            loop {
                let page = group.client.list_transactions(bounded(request.clone())).await?;
                let page = page.into_inner();
                let may_lack = page.transactions.iter().filter(|told| {
                    may_lack(told, kept_until) && !may_be_purged(told, self.sweep.retention, now)
                });
                listed.extend(may_lack.map(|told| told.tx_id.clone()));
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() || listed.len() > COMPARED_MAX || self.is_stopped()
                {
                    break;
                }
            }
        }
        Ok(listed)
    }

    /// Tells those branches that have neither a row nor a prepared transaction here.
    async fn look_for(
        &self,
        name: &str,
        cluster_id: &str,
        expected: &mut Vec<Expected>,
        result: &mut Compared,
    ) -> Result<(), Fault> {
        let expected = std::mem::take(expected);
        let resource = &self.service.inner.resource;
        let keys: Vec<RowKey> = expected.iter().map(|branch| branch.key.clone()).collect();
        // First what is prepared: it may become a row in between.
        let prepared = self.service.queried(resource.prepared_transactions(name)).await?;
        let prepared: HashSet<(Uuid, BranchName)> =
            prepared.into_iter().map(|doubt| (doubt.tx_id, doubt.branch)).collect();
        let here = self.service.queried(resource.rows_here(name, &keys)).await?;
        let here: HashSet<RowKey> = here.into_iter().collect();
        result.branches += expected.len();
        for branch in expected {
            let number = u16::try_from(branch.number).unwrap_or_default();
            let is_prepared = prepared.contains(&(branch.key.0, BranchName::Number(number)));
            if is_prepared || here.contains(&branch.key) {
                continue;
            }
            result.lost += 1;
            if result.lost <= TOLD_MAX {
                tell_lost(name, cluster_id, &branch);
            }
        }
        Ok(())
    }
}

/// Branches of the participant whose effect must be here.
fn effects(name: &str, told: &Transaction) -> Vec<Expected> {
    let Ok(tx_id) = Uuid::try_parse(&told.tx_id) else { return Vec::new() };
    let is_here = |branch: &&Branch| branch.participant == name && has_effect(branch, told);
    let expected = told.branches.iter().filter(is_here).map(|branch| Expected {
        key: (tx_id, branch.branch_id.clone()),
        number: branch.branch_number,
        gid: told.gid.clone(),
        action: branch.action.clone(),
    });
    expected.collect()
}

/// Tells whether a branch's effect must be here. A Commit that is owed finds out by itself, and what an operator
/// has ended may never have been here.
fn has_effect(branch: &Branch, told: &Transaction) -> bool {
    let stays = match branch.state() {
        BranchState::Committed | BranchState::Done | BranchState::Kept => true,
        // A step is done by its yes. On ABORT it is undone, be it there or not.
        BranchState::Prepared => branch.mode() == Mode::Saga && told.outcome() != Outcome::Aborted,
        _ => false,
    };
    stays && branch.vote() == Vote::Prepared && branch.resolved_by.is_empty()
}

/// Tells whether effects of a transaction may have come after that time. Of one that is aborted, only a saga
/// leaves any.
fn may_lack(told: &Transaction, kept_until: SystemTime) -> bool {
    let ended_long_before =
        told.ended_at.and_then(time).is_some_and(|ended| ended < kept_until - MARGIN);
    let has_effects = told.mode() == Mode::Saga || told.outcome() == Outcome::Committed;
    has_effects && !ended_long_before && !told.stripped
}

/// Tells whether rows of a transaction may have been purged here: some time after its deadline, and once it has
/// ended. Without a deadline it is later.
fn may_be_purged(told: &Transaction, retention: Option<Duration>, now: SystemTime) -> bool {
    let bound = told.deadline.or(told.ended_at).and_then(time);
    retention.is_some_and(|retention| {
        told.ended_at.is_some() && bound.is_some_and(|bound| bound + retention <= now)
    })
}

fn time(stamp: prost_types::Timestamp) -> Option<SystemTime> {
    SystemTime::try_from(stamp).ok()
}

fn tell_lost(participant: &str, cluster_id: &str, branch: &Expected) {
    let Expected { key: (tx_id, branch_id), gid, action, number: _ } = branch;
    tracing::error!(
        alarm = "branch_lost",
        participant, cluster_id, %tx_id, branch_id, gid, action,
        "the effect of a branch that was committed is not in this database any more: do it again by hand, or make \
         up for it at the other participants"
    );
}

pub(super) fn tell_compared(participant: &str, cluster_id: &str, result: &Compared) {
    let Compared { transactions, branches, lost, is_cut } = result;
    if *lost > TOLD_MAX || *is_cut {
        tracing::error!(
            alarm = "branch_lost",
            participant,
            cluster_id,
            transactions,
            branches,
            lost,
            is_cut,
            "more branches may be lost than were told one by one, or compared: see `unanimo tx list --participant`"
        );
    } else {
        tracing::warn!(
            participant,
            cluster_id,
            transactions,
            branches,
            lost,
            "compared with the coordinator what this database still has"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(mode: Mode, state: BranchState, vote: Vote) -> Branch {
        Branch {
            branch_id: "a".to_owned(),
            participant: "p".to_owned(),
            mode: mode.into(),
            state: state.into(),
            vote: vote.into(),
            ..Branch::default()
        }
    }

    #[test]
    fn s11_what_must_be_here_is_what_was_done_for_good() {
        use BranchState::{
            Cancelled, Committed, Committing, Done, HeuristicHazard, Kept, Prepared,
        };
        let cases = [
            (Mode::Tcc, Committed, Vote::Prepared, Outcome::Committed, true),
            (Mode::TwoPhaseCommit, Committed, Vote::Prepared, Outcome::Committed, true),
            (Mode::TwoPhaseCommit, Committed, Vote::ReadOnly, Outcome::Committed, false),
            // Its Commit is owed, and will find nothing.
            (Mode::Tcc, Committing, Vote::Prepared, Outcome::Committed, false),
            (Mode::Tcc, Prepared, Vote::Prepared, Outcome::NotDecided, false),
            (Mode::Tcc, Cancelled, Vote::Prepared, Outcome::Aborted, false),
            (Mode::Tcc, HeuristicHazard, Vote::Prepared, Outcome::Committed, false),
            (Mode::Saga, Done, Vote::Prepared, Outcome::Committed, true),
            (Mode::Saga, Prepared, Vote::Prepared, Outcome::NotDecided, true),
            (Mode::Saga, Prepared, Vote::Prepared, Outcome::Aborted, false),
            (Mode::Saga, Kept, Vote::Prepared, Outcome::Aborted, true),
            (Mode::Saga, Kept, Vote::Unspecified, Outcome::Aborted, false),
        ];
        for (mode, state, vote, outcome, expected) in cases {
            let mut told = Transaction {
                tx_id: Uuid::nil().to_string(),
                outcome: outcome.into(),
                branches: vec![branch(mode, state, vote)],
                ..Transaction::default()
            };
            let case = format!("{mode:?} {state:?} {vote:?} {outcome:?}");
            assert_eq!(effects("p", &told).len(), usize::from(expected), "{case}");
            assert!(effects("q", &told).is_empty(), "{case}: it is another participant's");
            told.branches[0].resolved_by = "ann".to_owned();
            assert!(effects("p", &told).is_empty(), "{case}: an operator's word");
        }
    }

    #[test]
    fn what_had_ended_long_before_is_not_compared() {
        let kept_until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ended = |ended: Option<SystemTime>, mode: Mode, outcome: Outcome| Transaction {
            mode: mode.into(),
            outcome: outcome.into(),
            ended_at: ended.map(Into::into),
            ..Transaction::default()
        };
        let before = Some(kept_until - MARGIN - Duration::from_secs(1));
        for (at, mode, outcome, expected) in [
            (None, Mode::Tcc, Outcome::Committed, true),
            (Some(kept_until), Mode::Tcc, Outcome::Committed, true),
            (Some(kept_until - MARGIN), Mode::Tcc, Outcome::Committed, true),
            (before, Mode::Tcc, Outcome::Committed, false),
            (before, Mode::Saga, Outcome::Committed, false),
            (None, Mode::Tcc, Outcome::Aborted, false),
            (None, Mode::TwoPhaseCommit, Outcome::NotDecided, false),
            (None, Mode::Saga, Outcome::NotDecided, true),
            (Some(kept_until), Mode::Saga, Outcome::Aborted, true),
        ] {
            let told = ended(at, mode, outcome);
            assert_eq!(may_lack(&told, kept_until), expected, "{at:?} {mode:?} {outcome:?}");
        }
    }

    #[test]
    fn rows_that_may_be_purged_are_not_missed() {
        let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let of = |deadline: Option<u64>, ended: Option<u64>| Transaction {
            deadline: deadline.map(|s| at(s).into()),
            ended_at: ended.map(|s| at(s).into()),
            ..Transaction::default()
        };
        let retention = Some(Duration::from_secs(100));
        for (deadline, ended, retention, now, expected) in [
            (Some(10), Some(5), retention, 109, false),
            (Some(10), Some(5), retention, 110, true),
            // It ended long after its deadline, and may have been purged at once.
            (Some(10), Some(1_000), retention, 1_001, true),
            (Some(10), None, retention, 1_001, false),
            (None, Some(5), retention, 104, false),
            (None, Some(5), retention, 105, true),
            (Some(10), Some(5), None, 1_000_000, false),
        ] {
            let told = of(deadline, ended);
            assert_eq!(may_be_purged(&told, retention, at(now)), expected, "{told:?} {now}");
        }
    }
}
