//! Requests that are on their way in are counted, and do not stay half received (promise L5).

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::codegen::Service;
use tonic::transport::Channel;
use unanimo_proto::v1::{Mode, Outcome};
use unanimo_tests::wait::{PATIENCE, until};

use super::process::Process;
use super::{sqlite_url, tcc};

const MIB: usize = 1 << 20;

/// Kind of a frame of HTTP/2.
const WINDOW_UPDATE: u8 = 8;

/// Begins a Submit of 8 MiB, of which so many bytes come. Returns its end: the status in the headers or trailers.
fn begin_submit(process: &Process, bytes: usize) -> tokio::task::JoinHandle<Option<String>> {
    begin_submit_on(process.channel.clone(), part_of_8_mib(bytes), None)
}

/// The first part of a message of 8 MiB.
pub(crate) fn part_of_8_mib(bytes: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(bytes + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(8 * MIB - 16).unwrap());
    frame.resize(bytes + 5, 0);
    frame.freeze()
}

/// Begins a Submit of which this much comes, with this header `authorization`.
pub(crate) fn begin_submit_on(
    channel: Channel,
    frame: Bytes,
    authorization: Option<&str>,
) -> tokio::task::JoinHandle<Option<String>> {
    const SUBMIT: &str = "/unanimo.v1.CoordinatorService/SubmitTransaction";
    begin_on(channel, SUBMIT, frame, authorization)
}

/// Begins a call of this path, in the same way.
pub(crate) fn begin_on(
    mut channel: Channel,
    path: &'static str,
    frame: Bytes,
    authorization: Option<&str>,
) -> tokio::task::JoinHandle<Option<String>> {
    let authorization = authorization.map(str::to_owned);
    tokio::spawn(async move {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(Ok::<Bytes, tonic::Status>(frame)).unwrap();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let body = tonic::body::Body::new(axum::body::Body::from_stream(stream));
        let mut request = http::Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.body(body).unwrap();
        std::future::poll_fn(|context| channel.poll_ready(context)).await.ok()?;
        let response = channel.call(request).await.ok()?;
        drop(sender);
        let headers = response.headers().clone();
        let trailers = response.into_body().collect().await.ok()?.trailers().cloned();
        let status = |from: &http::HeaderMap| from.get("grpc-status").cloned();
        let status = status(&headers).or_else(|| trailers.as_ref().and_then(status))?;
        Some(status.to_str().unwrap().to_owned())
    })
}

/// Callers that send nearly the whole of a large message and then nothing take no more than the bound; others are
/// served meanwhile, and afterwards there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_requests_that_stall_half_way_are_within_the_bound() {
    let bound = ["--live-bytes-max".to_owned(), (8 * MIB).to_string()];
    let mut process = Process::start(&sqlite_url(), &bound).await;
    let submitted = process.client().submit_transaction(tcc("g", &["ok"])).await.unwrap();
    assert_eq!(submitted.into_inner().result.unwrap().outcome(), Outcome::Committed);
    let before = process.resident();
    let started = Instant::now();
    let stalled: Vec<_> = (0..100).map(|_| begin_submit(&process, 7 * MIB)).collect();
    // As long as the whole of them takes to come, also on a busy machine.
    let mut grown = 0;
    while started.elapsed() < Duration::from_secs(9) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        grown = grown.max(process.resident().saturating_sub(before) / (MIB as u64));
    }
    assert!(grown < 150, "L5: {grown} MiB for a bound of 8");
    // What is small is received all the same.
    for n in 0..20 {
        let result = process.client().submit_transaction(tcc(&format!("h{n}"), &["ok"])).await;
        assert_eq!(result.unwrap().into_inner().result.unwrap().outcome(), Outcome::Committed);
    }
    for stalled in stalled {
        let status = tokio::time::timeout(Duration::from_secs(40), stalled).await;
        // RESOURCE_EXHAUSTED.
        assert_eq!(status.expect("it ends").unwrap().as_deref(), Some("8"));
    }
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    until("room for a large one", async || {
        let mut request = tcc(&uuid::Uuid::new_v4().to_string(), &["ok"]);
        request.mode = Mode::Tcc.into();
        request.branches[0].payload = unanimo_tests::payload(vec![b'x'; MIB]);
        process.client().submit_transaction(request).await.ok()
    })
    .await;
}

/// Thousands of small requests that stall are counted as well, on however many connections they come. Others are served
/// again as soon as these have ended, which is sooner where there are many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_small_requests_that_stall_are_within_the_bound() {
    let bound = ["--live-bytes-max".to_owned(), (8 * MIB).to_string()];
    let mut process = Process::start(&sqlite_url(), &bound).await;
    process.client().submit_transaction(tcc("g", &["ok"])).await.unwrap();
    let before = process.resident();
    let (mut stalled, frame) = (Vec::new(), part_of_8_mib(60 << 10));
    // 180 MiB, beside what a request takes before a byte of it comes.
    for _ in 0..5 {
        let channel = process.another_channel();
        stalled.extend((0..600).map(|_| begin_submit_on(channel.clone(), frame.clone(), None)));
    }
    // These leave no room for anything between the others.
    let (channel, frame) = (process.another_channel(), part_of_8_mib(512));
    stalled.extend((0..600).map(|_| begin_submit_on(channel.clone(), frame.clone(), None)));
    // What is small is served meanwhile, without being asked again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for n in 0..20 {
        let request = tcc(&format!("meanwhile-{n}"), &["ok"; 20]);
        let served = tokio::time::timeout(Duration::from_secs(10), async {
            process.client().submit_transaction(request).await
        });
        let result = served.await.unwrap().unwrap().into_inner().result.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = process.resident_max().saturating_sub(before) / (MIB as u64);
    assert!(grown < 150, "L5: {grown} MiB for a bound of 8");
    let result = until("others to be served", async || {
        let gid = uuid::Uuid::new_v4().to_string();
        process.client().submit_transaction(tcc(&gid, &["ok"])).await.ok()
    })
    .await;
    assert_eq!(result.into_inner().result.unwrap().outcome(), Outcome::Committed);
    stalled.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Memory that a request takes before its bytes come is counted as well: many that send next to nothing end as soon as
/// many that send something, however small they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_requests_of_which_nothing_comes_have_less_time_where_they_are_many() {
    let bound = ["--live-bytes-max".to_owned(), (8 * MIB).to_string()];
    let process = Process::start(&sqlite_url(), &bound).await;
    let frame = part_of_8_mib(16);
    // A few have all the time there is.
    let few: Vec<_> = (0..10).map(|_| begin_submit(&process, 16)).collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(few.iter().all(|request| !request.is_finished()), "a few may be slow");
    let channel = process.another_channel();
    let mut many = tokio::task::JoinSet::new();
    for _ in 0..600 {
        many.spawn(begin_submit_on(channel.clone(), frame.clone(), None));
    }
    let started = Instant::now();
    // Those that are left then are few as well.
    for _ in 0..300 {
        // RESOURCE_EXHAUSTED.
        assert_eq!(many.join_next().await.unwrap().unwrap().unwrap().as_deref(), Some("8"));
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}: as long as a few have");
    few.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Bytes that may come on a connection before they are counted are a part of the bound.
#[tokio::test]
async fn l5_the_window_of_a_connection_is_a_part_of_the_bound() {
    let bound = ["--live-bytes-max".to_owned(), (8 * MIB).to_string()];
    let process = Process::start(&sqlite_url(), &bound).await;
    let mut stream = TcpStream::connect(process.address()).await.unwrap();
    // The preface, and settings that change nothing.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let more = tokio::time::timeout(PATIENCE, async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, _, stream_id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if (kind, stream_id) == (WINDOW_UPDATE, [0; 4]) {
                break u32::from_be_bytes(payload.try_into().unwrap());
            }
        }
    });
    // Beside what every connection has at first.
    assert_eq!(more.await.expect("a window") as usize + 65_535, MIB);
}
