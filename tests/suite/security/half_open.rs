//! Connections whose TLS handshake does not go on: they take no place from others.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use rustls::version::TLS13;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_tests::wait::PATIENCE;

use super::crowd::{ANOTHER, CROWD, CROWDS, alone, ask_http, client, connect_from, shake_hands};
use super::{Authority, Valid};
use crate::coordinator::process::Process;
use crate::coordinator::{sqlite_url, tcc};

const MIB: u64 = 1 << 20;

/// Memory that the crowd may cost.
const COST_MAX: u64 = 96 * MIB;

/// Time in which somebody else is served: much longer than it takes, and less than a silent handshake may last.
const SERVED_WITHIN: Duration = Duration::from_secs(4);

/// Pause of one of the crowd between the end of a connection and the next.
const PAUSE: Duration = Duration::from_secs(2);

async fn guarded_process(authority: &Authority) -> Process {
    let (cert, key) = authority.server();
    let files = [("cert", cert), ("key", key), ("client-ca", authority.ca())];
    let args = files.map(|(name, path)| [format!("--tls-{name}"), path.display().to_string()]);
    Process::start(&sqlite_url(), args.as_flattened()).await
}

/// Ten thousand that connect and say nothing, each anew once it is closed. Returns when each has connected once.
async fn crowd(to: SocketAddr) -> JoinSet<()> {
    let (connected, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut silent = JoinSet::new();
    for number in 0..CROWD {
        let connected = connected.clone();
        silent.spawn(async move {
            tokio::time::sleep(PAUSE * u32::try_from(number).unwrap() / CROWD as u32).await;
            let mut connected = Some(connected);
            loop {
                if let Ok(mut stream) = connect_from(CROWDS, to).await {
                    if let Some(connected) = connected.take() {
                        let _ = connected.send(());
                    }
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    drop(connected);
    let mut there = 0;
    while there < CROWD {
        let one = tokio::time::timeout(PATIENCE, told.recv()).await;
        one.unwrap_or_else(|_| panic!("{there} of {CROWD} have connected")).expect("they go on");
        there += 1;
    }
    silent
}

/// Submits a transaction on a new connection from another address.
async fn submit(process: &Process, authority: &Authority, gid: &str) {
    let tcp = connect_from(ANOTHER, process.address().parse().unwrap()).await.unwrap();
    let config = client(authority, Some(Valid::Now), &[&TLS13], "h2");
    let stream = shake_hands(tcp, &config).await.unwrap();
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
        async move { stream.map_err(std::io::Error::from) }
    });
    let endpoint = Endpoint::from_static("http://127.0.0.1");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut client = CoordinatorServiceClient::new(channel);
    client.submit_transaction(tcc(gid, &["ok"])).await.expect("others are served");
}

async fn probe(process: &Process, authority: &Authority) {
    let tcp = connect_from(ANOTHER, process.admin_address()).await.unwrap();
    let config = client(authority, None, &[&TLS13], "http/1.1");
    let mut stream = shake_hands(tcp, &config).await.unwrap();
    assert_eq!(ask_http(&mut stream, "/healthz").await.unwrap(), "HTTP/1.1 200 OK");
}

async fn in_time(what: &str, work: impl Future<Output = ()>) {
    let began = Instant::now();
    let served = tokio::time::timeout(SERVED_WITHIN, work).await;
    assert!(served.is_ok(), "L5: {what} from another address takes {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_half_open_connections_of_grpc_take_no_place_from_others() {
    let _alone = alone().await;
    let authority = Authority::new();
    let mut process = guarded_process(&authority).await;
    submit(&process, &authority, "before").await;
    let before = process.resident();
    let address = process.address().parse().unwrap();
    let _crowd = crowd(address).await;
    for number in 0..10 {
        in_time("a call", submit(&process, &authority, &format!("during{number}"))).await;
        in_time("a probe", probe(&process, &authority)).await;
    }
    let cost = process.resident_max().saturating_sub(before);
    assert!(cost < COST_MAX, "{CROWD} cost {} MiB", cost / MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_half_open_connections_of_probes_take_no_place_from_others() {
    let _alone = alone().await;
    let authority = Authority::new();
    let mut process = guarded_process(&authority).await;
    probe(&process, &authority).await;
    let before = process.resident();
    let _crowd = crowd(process.admin_address()).await;
    for number in 0..10 {
        in_time("a probe", probe(&process, &authority)).await;
        in_time("a call", submit(&process, &authority, &format!("during{number}"))).await;
    }
    let cost = process.resident_max().saturating_sub(before);
    assert!(cost < COST_MAX, "{CROWD} cost {} MiB", cost / MIB);
}
