//! Votes that come after the call's own time, and before the transaction's.

use std::time::{Duration, Instant};

use tonic::transport::Endpoint;
use tonic::{Code, Request};
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::{BranchContext, Outcome, PrepareRequest};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::participants::register;
use super::places::at;
use super::{World, config, sqlite_url};

/// The client library ends a call at the time that it tells the participant, however long its caller would wait. So a later
/// answer to that call cannot be read.
#[tokio::test]
async fn a_call_ends_at_the_time_that_it_tells() {
    let p = Scripted::default();
    p.set_mood(Mood::Slow(3_000));
    let channel = Endpoint::from_shared(p.serve().await).unwrap().connect_lazy();
    let context = BranchContext { tx_id: uuid::Uuid::now_v7().to_string(), ..Default::default() };
    let prepare =
        PrepareRequest { context: Some(context), action: "ok".into(), ..Default::default() };
    let mut request = Request::new(prepare);
    request.set_timeout(Duration::from_millis(300));
    let started = Instant::now();
    let mut client = ParticipantServiceClient::new(channel);
    let waiting = tokio::time::timeout(Duration::from_secs(60), client.prepare(request)).await;
    let status = waiting.expect("the library ends it").expect_err("no answer is read");
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status}");
    assert!(started.elapsed() < Duration::from_secs(3), "it ends before the answer comes");
}

/// The vote is not lost: the participant has stored it, and the next attempt gets it. It counts once, for its own branch.
#[tokio::test]
async fn s7_a_vote_that_comes_late_counts_by_the_next_attempt() {
    let mut config = config(&sqlite_url());
    config.call_timeout = Period::millis(400);
    let world = World::start(config).await;
    let slow = Scripted::default();
    register(&world, "slow", &slow.serve().await).await;
    slow.set_mood(Mood::Slow(500));
    let request = at("slow", "late", "ok", 60_000);
    let mut client = world.client();
    let submitting = tokio::spawn(async move { client.submit_transaction(request).await });
    until("an attempt to run out", async || {
        (slow.seen().len() >= 2).then(|| slow.set_mood(Mood::Well))
    })
    .await;
    let result = submitting.await.unwrap().unwrap().into_inner().result.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    world.get_until("late", "its end", |t| t.ended_at.is_some()).await;
    let calls = slow.calls(&result.tx_id, "a");
    let (commit, prepares) = calls.split_last().unwrap();
    assert_eq!(*commit, "commit", "{calls:?}");
    assert!(prepares.len() >= 2 && prepares.iter().all(|call| *call == "prepare"), "{calls:?}");
}
