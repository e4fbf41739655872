//! One identity that calls far more than its share: it is told when to come back, and nobody else notices it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::Config;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    GetServerInfoRequest, WatchTransactionRequest, WatchTransactionsRequest,
    watch_transaction_request,
};
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

use super::namespaces::limits::Many;
use super::roles::{File, Link, Signing, begin};
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
    ask(without(channel)).await
}

/// A caller without an identity.
fn without(channel: Channel) -> Link {
    InterceptedService::new(channel, Signing::none())
}

/// Limit of each caller in the tests below, a second. A hundred times as many are fewer than a debug build can refuse, so
/// that the greedy one's own work leaves the other one a processor.
const RATE: u32 = 20;

/// Pause between the beginnings of the other one's transactions, which are below its limit.
const PAUSE: Duration = Duration::from_millis(60);

/// Rounds, each with the other one alone and beside the greedy one.
const ROUNDS: usize = 3;

/// Times below these are alike: of nine in ten, and of 99 in a hundred, among which are those that wait for a disk.
const NOISE: [(usize, Duration); 2] =
    [(90, Duration::from_millis(5)), (99, Duration::from_millis(50))];

/// The times of transactions of this caller, one after the other, each below its own limit.
async fn times(link: &Link, prefix: &str) -> Vec<Duration> {
    let mut client = CoordinatorServiceClient::new(link.clone());
    let mut times = Vec::new();
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0..100 {
        ticks.tick().await;
        let begun = Instant::now();
        let request = tcc(&format!("{prefix}-{number}"), &["ok"]);
        client.submit_transaction(request).await.expect("another caller");
        times.push(begun.elapsed());
    }
    times
}

fn at(times: &[Duration], percent: usize) -> Duration {
    times[times.len() * percent / 100]
}

/// Calls as all of these a hundred times as often as one of them may, until it is told to stop; returns how many calls were
/// served, how many were refused, and the longest delay that was told.
async fn ask_greedily(
    greedy: Vec<Link>,
    reason: &'static str,
    stop: Arc<AtomicBool>,
) -> (u32, u32, Duration) {
    const TASKS: u32 = 20;
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        let link = greedy[number as usize % greedy.len()].clone();
        let stop = Arc::clone(&stop);
        tasks.spawn(async move {
            let (mut served, mut refused, mut delay) = (0, 0, Duration::ZERO);
            let mut ticks = tokio::time::interval(Duration::from_secs(1) * TASKS / (100 * RATE));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                match ask(link.clone()).await {
                    Ok(()) => served += 1,
                    Err(status) => {
                        refused += 1;
                        delay = delay.max(told_as(&status, reason));
                    }
                }
            }
            (served, refused, delay)
        });
    }
    let add = |(a, b, longest): (u32, u32, Duration), (served, refused, delay)| {
        (a + served, b + refused, longest.max(delay))
    };
    tasks.join_all().await.into_iter().fold((0, 0, Duration::ZERO), add)
}

/// L3: transactions of another one take less than twice as long beside a greedy one as alone, nine in ten of them and 99 in a
/// hundred, of all rounds. `cargo xtask bench greedy` compares the latter without a least time, with a release build.
#[expect(clippy::print_stdout, reason = "whoever runs it wants the figures")]
async fn l3_notices_nothing(other: Link, greedy: Vec<Link>, reason: &'static str) {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone.extend(times(&other, &format!("alone-{round}")).await);
        // Both sides begin with a second's worth.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let calls = tokio::spawn(ask_greedily(greedy.clone(), reason, Arc::clone(&stop)));
        beside.extend(times(&other, &format!("beside-{round}")).await);
        stop.store(true, Ordering::Relaxed);
        let (served, refused, delay) = calls.await.unwrap();
        let most = f64::from(RATE) * (1.0 + begun.elapsed().as_secs_f64()) + 1.0;
        assert!(f64::from(served) <= most, "{served} of at most {most}");
        assert!(served > 0 && refused > 0 && !delay.is_zero(), "{served}, {refused}, {delay:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    alone.sort();
    beside.sort();
    for (percent, noise) in NOISE {
        let (alone, beside) = (at(&alone, percent), at(&beside, percent));
        println!("{reason}: p{percent} alone and beside: {alone:.1?} {beside:.1?}");
        assert!(beside < 2 * alone.max(noise), "{reason}: p{percent} {alone:?} and {beside:?}");
    }
}

/// Without identities it is the address that has a share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "compares times, and so wants the machine for itself: cargo xtask soak"]
async fn l3_a_greedy_address_leaves_another_ones_times_alone() {
    let mut config = config(&sqlite_url());
    config.address_rate = RATE;
    let world = World::start(config).await;
    let [greedy, other] = [[127, 0, 0, 2], [127, 0, 0, 3]].map(|address| from(&world, address));
    let (greedy, other) = (without(greedy.await), without(other.await));
    l3_notices_nothing(other, vec![greedy], "ADDRESS_LIMITED").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "compares times, and so wants the machine for itself: cargo xtask soak"]
async fn l3_a_greedy_identity_leaves_another_ones_times_alone() {
    let file = File::new();
    let world = world(&file, |config| config.identity_rate = RATE).await;
    let (greedy, other) = (file.link(&world, 0), file.link(&world, 1));
    l3_notices_nothing(other, vec![greedy], "IDENTITY_LIMITED").await;
}

/// None of the identities of a namespace is above its own limit, and all of them together are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "compares times, and so wants the machine for itself: cargo xtask soak"]
async fn l3_a_greedy_namespace_leaves_another_ones_times_alone() {
    let many = Many::new();
    let mut config = config(&sqlite_url());
    config.namespace_rate = RATE;
    let world = many.world(&Scripted::default(), config).await;
    let greedy = many.greedy(&world.channel);
    l3_notices_nothing(many.other(&world.channel), greedy, "NAMESPACE_LIMITED").await;
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
