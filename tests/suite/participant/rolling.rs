//! Replicas of a participant that are started again one by one, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use unanimo_sdk::{Participant, PostgresOptions, Serve, Serving};
use unanimo_testing::Coordinator;
use unanimo_tests::postgres::Server;

use super::over;
use super::sweeper::Reserve;

const REPLICAS: usize = 3;

const CLIENTS: usize = 4;

async fn replica(url: &str, coordinator: &str) -> Serving {
    let database = over::connect(PostgresOptions::default(), url).await.unwrap();
    let participant = Participant::new("p", database);
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator);
    let mut serving = participant.tcc("ok", Reserve).serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    serving
}

/// No transaction is lost, refused or aborted by it, and none waits for a replica that has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_no_transaction() {
    let url = Server::shared().database().await;
    let coordinator = Coordinator::start().await.unwrap();
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(replica(&url, &coordinator.endpoint()).await);
    }
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let client = coordinator.client().unwrap();
        let (over, done) = (Arc::clone(&over), Arc::clone(&done));
        clients.spawn(async move {
            let mut slowest = Duration::ZERO;
            for n in 0.. {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let started = std::time::Instant::now();
                let draft = client.tcc(format!("c{number}-{n}"));
                let draft = draft.branch("a", "p", "ok", bytes::Bytes::from("x"));
                let draft = draft.branch("b", "p", "ok", bytes::Bytes::from("x"));
                let outcome = draft.wait_until_ended().submit().await.unwrap();
                assert!(outcome.is_committed(), "{outcome:?}");
                slowest = slowest.max(started.elapsed());
                done.fetch_add(1, Ordering::SeqCst);
            }
            slowest
        });
    }
    for round in 0..2 * REPLICAS {
        let before = done.load(Ordering::SeqCst);
        let old = std::mem::replace(
            &mut replicas[round % REPLICAS],
            replica(&url, &coordinator.endpoint()).await,
        );
        old.stop().await;
        unanimo_tests::wait::until("the load to go on", async || {
            (done.load(Ordering::SeqCst) >= before + 20).then_some(())
        })
        .await;
    }
    over.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        let slowest = client.unwrap();
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    }
    for replica in replicas {
        replica.stop().await;
    }
    coordinator.stop().await.unwrap();
}
