//! Participants and their databases that are killed around each of their durable steps, while the
//! coordinator is killed at random moments.

use std::time::Duration;

use unanimo_sdk::crash::{TCC_POINTS, TWO_PHASE_POINTS};
use unanimo_tests::postgres::Server;

use super::bank::Bank;
use super::transfers::some;
use super::{Mode, World};

/// Visits of a crash point at which a process is killed.
const VISITS: [u32; 2] = [1, 4];

fn points(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Tcc => TCC_POINTS,
        Mode::TwoPhase => TWO_PHASE_POINTS,
    }
}

/// Kills the coordinator several times in a round.
async fn kill_coordinator(world: &World) {
    for pause_ms in [30, 70] {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        world.coordinator.kill();
    }
}

async fn on_postgres(mode: Mode) -> World {
    World::start(mode, &Server::shared().database().await).await
}

async fn on_mariadb(mode: Mode) -> World {
    let [a, b] = ["bank-a", "bank-b"].map(|name| Bank::open_on_mariadb(name, mode));
    World::with(mode, [a.await, b.await], &Server::shared().database().await).await
}

async fn over_tokio(mode: Mode) -> World {
    let [a, b] = ["bank-a", "bank-b"].map(|name| Bank::open_over_tokio(name, mode));
    World::with(mode, [a.await, b.await], &Server::shared().database().await).await
}

/// A bank kills itself at each crash point, several times.
async fn banks_die_at_every_point(mut world: World) {
    for (round, point) in points(world.mode).iter().enumerate() {
        for nth in VISITS {
            let bank = round % 2;
            world.banks[bank].process.crash_at(point, nth);
            for wave in 0.. {
                let transfers = some(&format!("{point}-{nth}-{wave}"), 10);
                world.run_while(transfers, kill_coordinator).await;
                if world.banks[bank].process.has_crashed() {
                    break;
                }
                assert!(wave < 20, "{point} was not visited {nth} times");
            }
        }
    }
    world.check().await;
}

/// A bank's database is killed between a step and the answer to it.
async fn databases_die_at_every_point(mut world: World) {
    for (round, point) in points(world.mode).iter().enumerate() {
        let bank = round % 2;
        let victim = world.banks[bank].server.pid().unwrap();
        world.banks[bank].process.kill_at(point, 2, victim);
        for wave in 0.. {
            let transfers = some(&format!("{point}-{wave}"), 10);
            world
                .run_while(transfers, async |world| {
                    kill_coordinator(world).await;
                    let server = &world.banks[bank].server;
                    tokio::task::block_in_place(|| server.launch_if_dead());
                })
                .await;
            let server = &world.banks[bank].server;
            tokio::task::block_in_place(|| server.launch_if_dead());
            if server.pid() != Some(victim) {
                break;
            }
            assert!(wave < 20, "{point} was not visited");
        }
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_survives_a_participant_that_dies_at_every_point() {
    banks_die_at_every_point(on_postgres(Mode::Tcc).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_survives_a_participant_that_dies_at_every_point() {
    banks_die_at_every_point(on_postgres(Mode::TwoPhase).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_survives_a_database_that_dies_at_every_point() {
    databases_die_at_every_point(on_postgres(Mode::Tcc).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_survives_a_database_that_dies_at_every_point() {
    databases_die_at_every_point(on_postgres(Mode::TwoPhase).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_on_mariadb_survives_a_participant_that_dies_at_every_point() {
    banks_die_at_every_point(on_mariadb(Mode::Tcc).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_on_mariadb_survives_a_database_that_dies_at_every_point() {
    databases_die_at_every_point(on_mariadb(Mode::Tcc).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_on_mariadb_survives_a_participant_that_dies_at_every_point() {
    banks_die_at_every_point(on_mariadb(Mode::TwoPhase).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_on_mariadb_survives_a_database_that_dies_at_every_point() {
    databases_die_at_every_point(on_mariadb(Mode::TwoPhase).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_over_tokio_survives_a_participant_that_dies_at_every_point() {
    banks_die_at_every_point(over_tokio(Mode::Tcc).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_over_tokio_survives_a_database_that_dies_at_every_point() {
    databases_die_at_every_point(over_tokio(Mode::Tcc).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_over_tokio_survives_a_participant_that_dies_at_every_point() {
    banks_die_at_every_point(over_tokio(Mode::TwoPhase).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_over_tokio_survives_a_database_that_dies_at_every_point() {
    databases_die_at_every_point(over_tokio(Mode::TwoPhase).await).await;
}
