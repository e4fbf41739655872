//! One sweep: what is in doubt is listed, asked about, and ended where that is decided.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::watch;
use tokio::time::Instant;
use unanimo_proto::v1::{BranchVerdict, Mode, Verdict};
use uuid::Uuid;

use super::super::service::{Service, slot};
use super::alarms::{Alarms, Why};
use super::inquiry::{Asked, BATCH, Inquirer};
use super::steps::Steps;
use super::{InDoubt, Sweep};
use crate::doubt::{BranchName, Count, Doubt, RowKey};
use crate::resource::{Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource};
use crate::wire::{self, Parts};

/// Rows of a sweep. The next one goes on behind them.
const ROWS_MAX: usize = 10_000;

/// A sweep, and what it keeps for the next one.
pub(super) struct Pass<R: Resource> {
    pub(super) service: Service<R>,
    pub(super) inquirer: Inquirer,
    pub(super) sweep: Sweep,
    pub(super) stopped: watch::Receiver<bool>,
    /// The last row that was looked at, where a sweep ended before the last row.
    pub(super) after: Option<RowKey>,
    /// Time at which rows without a bound were looked for.
    pub(super) looked_at: Option<Instant>,
}

/// Result of a sweep.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// `None` if the database did not tell.
    pub(super) in_doubt: Option<InDoubt>,
    /// There is more to do at once.
    pub(super) more: bool,
}

/// Branches that were in doubt.
type Listed = HashSet<(Uuid, BranchName)>;

impl<R: Resource> Pass<R> {
    pub(super) async fn run(&mut self, alarms: &mut Alarms) -> Swept {
        self.inquirer.begin();
        let from_start = self.after.is_none();
        let mut listed = Listed::new();
        let result = self.resolve(alarms, &mut listed).await;
        let complete = result.is_ok() && from_start && self.after.is_none();
        let alarmed = alarms.end_sweep(complete.then_some(&listed));
        let counted = match result {
            Ok(()) => self.count(alarmed).await,
            Err(fault) => Err(fault),
        };
        let in_doubt = counted.inspect_err(|fault| self.failed(fault)).ok();
        let purged = match self.sweep.retention {
            Some(retention) => self.purge(retention).await,
            None => Ok(false),
        };
        let purge_left = purged.inspect_err(|fault| self.failed(fault)).unwrap_or(false);
        Swept { in_doubt, more: purge_left || self.after.is_some() }
    }

    fn failed(&self, fault: &Fault) {
        let participant = self.service.participant();
        tracing::warn!(participant, error = %fault, "failed to end the sweep; the next one goes on");
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Asks about everything that is in doubt for long enough, and does as it is told.
    async fn resolve(&mut self, alarms: &mut Alarms, listed: &mut Listed) -> Result<(), Fault> {
        let (service, grace) = (self.service.clone(), self.sweep.grace);
        let (name, resource) = (service.participant(), &service.inner.resource);
        let mut prepared = service.queried(resource.prepared_transactions(name)).await?;
        prepared.retain(|doubt| doubt.age >= grace);
        for batch in prepared.chunks(BATCH) {
            self.ask_about(batch, alarms, listed).await?;
        }
        let mut seen = 0;
        while !self.is_stopped() && seen < ROWS_MAX {
            let after = self.after.take();
            let rows = resource.prepared_rows(name, grace, after.as_ref(), BATCH);
            let rows = service.queried(rows).await?;
            self.ask_about(&rows, alarms, listed).await?;
            if rows.len() < BATCH {
                return Ok(());
            }
            seen += rows.len();
            self.after = rows.last().and_then(|last| match &last.branch {
                BranchName::Id(id) => Some((last.tx_id, id.clone())),
                BranchName::Number(_) => None,
            });
        }
        Ok(())
    }

    /// Asks about a batch, each cluster's branches by themselves, and does as it is told.
    async fn ask_about(
        &mut self,
        batch: &[Doubt],
        alarms: &mut Alarms,
        listed: &mut Listed,
    ) -> Result<(), Fault> {
        let mut steps = Steps::default();
        let mut clusters: BTreeMap<&str, Vec<&Doubt>> = BTreeMap::new();
        for doubt in batch {
            listed.insert((doubt.tx_id, doubt.branch.clone()));
            clusters.entry(&doubt.cluster_id).or_default().push(doubt);
        }
        for (cluster_id, doubts) in clusters {
            if self.is_stopped() {
                return Ok(());
            }
            let branches = doubts.iter().map(|doubt| (doubt.tx_id, &doubt.branch));
            match self.inquirer.ask(cluster_id, branches).await {
                Asked::NoAnswer => {}
                Asked::OtherCluster => {
                    for doubt in doubts {
                        self.alarm(alarms, doubt, Why::OtherCluster);
                    }
                }
                Asked::Told(results) => {
                    for (doubt, result) in doubts.into_iter().zip(results) {
                        let why = if doubt.is_step {
                            steps.told(doubt, &result)
                        } else {
                            self.act(doubt, result).await
                        };
                        match why {
                            Some(why) => self.alarm(alarms, doubt, why),
                            None => alarms.clear(doubt),
                        }
                    }
                }
            }
        }
        self.change(steps).await
    }

    fn alarm(&self, alarms: &mut Alarms, doubt: &Doubt, why: Why) {
        alarms.raise(self.service.participant(), doubt, why, Instant::now());
    }

    /// Does with a branch as the coordinator says. `Some` says why nothing can be done, ever.
    async fn act(&self, doubt: &Doubt, result: BranchVerdict) -> Option<Why> {
        let operation = match result.verdict() {
            Verdict::Commit => PhaseTwoOperation::Commit,
            Verdict::Cancel => PhaseTwoOperation::Cancel,
            Verdict::NeverSeen => return Some(Why::NeverSeen),
            Verdict::Purged => return Some(Why::Purged),
            Verdict::Heuristic => return Some(Why::Heuristic),
            // One of a later version is no decision that is known here.
            Verdict::Running | Verdict::Unspecified => return None,
        };
        match doubt.branch {
            BranchName::Number(_) => match named(doubt, result) {
                Some(call) => self.end(operation, call).await,
                None => Some(Why::NeverSeen),
            },
            // The question has made the coordinator send what it owes; only that has the payload.
            BranchName::Id(_) => result.ended.then_some(Why::Ended),
        }
    }

    /// Ends a prepared transaction in the way of the operation that never came.
    async fn end(&self, operation: PhaseTwoOperation, call: RawCall) -> Option<Why> {
        let branch = call.branch().clone();
        let (tx_id, gid, branch_id) = (branch.tx_id, branch.gid, branch.branch_id);
        let slot = slot(&self.service.phase_two_slots).await?;
        match self.service.phase_two_call(slot, operation, call).await {
            Ok(PhaseTwoAnswer::Done) => {
                tracing::info!(%tx_id, gid, branch_id, ?operation, "ended a branch in doubt");
            }
            // Another session is at it.
            Ok(PhaseTwoAnswer::Working(_)) => {}
            // The task has told why. The next sweep tries again.
            Err(_) => return Some(Why::Refused),
            Ok(PhaseTwoAnswer::Heuristic(kind, note)) => tracing::error!(
                alarm = "in_doubt_ended",
                %tx_id, gid, branch_id, ?operation, ?kind, note,
                "a branch in doubt had ended against the decision"
            ),
        }
        None
    }

    /// Counts what is left in doubt.
    async fn count(&self, alarmed: u64) -> Result<InDoubt, Fault> {
        let (name, resource) = (self.service.participant(), &self.service.inner.resource);
        let prepared = self.service.queried(resource.prepared_transactions(name)).await?;
        let Count { count, oldest, steps } =
            self.service.queried(resource.count_prepared(name)).await?;
        let oldest = prepared.iter().map(|doubt| doubt.age).fold(oldest, std::cmp::Ord::max);
        let count = count + u64::try_from(prepared.len()).unwrap_or(u64::MAX);
        if oldest > self.sweep.grace {
            tracing::warn!(
                participant = name,
                in_doubt = count,
                oldest_s = oldest.as_secs(),
                alarmed,
                "branches are in doubt"
            );
        }
        Ok(InDoubt { count, oldest, steps, alarmed, sweeps: 0 })
    }
}

/// The prepared transaction's branch in full; `None` if the coordinator speaks of another one.
fn named(doubt: &Doubt, result: BranchVerdict) -> Option<RawCall> {
    let parts = Parts {
        context: result.context,
        action: result.action,
        payload: None,
        inputs: HashMap::new(),
        metadata: HashMap::new(),
        attempt: 1,
        prepare_until: result.prepare_until,
    };
    let call = wire::call(parts).ok()?;
    let branch = call.branch();
    let same = call.mode == Mode::TwoPhaseCommit
        && branch.tx_id == doubt.tx_id
        && branch.cluster_id == doubt.cluster_id
        && doubt.branch == BranchName::Number(u16::try_from(branch.number).ok()?);
    same.then_some(call)
}

impl<R: Resource> Service<R> {
    /// A question to the database, in a slot of phase two: it has as many connections as slots.
    pub(in crate::participant) async fn queried<T>(
        &self,
        query: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let _slot = slot(&self.phase_two_slots).await.ok_or(Fault::Busy)?;
        query.await
    }
}
