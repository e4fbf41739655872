//! Sagas that are driven step by step, while at every durable step the coordinator is killed, or the initiator.

use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use unanimo_coordinator::crash::{POINTS, SAGA_POINTS};
use unanimo_tests::driven::Ending;
use unanimo_tests::reaper::Owned;
use unanimo_tests::wait::{PATIENCE, until};

use super::shapes::{Locked, SHAPES, Saga, has_pivot};
use super::{Store, World};

/// Visits of a crash point by one saga, at most.
const VISITS_MAX: u32 = 60;

/// Time in which a process that is killed after its saga's end is found dead.
const DIES_WITHIN: Duration = Duration::from_millis(50);

/// Makes a saga with a reservation, a child and a lock.
fn saga(name: &str, ending: Ending, refuses: Option<&'static str>) -> Saga {
    Saga {
        gid: name.to_owned(),
        steps: SHAPES[1],
        refuses,
        hangs: None,
        locked: Locked::Whole("till"),
        driven: Some(ending),
    }
}

/// Initiator as a process.
struct Initiator(Owned);

impl Initiator {
    /// Starts one, which waits for a word.
    fn start(coordinator: &str, saga: &Saga) -> Self {
        let described = serde_json::to_string(&saga.described()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_initiator-under-test"));
        command.args([coordinator, &described]).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(Owned::spawn(&mut command))
    }

    fn pid(&mut self) -> Pid {
        Pid::from_raw(self.0.child().id().try_into().unwrap()).unwrap()
    }

    /// Lets it go on, and waits until it has ended.
    async fn run(mut self) -> ExitStatus {
        drop(self.0.child().stdin.take());
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.child().try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the initiator has not ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl World {
    /// Waits until a saga has ended and nothing is left to be done for it.
    async fn at_rest(&self, gid: &str) {
        let gid = gid.to_owned();
        until("its end", async || {
            let found = self.client.find(&gid).await.ok()?;
            let ended = match &found {
                unanimo_sdk::Outcome::Committed(committed) => committed.ended,
                unanimo_sdk::Outcome::Aborted(aborted) => aborted.ended,
                unanimo_sdk::Outcome::NotDecided(_) => false,
            };
            ended.then_some(())
        })
        .await;
        tokio::time::sleep(DIES_WITHIN).await;
    }

    /// Has one initiator drive a saga to its end.
    async fn drive(&mut self, saga: Saga) {
        let heard = saga.once(&self.client).await.unwrap();
        self.at_rest(&saga.gid).await;
        self.done.push((saga, heard.into_iter().collect()));
    }
}

/// Kills the coordinator at each visit of each crash point, until a saga passes it less often.
async fn coordinator_dies_at_every_visit(
    store: Store,
    ending: Ending,
    refuses: Option<&'static str>,
) {
    let mut world = World::start(store).await;
    let mut visits = Vec::new();
    for point in POINTS.iter().chain(SAGA_POINTS) {
        for nth in 1.. {
            assert!(nth < VISITS_MAX, "{point} is visited without end");
            world.coordinator.crash_at(point, nth);
            world.drive(saga(&format!("{point}-{nth}"), ending, refuses)).await;
            if !world.coordinator.has_crashed() {
                visits.push((*point, nth - 1));
                break;
            }
        }
    }
    eprintln!("killed at {visits:?}");
    let never: Vec<_> = visits.iter().filter(|(_, visits)| *visits == 0).collect();
    assert!(never.is_empty(), "never reached: {never:?}");
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_a_driven_saga_on_sqlite_commits_whenever_the_coordinator_dies() {
    coordinator_dies_at_every_visit(Store::Sqlite, Ending::Commit, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_a_driven_saga_on_postgres_commits_whenever_the_coordinator_dies() {
    coordinator_dies_at_every_visit(Store::Postgres, Ending::Commit, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_a_driven_saga_on_sqlite_is_undone_whenever_the_coordinator_dies() {
    coordinator_dies_at_every_visit(Store::Sqlite, Ending::Rollback, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_a_driven_saga_on_postgres_is_undone_whenever_the_coordinator_dies() {
    coordinator_dies_at_every_visit(Store::Postgres, Ending::Rollback, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_a_driven_saga_that_is_refused_is_undone_whenever_the_coordinator_dies() {
    coordinator_dies_at_every_visit(Store::Sqlite, Ending::Commit, Some("shipment")).await;
}

/// Kills the initiator, and with it its connection, at each durable step of its saga. Another one begins anew, and
/// brings the saga to its end.
async fn initiator_dies_at_every_visit(store: Store, ending: Ending) {
    let mut world = World::start(store).await;
    let mut visits = Vec::new();
    for point in POINTS {
        for nth in 1.. {
            assert!(nth < VISITS_MAX, "{point} is visited without end");
            let saga = saga(&format!("{point}-{nth}"), ending, None);
            let mut initiator = Initiator::start(&world.coordinator.url(), &saga);
            world.coordinator.kill_at(point, nth, initiator.pid());
            let ended = initiator.run().await;
            world.drive(saga).await;
            if ended.success() {
                visits.push((*point, nth - 1));
                break;
            }
            assert_eq!(ended.code(), None, "it was killed, and did not fail: {ended}");
        }
    }
    eprintln!("killed at {visits:?}");
    // Begin, a step of each kind, and the last word are durable while the initiator waits for them.
    let few: Vec<_> = visits.iter().filter(|(_, visits)| *visits < 5).collect();
    assert!(few.is_empty(), "reached too rarely: {few:?}");
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_a_driven_saga_on_sqlite_commits_by_another_initiator_whenever_one_dies() {
    initiator_dies_at_every_visit(Store::Sqlite, Ending::Commit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_a_driven_saga_on_postgres_commits_by_another_initiator_whenever_one_dies() {
    initiator_dies_at_every_visit(Store::Postgres, Ending::Commit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_a_driven_saga_on_sqlite_is_undone_by_another_initiator_whenever_one_dies() {
    initiator_dies_at_every_visit(Store::Sqlite, Ending::Rollback).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_a_driven_saga_on_postgres_is_undone_by_another_initiator_whenever_one_dies() {
    initiator_dies_at_every_visit(Store::Postgres, Ending::Rollback).await;
}

/// Initiators that never come back, after each number of steps: their sagas are undone at the deadline, though the
/// coordinator is killed meanwhile.
async fn initiators_fall_silent(store: Store) {
    let mut world = World::start(store).await;
    let driven = SHAPES.into_iter().filter(|steps| !has_pivot(steps));
    let silent = driven.flat_map(|steps| (0..=steps.len()).map(move |done| (steps, done)));
    let one = |(number, (steps, done))| Saga {
        gid: format!("silent-{number}"),
        steps,
        refuses: None,
        hangs: None,
        locked: Locked::No,
        driven: Some(Ending::Silence(done)),
    };
    let sagas = silent.enumerate().map(one).collect();
    world
        .run_while(sagas, async |world| {
            for pause_ms in [100, 400, 3_000] {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                world.coordinator.kill();
            }
        })
        .await;
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_driven_sagas_on_sqlite_whose_initiators_fall_silent_are_undone() {
    initiators_fall_silent(Store::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_driven_sagas_on_postgres_whose_initiators_fall_silent_are_undone() {
    initiators_fall_silent(Store::Postgres).await;
}
