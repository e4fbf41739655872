//! One identity that calls far more than its share: it is told when to come back, and nobody else notices it.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::Config;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    GetServerInfoRequest, WatchTransactionRequest, WatchTransactionsRequest,
    watch_transaction_request,
};
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
    told_as(status, "IDENTITY_LIMITED")
}

#[track_caller]
fn told_as(status: &Status, reason: &str) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, reason);
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

/// Makes a channel whose connections come from this address.
async fn from(world: &World, address: [u8; 4]) -> Channel {
    let server = world.running.grpc_address().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
    endpoint.local_address(Some(address.into())).connect().await.unwrap()
}

async fn ask_without(channel: Channel) -> Result<(), Status> {
    let mut client = CoordinatorServiceClient::new(channel);
    client.get_server_info(GetServerInfoRequest::default()).await.map(drop)
}

/// The time within which 99 of 100 transactions of this caller are done, one after the other.
async fn p99(channel: Channel, prefix: &str) -> Duration {
    let mut client = CoordinatorServiceClient::new(channel);
    let mut times = Vec::new();
    for number in 0..200 {
        let begun = Instant::now();
        let request = tcc(&format!("{prefix}{number}"), &["ok"]);
        client.submit_transaction(request).await.expect("another address");
        times.push(begun.elapsed());
    }
    times.sort();
    times[times.len() * 99 / 100]
}

/// L3: without identities it is the address that has a share. One that calls a hundred times as often as it may is told
/// when to come back, and another one does not notice it.
#[tokio::test]
async fn l3_a_greedy_address_has_its_rate_and_others_have_theirs() {
    // As many as the other one saves up in a second.
    const RATE: u32 = 200;
    let mut config = config(&sqlite_url());
    config.address_rate = RATE;
    let world = World::start(config).await;
    let (greedy, other) = (from(&world, [127, 0, 0, 2]).await, from(&world, [127, 0, 0, 3]).await);
    // The clients share the processor with the server, and others may use it as well: the greedy one is what is left in
    // each of three rounds.
    let mut seen = Vec::new();
    for round in 0..3 {
        let alone = p99(other.clone(), &format!("alone-{round}-")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            calls.spawn(ask_greedily(greedy.clone(), 5 * RATE));
        }
        let beside = p99(other.clone(), &format!("beside-{round}-")).await;
        let (mut served, mut delay) = (0_u32, Duration::ZERO);
        while let Some(done) = calls.join_next().await {
            let (more, longest) = done.unwrap();
            (served, delay) = (served + more, delay.max(longest));
        }
        let most = f64::from(RATE) * (1.0 + begun.elapsed().as_secs_f64()) + 1.0;
        assert!(f64::from(served) <= most, "{served} of at most {most}");
        assert!(served > 0 && !delay.is_zero(), "{served}, {delay:?}");
        // Less than this is the noise of a busy machine.
        if beside <= 2 * alone.max(Duration::from_millis(50)) {
            return;
        }
        seen.push((alone, beside));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("L3: alone, and beside a greedy one: {seen:?}");
}

/// Calls so many times without a pause; returns how many calls were served, and the longest delay that it was told.
async fn ask_greedily(greedy: Channel, calls: u32) -> (u32, Duration) {
    let (mut served, mut delay) = (0, Duration::ZERO);
    for _ in 0..calls {
        match ask_without(greedy.clone()).await {
            Ok(()) => served += 1,
            Err(status) => delay = delay.max(told_as(&status, "ADDRESS_LIMITED")),
        }
    }
    (served, delay)
}

/// A stream from an address counts for as long as it is open.
#[tokio::test]
async fn an_address_has_so_many_calls_under_way() {
    let mut config = config(&sqlite_url());
    config.address_calls = 2;
    let world = World::start(config).await;
    let (one, other) = (from(&world, [127, 0, 0, 2]).await, from(&world, [127, 0, 0, 3]).await);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = CoordinatorServiceClient::new(one.clone());
        let request = WatchTransactionsRequest::default();
        open.push(client.watch_transactions(request).await.unwrap().into_inner());
    }
    // Another connection is no other address.
    let again = from(&world, [127, 0, 0, 2]).await;
    told_as(&ask_without(again.clone()).await.expect_err("a third"), "ADDRESS_LIMITED");
    ask_without(other).await.expect("another address");
    open.pop();
    until("the place to be given back", async || ask_without(again.clone()).await.ok()).await;
}
