//! Processes that wait for each other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::{Program, addresses, command, file, run, serve, tcc};

/// Answer of health and metrics: its code and its body.
pub(super) fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Waits until a process has said where health and metrics are served, before all else.
pub(super) async fn admin(program: &mut Program) -> SocketAddr {
    until("it to say where it is healthy", async || {
        assert!(program.process.child().try_wait().unwrap().is_none(), "{}", program.err());
        let err = program.err();
        let line = err.lines().find(|line| line.contains("health and metrics are served"))?;
        line.split("admin=").nth(1)?.trim().parse().ok()
    })
    .await
}

/// Returns an address that nobody listens on.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn l2_a_second_node_is_a_standby_and_takes_its_place() {
    let url = Server::shared().database().await;
    let mut first = serve(&url, &["--node", "pod-1"]);
    let (endpoint, _) = addresses(&mut first).await;
    let definition = file(&tcc("g", &["ok"]).replace("\"p\"", "\"nobody\""));
    let tx = |endpoint: &str, args: &[&str]| {
        let mut all = vec!["tx", "--endpoint", endpoint];
        all.extend(args);
        Program::start(command(&all))
    };
    tx(&endpoint, &["submit", &definition]).end().await;

    let listen = free_address();
    let mut second = serve(&url, &["--node", "pod-2", "--listen", &listen.to_string()]);
    let health = admin(&mut second).await;
    second.until_err("waits as a standby").await;
    assert_eq!(http_get(health, "/healthz"), (200, "ok\n".into()));
    let (code, why) = http_get(health, "/readyz");
    assert_eq!(
        (code, &*why),
        (503, "not ready: it is a standby: node pod-1 serves the database\n")
    );
    assert_eq!(http_get(health, "/metrics").0, 200);
    TcpStream::connect(listen).expect_err("it serves no gRPC");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(second.out(), "", "it waits for longer than a lease");

    first.process.signal(Signal::KILL);
    let silent = Instant::now();
    let (endpoint, _) = addresses(&mut second).await;
    assert!(silent.elapsed() < Duration::from_secs(4), "L2: {:?}", silent.elapsed());
    run(&["tx", "--endpoint", &endpoint, "list"]).await.check(0);
    let ready = async || (http_get(health, "/readyz").0 == 200).then_some(());
    until("it to be ready", ready).await;
    second.process.signal(Signal::TERM);
    second.end().await.check(0);
}

#[tokio::test]
async fn a_standby_stops_when_it_is_told() {
    let url = Server::shared().database().await;
    let mut first = serve(&url, &["--node", "pod-1"]);
    addresses(&mut first).await;
    let mut second = serve(&url, &["--node", "pod-2"]);
    second.until_err("waits as a standby").await;
    second.process.signal(Signal::TERM);
    second.end().await.check(0).complains(&["stopped before it had started"]);
    first.process.signal(Signal::TERM);
    first.end().await.check(0);
}

/// Two supervisors start a process of the same name again and again. The one that was fenced waits.
#[tokio::test]
async fn two_processes_of_one_name_do_not_fence_each_other_in_turn() {
    let url = Server::shared().database().await;
    let begin = || serve(&url, &[]);
    let mut supervised = [begin(), begin()];
    let (mut ends, started) = (Vec::new(), Instant::now());
    while started.elapsed() < Duration::from_secs(15) {
        for program in &mut supervised {
            if let Some(status) = program.process.child().try_wait().unwrap() {
                ends.push(status.code());
                *program = begin();
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ends.len() <= 2 && ends.iter().all(|code| *code == Some(3)), "{ends:?}");
    let serving = supervised.iter().filter(|program| !program.out().is_empty()).count();
    assert_eq!(serving, 1, "one serves, and the other one waits");
    let waits = supervised.iter().find(|program| program.out().is_empty()).unwrap();
    assert!(waits.err().contains("give each process a node name of its own"), "{}", waits.err());
    // It takes its place as any standby does.
    let [one, two] = &mut supervised;
    let (serves, waits) = if one.out().is_empty() { (two, one) } else { (one, two) };
    serves.process.signal(Signal::KILL);
    addresses(waits).await;
    waits.process.signal(Signal::TERM);
    waits.end().await.check(0);
}

/// A process that was killed is replaced at once by one of its own name, however often.
#[tokio::test]
async fn a_restart_under_the_same_name_does_not_wait() {
    let url = Server::shared().database().await;
    for _ in 0..3 {
        let mut program = serve(&url, &["--lease", "1h"]);
        addresses(&mut program).await;
        program.process.signal(Signal::KILL);
        until("its end", async || program.process.child().try_wait().unwrap()).await;
    }
}

/// A database that takes connections and says nothing.
#[tokio::test]
async fn health_answers_from_the_first_moment() {
    let database = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://x@{}/x?sslmode=disable", database.local_addr().unwrap());
    let listen = free_address();
    let mut program = serve(&url, &["--listen", &listen.to_string()]);
    let health = admin(&mut program).await;
    assert_eq!(http_get(health, "/healthz"), (200, "ok\n".into()));
    let (code, why) = http_get(health, "/readyz");
    assert_eq!((code, &*why), (503, "not ready: it connects to its database\n"));
    TcpStream::connect(listen).expect_err("no probe of the port passes");
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}

/// Until it serves it holds its port: another process that wants it is told so at its start.
#[tokio::test]
async fn two_coordinators_want_one_port() {
    let url = Server::shared().database().await;
    let mut first = serve(&url, &[]);
    let (grpc, _) = addresses(&mut first).await;
    let taken = grpc.strip_prefix("http://").unwrap();
    let second = serve(&url, &["--listen", taken]).end().await;
    second
        .check(1)
        .complains(&[&format!("failed to start: `listen` {taken}: another process has this port")]);
    first.process.signal(Signal::TERM);
    first.end().await.check(0);
}
