use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::Code;
use unanimo_proto::v1::{Done, commit_response};

use super::*;
use crate::participants::caller::attempt::Verdict;
use crate::participants::wire;

/// Calls a server that reads one request and answers with these bytes, and closes.
async fn commit(answer: &str) -> (Answered<CommitResponse>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}/tx", listener.local_addr().expect("an address"));
    let answer = answer.to_owned();
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("a connection");
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !seen.ends_with(b"}") {
            let read = tcp.read(&mut buffer).await.expect("a request");
            assert!(read > 0, "the request ends too soon");
            seen.extend_from_slice(&buffer[..read]);
        }
        tcp.write_all(answer.as_bytes()).await.expect("it is read");
        String::from_utf8(seen).expect("a text")
    });
    let called = call(base, Duration::from_secs(5)).await;
    (called, server.await.expect("no panic"))
}

async fn call(base: String, timeout: Duration) -> Answered<CommitResponse> {
    call_of(base, "debit", timeout).await
}

async fn call_of(base: String, action: &str, timeout: Duration) -> Answered<CommitResponse> {
    let tls = unanimo_tls::Client::load(Default::default()).expect("no files");
    let mut client = Client::Json(Json::new(Outbound::new(&tls), base, 100));
    let mut request = Request::new(CommitRequest { action: action.into(), ..Default::default() });
    request.set_timeout(timeout);
    client.commit(request).await
}

#[tokio::test]
async fn an_answer_in_json_is_the_message() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"done\":{}}";
    let (answer, seen) = commit(answer).await;
    let answer = answer.expect("an answer").into_inner().answer;
    assert_eq!(answer, Some(commit_response::Answer::Done(Done {})));
    let seen = seen.to_lowercase();
    assert!(seen.starts_with("post /tx/commit http/1.1\r\n"), "{seen}");
    for part in [
        "content-type: application/json\r\n",
        "unanimo-timeout-ms: 5000\r\n",
        "\r\n\r\n{\"action\":\"debit\"}",
    ] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
}

/// However much of an answer is there: without all of it there is none.
#[tokio::test]
async fn what_a_proxy_or_a_broken_server_says_is_never_done() {
    for (answer, code) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 11\r\n\r\n{\"done\":{}}",
            Code::Unimplemented,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n",
            Code::Internal,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{\"done\":{}}",
            Code::Unavailable,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nb\r\n{\"done\":{}}\r\n",
            Code::Unavailable,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"done\":{}", Code::Internal),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 300\r\n\r\n",
            Code::OutOfRange,
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: /else\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"done\":{}}",
            Code::Unimplemented,
        ),
        (
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"done\":{}}",
            Code::Unimplemented,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\r\n{\"done\":{},\"heuristic\":{}}",
            Code::Internal,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{\"done\":{},\"done\":{}}",
            Code::Internal,
        ),
        (
            "HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"done\":{}}",
            Code::Unknown,
        ),
        ("HTTP/1.1 204 No Content\r\ncontent-type: application/json\r\n\r\n", Code::Unknown),
        (
            "HTTP/1.1 500 Oh\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"done\":{}}",
            Code::Internal,
        ),
        ("no HTTP at all\r\n\r\n", Code::Unavailable),
        ("", Code::Unavailable),
    ] {
        let (called, _) = commit(answer).await;
        let status = called.expect_err(answer);
        assert_eq!(status.code(), code, "{answer}: {status:?}");
        // It was sent: the participant may have done it.
        let verdict = wire::verdict(&status, false, 1);
        assert!(!matches!(verdict, Verdict::Connect(_)), "{answer}: {verdict:?}");
    }
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let status = call(base, Duration::from_secs(5)).await.expect_err("nobody listens");
    assert_eq!(status.code(), Code::Unavailable);
    let verdict = wire::verdict(&status, false, 1);
    assert!(matches!(verdict, Verdict::Connect(_)), "{verdict:?}");
    assert!(format!("{verdict:?}").contains("refused"), "{verdict:?}");
}

#[tokio::test]
async fn a_call_ends_with_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let status = call(base, Duration::from_millis(50)).await.expect_err("nobody answers");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

/// A message may have 100 bytes here: two of them are the field's number and length.
#[tokio::test]
async fn what_is_too_large_over_grpc_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}/tx", listener.local_addr().expect("an address"));
    let called = call_of(base.clone(), &"a".repeat(99), Duration::from_secs(5)).await;
    let status = called.expect_err("it is too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert_eq!(
        status.message(),
        "the commit has 101 bytes, and message-bytes-max of the coordinator allows 100: it was not sent"
    );
    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "there was a connection");
    // One that just fits is sent.
    let sending =
        tokio::spawn(async move { call_of(base, &"a".repeat(98), Duration::from_secs(5)).await });
    let (tcp, _) = listener.accept().await.expect("a connection");
    drop(tcp);
    let status = sending.await.expect("no panic").expect_err("nobody answers");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}
