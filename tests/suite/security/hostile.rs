//! Clients that keep to no protocol: what they send costs the coordinator little, and others are served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinSet;
use unanimo_tests::wait::{PATIENCE, until};

use super::crowd::{CROWD, alone};
use crate::coordinator::process::Process;
use crate::coordinator::{sqlite_url, tcc};

const MIB: u64 = 1 << 20;

/// Memory that one of these attacks may cost, whatever its size.
const COST_MAX: u64 = 96 * MIB;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers of a Submit, compressed in the simplest way.
fn headers() -> Vec<u8> {
    let path = b"/unanimo.v1.CoordinatorService/SubmitTransaction";
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path);
    block.extend(b"\x01\x01x\x00\x0ccontent-type\x10application/grpc");
    block
}

/// A connection on which HTTP/2 has begun, and whose answers nobody looks at.
async fn connect(address: &str) -> OwnedWriteHalf {
    let stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            // The listener's queue is full.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let (mut read, mut write) = stream.into_split();
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while read.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
    });
    // The server may close it at any time, here and below.
    let _ = write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let _ = write.write_all(&frame(4, 0, 0, &[])).await;
    write
}

async fn served(process: &Process, gid: &str) {
    process.client().submit_transaction(tcc(gid, &["ok"])).await.expect("others are served");
}

/// Streams that are reset in all.
const RESETS: u32 = 1_000_000;

/// Attackers that share them.
const ATTACKERS: u32 = 20;

/// Streams of which the frames are sent at once.
const AT_ONCE: u32 = 100;

/// Begins and resets streams until there were enough of them, on a new connection each time that one is closed. Returns how
/// many connections that took.
async fn begin_and_reset(address: String, block: Vec<u8>) -> u32 {
    let (mut sent, mut connections) = (0, 0);
    while sent < RESETS / ATTACKERS {
        let (mut write, mut stream) = (connect(&address).await, 1);
        connections += 1;
        while sent < RESETS / ATTACKERS {
            let mut frames = Vec::new();
            for _ in 0..AT_ONCE {
                frames.extend(frame(HEADERS, END_HEADERS, stream, &block));
                frames.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
                stream += 2;
            }
            if write.write_all(&frames).await.is_err() {
                break;
            }
            sent += AT_ONCE;
        }
    }
    connections
}

/// A million streams that are begun and reset at once, on connections that are made anew as often as they are closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_streams_that_are_reset_at_once_cost_little() {
    let mut process = Process::start(&sqlite_url(), &[]).await;
    served(&process, "before").await;
    let before = process.resident();
    let mut attack = JoinSet::new();
    for _ in 0..ATTACKERS {
        attack.spawn(begin_and_reset(process.address(), headers()));
    }
    for number in 0..20 {
        served(&process, &format!("during{number}")).await;
    }
    let mut connections = 0;
    while let Some(made) = attack.join_next().await {
        connections += made.unwrap();
    }
    assert!(connections > ATTACKERS, "whoever resets so much is not kept: {connections}");
    served(&process, "after").await;
    let cost = process.resident_max().saturating_sub(before);
    assert!(cost < COST_MAX, "{RESETS} resets cost {} MiB", cost / MIB);
}

/// Lists of headers of a megabyte, in a frame after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_headers_without_end_cost_little() {
    let mut process = Process::start(&sqlite_url(), &[]).await;
    served(&process, "before").await;
    let before = process.resident();
    // One header more, of 16,000 bytes, in each.
    let mut more = b"\x00\x01x\x7f\x81\x7c".to_vec();
    more.resize(more.len() + 16_000, b'x');
    let mut closed = JoinSet::new();
    for _ in 0..50 {
        let mut write = connect(&process.address()).await;
        let (block, more) = (headers(), more.clone());
        closed.spawn(async move {
            let mut ok = write.write_all(&frame(HEADERS, 0, 1, &block)).await.is_ok();
            for _ in 0..65 {
                ok &= write.write_all(&frame(CONTINUATION, 0, 1, &more)).await.is_ok();
            }
            // It is closed at the latest when the next bytes come.
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if write.write_all(&frame(CONTINUATION, 0, 1, &more)).await.is_err() {
                    return true;
                }
            }
            !ok
        });
    }
    served(&process, "during").await;
    while let Some(closed) = closed.join_next().await {
        assert!(closed.unwrap(), "the connection is closed");
    }
    served(&process, "after").await;
    let cost = process.resident_max().saturating_sub(before);
    assert!(cost < COST_MAX, "they cost {} MiB", cost / MIB);
}

/// Ten thousand connections on which nothing is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_connections_that_say_nothing_cost_little_and_are_closed() {
    let _alone = alone().await;
    let bound = ["--connections-max".to_owned(), "2000".to_owned()];
    let mut process = Process::start(&sqlite_url(), &bound).await;
    served(&process, "before").await;
    let before = process.resident();
    // One that has begun to say something keeps its place no longer.
    let mut begun = TcpStream::connect(process.address()).await.unwrap();
    begun.write_all(b"P").await.unwrap();
    let mut silent = Vec::new();
    for number in 0..CROWD {
        // The listener's queue may be full.
        let connecting = TcpStream::connect(process.address());
        let connected = tokio::time::timeout(Duration::from_secs(10), connecting).await;
        silent.extend(connected.ok().and_then(Result::ok));
        if number % 500 == 0 {
            served(&process, &format!("during{number}")).await;
        }
    }
    assert!(silent.len() > CROWD / 2, "{} of {CROWD}", silent.len());
    let cost = process.resident_max().saturating_sub(before);
    assert!(cost < COST_MAX, "{} connections cost {} MiB", silent.len(), cost / MIB);
    until("a new connection to have a place", async || {
        let mut client =
            unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient::new(
                process.another_channel(),
            );
        client.submit_transaction(tcc("after", &["ok"])).await.ok()
    })
    .await;
    let closed = tokio::time::timeout(PATIENCE, begun.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "it is closed, too");
    drop(silent);
}
