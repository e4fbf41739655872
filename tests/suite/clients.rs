//! Clients in other languages, with the settings that they have if nobody changes them.

mod largest;
mod loopback;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use unanimo_coordinator::config::CLIENT_BYTES_DEFAULT;
use unanimo_coordinator::{Builder, Config, Running};
use unanimo_core::{Limits, ParticipantName};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{BranchSpec, Mode, Outcome, SubmitTransactionRequest, WaitFor};
use unanimo_tests::relay::Relay;
use unanimo_tests::scripted::Scripted;

use self::largest::Largest;
use crate::coordinator::{self, World, channel, config, sqlite_url};
use crate::python::{python, root, stubs};

/// A program in Python that finds the contract's generated code.
async fn run(script: &str, arguments: &[&str]) -> Output {
    let mut command = Command::from(python());
    command.arg(root().join(script)).args(arguments).env("PYTHONPATH", stubs());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.unwrap()
}

fn address(running: &Running) -> String {
    running.grpc_address().unwrap().to_string()
}

/// Runs the client in Python, and returns what it has read.
async fn read(running: &Running, what: &str, name: &str) -> Value {
    let output = run("tests/suite/clients/read.py", &[&address(running), what, name]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A name of the greatest length that begins so.
fn longest(start: &str, bytes: usize) -> String {
    format!("{start:x<bytes$}")
}

/// As many entries as metadata of this size can have, with keys of three bytes: each is three times as
/// long on the wire.
fn metadata(bytes: usize) -> HashMap<String, String> {
    let letters = || ('a'..='z').chain('A'..='Z');
    let keys = letters().flat_map(|a| letters().map(move |b| (a, b)));
    let keys = keys.flat_map(|(a, b)| letters().map(move |c| format!("{a}{b}{c}")));
    keys.take(bytes / 3).map(|key| (key, String::new())).collect()
}

fn client(channel: Channel) -> CoordinatorServiceClient<Channel> {
    CoordinatorServiceClient::new(channel)
}

/// As large as a transaction can be by default: each payload and output has its share of the total.
fn largest_request(limits: &Limits, participant: &ParticipantName) -> SubmitTransactionRequest {
    let share = limits.payloads_bytes_max / limits.branches_max;
    let branch = |number: usize| {
        let vote = if number + 1 == limits.branches_max { b'n' } else { b'y' };
        BranchSpec {
            branch_id: longest(&format!("b{number}-"), 128),
            participant: participant.to_string(),
            action: longest("a", 64),
            payload: largest::payload(vec![vote; share]),
            mode: Mode::Unspecified.into(),
            ..Default::default()
        }
    };
    SubmitTransactionRequest {
        gid: longest("largest-", 128),
        mode: Mode::Tcc.into(),
        branches: (0..limits.branches_max).map(branch).collect(),
        timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        wait_for: WaitFor::Ended.into(),
        metadata: metadata(limits.metadata_bytes_max),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_client_with_default_settings_reads_the_largest_transaction() {
    let limits = Limits::default();
    let participant = ParticipantName::new(&longest("p", 64)).unwrap();
    let largest = Largest {
        others: limits.branches_max - 1,
        output_bytes: limits.outputs_bytes_max / limits.branches_max,
        ..Largest::default()
    };
    let builder = Builder::new(config(&sqlite_url()));
    let running = builder.participant(participant.clone(), Arc::new(largest)).start();
    let running = running.await.unwrap();
    let request = largest_request(&limits, &participant);
    let gid = request.gid.clone();
    let answer = client(channel(&running)).submit_transaction(request).await.unwrap().into_inner();
    assert_eq!(answer.result.unwrap().outcome(), Outcome::Aborted);

    let found = read(&running, "largest", &gid).await;
    let branches = limits.branches_max;
    assert_eq!(found["branches"], branches);
    assert_eq!(found["payloads"], limits.payloads_bytes_max);
    let outputs = limits.outputs_bytes_max / branches * (branches - 1);
    assert_eq!((&found["outputs"], &found["outputs_dropped"]), (&json!(outputs), &json!(0)));
    assert_eq!(found["metadata"], limits.metadata_bytes_max / 3 * 3);
    assert_eq!(found["refusals"], 1024);
    let size = |key: &str| usize::try_from(found[key].as_u64().unwrap()).unwrap();
    assert_eq!(size("notes"), branches * 1024);
    // Up to four of 1 KiB each. Fewer where the breaker held calls back because so many had failed.
    assert!(size("errors") > branches * 1024, "{found}");
    assert!(size("timeline") > 150 << 10, "{found}");
    assert!(size("bytes") > CLIENT_BYTES_DEFAULT / 4 * 3, "it is no large one: {found}");
    let bound = Config::default().answer_bytes_max();
    assert!(size("bytes") <= bound, "the bound is {bound}: {found}");
}

#[tokio::test]
async fn a_client_with_default_settings_reads_long_pages_with_metadata() {
    const COUNT: usize = 280;
    let world = World::sqlite().await;
    let bytes = Limits::default().metadata_bytes_max;
    assert!(COUNT * bytes > CLIENT_BYTES_DEFAULT);
    let mut submitted = JoinSet::new();
    for number in 0..COUNT {
        let mut request = coordinator::tcc(&format!("page-{number}"), &["ok"]);
        request.metadata = [("k".to_owned(), "v".repeat(bytes - 1))].into();
        let mut client = world.client();
        submitted.spawn(async move { client.submit_transaction(request).await.map(drop) });
    }
    submitted.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();

    let found = read(&world.running, "pages", "page-").await;
    assert_eq!(found["transactions"], COUNT, "{found}");
    assert!(found["bytes"].as_u64().unwrap() > CLIENT_BYTES_DEFAULT as u64, "{found}");
    assert!(found["pages"].as_u64().unwrap() > 1, "{found}");
}

/// The example of docs/initiator-guide.md.
async fn order(address: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let at = ["--coordinator", address, "--participant", "p"];
    let output = run("examples/python-initiator/order.py", &[arguments, &at].concat()).await;
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[track_caller]
fn check((exit, said): (Option<i32>, String), code: i32, words: &str) {
    assert!(exit == Some(code) && said.contains(words), "{exit:?}: {said}");
    assert!(!said.contains("Traceback"), "{said}");
}

#[tokio::test]
async fn the_initiator_in_python_tells_each_outcome_apart() {
    let world = World::sqlite().await;
    let at = address(&world.running);
    let submit = async |gid, action| order(&at, &["submit", gid, "--action", action]).await;
    check(submit("yes", "output-3").await, 0, "committed ooo");
    check(submit("yes", "output-3").await, 0, "committed ooo");
    check(submit("no", "refuse").await, 4, "aborted ABORT_CAUSE_REFUSED NO_MONEY");
    check(submit("yes", "other").await, 1, "GID_REUSED");
    check(submit("b,d", "ok").await, 1, "FIELD_INVALID");
    check(order(&at, &["outcome", "yes"]).await, 0, "committed ooo");
    check(order(&at, &["outcome", "no"]).await, 4, "aborted");
    check(order(&at, &["outcome", "never"]).await, 5, "not known to the coordinator");
    let hang = ["submit", "hangs", "--action", "hang", "--patience", "2"];
    check(order(&at, &hang).await, 5, "not known");
    check(order(&at, &["rollback", "hangs"]).await, 4, "aborted ABORT_CAUSE_ROLLBACK");
    check(order(&at, &["rollback", "yes"]).await, 0, "committed");
    check(order(&at, &["rollback", "never"]).await, 4, "aborted ABORT_CAUSE_ROLLBACK");
    check(submit("never", "ok").await, 4, "aborted ABORT_CAUSE_ROLLBACK");
    // Told at once, and not only to whoever asks later.
    check(submit("otherwise", "commit-heuristic").await, 6, "a person must look");
    check(order(&at, &["outcome", "otherwise"]).await, 6, "a person must look");
    let prepares = world.p.seen().iter().filter(|seen| seen.operation == "prepare").count();
    assert_eq!(prepares, 4, "yes, no, hangs and otherwise: {:?}", world.p.seen());
}

#[tokio::test]
async fn a_saga_in_python_hands_on_what_a_step_returned() {
    let world = World::sqlite().await;
    let at = address(&world.running);
    let sale = async |gid: &str, sell: &str| {
        let arguments = [gid, "--coordinator", &at, "--customers", "p", "--shop", "p"];
        let actions = ["--register", "output-3", "--sell", sell];
        let sale = "examples/python-initiator/sale.py";
        let output = run(sale, &[&arguments[..], &actions].concat()).await;
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    check(sale("yes", "output-1").await, 0, "committed ooo o");
    let sold = world.get("yes").await.branches.remove(1);
    assert_eq!(sold.depends_on, ["customer"]);
    assert_eq!((&*sold.inputs[0].name, &*sold.inputs[0].branch_id), ("customer", "customer"));
    check(sale("no", "refuse").await, 4, "aborted ABORT_CAUSE_REFUSED NO_MONEY");
    let undone = |tx: &unanimo_proto::v1::Transaction| tx.ended_at.is_some();
    let tx = world.get_until("no", "the saga has ended", undone).await;
    assert_eq!(world.p.calls(&tx.tx_id, "customer"), ["prepare", "cancel"]);
}

/// S10: a status that is not the coordinator's own and does not pass by itself ends the initiator at
/// once, and tells nothing of the outcome.
#[tokio::test]
async fn the_initiator_in_python_does_not_repeat_what_never_passes() {
    // A server without the coordinator's services, as behind a wrong address or a proxy.
    let (_health, service) = tonic_health::server::health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    for arguments in [["submit", "o-1"], ["outcome", "o-1"], ["rollback", "o-1"]] {
        let patient = [&arguments[..], &["--patience", "20"]].concat();
        check(order(&at, &patient).await, 5, "not known: UNIMPLEMENTED");
    }
    serving.abort();
}

/// S10: of a sequence of answers the initiator in Python makes a no only if no call before it may have worked, and a
/// success only of what every branch has done. The table is in Python.
#[tokio::test]
async fn s10_the_initiator_in_python_tells_a_no_from_what_is_not_known() {
    let paths = [stubs(), &root().join("examples/python-initiator")];
    let mut command = Command::from(python());
    command.arg(root().join("tests/suite/clients/judged.py"));
    command.env("PYTHONPATH", std::env::join_paths(paths).unwrap());
    let output = command.output().await.unwrap();
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("passed 37\n"), "{said}{errors}");
}

/// L1, S4: a client whose coordinator is away asks until it is back, and its work is done once.
#[tokio::test]
async fn the_initiator_in_python_outlives_its_coordinator() {
    let relay = Relay::start().await;
    let url = relay.url();
    let at = url.strip_prefix("http://").unwrap_or(&url).to_owned();
    let arguments = ["submit", "once", "--action", "ok"];
    let ran = tokio::spawn(async move { order(&at, &arguments).await });
    // Nobody answers at first; the calls of this time are lost.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let p = Scripted::default();
    let name = ParticipantName::new("p").unwrap();
    let builder = Builder::new(config(&sqlite_url())).participant(name, Arc::new(p.clone()));
    let running = builder.start().await.unwrap();
    let target: SocketAddr = running.grpc_address().unwrap();
    relay.point_to(Some(target));
    check(ran.await.unwrap(), 0, "committed");
    let prepares = p.seen().iter().filter(|seen| seen.operation == "prepare").count();
    assert_eq!(prepares, 1);
}
