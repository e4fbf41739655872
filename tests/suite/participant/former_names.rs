//! Registrations under former names, and participants that do not register.

use std::time::Duration;

use sqlx::Executor;
use unanimo_proto::v1::{Outcome, RetryTransactionRequest};
use unanimo_sdk::{Participant, PostgresOptions, Serve, Sqlite};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::faulty::{Fault, Faulty};
use unanimo_tests::wait::until;

use super::databases::Database;
use super::deaf::Ears;
use super::over;
use super::sweeper::{Reserve, World, Write, bank, eager, states, two_phase};

/// Calls for branches of a former name arrive: it registers under that name, too.
#[tokio::test]
async fn l4_calls_for_a_former_name_arrive() {
    let coordinator = Coordinator::start().await.unwrap();
    let (database, pool) = <Sqlite as Database>::open().await;
    let serve = || Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).without_sweep();
    let before = Participant::new("old", database.clone()).tcc("ok", Reserve);
    let mut before = before.serve(serve()).await.unwrap();
    before.registered().await.unwrap();
    before.stop().await.unwrap();
    let renamed = Participant::new("new", database).formerly("old").formerly("older");
    let mut serving = renamed.tcc("ok", Reserve).serve(serve()).await.unwrap();
    serving.registered().await.unwrap();
    let client = coordinator.client().unwrap();
    for name in ["old", "older", "new"] {
        let draft = client.tcc(name).branch("a", name, "ok", bytes::Bytes::from("x"));
        let outcome = draft.wait_until_ended().submit().await.unwrap();
        assert!(outcome.is_committed(), "{name}: {outcome:?}");
    }
    let names = "SELECT count(DISTINCT participant) FROM unanimo_barrier WHERE state = 'committed'";
    assert_eq!(Sqlite::number(&pool, names.to_owned()).await, 3);
    serving.stop().await.unwrap();
    // It leaves under all of them. It may come again, so that is asked for a while.
    let client = client.wait_at_most(Duration::from_secs(3));
    let draft = client.tcc("late").branch("a", "old", "ok", bytes::Bytes::from("x"));
    let refused = draft.submit().await.unwrap_err();
    assert!(refused.to_string().contains("old"), "{refused}");
    coordinator.stop().await.unwrap();
}

/// A former name that is another service's by now is refused, and hinders nothing under the name itself.
#[tokio::test]
async fn a_former_name_that_is_refused_fails_no_registration() {
    let coordinator = Coordinator::start().await.unwrap();
    let serve = || Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).without_sweep();
    let (theirs, _pool) = <Sqlite as Database>::open().await;
    let other = Participant::new("a-name", theirs).tcc("ok", Reserve);
    let mut other = other.serve(serve()).await.unwrap();
    other.registered().await.unwrap();
    let (alarms, _listening) = Alarms::listen();
    let (database, _pool) = <Sqlite as Database>::open().await;
    // Before its own name in their order.
    let renamed = Participant::new("b-name", database).formerly("a-name").tcc("ok", Reserve);
    let mut serving = renamed.serve(serve()).await.unwrap();
    let registered = tokio::time::timeout(Duration::from_secs(30), serving.registered()).await;
    registered.expect("it is not waited for").expect("its own name is its own");
    until("the refusal", async || {
        (!alarms.named("participant_other_database").is_empty()).then_some(())
    })
    .await;
    serving.registered().await.expect("nor later");
    serving.stop().await.unwrap();
    other.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// Something else listens there than a coordinator.
#[tokio::test]
async fn a_registration_with_another_service_is_refused() {
    let elsewhere = Faulty::new(Fault::None).serve().await;
    let (database, _pool) = <Sqlite as Database>::open().await;
    let serve = Serve::on("127.0.0.1:0").register_with(elsewhere).without_sweep();
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let mut serving = participant.serve(serve).await.unwrap();
    let registered = tokio::time::timeout(Duration::from_secs(20), serving.registered()).await;
    let refused = registered.expect("it is not waited for ever").unwrap_err();
    assert!(refused.to_string().contains("Unimplemented"), "{refused}");
    serving.stop().await.unwrap();
}

/// An endpoint of the coordinator's own configuration does not register: what it holds in doubt is ended all the
/// same, and what nobody needs is purged.
#[tokio::test]
async fn a_participant_that_does_not_register_is_swept() {
    let (_, url, service) = bank().await;
    // The coordinator sends phase two once, and is not heard.
    let world = World::start(service, Ears::Deaf).await;
    let tx_id = world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    assert!(states(&pool, &tx_id).await.is_empty(), "it is in doubt");
    let database = over::connect(PostgresOptions::default(), &url).await.unwrap();
    let participant = Participant::new("p", database).two_phase("write", Write);
    let sweep = eager().retention(Duration::from_secs(3600));
    let serve = Serve::on("127.0.0.1:0").ask(world.url()).sweep(sweep);
    let serving = participant.serve(serve).await.unwrap();
    until("its end", async || {
        let states = states(&pool, &tx_id).await;
        states.iter().any(|(_, state)| state == "committed").then_some(())
    })
    .await;
    world.p.set(Ears::Open);
    until("the coordinator to know of it", async || {
        let (tx_id, operator) = (tx_id.clone(), "ann".to_owned());
        let request =
            RetryTransactionRequest { tx_id: tx_id.clone(), operator, ..Default::default() };
        // It may have ended meanwhile.
        let _ = world.operator().retry_transaction(request).await;
        world.get(&tx_id).await.ended_at.map(drop)
    })
    .await;
    let bound = "UPDATE unanimo_barrier SET prepare_until = now() - interval '2 hours'";
    pool.execute(bound).await.unwrap();
    until("its purge", async || states(&pool, &tx_id).await.is_empty().then_some(())).await;
    serving.stop().await.unwrap();
}
