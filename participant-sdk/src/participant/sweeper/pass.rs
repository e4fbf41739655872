//! One sweep: what is in doubt is listed, asked about, and ended where that is decided.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use unanimo_proto::v1::{BranchVerdict, Verdict};

use super::super::service::Service;
use super::alarms::{Alarms, Part, Why};
use super::ending::{Slow, named};
use super::inquiry::{About, Asked, BATCH, Inquirer};
use super::pauses::Pauses;
use super::payloads::Unread;
use super::promoted::Seen;
use super::steps::Steps;
use super::{InDoubt, Sweep};
use crate::action::{Broken, caught};
use crate::doubt::{BranchName, Committed, Count, Doubt, RowKey};
use crate::resource::{Fault, PhaseTwoOperation, Resource};

/// Rows of a sweep. The next one goes on behind them.
const ROWS_MAX: usize = 10_000;

/// Longest time of a question to the database: each looks at a batch. Beyond it the connection is closed.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

/// Age of a branch that nobody answers for at which it raises an alarm, at least.
pub(super) const UNANSWERED_MIN: Duration = Duration::from_secs(5);

/// Age of a branch that is decided and not ended at which it raises an alarm, at least: calls are sent again
/// with pauses.
pub(super) const NOT_ENDED_MIN: Duration = Duration::from_secs(60);

/// Time for which a branch's transaction is not decided at which it raises an alarm, at least: one may take long,
/// by the timeout that its initiator gave it.
const NOT_DECIDED_MIN: Duration = Duration::from_secs(60 * 60);

/// A sweep, and what it keeps for the next one.
pub(super) struct Pass<R: Resource> {
    /// The service with its handlers.
    pub(super) served: Service<R>,
    /// The same on connections of the sweeper's own.
    pub(super) service: Service<R>,
    pub(super) inquirer: Inquirer,
    pub(super) sweep: Sweep,
    pub(super) stopped: watch::Receiver<bool>,
    /// Names that branches may have been prepared under: its own, and those before.
    pub(super) names: Vec<String>,
    /// The name that the next sweep goes on with, and the last of its rows that was looked at, where a sweep ended before
    /// the last row of the last name.
    after: Option<(usize, Option<RowKey>)>,
    /// Where the purge of each name's rows goes on: rows that must stay are not looked at each time.
    pub(super) purged_to: HashMap<String, Committed>,
    pub(super) bound_to: HashMap<String, RowKey>,
    /// The purge's clock, and when it looked for rows without a bound.
    pub(super) purging: super::retention::Purging,
    /// Time at which names of others were looked for.
    pub(super) names_at: Option<Instant>,
    /// The branches that are open were checked against the handlers.
    pub(super) is_checked: bool,
    /// Some of them, whose payloads the coordinators have.
    pub(super) unread: Unread,
    /// Histories of the server.
    pub(super) seen: Seen,
    /// Branches whose transactions run.
    pauses: Pauses,
    /// Prepared transactions that the database did not end in time.
    pub(super) slow: Slow,
    /// Text of a panic of this sweep.
    broken: Option<String>,
}

/// Result of a sweep.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// `None` if the database did not tell.
    pub(super) in_doubt: Option<InDoubt>,
    /// There is more to do at once.
    pub(super) more: bool,
    /// Text of a panic: of that part of the sweep nothing is known, and the others were done.
    pub(super) broken: Option<String>,
}

impl<R: Resource> Pass<R> {
    pub(super) fn new(
        served: &Service<R>,
        inquirer: Inquirer,
        sweep: Sweep,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let of = &served.inner.of;
        let names = std::iter::once(&of.name).chain(&of.formerly).cloned().collect();
        Self {
            service: served.for_sweeper(),
            served: served.clone(),
            inquirer,
            sweep,
            stopped,
            names,
            after: None,
            purged_to: HashMap::new(),
            bound_to: HashMap::new(),
            purging: Default::default(),
            names_at: None,
            is_checked: false,
            unread: Unread::default(),
            seen: Seen::default(),
            pauses: Pauses::default(),
            slow: Slow::default(),
            broken: None,
        }
    }

    pub(super) async fn run(&mut self, alarms: &mut Alarms) -> Swept {
        self.inquirer.begin();
        self.pauses.begin(Instant::now());
        self.slow.begin();
        self.served.record_losses();
        let is_ready = self.served.is_ready();
        alarms.begin_sweep(self.after.is_none());
        let resolved = caught(self.resolve(alarms)).await;
        let result = self.whole(resolved);
        let part = match (&result, &self.after) {
            (Err(_), _) => Part::Failed,
            (Ok(()), Some(_)) => Part::Earlier,
            (Ok(()), None) => Part::Last,
        };
        let alarmed = alarms.end_sweep(self.service.participant(), part);
        let counted = match result {
            Ok(()) => {
                let counted = caught(self.count(alarmed)).await;
                self.whole(counted)
            }
            Err(fault) => Err(fault),
        };
        let in_doubt = counted.inspect_err(|fault| self.failed(fault)).ok();
        self.look_around().await;
        let purged = match self.sweep.retention {
            Some(retention) => caught(self.purge(retention)).await,
            None => Ok(Ok(false)),
        };
        let purged = self.whole(purged).inspect_err(|fault| self.failed(fault));
        let (purge_left, broken) = (purged.unwrap_or(false), self.broken.take());
        // What is prepared may be in the way of the set-up.
        Swept { in_doubt, more: purge_left || self.after.is_some() || !is_ready, broken }
    }

    /// Notes a panic of a part of the sweep, which has failed then.
    fn whole<T>(&mut self, part: Result<Result<T, Fault>, Broken>) -> Result<T, Fault> {
        part.unwrap_or_else(|broken| {
            let text = broken.text();
            let fault = Fault::SetUp(format!("it has panicked: {text}"));
            self.broken.get_or_insert(text);
            Err(fault)
        })
    }

    /// Looks for what is not this sweep's to end, and tells it. None of these looks needs another one.
    async fn look_around(&mut self) {
        if !self.is_checked {
            let opened = caught(self.check_open()).await;
            self.is_checked = self.looked(opened);
        }
        let read = caught(self.check_payloads()).await;
        self.looked(read.map(Ok));
        let compared = caught(self.check_history()).await;
        self.looked(compared);
        let named = caught(self.check_names()).await;
        self.looked(named);
    }

    fn looked(&mut self, looked: Result<Result<(), Fault>, Broken>) -> bool {
        self.whole(looked).inspect_err(|fault| self.failed(fault)).is_ok()
    }

    fn failed(&self, fault: &Fault) {
        let participant = self.service.participant();
        tracing::warn!(participant, error = %fault, "failed to end the sweep; the next one goes on");
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Asks about everything that is in doubt for long enough, and does as it is told.
    async fn resolve(&mut self, alarms: &mut Alarms) -> Result<(), Fault> {
        let (service, grace) = (self.service.clone(), self.sweep.grace);
        let resource = &service.inner.resource;
        // Before the database is set up they are of a former life, and may be in its way.
        let waits = if self.served.is_ready() { grace } else { Duration::ZERO };
        for name in self.names.clone() {
            let mut prepared = service.queried(resource.prepared_transactions(&name)).await?;
            prepared.retain(|doubt| doubt.age >= waits || doubt.is_ahead);
            self.slow.put_last(&mut prepared);
            for batch in prepared.chunks(BATCH) {
                self.ask_about(&name, batch, alarms).await?;
            }
        }
        let mut seen = 0;
        let (first, mut after) = self.after.take().unwrap_or_default();
        for (index, name) in self.names.clone().into_iter().enumerate().skip(first) {
            loop {
                if self.is_stopped() || seen >= ROWS_MAX {
                    self.after = Some((index, after));
                    return Ok(());
                }
                let rows = resource.prepared_rows(&name, grace, after.as_ref(), BATCH);
                let rows = service.queried(rows).await?;
                self.ask_about(&name, &rows, alarms).await?;
                seen += rows.len();
                after = rows.last().and_then(|last| match &last.branch {
                    BranchName::Id(id) => Some((last.tx_id, id.clone())),
                    BranchName::Number(_) => None,
                });
                if rows.len() < BATCH {
                    after = None;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Asks about a batch, each cluster's branches by themselves, and does as it is told.
    async fn ask_about(
        &mut self,
        name: &str,
        batch: &[Doubt],
        alarms: &mut Alarms,
    ) -> Result<(), Fault> {
        let (database_id, mut steps) = (self.database_id(), Steps::default());
        let mut clusters: BTreeMap<&str, Vec<&Doubt>> = BTreeMap::new();
        for doubt in batch {
            alarms.listed(doubt);
            steps.asked(doubt, self.sweep.grace);
            clusters.entry(&doubt.cluster_id).or_default().push(doubt);
        }
        for (cluster_id, doubts) in clusters {
            if self.is_stopped() {
                return Ok(());
            }
            let asked = self.pauses.to_ask(cluster_id, &doubts, Instant::now());
            if asked.is_empty() {
                continue;
            }
            let branches = asked.iter().map(|doubt| (doubt.tx_id, &doubt.branch));
            let about = About { participant: name, database_id: &database_id, cluster_id };
            match self.inquirer.ask(about, branches).await {
                Asked::NoAnswer => {
                    let too_old = self.sweep.alarm_age(UNANSWERED_MIN);
                    for doubt in doubts {
                        if doubt.is_step {
                            self.alarm_if_it_waits(alarms, doubt, Why::Unanswered);
                        } else if doubt.known_age() >= too_old {
                            self.pauses.end(doubt);
                            self.alarm(alarms, doubt, Why::Unanswered);
                        }
                    }
                }
                Asked::OtherCluster => self.alarm_all(alarms, doubts, Why::OtherCluster),
                Asked::OtherDatabase => self.alarm_all(alarms, doubts, Why::OtherDatabase),
                Asked::Told(results) => {
                    self.pauses.answered(cluster_id);
                    for (doubt, result) in asked.into_iter().zip(results) {
                        self.pauses.told(doubt, &result, Instant::now());
                        if doubt.is_step {
                            self.act_on_step(&mut steps, doubt, &result, alarms);
                            continue;
                        }
                        match self.act(doubt, result).await {
                            Some(why) => {
                                self.pauses.end(doubt);
                                self.alarm(alarms, doubt, why);
                            }
                            None => alarms.clear(doubt),
                        }
                    }
                }
            }
        }
        self.change(name, steps).await
    }

    pub(super) fn database_id(&self) -> String {
        self.service.inner.resource.database_id().unwrap_or_default().to_owned()
    }

    /// Raises the alarm of branches about which no coordinator tells. They are asked about in the next sweep.
    fn alarm_all<'d>(
        &mut self,
        alarms: &mut Alarms,
        doubts: impl IntoIterator<Item = &'d Doubt>,
        why: Why,
    ) {
        for doubt in doubts {
            self.pauses.end(doubt);
            self.alarm(alarms, doubt, why);
        }
    }

    pub(super) fn alarm(&self, alarms: &mut Alarms, doubt: &Doubt, why: Why) {
        alarms.raise(self.service.participant(), doubt, why, Instant::now());
    }

    /// Does with a branch as the coordinator says. `Some` says what is wrong with it.
    async fn act(&mut self, doubt: &Doubt, result: BranchVerdict) -> Option<Why> {
        let operation = match result.verdict() {
            Verdict::Commit => PhaseTwoOperation::Commit,
            Verdict::Cancel => PhaseTwoOperation::Cancel,
            Verdict::NeverSeen => return Some(Why::NeverSeen),
            Verdict::Purged => return Some(Why::Purged),
            Verdict::Heuristic => return Some(Why::Heuristic),
            // One of a later version is no decision that is known here.
            Verdict::Running | Verdict::Unspecified => {
                return self.not_decided(doubt, result.prepare_until);
            }
        };
        match doubt.branch {
            BranchName::Number(_) => match named(doubt, result) {
                Some(call) => self.end(doubt, operation, call).await,
                None => Some(Why::NeverSeen),
            },
            // The question has made the coordinator send what it owes; only that has the payload.
            BranchName::Id(_) if result.ended => Some(Why::Ended),
            BranchName::Id(_) => self.not_ended(doubt),
        }
    }

    /// Tells what is wrong with a branch that is decided and not ended.
    pub(super) fn not_ended(&self, doubt: &Doubt) -> Option<Why> {
        (doubt.known_age() >= self.sweep.alarm_age(NOT_ENDED_MIN)).then_some(Why::NotEnded)
    }

    /// Tells what is wrong with a branch whose transaction is not decided. If nobody has set the age of an alarm, the
    /// time counts from the transaction's deadline, where the coordinator names one: a saga may have days, and
    /// its reserved steps with it.
    fn not_decided(&self, doubt: &Doubt, until: Option<prost_types::Timestamp>) -> Option<Why> {
        let past = |until: prost_types::Timestamp| {
            SystemTime::now().duration_since(SystemTime::try_from(until).ok()?).ok()
        };
        let waited = match until {
            Some(until) if !self.sweep.has_alarm_age() => {
                past(until).unwrap_or_default().min(doubt.known_age())
            }
            _ => doubt.known_age(),
        };
        (waited >= self.sweep.alarm_age(NOT_DECIDED_MIN)).then_some(Why::NotDecided)
    }

    /// Counts what is left in doubt.
    async fn count(&self, alarmed: u64) -> Result<InDoubt, Fault> {
        let resource = &self.service.inner.resource;
        let mut counted = InDoubt { alarmed, ..InDoubt::default() };
        for name in &self.names {
            let prepared = self.service.queried(resource.prepared_transactions(name)).await?;
            let Count { count, oldest, steps } =
                self.service.queried(resource.count_prepared(name)).await?;
            let ages = prepared.iter().map(|doubt| doubt.age);
            counted.oldest = ages.fold(counted.oldest.max(oldest), std::cmp::Ord::max);
            counted.count += count + u64::try_from(prepared.len()).unwrap_or(u64::MAX);
            counted.steps += steps;
        }
        let oldest_prepared = self.service.queried(resource.oldest_prepared()).await?;
        counted.oldest_prepared = oldest_prepared.unwrap_or_default();
        if counted.oldest > self.sweep.grace {
            tracing::warn!(
                participant = self.service.participant(),
                in_doubt = counted.count,
                oldest_s = counted.oldest.as_secs(),
                alarmed,
                "branches are in doubt"
            );
        }
        Ok(counted)
    }
}

impl<R: Resource> Service<R> {
    /// Asks the database, which has some time to answer.
    pub(in crate::participant) async fn queried<T>(
        &self,
        query: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let answered = tokio::time::timeout(QUERY_TIMEOUT, query).await;
        answered.unwrap_or(Err(Fault::Overtime(QUERY_TIMEOUT)))
    }
}
