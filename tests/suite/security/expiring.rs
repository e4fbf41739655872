//! Certificates of clients that expire: that is how they are revoked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::crowd::{CROWDS, ask_http, begin_http_2, client, connect_from, shake_hands};
use super::{Authority, Valid, channel, guarded};
use crate::coordinator::World;

/// Time for which a certificate is good: long enough for a few handshakes on a busy machine.
const GOOD_FOR: Duration = Duration::from_secs(8);

/// Time after that within which a connection has ended, on a busy machine. A silent connection would be open for longer:
/// it is asked after twenty seconds, and has twenty more to answer.
const SOON: Duration = Duration::from_secs(20);

type Stream = TlsStream<TcpStream>;

/// Connects, and has something answered.
async fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<(HandshakeKind, Stream)> {
    let tcp = connect_from(CROWDS, address).await?;
    let mut stream = shake_hands(tcp, config).await?;
    match config.alpn_protocols[0].as_slice() {
        b"h2" => begin_http_2(&mut stream).await?,
        _ => drop(ask_http(&mut stream, "/healthz").await?),
    }
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    Ok((kind, stream))
}

/// A caller that was good once is judged again with each connection, and an open one ends with the certificate, over gRPC and
/// over HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_expired_ends_connections_and_makes_no_new_one() {
    let authority = Authority::new();
    let world = World::start(guarded(&authority)).await;
    let (grpc, admin) =
        (world.running.grpc_address().unwrap(), world.running.admin_address().unwrap());
    let cases = [(grpc, "h2"), (admin, "http/1.1")];
    let cases = cases.into_iter().flat_map(|case| [(case, &TLS13), (case, &TLS12)]);
    let until = Instant::now() + GOOD_FOR;
    let mut open = Vec::new();
    for ((address, protocol), version) in cases {
        let config = client(&authority, Some(Valid::For(GOOD_FOR)), &[version], protocol);
        let lasting = client(&authority, Some(Valid::Now), &[version], protocol);
        let (first, stream) = connect(address, &config).await.expect("it is good");
        let (second, _) = connect(address, &config).await.expect("it is good");
        assert_eq!([first, second], [HandshakeKind::Full; 2], "{protocol} {version:?}");
        let (_, other) = connect(address, &lasting).await.expect("it is good");
        open.push((address, config, stream, other));
    }
    tokio::time::sleep_until((until + Duration::from_secs(2)).into()).await;
    for (address, config, mut stream, mut other) in open {
        let error = connect(address, &config).await.map(|_| ()).expect_err("it has expired");
        assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the open connection ends: {address}");
        let read = tokio::time::timeout(Duration::from_millis(200), other.read(&mut [0; 64])).await;
        let is_open = read.as_ref().map_or(true, |read| read.as_ref().is_ok_and(|n| *n > 0));
        assert!(is_open, "that of another certificate goes on: {read:?}");
    }
}

/// A client that could resume its session does so where nobody judges it by a certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_resumed_where_no_certificate_is_demanded() {
    let authority = Authority::new();
    let mut open = guarded(&authority);
    open.tls_client_ca = Default::default();
    let world = World::start(open).await;
    let address = world.running.grpc_address().unwrap();
    for version in [&TLS13, &TLS12] {
        let config = client(&authority, None, &[version], "h2");
        let (first, _) = connect(address, &config).await.unwrap();
        let (second, _) = connect(address, &config).await.unwrap();
        assert_eq!([first, second], [HandshakeKind::Full, HandshakeKind::Resumed], "{version:?}");
    }
}

/// A channel goes on with the certificate that is in the file by then.
#[tokio::test]
async fn a_channel_does_not_outlive_its_certificate() {
    let authority = Authority::new();
    let world = World::start(guarded(&authority)).await;
    let url = format!("https://{}", world.running.grpc_address().unwrap());
    let (cert, key) = authority.sign(&["x"], Valid::For(GOOD_FOR));
    let until = Instant::now() + GOOD_FOR;
    let channel = channel(&url, authority.trusting().identity(&cert, &key));
    super::ask(channel.clone()).await.expect("it is good");
    tokio::time::sleep_until((until + Duration::from_secs(2)).into()).await;
    let answer = super::ask(channel.clone()).await;
    answer.expect_err("its connection has ended, and a new one is refused");
    authority.sign_into(&["x"], Valid::Now, &cert, &key);
    unanimo_tests::wait::until("the new certificate to be used", async || {
        super::ask(channel.clone()).await.ok()
    })
    .await;
}
