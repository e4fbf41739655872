//! Calls that wait are counted until their answer has ended (promise L5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;
use unanimo_coordinator::api::limits::CALL_BYTES;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    BeginTransactionRequest, CommitTransactionRequest, GetTransactionRequest, Mode, Outcome,
    RollbackTransactionRequest, WaitFor, WatchTransactionRequest, get_transaction_request,
    rollback_transaction_request, watch_transaction_request,
};
use unanimo_tests::wait::until;

use super::process::Process;
use super::{describe, sqlite_url, tcc};

const MIB: u64 = 1 << 20;

/// Calls for which there is room, of which half may only look on.
const CALLS_MAX: usize = 2_000;

/// Calls of the hostile client: what they would take without a bound is some hundreds of MiB.
const CONNECTIONS: usize = 100;
const OF_EACH: usize = 300;

fn get(gid: &str, wait_for: WaitFor) -> GetTransactionRequest {
    GetTransactionRequest {
        key: Some(get_transaction_request::Key::Gid(gid.into())),
        wait_for: wait_for.into(),
        ..Default::default()
    }
}

#[track_caller]
fn overloaded(status: &tonic::Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(describe(status).1, "OVERLOADED");
    assert!(status.get_details_retry_info().is_some(), "it says when to come back");
}

/// A client that waits for one open transaction with thousands of calls costs no more than the bound; others are served
/// meanwhile, and wait again afterwards. Where even work is too much, Commit and Rollback are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_calls_that_wait_are_within_the_bound() {
    let bound = ["--live-bytes-max".to_owned(), (CALLS_MAX * CALL_BYTES).to_string()];
    let mut process = Process::start(&sqlite_url(), &bound).await;
    process.client().submit_transaction(tcc("first", &["ok"])).await.unwrap();
    process.p.hold(true);
    let mut open = tcc("open", &["gated"]);
    open.timeout = super::millis(600_000);
    open.wait_for = WaitFor::Accepted.into();
    process.client().submit_transaction(open.clone()).await.unwrap();
    let before = process.resident();
    let (refused, mut waiting) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..CONNECTIONS {
        let client = CoordinatorServiceClient::new(process.another_channel());
        for _ in 0..OF_EACH {
            let (mut client, refused) = (client.clone(), Arc::clone(&refused));
            waiting.spawn(async move {
                if let Err(status) = client.get_transaction(get("open", WaitFor::Ended)).await {
                    overloaded(&status);
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    let expected = CONNECTIONS * OF_EACH - CALLS_MAX / 2;
    until("all but those for which there is room to be refused", async || {
        (refused.load(Ordering::Relaxed) >= expected).then_some(())
    })
    .await;
    let grown = process.resident_max().saturating_sub(before) / MIB;
    assert!(grown < 128, "L5: {grown} MiB for a bound of {}", (CALLS_MAX * CALL_BYTES) >> 20);
    assert_eq!(refused.load(Ordering::Relaxed), expected, "half of the room is for them");
    // Work of others is served, and so is a look that waits for nothing; one more that waits is not.
    let mut other = CoordinatorServiceClient::new(process.another_channel());
    let mut request = tcc("other", &["ok"]);
    request.wait_for = WaitFor::Decided.into();
    let result = other.submit_transaction(request).await.unwrap().into_inner().result.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    other.get_transaction(get("open", WaitFor::Accepted)).await.unwrap();
    let watch = WatchTransactionRequest {
        key: Some(watch_transaction_request::Key::Gid("open".into())),
        ..Default::default()
    };
    overloaded(&other.watch_transaction(watch).await.unwrap_err());
    // Submissions of one gid wait as well, until there is room for no work.
    let begin = BeginTransactionRequest { gid: "mine".into(), ..Default::default() };
    let begin = BeginTransactionRequest { mode: Mode::Tcc.into(), ..begin };
    let mine = other.begin_transaction(begin).await.unwrap().into_inner();
    open.wait_for = WaitFor::Decided.into();
    let refused = Arc::new(AtomicUsize::new(0));
    for _ in 0..CALLS_MAX {
        let mut client = CoordinatorServiceClient::new(process.channel.clone());
        let (open, refused) = (open.clone(), Arc::clone(&refused));
        waiting.spawn(async move {
            if let Err(status) = client.submit_transaction(open).await {
                overloaded(&status);
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    until("work to be refused", async || {
        (refused.load(Ordering::Relaxed) >= CALLS_MAX / 2).then_some(())
    })
    .await;
    // Those that wait for long do not fill the room: what is done soon is served while they wait.
    for n in 0..20 {
        until("work that is done soon to be served", async || {
            let answer = other.submit_transaction(tcc(&format!("soon-{n}"), &["ok"])).await;
            match answer {
                Ok(answer) => {
                    let result = answer.into_inner().result.unwrap();
                    assert_eq!(result.outcome(), Outcome::Committed);
                    Some(())
                }
                Err(status) => {
                    overloaded(&status);
                    None
                }
            }
        })
        .await;
    }
    let commit = CommitTransactionRequest { tx_id: mine.tx_id, ..Default::default() };
    let committed = other.commit_transaction(commit).await.unwrap().into_inner().result.unwrap();
    assert_ne!(committed.outcome(), Outcome::Aborted, "{committed:?}");
    let rollback = RollbackTransactionRequest {
        key: Some(rollback_transaction_request::Key::Gid("open".into())),
        wait_for: WaitFor::Ended.into(),
        ..Default::default()
    };
    let result = other.rollback_transaction(rollback).await.unwrap().into_inner().result.unwrap();
    assert_ne!(result.outcome(), Outcome::Committed, "{result:?}");
    // All of them are answered, and their room is there again.
    process.p.hold(false);
    while let Some(answered) = waiting.join_next().await {
        answered.unwrap();
    }
    other.get_transaction(get("other", WaitFor::Ended)).await.unwrap();
    let request = tcc("last", &["ok"]);
    let result = other.submit_transaction(request).await.unwrap().into_inner().result.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
}
