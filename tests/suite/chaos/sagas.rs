//! Sagas while their coordinator and their participants are killed. Afterwards the participants' own
//! records tell what has happened: each effect, when, and with which inputs.

mod crashes;
mod initiators;
mod rules;
mod shapes;
mod worker;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use unanimo_sdk::client::{AbortCause, Error, Heuristic};
use unanimo_sdk::{Client, Outcome};
use unanimo_tests::driven::Ending;
use unanimo_tests::{postgres, reaper};
use uuid::Uuid;

use self::rules::Records;
use self::shapes::{Kind, Saga, Step, TIMEOUT};
use self::worker::Worker;
use super::process::{self, Process};
use super::transfers::opposite;

/// L1: time from the healing of all faults in which every saga ends. It is what may be left of the
/// deadline, two leases, and the longest backoff of the coordinator's settings.
const ENDS_WITHIN: Duration =
    TIMEOUT.saturating_add(Duration::from_secs(2 * 2)).saturating_add(Duration::from_millis(200));

/// Store of the coordinator.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Store {
    Postgres,
    Sqlite,
}

/// Participants, coordinator and client of a test.
pub(crate) struct World {
    pub(crate) workers: [Worker; 2],
    pub(crate) coordinator: Process,
    client: Client,
    /// Every saga that was started, with the outcomes that its initiators got.
    done: Vec<(Saga, Vec<Outcome>)>,
}

impl World {
    pub(crate) async fn start(store: Store) -> Self {
        let database = match store {
            Store::Postgres => postgres::Server::shared().database().await,
            Store::Sqlite => {
                let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
                format!("sqlite:{}", file.display())
            }
        };
        let coordinator = process::coordinator_with(&database, [], "10s").await;
        let url = coordinator.url();
        let [left, right] = shapes::WORKERS;
        let workers = [Worker::on_postgres(left, &url).await, Worker::on_sqlite(right, &url).await];
        let client = Client::new(url).unwrap().wait_at_most(Duration::from_secs(60));
        let world = Self { workers, coordinator, client, done: Vec::new() };
        world.registered().await;
        world
    }

    /// Waits until the coordinator knows the participants, which register themselves.
    async fn registered(&self) {
        let first = shapes::some("first", 0, 4);
        for saga in first {
            let _ = unanimo_tests::wait::until("the participants to register", async || {
                saga.once(&self.client).await.ok()
            })
            .await;
        }
    }

    /// Number of the sagas so far.
    pub(crate) fn count(&self) -> usize {
        self.done.len()
    }

    /// Runs sagas, all at once and each twice, while something happens.
    pub(crate) async fn run_while(&mut self, sagas: Vec<Saga>, happening: impl AsyncFnOnce(&Self)) {
        let running: Vec<_> = sagas
            .iter()
            .map(|saga| {
                let (saga, client) = (saga.clone(), self.client.clone());
                tokio::spawn(async move { saga.run(&client).await })
            })
            .collect();
        happening(self).await;
        for (saga, running) in sagas.into_iter().zip(running) {
            let heard = running.await.unwrap();
            self.done.push((saga, heard));
        }
    }

    /// Checks everything that must hold once all faults are over.
    pub(crate) async fn check(&self) {
        // It may have been killed at the very end, and is healed once it answers.
        if let Some((saga, _)) = self.done.first() {
            let _ = self.client.find(&saga.gid).await.unwrap();
        }
        let healed = Instant::now();
        let mut committed = BTreeMap::new();
        let mut breaches = Vec::new();
        for (saga, heard) in &self.done {
            let outcome = self.ended(&saga.gid, healed).await;
            for heard in heard.iter().filter(|heard| opposite(heard, &outcome)) {
                breaches.push(format!("S10: {} heard {heard}, and is {outcome}", saga.gid));
            }
            breaches.extend(unexpected(saga, &outcome));
            breaches.extend(
                self.disagreeing_child(&saga.gid, saga.steps, outcome.is_committed()).await,
            );
            committed.insert(saga.gid.clone(), outcome.is_committed());
        }
        // Asked for once more after the end: the answer is the same, and nothing happens.
        for (saga, _) in &self.done {
            let again = saga.again(&self.client).await.unwrap();
            if again.is_committed() != committed[&saga.gid] {
                breaches.push(format!("S9: {} is now {again}", saga.gid));
            }
        }
        breaches.extend(self.breaches_in_records(&committed).await);
        assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
        self.nothing_in_doubt().await;
    }

    async fn breaches_in_records(&self, committed: &BTreeMap<String, bool>) -> Vec<String> {
        let [left, right] = [self.workers[0].effects().await, self.workers[1].effects().await];
        let effects = left.into_iter().chain(right);
        let records = Records::new(effects.filter(|effect| !effect.gid.starts_with("first-")));
        let sagas = || self.done.iter().map(|(saga, _)| saga);
        let mut breaches: Vec<String> =
            sagas().flat_map(|saga| records.breaches(saga, committed[&saga.gid])).collect();
        breaches.extend(records.overlaps(sagas()));
        breaches.extend(records.strangers(sagas()).iter().map(|key| format!("unknown: {key:?}")));
        breaches
    }

    /// Waits until a saga has ended.
    async fn ended(&self, gid: &str, healed: Instant) -> Outcome {
        loop {
            let outcome = self.client.find(gid).await.unwrap();
            let (ended, heuristic) = match &outcome {
                Outcome::Committed(committed) => (committed.ended, committed.heuristic),
                Outcome::Aborted(aborted) => (aborted.ended, aborted.heuristic),
                Outcome::NotDecided(_) => (false, Heuristic::None),
            };
            if ended {
                assert_eq!(heuristic, Heuristic::None, "{gid}");
                return outcome;
            }
            assert!(healed.elapsed() < ENDS_WITHIN, "L1: {gid} has not ended: {outcome:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns a breach if a child has another end than its parent, or none.
    async fn disagreeing_child(
        &self,
        gid: &str,
        steps: &'static [Step],
        committed: bool,
    ) -> Option<String> {
        let is_child = |step: &&Step| matches!(step.kind, Kind::ChildTcc(_) | Kind::ChildSaga(_));
        let child = format!("{gid}.{}", steps.iter().find(is_child)?.id);
        let agrees = match self.client.find(&child).await {
            Ok(Outcome::Committed(child)) => committed && child.ended,
            Ok(Outcome::Aborted(child)) => !committed && child.ended,
            Ok(Outcome::NotDecided(_)) => false,
            // The parent was aborted before the child began.
            Err(Error::Rejected { .. }) => !committed,
            Err(error) => panic!("{child}: {error}"),
        };
        (!agrees).then(|| format!("{child} has not ended as its parent, committed: {committed}"))
    }

    /// Waits until no step is left that its participant does not know the end of: the sweeper asks.
    async fn nothing_in_doubt(&self) {
        for worker in &self.workers {
            let started = Instant::now();
            loop {
                let left = worker.in_doubt().await;
                if left.is_empty() {
                    break;
                }
                assert!(started.elapsed() < unanimo_tests::wait::PATIENCE, "in doubt: {left:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Returns a breach if a saga has an outcome that nothing gave it a reason for.
fn unexpected(saga: &Saga, outcome: &Outcome) -> Option<String> {
    let commits = matches!(saga.driven, None | Some(Ending::Commit));
    let fits = match outcome {
        Outcome::Committed(_) => saga.refuses.is_none() && commits,
        // A lock or a restart may take too long; nobody refuses or rolls back without being asked to.
        Outcome::Aborted(aborted) => {
            let rolled_back = saga.driven == Some(Ending::Rollback);
            saga.refuses.is_some()
                || (rolled_back && aborted.cause == AbortCause::Rollback)
                || matches!(aborted.cause, AbortCause::Deadline | AbortCause::Locked)
        }
        Outcome::NotDecided(_) => false,
    };
    (!fits).then(|| format!("S2: {} is {outcome}, to refuse: {:?}", saga.gid, saga.refuses))
}
