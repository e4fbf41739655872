//! Callers that ask and do not read, and callers that are too many, take no memory beyond a bound (promise L5).

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use http_body_util::BodyExt;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    GetServerInfoRequest, GetTransactionRequest, Outcome, get_transaction_request,
};
use unanimo_tests::wait::{PATIENCE, until};

use super::http::http_get;
use super::process::Process;
use super::{World, channel, config, describe, sqlite_url, tcc};

const MIB: usize = 1 << 20;

/// A request for everything of a transaction, whose answer has more than a mebibyte.
fn get(gid: &str) -> http::Request<Body> {
    let request = GetTransactionRequest {
        key: Some(get_transaction_request::Key::Gid(gid.to_owned())),
        include_payloads: true,
        ..Default::default()
    };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(request.encoded_len()).unwrap());
    request.encode(&mut frame).unwrap();
    http::Request::post("/unanimo.v1.CoordinatorService/GetTransaction")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(http_body_util::Full::new(frame.freeze())))
        .unwrap()
}

/// Asks, and leaves the answer unread.
async fn ask(mut channel: Channel, gid: &str) -> Option<http::Response<Body>> {
    std::future::poll_fn(|context| channel.poll_ready(context)).await.ok()?;
    channel.call(get(gid)).await.ok()
}

/// Callers that ask for large answers and read none of them take no more than the bound. Others are answered
/// meanwhile, and there is room again once the answers are read or given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_answers_that_are_not_read_are_within_the_bound() {
    within_the_bound(65_535, 65_535).await;
}

/// The same where HTTP/2 may send a byte of each, and holds the rest itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_answers_of_which_one_byte_is_read_are_within_the_bound() {
    within_the_bound(1, 1 << 30).await;
}

async fn within_the_bound(of_each: u32, of_all: u32) {
    let bound = ["--live-bytes-max".to_owned(), (8 * MIB).to_string()];
    let mut process = Process::start(&sqlite_url(), &bound).await;
    let mut large = tcc("large", &["ok"]);
    large.branches[0].payload = unanimo_tests::payload(vec![b'x'; MIB]);
    process.client().submit_transaction(large).await.unwrap();
    let before = process.resident();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let channel = process.channel_with_windows(of_each, of_all);
        for _ in 0..100 {
            let channel = channel.clone();
            asking.spawn(async move { ask(channel, "large").await });
        }
    }
    let unread = asking.join_all().await;
    let grown = process.resident_max().saturating_sub(before) / (MIB as u64);
    assert!(grown < 150, "L5: {grown} MiB for a bound of 8");
    for n in 0..20 {
        let request = tcc(&format!("meanwhile-{n}"), &["ok"; 20]);
        let result = process.client().submit_transaction(request).await.unwrap().into_inner();
        assert_eq!(result.result.unwrap().outcome(), Outcome::Committed);
    }
    // What has no room is said so, and read at once: the last ones, by far most of them.
    let mut refused = 0;
    let mut held = Vec::new();
    for answer in unread.into_iter().flatten() {
        let mut body = answer.into_body();
        let read = tokio::time::timeout(Duration::from_millis(100), async {
            while let Some(Ok(frame)) = body.frame().await {
                let status = frame.trailers_ref().and_then(|trailers| trailers.get("grpc-status"));
                if let Some(status) = status {
                    // One that had room is read to its end, and has no reason.
                    let refused = (status == "14").then(|| {
                        let trailers = frame.trailers_ref().unwrap();
                        describe(&tonic::Status::from_header_map(trailers).unwrap()).1
                    });
                    return refused;
                }
            }
            None
        });
        match read.await {
            // UNAVAILABLE: nobody may take it for a no.
            Ok(Some(reason)) => {
                assert_eq!(reason, "ANSWER_NOT_SENT");
                refused += 1;
            }
            _ => held.push(body),
        }
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20);
    drop(held);
    until("room for a large one", async || {
        let response = ask(process.another_channel(), "large").await?;
        let read = response.into_body().collect().await.ok()?;
        (read.to_bytes().len() > MIB).then_some(())
    })
    .await;
}

/// One address has its share of the connections, and a few more on which only calls of operators are served. One too many
/// is closed at once, those that are there go on, others have places, and there is one again once one has ended. Whoever
/// is no operator gets it with its next attempt, on a connection for operators, too.
#[tokio::test]
async fn l5_connections_are_bounded() {
    let mut config = config(&sqlite_url());
    config.connections_max = 8;
    let world = World::start(config).await;
    let ask = async |channel: &Channel| {
        let mut client = CoordinatorServiceClient::new(channel.clone());
        client.get_server_info(GetServerInfoRequest {}).await.map(|_| ())
    };
    let work = async |channel: &Channel, gid: &str| {
        let mut client = CoordinatorServiceClient::new(channel.clone());
        client.submit_transaction(tcc(gid, &["ok"])).await.map(|_| ())
    };
    let (mut held, mut watched) = (Vec::new(), Vec::new());
    for n in 0..14 {
        let channel = channel(&world.running);
        ask(&channel).await.unwrap_or_else(|error| panic!("connection {n}: {error}"));
        // One for operators lasts for as long as something is served on it.
        let mut health = HealthClient::new(channel.clone());
        watched.push(health.watch(HealthCheckRequest::default()).await.unwrap());
        match work(&channel, &format!("g-{n}")).await {
            Ok(()) => assert!(n < 6, "L5: connection {n} is one more than the share of an address"),
            Err(status) => {
                assert!(n >= 6, "connection {n}: {status}");
                assert_eq!(describe(&status).1, "OVERLOADED");
            }
        }
        held.push(channel);
    }
    let further = channel(&world.running);
    for _ in 0..3 {
        ask(&further).await.expect_err("L5: there is no place");
    }
    let address = world.running.grpc_address().unwrap();
    let other = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let other = other.local_address(Some([127, 0, 0, 2].into())).connect_lazy();
    work(&other, "of-another").await.expect("L5: one address leaves places to others");
    ask(&held[0]).await.unwrap();
    let metrics = http_get(&world, "/metrics").await.1;
    assert!(metrics.lines().any(|line| line == "unanimo_connections 15"), "{metrics}");
    let refused =
        metrics.lines().find_map(|l| l.strip_prefix("unanimo_connections_refused_total "));
    assert!(refused.unwrap().parse::<u64>().unwrap() >= 3, "{metrics}");
    // The other address leaves less, of which one address gets its share.
    watched.drain(..2);
    held.drain(..2);
    until("a place", async || work(&further, "later").await.ok()).await;
    // One of those that were refused, once nothing else is served on it.
    held.drain(..1);
    watched.clear();
    let began = Instant::now();
    // Calls that are served there do not make it last.
    until("a usual place", async || {
        let _ = ask(&held[3]).await;
        work(&held[3], "refused-before").await.ok()
    })
    .await;
    assert!(began.elapsed() < PATIENCE / 2, "L5: {:?}", began.elapsed());
}

/// Connections of probes are bounded, too: the earliest is closed, and a new one is answered.
#[tokio::test]
async fn l5_connections_of_probes_are_bounded() {
    let world = World::sqlite().await;
    let address = world.running.admin_address().unwrap();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut first = idle.remove(0);
    let mut byte = [0];
    let ended = tokio::time::timeout(Duration::from_secs(60), first.read(&mut byte)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "L5: {ended:?}");
    assert_eq!(http_get(&world, "/healthz").await.0, 200);
    let mut last = idle.pop().unwrap();
    let open = tokio::time::timeout(Duration::from_millis(50), last.read(&mut byte)).await;
    assert!(open.is_err(), "the latest stays: {open:?}");
}
