//! Answers of participants are counted as they come (promise L5).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::{Response, header};
use axum::routing::post;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{StreamExt, iter, pending};
use unanimo_proto::v1::{Outcome, WaitFor};
use unanimo_tests::wait::until;

use super::process::Process;
use super::{millis, sqlite_url, tcc};

const MIB: usize = 1 << 20;

/// Bytes that each answer says it has, and bytes that come of it.
const SAID: usize = 8 * MIB - 1024;
const SENT: usize = 7 * MIB;

/// Bound of the coordinator, and answers at a time: without a bound they take 560 MiB.
const BOUND: usize = 32 * MIB;
const ANSWERS: usize = 80;

/// Starts a participant whose answers stop in the midst; returns its address, and the number of answers begun.
async fn stopping() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let prepare = async move || {
        count.fetch_add(1, Ordering::Relaxed);
        let said = u32::try_from(SAID).unwrap().to_be_bytes();
        let mut head = vec![0];
        head.extend(said);
        let part = Bytes::from_static(&[0; 64 << 10]);
        let parts = std::iter::repeat_n(part, SENT >> 16);
        let sent = iter(std::iter::once(Bytes::from(head)).chain(parts));
        let body = sent.chain(pending()).map(Ok::<_, Infallible>);
        let response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
        response.body(Body::from_stream(body)).unwrap()
    };
    let routes = axum::Router::new().route("/unanimo.v1.ParticipantService/Prepare", post(prepare));
    let server = tonic::transport::Server::builder().add_routes(routes.into());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (url, begun)
}

/// A participant whose answers are large and stop in the midst costs no more memory than the bound, and takes nothing from
/// the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_answers_on_their_way_in_are_within_the_bound() {
    let (url, begun) = stopping().await;
    let bound = ["--live-bytes-max".to_owned(), BOUND.to_string()];
    let more = ["--call-timeout=60s".to_owned(), format!("--participant=stopping={url}")];
    let mut process = Process::start(&sqlite_url(), &[&bound[..], &more].concat()).await;
    process.client().submit_transaction(tcc("first", &["ok"])).await.unwrap();
    let before = process.resident();
    for n in 0..ANSWERS {
        let mut request = tcc(&format!("g{n}"), &["ok"]);
        request.branches[0].participant = "stopping".into();
        request.timeout = millis(600_000);
        request.wait_for = WaitFor::Accepted.into();
        process.client().submit_transaction(request).await.unwrap();
    }
    until("answers to come", async || (begun.load(Ordering::Relaxed) >= ANSWERS).then_some(()))
        .await;
    for n in 0..20 {
        let request = tcc(&format!("well{n}"), &["output-100000"]);
        let answer = process.client().submit_transaction(request).await.unwrap().into_inner();
        assert_eq!(answer.result.unwrap().outcome(), Outcome::Committed, "L3: {n}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let grown = process.resident_max().saturating_sub(before) / MIB as u64;
    assert!(grown < 128, "L5: {grown} MiB for a bound of {}", BOUND / MIB);
}
