//! Databases that are killed under load: the coordinator's, and a bank's.

use std::time::Duration;

use unanimo_tests::postgres::Server;

use super::bank::{self, Bank};
use super::transfers::some;
use super::{Mode, World};

/// Ways to end the coordinator's server.
const ENDS: [fn(&Server); 2] = [Server::kill, Server::stop_immediately];

/// Ways to end a bank's server.
const BANK_ENDS: [fn(&bank::Server); 2] = [bank::Server::kill, bank::Server::stop_immediately];

/// Time before a kill: long enough to begin some transfers, too short to end all of them.
const UNDER_WAY: Duration = Duration::from_millis(60);

async fn ends_and_comes_back<S>(server: &S, end: fn(&S), launch: fn(&S)) {
    tokio::time::sleep(UNDER_WAY).await;
    tokio::task::block_in_place(|| {
        end(server);
        launch(server);
    });
}

async fn loses_its_own_database(mode: Mode) {
    let server = Server::start();
    let mut world = World::start(mode, &server.database().await).await;
    for round in 0..4 {
        let end = ENDS[round % 2];
        world
            .run_while(some(&format!("down-{round}"), 40), async |_| {
                ends_and_comes_back(&server, end, Server::launch).await;
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

async fn a_bank_loses_its_database(mut world: World) {
    for round in 0..4 {
        world
            .run_while(some(&format!("bank-{round}"), 40), async |world| {
                let (server, end) = (&world.banks[round % 2].server, BANK_ENDS[round / 2]);
                ends_and_comes_back(server, end, bank::Server::launch).await;
            })
            .await;
    }
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_survives_the_end_of_a_participants_database() {
    let coordinator = Server::shared().database().await;
    a_bank_loses_its_database(World::start(Mode::Tcc, &coordinator).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_survives_the_end_of_a_participants_database() {
    let coordinator = Server::shared().database().await;
    a_bank_loses_its_database(World::start(Mode::TwoPhase, &coordinator).await).await;
}

async fn a_bank_loses_its_mariadb(mode: Mode) {
    let [a, b] = ["bank-a", "bank-b"].map(|name| Bank::open_on_mariadb(name, mode));
    let coordinator = Server::shared().database().await;
    a_bank_loses_its_database(World::with(mode, [a.await, b.await], &coordinator).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_survives_the_end_of_a_participants_mariadb() {
    a_bank_loses_its_mariadb(Mode::Tcc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_survives_the_end_of_a_participants_mariadb() {
    a_bank_loses_its_mariadb(Mode::TwoPhase).await;
}
