//! Kills of the coordinator and of participants, at crash points and at any moment.

use std::time::Duration;

use unanimo_coordinator::crash::{ADOPTION_POINTS, POINTS, SAGA_POINTS};
use unanimo_sdk::crash::TCC_POINTS;

use super::shapes::{Locked, Saga, some};
use super::{Store, World};

/// Visits of a crash point at which the coordinator is killed.
const VISITS: [u32; 2] = [2, 7];

/// Visits of a crash point at which a participant is killed.
const WORKER_VISITS: [u32; 2] = [1, 6];

/// Sagas of a wave.
const WAVE: usize = 8;

/// Waves in which a crash point is looked for.
const WAVES_MAX: usize = 20;

/// Makes the sagas of a wave.
fn wave(world: &World, round: &str) -> Vec<Saga> {
    some(round, world.count(), WAVE)
}

async fn coordinator_dies_at_every_point(store: Store) {
    let mut world = World::start(store).await;
    for point in POINTS.iter().chain(SAGA_POINTS) {
        for nth in VISITS {
            world.coordinator.crash_at(point, nth);
            for round in 0.. {
                let sagas = wave(&world, &format!("{point}-{nth}-{round}"));
                world.run_while(sagas, async |_| ()).await;
                if world.coordinator.has_crashed() {
                    break;
                }
                assert!(round < WAVES_MAX, "{point} was not visited {nth} times");
            }
        }
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_sagas_on_postgres_survive_a_crash_at_every_point() {
    coordinator_dies_at_every_point(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_sagas_on_sqlite_survive_a_crash_at_every_point() {
    coordinator_dies_at_every_point(Store::Sqlite).await;
}

/// The coordinator is killed in the middle of its work, and its successor at each crash point of the
/// adoption.
async fn adoption_dies_at_every_point(store: Store) {
    let mut world = World::start(store).await;
    for point in ADOPTION_POINTS {
        for round in 0.. {
            let sagas = wave(&world, &format!("{point}-{round}"));
            world
                .run_while(sagas, async |world| {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    world.coordinator.crash_at(point, 1);
                })
                .await;
            if world.coordinator.has_crashed() {
                break;
            }
            assert!(round < WAVES_MAX, "{point} was not visited");
        }
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_sagas_on_postgres_survive_a_crash_of_the_adoption() {
    adoption_dies_at_every_point(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_sagas_on_sqlite_survive_a_crash_of_the_adoption() {
    adoption_dies_at_every_point(Store::Sqlite).await;
}

/// Participants kill themselves at each crash point, while the coordinator is killed, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_sagas_survive_a_participant_that_dies_at_every_point() {
    let mut world = World::start(Store::Postgres).await;
    for point in TCC_POINTS {
        for (worker, nth) in WORKER_VISITS.into_iter().enumerate() {
            world.workers[worker].process.crash_at(point, nth);
            for round in 0.. {
                let sagas = wave(&world, &format!("{point}-{nth}-{round}"));
                world
                    .run_while(sagas, async |world| {
                        tokio::time::sleep(Duration::from_millis(60)).await;
                        world.coordinator.kill();
                    })
                    .await;
                if world.workers[worker].process.has_crashed() {
                    break;
                }
                assert!(round < WAVES_MAX, "{point} was not visited {nth} times");
            }
        }
    }
    world.check().await;
}

/// Kills everybody at random moments.
async fn kills_at_any_moment(store: Store, rounds: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::start(store).await;
    for round in 0..rounds {
        let mut sagas = wave(&world, &format!("kill-{round}"));
        // A step that hangs is asked again while it is at work.
        for saga in sagas.iter_mut().filter(|saga| saga.refuses.is_none()) {
            saga.hangs = random.bool().then_some(saga.steps[0].id);
        }
        let kills: Vec<_> = (0..3).map(|_| (random.u64(10..150), random.usize(0..3))).collect();
        world
            .run_while(sagas, async |world| {
                for (pause_ms, victim) in kills {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    match victim {
                        2 => world.coordinator.kill(),
                        worker => world.workers[worker].process.kill(),
                    }
                }
            })
            .await;
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_sagas_on_postgres_survive_kills_at_any_moment() {
    kills_at_any_moment(Store::Postgres, 5, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_sagas_on_sqlite_survive_kills_at_any_moment() {
    kills_at_any_moment(Store::Sqlite, 5, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes; TEST_SEED repeats a run"]
async fn s1_to_s10_sagas_survive_kills_for_long() {
    let given = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TEST_SEED={seed}");
    for store in [Store::Postgres, Store::Sqlite] {
        kills_at_any_moment(store, 300, seed).await;
    }
}

/// All sagas take one lock, some before they begin and some at their first step.
async fn locks_keep_sagas_apart(store: Store) {
    let mut world = World::start(store).await;
    for round in 0..3 {
        let mut sagas = wave(&world, &format!("lock-{round}"));
        for (number, saga) in sagas.iter_mut().enumerate() {
            let name = ["till", "vault"][round % 2];
            let first = Locked::At(saga.steps[0].id, name);
            saga.locked = if number % 3 == 2 { first } else { Locked::Whole(name) };
        }
        world
            .run_while(sagas, async |world| {
                for pause_ms in [50, 200] {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    world.coordinator.kill();
                    world.workers[round % 2].process.kill();
                }
            })
            .await;
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_on_postgres_keep_sagas_apart_across_kills() {
    locks_keep_sagas_apart(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_on_sqlite_keep_sagas_apart_across_kills() {
    locks_keep_sagas_apart(Store::Sqlite).await;
}
