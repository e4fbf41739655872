//! Callers that ask and do not read, and callers that are too many, take no memory beyond a bound (promise L5).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    GetServerInfoRequest, GetTransactionRequest, Outcome, WatchTransactionsRequest,
    get_transaction_request,
};
use unanimo_tests::wait::{PATIENCE, until};

use super::http::{first_event, http_call, http_get};
use super::process::Process;
use super::{World, channel, config, describe, sqlite_url, tcc};
use crate::security::crowd::{ANOTHER, ask_http, connect_from};

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
        let mut client = CoordinatorServiceClient::new(channel.clone());
        watched.push(client.watch_transactions(WatchTransactionsRequest::default()).await.unwrap());
        match work(&channel, &format!("g-{n}")).await {
            Ok(()) => assert!(n < 6, "L5: connection {n} is one more than the share of an address"),
            Err(status) => {
                assert!(n >= 6, "connection {n}: {status}");
                assert_eq!(describe(&status).1, "OVERLOADED");
                let mut health = HealthClient::new(channel.clone());
                let of_anybody = health.check(HealthCheckRequest::default()).await;
                assert_eq!(describe(&of_anybody.unwrap_err()).1, "OVERLOADED");
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

/// The same over HTTP: answers are counted until they are read, and are not copied before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_answers_over_http_that_are_not_read_are_within_the_bound() {
    let settings = [("live-bytes-max", 32), ("payloads-bytes-max", 8), ("message-bytes-max", 16)];
    let settings = settings.map(|(name, mib)| [format!("--{name}"), (mib * MIB).to_string()]);
    let mut process = Process::start(&sqlite_url(), settings.as_flattened()).await;
    let mut large = tcc("large", &["ok"; 6]);
    for branch in &mut large.branches {
        branch.payload = unanimo_tests::payload(vec![b'x'; MIB]);
    }
    process.client().submit_transaction(large).await.unwrap();
    let address = process.admin_address();
    let get = b"GET /v1/transactions/large?includePayloads=true HTTP/1.1\r\nhost: localhost\r\n\
                connection: close\r\n\r\n";
    let before = process.resident();
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..48 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(get).await.unwrap();
        let mut status = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut status).await.unwrap();
        match &status {
            b"HTTP/1.1 200" => held.push(stream),
            b"HTTP/1.1 503" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    // Each has 8 MiB in JSON, of which the system takes a part. All of them would be 384 MiB; one that is made takes
    // several times as much for a moment.
    assert!(!held.is_empty() && refused >= 40, "L5: {refused} refused, {} not read", held.len());
    let grown = process.resident_max().saturating_sub(before) / (MIB as u64);
    assert!(grown < 200, "L5: {grown} MiB for a bound of 32");
    let metrics = http_call(address, "GET", "/metrics", &[], b"").await.body;
    let unread = metrics.lines().find_map(|line| line.strip_prefix("unanimo_unread_bytes "));
    let unread: f64 = unread.unwrap().parse().unwrap();
    assert!(unread > (8 * MIB) as f64, "{unread} bytes are not read");
    let mut whole = Vec::new();
    held.pop().unwrap().read_to_end(&mut whole).await.unwrap();
    assert!(whole.len() > 8 * MIB, "{} bytes", whole.len());
    drop(held);
    until("room for a large one", async || {
        let path = "/v1/transactions/large?includePayloads=true";
        let reply = http_call(address, "GET", path, &[], b"").await;
        (reply.code == 200 && reply.body.len() > 8 * MIB).then_some(())
    })
    .await;
}

/// A connection of HTTP on which a call waits is not closed for another one. Where too many wait, one more call is told
/// to come again.
#[tokio::test]
async fn l5_a_call_that_waits_keeps_its_connection() {
    let mut config = config(&sqlite_url());
    config.connections_max = 8;
    config.http_listen.0 = Some("127.0.0.1:0".parse().unwrap());
    let world = World::start(config).await;
    let address = world.running.http_address().unwrap();
    world.p.hold(true);
    let body = serde_json::json!({
        "gid": "held", "mode": "MODE_TCC", "waitFor": "WAIT_FOR_ENDED",
        "branches": [{"branchId": "a", "participant": "p", "action": "ok"}],
    });
    let waiting = tokio::spawn(async move {
        let json = [("content-type", "application/json")];
        let body = body.to_string();
        http_call(address, "POST", "/v1/transactions", &json, body.as_bytes()).await
    });
    until("the transaction", async || {
        let reply = http_call(address, "GET", "/v1/transactions/held", &[], b"").await;
        (reply.code == 200).then_some(())
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let ended = tokio::time::timeout(PATIENCE, idle[0].read(&mut [0])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "L5: {ended:?}");
    let mut watching = Vec::new();
    // One more, and the address has its share of the seven turns.
    for n in 0..5 {
        let (event, stream) = first_event(address, "/v1/transactions/held:watch", &[]).await;
        assert_eq!(event.code, 200, "{n}: {event:?}");
        watching.push(stream);
    }
    let later = http_call(address, "GET", "/v1/server", &[], b"").await;
    assert!(later.code == 503 && later.head.contains("retry-after: 1"), "{later:?}");
    let mut other = connect_from(ANOTHER, address).await.unwrap();
    let answer = ask_http(&mut other, "/v1/server").await.expect("others have turns");
    assert_eq!(answer, "HTTP/1.1 200 OK");
    assert!(!waiting.is_finished(), "it waits");
    watching.pop();
    until("a turn", async || {
        (http_call(address, "GET", "/v1/server", &[], b"").await.code == 200).then_some(())
    })
    .await;
    world.p.hold(false);
    let reply = waiting.await.unwrap();
    assert_eq!(reply.code, 200, "L5: {reply:?}");
}

/// A service whose answer to `Large` counts how often more is asked of it.
#[derive(Clone)]
struct Counting(Arc<AtomicUsize>);

impl tonic::server::NamedService for Counting {
    const NAME: &'static str = "test.Counting";
}

impl Service<http::Request<Body>> for Counting {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let body = match request.uri().path() {
            "/test.Counting/Large" => Body::new(self.clone()),
            _ => Body::empty(),
        };
        std::future::ready(Ok(http::Response::new(body)))
    }
}

impl http_body::Body for Counting {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let asked = self.0.fetch_add(1, Ordering::SeqCst);
        Poll::Ready((asked == 0).then(|| Ok(Frame::data(vec![b'x'; MIB].into()))))
    }
}

/// HTTP/2 asks an answer for no more whose caller gives it no room at all, so that nothing of that answer can end its
/// stream: that is why the connection of such a caller is closed. If this fails, the stream can be reset alone, as that of
/// a caller that gives room for a byte is.
#[tokio::test]
async fn an_answer_without_room_is_not_asked_for_more() {
    for (room, expected) in [(0, 1), (1, 2)] {
        let asked = Arc::<AtomicUsize>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(Counting(Arc::clone(&asked)));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let served = tokio::spawn(server.serve_with_incoming(incoming));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let endpoint = endpoint.initial_stream_window_size(room);
        let mut channel = endpoint.initial_connection_window_size(1 << 30).connect_lazy();
        let mut call = async |path: &str| {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
            let call = http::Request::post(path).body(Body::empty()).unwrap();
            channel.call(call).await.unwrap()
        };
        let unread = call("/test.Counting/Large").await;
        let count = || asked.load(Ordering::SeqCst);
        until("its bytes to be taken", async || (count() == expected).then_some(())).await;
        // The connection goes on meanwhile.
        for _ in 0..10 {
            assert_eq!(call("/test.Counting/Small").await.status(), 200);
        }
        assert_eq!(count(), expected);
        drop(unread);
        served.abort();
    }
}
