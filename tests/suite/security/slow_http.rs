//! Clients of HTTP that are slow, endless or many: what they send costs little, and others are served.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use unanimo_coordinator::config::Period;
use unanimo_tests::wait::until;

use super::crowd::{ANOTHER, CROWDS, ask_http, connect_from};
use crate::coordinator::process::Process;
use crate::coordinator::{World, config, sqlite_url};

const MIB: u64 = 1 << 20;

/// Memory that one of these attacks may cost.
const COST_MAX: u64 = 96 * MIB;

/// Time for the headers of a request, and for a busy machine.
const HEADERS_WITHIN: Duration = Duration::from_secs(30 + 20);

const OK: &str = "HTTP/1.1 200 OK";

/// Headers of a megabyte on each of many connections: they are refused as soon as they are too large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_headers_over_http_without_end_cost_little() {
    let own = ["--http-listen".to_owned(), "127.0.0.1:0".to_owned()];
    let mut process = Process::start(&sqlite_url(), &own).await;
    let address = process.http_address();
    let mut probe = connect_from(ANOTHER, address).await.unwrap();
    assert_eq!(ask_http(&mut probe, "/v1/server").await.unwrap(), OK);
    let before = process.resident();
    let mut closed = JoinSet::new();
    for _ in 0..1_000 {
        closed.spawn(async move {
            let mut stream = connect_from(CROWDS, address).await.unwrap();
            let _ = stream.write_all(b"GET /v1/server HTTP/1.1\r\nhost: localhost\r\nx: ").await;
            for _ in 0..64 {
                if stream.write_all(&[b'x'; 16 << 10]).await.is_err() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            false
        });
    }
    while let Some(closed) = closed.join_next().await {
        assert!(closed.unwrap(), "L5: a megabyte of headers is taken");
    }
    assert_eq!(ask_http(&mut probe, "/v1/server").await.unwrap(), OK, "others are served");
    let cost = process.resident_max().saturating_sub(before);
    assert!(cost < COST_MAX, "L5: they cost {} MiB", cost / MIB);
}

/// A request whose headers come byte by byte is ended, on both addresses, and so is a connection that says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_headers_that_come_byte_by_byte_are_not_waited_for() {
    let mut config = config(&sqlite_url());
    config.http_listen.0 = Some("127.0.0.1:0".parse().unwrap());
    let world = World::start(config).await;
    let addresses = [world.running.admin_address(), world.running.http_address()];
    let mut slow = JoinSet::new();
    for address in addresses.into_iter().flatten() {
        for says_something in [true, false] {
            slow.spawn(async move {
                let began = Instant::now();
                let mut stream = TcpStream::connect(address).await.unwrap();
                let mut bytes =
                    b"GET /healthz HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x'));
                while began.elapsed() < HEADERS_WITHIN {
                    let byte = *bytes.next().unwrap();
                    if says_something && stream.write_all(&[byte]).await.is_err() {
                        return true;
                    }
                    let second = Duration::from_secs(1);
                    let read = tokio::time::timeout(second, stream.read(&mut [0; 512])).await;
                    if matches!(read, Ok(Ok(0) | Err(_))) {
                        return true;
                    }
                }
                false
            });
        }
    }
    while let Some(closed) = slow.join_next().await {
        assert!(closed.unwrap(), "L5: it is open after {HEADERS_WITHIN:?}");
    }
}

/// Many connections from one address close none of another one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_many_connections_over_http_from_one_address_close_no_other_ones() {
    let mut config = config(&sqlite_url());
    config.http_listen.0 = Some("127.0.0.1:0".parse().unwrap());
    config.connections_max = 64;
    let world = World::start(config).await;
    let addresses = [
        (world.running.admin_address().unwrap(), "/healthz"),
        (world.running.http_address().unwrap(), "/v1/server"),
    ];
    for (address, path) in addresses {
        let mut other = connect_from(ANOTHER, address).await.unwrap();
        assert_eq!(ask_http(&mut other, path).await.unwrap(), OK);
        let mut silent = Vec::new();
        for number in 0..500 {
            silent.push(connect_from(CROWDS, address).await.unwrap());
            if number % 50 == 0 {
                let answer = ask_http(&mut other, path).await;
                assert_eq!(answer.expect("L5: it is not closed for others"), OK);
            }
        }
        let mut new = connect_from(ANOTHER, address).await.unwrap();
        assert_eq!(ask_http(&mut new, path).await.unwrap(), OK, "there is a place");
    }
}

/// A connection of HTTP that is old ends between two requests.
#[tokio::test]
async fn an_old_connection_over_http_ends_after_its_answer() {
    let mut config = config(&sqlite_url());
    config.connection_age_max = Period::secs(1);
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let began = Instant::now();
    assert_eq!(ask_http(&mut stream, "/healthz").await.unwrap(), OK);
    until("its end", async || {
        let asked = ask_http(&mut stream, "/healthz").await;
        asked.is_err().then_some(())
    })
    .await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    let mut next = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask_http(&mut next, "/healthz").await.unwrap(), OK);
}
