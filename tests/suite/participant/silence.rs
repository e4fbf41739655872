//! Connections to a coordinator that swallow everything.

use std::time::{Duration, Instant};

use unanimo_sdk::client::Executed;
use unanimo_sdk::{Client, Participant, Serve, Sqlite};
use unanimo_testing::Coordinator;
use unanimo_tests::relay::Relay;
use unanimo_tests::wait::until;

use super::databases::Database;
use super::sweeper::{Reserve, eager};

/// The participant is gone for as long as a half-open connection takes to be found out, and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_gets_through_a_connection_that_fell_silent() {
    let coordinator = Coordinator::start().await.unwrap();
    let relay = Relay::start().await;
    let address = coordinator.endpoint().strip_prefix("http://").unwrap().parse().unwrap();
    relay.point_to(Some(address));
    let (database, _pool) = <Sqlite as Database>::open().await;
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let serve = Serve::on("127.0.0.1:0").register_with(relay.url()).sweep(eager());
    let mut serving = participant.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    let through = Client::new(relay.url()).unwrap();
    until("it to be heard", async || through.server_info().await.ok()).await;

    relay.fall_silent();
    let started = Instant::now();
    let client = coordinator.client().unwrap();
    // Whether it is still believed to be there, or gone and back: in the end it votes.
    tokio::time::sleep(Duration::from_secs(16)).await;
    let draft = client.tcc("g").branch("a", "p", "ok", bytes::Bytes::from("x"));
    let outcome = until("a transaction", async || draft.clone().submit().await.ok()).await;
    assert!(outcome.is_committed(), "{outcome:?}");
    until("a sweep that hears the coordinator", async || {
        serving.in_doubt().is_some_and(|told| told.known && told.count == 0).then_some(())
    })
    .await;
    until("an initiator", async || through.server_info().await.ok()).await;
    assert!(started.elapsed() < Duration::from_secs(60));
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// The connection over which a coordinator is asked about what is in doubt is found out, too: until then each sweep waits
/// for an answer for as long as it may, ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_a_question_gets_through_a_connection_that_fell_silent() {
    let coordinator = Coordinator::start().await.unwrap();
    let relay = Relay::start().await;
    let address = coordinator.endpoint().strip_prefix("http://").unwrap().parse().unwrap();
    relay.point_to(Some(address));
    let (database, _pool) = <Sqlite as Database>::open().await;
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).without_sweep();
    let service = participant.service().unwrap();
    let mut serving = service.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    let mut held = coordinator.client().unwrap().tcc("g").begin().await.unwrap();
    let voted = held.execute("a", "p", "ok", bytes::Bytes::from("x")).await.unwrap();
    assert!(matches!(voted, Executed::Prepared(_)), "{voted:?}");
    let sweeper = service.sweep([relay.url()], eager()).unwrap();
    let told = until("sweeps that ask for it", async || {
        let told = sweeper.in_doubt();
        (told.sweeps >= 3 && told.count == 1).then_some(told)
    })
    .await;
    relay.fall_silent();
    until("sweeps that are answered", async || {
        (sweeper.in_doubt().sweeps >= told.sweeps + 12).then_some(())
    })
    .await;
    assert!(held.rollback().await.unwrap().is_aborted());
    sweeper.stop().await;
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}
