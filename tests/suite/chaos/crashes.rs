//! The coordinator dies, at every point between two durable steps.

use unanimo_coordinator::crash::POINTS;
use unanimo_tests::postgres::Server;

use super::transfers::some;
use super::{Mode, World};

/// At which visit of a point it dies.
const VISITS: [u32; 4] = [1, 3, 8, 20];

async fn dies_at_every_point(mode: Mode) {
    let mut world = World::start(mode, &Server::shared().database().await).await;
    for point in POINTS {
        for nth in VISITS {
            world.coordinator.crash_at(point, nth);
            let starts = world.coordinator.starts();
            world
                .run_while(some(&format!("{point}-{nth}"), 10), async |world| {
                    unanimo_tests::wait::until(
                        &format!("{point} for the time {nth}"),
                        async || (world.coordinator.starts() >= starts + 2).then_some(()),
                    )
                    .await;
                })
                .await;
        }
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_tcc_survives_a_crash_at_every_point() {
    dies_at_every_point(Mode::Tcc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_two_phase_commit_survives_a_crash_at_every_point() {
    dies_at_every_point(Mode::TwoPhase).await;
}

/// At moments that nobody chose, again and again, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_kills_at_any_moment() {
    let mut world = World::start(Mode::Tcc, &Server::shared().database().await).await;
    for round in 0..6 {
        world
            .run_while(some(&format!("kill-{round}"), 30), async |world| {
                for pause_ms in [40, 90, 160] {
                    tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
                    world.coordinator.kill();
                }
            })
            .await;
    }
    world.check().await;
}
