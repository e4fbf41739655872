//! One identity that calls far more than its share: it is told when to come back, and nobody else notices it.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::Config;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{GetServerInfoRequest, WatchTransactionRequest, watch_transaction_request};
use unanimo_tests::wait::until;

use super::roles::{File, Link, begin};
use crate::coordinator::{World, config, sqlite_url, tcc};

async fn ask(link: Link) -> Result<(), Status> {
    let mut client = CoordinatorServiceClient::new(link);
    client.get_server_info(GetServerInfoRequest::default()).await.map(drop)
}

/// Checks that the status is that of a call too many, and returns the delay.
#[track_caller]
fn told(status: &Status) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "IDENTITY_LIMITED");
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!((metadata["retryable"].as_str(), metadata["effect"].as_str()), ("true", "none"));
    details.retry_info().unwrap().retry_delay.expect("when to come back")
}

async fn world(file: &File, bound: impl FnOnce(&mut Config)) -> World {
    let mut config = config(&sqlite_url());
    config.identities = file.setting();
    bound(&mut config);
    World::start(config).await
}

/// A hundred times as many calls as it may make, all at once.
#[tokio::test]
async fn a_greedy_identity_has_its_rate_and_others_have_theirs() {
    const RATE: u32 = 20;
    let file = File::new();
    let world = world(&file, |config| config.identity_rate = RATE).await;
    let begun = Instant::now();
    let mut greedy = JoinSet::new();
    for _ in 0..100 * RATE {
        greedy.spawn(ask(file.link(&world, 0)));
    }
    // Meanwhile another one works.
    let mut client = CoordinatorServiceClient::new(file.link(&world, 1));
    for number in 0..10 {
        let request = tcc(&format!("g{number}"), &["ok"]);
        client.submit_transaction(request).await.expect("another identity");
    }
    let (mut served, mut delay) = (0, Duration::ZERO);
    while let Some(answer) = greedy.join_next().await {
        match answer.unwrap() {
            Ok(()) => served += 1,
            Err(status) => delay = delay.max(told(&status)),
        }
    }
    // What was saved up, and what has come since.
    let most = f64::from(RATE) * (1.0 + begun.elapsed().as_secs_f64()) + 1.0;
    assert!(f64::from(served) <= most, "{served} of at most {most}");
    assert!(served >= RATE, "{served}: it has its share");
    assert!(delay <= Duration::from_secs_f64(1.0 / f64::from(RATE)), "{delay:?}");
    until("the identity to be served again", async || {
        tokio::time::sleep(delay).await;
        ask(file.link(&world, 0)).await.ok()
    })
    .await;
}

/// A stream counts for as long as it is open.
#[tokio::test]
async fn an_identity_has_so_many_calls_under_way() {
    let file = File::new();
    let world = world(&file, |config| config.identity_calls = 3).await;
    let begun = begin(file.link(&world, 0)).await;
    let watch = async || {
        let key = Some(watch_transaction_request::Key::TxId(begun.tx_id.clone()));
        let request = WatchTransactionRequest { key, ..Default::default() };
        let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
        client.watch_transaction(request).await.map(tonic::Response::into_inner)
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        // The place of a call before is given back a moment after its answer.
        open.push(until("a place", async || watch().await.ok()).await);
    }
    told(&watch().await.expect_err("a fourth"));
    told(&ask(file.link(&world, 0)).await.expect_err("whatever the call"));
    ask(file.link(&world, 1)).await.expect("another identity");
    open.pop();
    until("the place to be given back", async || ask(file.link(&world, 0)).await.ok()).await;
}
