use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use unanimo_tls::{Client, ClientFiles};

use super::{Bounds, Failure, Outbound, Replies};

const BOUNDS: Bounds = Bounds { patience: Duration::from_secs(5), body_bytes_max: 16 };

fn outbound() -> Outbound {
    Outbound::new(&Client::load(ClientFiles::new()).expect("it works"))
}

/// Starts a server that reads one request and answers with these bytes; `None` holds the connection.
async fn server(answer: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("it works");
    let address = listener.local_addr().expect("it works");
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("it works");
        let read = tcp.read(&mut [0; 4096]).await.expect("it works");
        assert!(read > 0, "nothing was sent");
        match answer {
            Some(answer) => tcp.write_all(answer.as_bytes()).await.expect("it works"),
            None => std::future::pending().await,
        }
    });
    format!("http://{address}/hook")
}

async fn answer(url: &str, bounds: Bounds) -> Result<http::Response<Bytes>, Failure> {
    let request = Request::post(url).body(Bytes::from_static(b"{}")).expect("it works");
    outbound().send(request, bounds).await
}

#[tokio::test]
async fn an_answer_has_its_status_and_body_and_no_redirect_is_followed() {
    let url = server(Some(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\nno",
    ))
    .await;
    let answer = answer(&url, BOUNDS).await.expect("it works");
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (302, &b"no"[..]));
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_whatever_its_length_says() {
    for answer_text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n12345678901234567",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11\r\n12345678901234567\r\n0\r\n\r\n",
    ] {
        let url = server(Some(answer_text)).await;
        let failure = answer(&url, BOUNDS).await.expect_err("no answer");
        assert!(matches!(failure, Failure::TooLong(16)), "{failure}");
    }
}

#[tokio::test]
async fn a_server_that_holds_its_answer_is_given_up() {
    let url = server(None).await;
    let bounds = Bounds { patience: Duration::from_millis(100), ..BOUNDS };
    let failure = answer(&url, bounds).await.expect_err("no answer");
    assert!(matches!(failure, Failure::Late(_)), "{failure}");
}

/// Starts a server that reads one request, answers with this head, and then without end: so many bytes at a time.
async fn endless(head: &'static str, bytes: usize, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("it works");
    let address = listener.local_addr().expect("it works");
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("it works");
        let read = tcp.read(&mut [0; 4096]).await.expect("it works");
        assert!(read > 0, "nothing was sent");
        tcp.write_all(head.as_bytes()).await.expect("it works");
        let chunk = format!("{bytes:x}\r\n{}\r\n", " ".repeat(bytes));
        while tcp.write_all(chunk.as_bytes()).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
    });
    format!("http://{address}/hook")
}

/// Time that a call has is for all of its answer: one that drips is given up as one that does not come.
#[tokio::test]
async fn an_answer_that_drips_is_given_up() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let url = endless(head, 1, Duration::from_millis(50)).await;
    let patience = Duration::from_millis(300);
    let failure = answer(&url, Bounds { patience, body_bytes_max: 1 << 20 }).await;
    let failure = failure.expect_err("no answer");
    assert!(matches!(failure, Failure::Late(of) if of == patience), "{failure}");
}

/// The body of an error is read no further than anybody is told of it, and its status is kept.
#[tokio::test]
async fn an_error_without_end_is_its_status() {
    let head = "HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n";
    let url = endless(head, 16 << 10, Duration::ZERO).await;
    let answer = answer(&url, BOUNDS).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.body().len()), (503, 64 << 10));
}

#[tokio::test]
async fn what_was_not_sent_is_told_apart_from_what_has_no_answer() {
    let free =
        TcpListener::bind("127.0.0.1:0").await.expect("it works").local_addr().expect("it works");
    let failure = answer(&format!("http://{free}/"), BOUNDS).await.expect_err("no answer");
    assert!(matches!(failure, Failure::NotSent(_)), "{failure}");

    let url = server(Some("nonsense\r\n\r\n")).await;
    let failure = answer(&url, BOUNDS).await.expect_err("no answer");
    assert!(matches!(failure, Failure::Broken(_)), "{failure}");
}

/// L3: an answer for which there is no memory now says nothing of the server's health.
#[tokio::test]
async fn l3_an_answer_that_finds_no_memory_is_no_broken_connection() {
    let body = "x".repeat(100_000);
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{body}");
    let url = server(Some(Box::leak(text.into_boxed_str()))).await;
    let counted = outbound().counted(Replies::new(1024).of_server());
    let request = Request::post(&url).body(Bytes::from_static(b"{}")).expect("it works");
    let bounds = Bounds { body_bytes_max: 1 << 20, ..BOUNDS };
    let failure = counted.send(request, bounds).await.expect_err("no answer");
    assert!(matches!(failure, Failure::TooMuch(_)), "{failure}");
}
