//! Phase two has its own slots and connections at a participant, too.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tonic::Request;
use unanimo_examples::{accounts, two_phase};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CommitRequest, Mode, PrepareRequest, cancel_response,
    commit_response, prepare_response,
};
use unanimo_sdk::{PostgresOptions, Resource, Service, TokioPostgres};
use unanimo_tests::bank;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;
use uuid::Uuid;

/// Fewer than the Prepares that are sent.
const PREPARE_CONNECTIONS: u32 = 2;

fn context(tx_id: Uuid) -> Option<BranchContext> {
    Some(BranchContext {
        tx_id: tx_id.to_string(),
        gid: "g".into(),
        branch_id: "b".into(),
        branch_number: 1,
        cluster_id: "c".into(),
        participant: "bank".into(),
        mode: Mode::TwoPhaseCommit.into(),
        database_id: String::new(),
        database_place: String::new(),
    })
}

fn debit(tx_id: Uuid, account: &str) -> Request<PrepareRequest> {
    Request::new(PrepareRequest {
        context: context(tx_id),
        action: "debit".into(),
        payload: unanimo_tests::payload(format!(r#"{{"account":"{account}","cents":1}}"#)),
        ..Default::default()
    })
}

fn narrow() -> PostgresOptions {
    let options = PostgresOptions::default().prepare_connections(PREPARE_CONNECTIONS);
    options.lock_timeout(Duration::from_secs(30))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_prepares_that_hang_do_not_keep_out_commits_and_cancels() {
    let url = Server::shared().database().await;
    let database = narrow().connect(&url).await.unwrap();
    keep_out_nobody(two_phase::bank("bank", database).service().unwrap(), &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_prepares_that_hang_do_not_keep_out_commits_and_cancels_over_tokio() {
    let url = Server::shared().database().await;
    let database = narrow().over(TokioPostgres::new(url.parse().unwrap())).await.unwrap();
    let bank = bank::two_phase("bank", database);
    keep_out_nobody(bank.service().unwrap(), &url).await;
}

/// L3: Prepares that wait for the locks of branches in doubt have taken every slot and connection of
/// phase one. The Commit that frees them, and a Cancel, get through all the same.
async fn keep_out_nobody<R: Resource>(bank: Service<R>, url: &str) {
    let pool = PgPool::connect(url).await.unwrap();
    let opened = [("a".to_owned(), 1_000), ("b".to_owned(), 1_000)];
    accounts::create(&pool, &opened).await.unwrap();
    let bank = Arc::new(bank);

    let (in_doubt, unwanted) = (Uuid::now_v7(), Uuid::now_v7());
    for (tx_id, account) in [(in_doubt, "a"), (unwanted, "b")] {
        let voted = bank.prepare(debit(tx_id, account)).await.unwrap().into_inner();
        assert!(matches!(voted.answer, Some(prepare_response::Answer::Prepared(_))));
    }
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..3 * PREPARE_CONNECTIONS {
        let bank = Arc::clone(&bank);
        hanging.spawn(async move { bank.prepare(debit(Uuid::now_v7(), "a")).await });
    }
    until("every connection of phase one to wait for a lock", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (waiting == i64::from(PREPARE_CONNECTIONS)).then_some(())
    })
    .await;

    let cancel =
        CancelRequest { context: context(unwanted), action: "debit".into(), ..Default::default() };
    let cancelled = bank.cancel(Request::new(cancel)).await.unwrap().into_inner();
    assert!(matches!(cancelled.answer, Some(cancel_response::Answer::Done(_))), "{cancelled:?}");
    let commit =
        CommitRequest { context: context(in_doubt), action: "debit".into(), ..Default::default() };
    let committed = bank.commit(Request::new(commit)).await.unwrap().into_inner();
    assert!(matches!(committed.answer, Some(commit_response::Answer::Done(_))), "{committed:?}");
    // The lock is free: one of those that waited has it now.
    until("a Prepare that waited to vote", async || {
        let voted = hanging.try_join_next()?.unwrap().unwrap().into_inner();
        matches!(voted.answer, Some(prepare_response::Answer::Prepared(_))).then_some(())
    })
    .await;
    hanging.abort_all();
    let left: Vec<String> =
        sqlx::query_scalar("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert!(left.iter().all(|name| !name.contains(&in_doubt.to_string())));
    assert!(left.iter().all(|name| !name.contains(&unwanted.to_string())));
}
