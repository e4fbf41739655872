//! Crashes of the coordinator, at every crash point between two durable steps.

use std::time::Duration;

use unanimo_coordinator::crash::{ADOPTION_POINTS, POINTS};
use unanimo_tests::postgres::Server;

use super::transfers::some;
use super::{Mode, World};

/// Visits of a crash point at which the coordinator is killed.
const VISITS: [u32; 4] = [1, 2, 5, 11];

async fn dies_at_every_point(mode: Mode) {
    let mut world = World::start(mode, &Server::shared().database().await).await;
    for point in POINTS {
        for nth in VISITS {
            world.coordinator.crash_at(point, nth);
            // The size of batches varies, so the number of transfers for a visit is not known.
            for wave in 0.. {
                let transfers = some(&format!("{point}-{nth}-{wave}"), 8);
                world.run_while(transfers, async |_| ()).await;
                if world.coordinator.has_crashed() {
                    break;
                }
                assert!(wave < 20, "{point} was not visited {nth} times");
            }
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

/// The coordinator is killed in the middle of its work, and its successor at each crash point of
/// the adoption: the third one adopts the transactions of both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_an_adoption_survives_a_crash_at_every_point() {
    let mut world = World::start(Mode::Tcc, &Server::shared().database().await).await;
    for point in ADOPTION_POINTS {
        let mut crashed = false;
        // It depends on the moment of the kill if any transaction is left to adopt.
        for wave in 0..20 {
            world
                .run_while(some(&format!("{point}-{wave}"), 30), async |world| {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    world.coordinator.crash_at(point, 1);
                })
                .await;
            crashed = world.coordinator.has_crashed();
            if crashed {
                break;
            }
        }
        assert!(crashed, "{point} was never come to");
    }
    world.check().await;
}

/// The coordinator is killed at random moments, several times, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_kills_at_any_moment() {
    let mut world = World::start(Mode::Tcc, &Server::shared().database().await).await;
    for round in 0..6 {
        world
            .run_while(some(&format!("kill-{round}"), 30), async |world| {
                for pause_ms in [40, 90, 160] {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    world.coordinator.kill();
                }
            })
            .await;
    }
    world.check().await;
}
