//! Databases die under load: the coordinator's, and a bank's.

use std::time::Duration;

use unanimo_tests::postgres::Server;

use super::transfers::some;
use super::{Mode, World};

/// How a server ends.
type End = fn(&Server);

const ENDS: [End; 2] = [Server::kill, Server::stop_immediately];

/// Long enough for some transfers to be in the middle of something, and too short for all of them.
const UNDER_WAY: Duration = Duration::from_millis(60);

async fn ends_and_comes_back(server: &Server, end: End) {
    tokio::time::sleep(UNDER_WAY).await;
    tokio::task::block_in_place(|| {
        end(server);
        server.launch();
    });
}

async fn loses_its_own_database(mode: Mode) {
    let server = Server::start();
    let mut world = World::start(mode, &server.database().await).await;
    for round in 0..4 {
        let end = ENDS[round % 2];
        world
            .run_while(some(&format!("down-{round}"), 40), async |_| {
                ends_and_comes_back(&server, end).await;
            })
            .await;
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_tcc_survives_the_end_of_the_coordinators_database() {
    loses_its_own_database(Mode::Tcc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_to_s10_two_phase_commit_survives_the_end_of_the_coordinators_database() {
    loses_its_own_database(Mode::TwoPhase).await;
}

async fn a_bank_loses_its_database(mode: Mode) {
    let mut world = World::start(mode, &Server::shared().database().await).await;
    for round in 0..4 {
        world
            .run_while(some(&format!("bank-{round}"), 40), async |world| {
                ends_and_comes_back(&world.banks[round % 2].server, ENDS[round / 2]).await;
            })
            .await;
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_survives_the_end_of_a_participants_database() {
    a_bank_loses_its_database(Mode::Tcc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_survives_the_end_of_a_participants_database() {
    a_bank_loses_its_database(Mode::TwoPhase).await;
}
