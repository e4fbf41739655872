//! A process with few file descriptors.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{
    BranchSpec, GetServerInfoRequest, Mode, Outcome, RegisterEndpointRequest,
    SubmitTransactionRequest,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

use super::{Program, addresses, command, new_path, sqlite};

/// Runs the command with this limit of open files, as first and last word of the shell.
fn limited(limit: &str, inner: &Command) -> Command {
    let mut outer = Command::new("sh");
    outer.arg("-c").arg(format!("{limit}; exec \"$0\" \"$@\""));
    outer.arg(inner.get_program()).args(inner.get_args());
    outer
}

/// A transaction with one branch at this participant.
fn tcc(gid: &str, participant: &str) -> SubmitTransactionRequest {
    let branch = BranchSpec {
        branch_id: "a".into(),
        participant: participant.into(),
        action: "ok".into(),
        ..Default::default()
    };
    SubmitTransactionRequest {
        gid: gid.into(),
        mode: Mode::Tcc.into(),
        branches: vec![branch],
        ..Default::default()
    }
}

/// L5: participants never take the descriptors that callers need, however many there are; and whoever
/// starts with a low limit that may be raised has it raised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_participants_leave_descriptors_for_callers() {
    for (limit, names) in [("ulimit -n 128", 150), ("ulimit -Sn 64", 150)] {
        let url = sqlite(&new_path(".db"));
        let args = ["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--node=one"];
        let inner = command(&[&args[..], &["--database-url", &url]].concat());
        let mut program = Program::start(limited(limit, &inner));
        let (grpc, _) = addresses(&mut program).await;
        let p = Scripted::default();
        let endpoint = p.serve().await;
        let mut directory = ParticipantDirectoryServiceClient::connect(grpc.clone()).await.unwrap();
        let mut client = CoordinatorServiceClient::connect(grpc.clone()).await.unwrap();
        for n in 0..names {
            let request = RegisterEndpointRequest {
                participant: format!("invented-{n}"),
                endpoint: endpoint.clone(),
                instance_id: "life".into(),
                ..Default::default()
            };
            directory.register_endpoint(request).await.unwrap();
            let request = tcc(&format!("g{n}"), &format!("invented-{n}"));
            let answer = client.submit_transaction(request).await.unwrap().into_inner();
            assert_eq!(answer.result.unwrap().outcome(), Outcome::Committed, "{limit}: {n}");
        }
        // Callers find a place.
        let mut callers = Vec::new();
        for _ in 0..20 {
            let mut caller = CoordinatorServiceClient::connect(grpc.clone()).await.unwrap();
            caller.get_server_info(GetServerInfoRequest {}).await.unwrap();
            callers.push(caller);
        }
        drop((callers, client, directory));
        program.process.signal(Signal::TERM);
        program.end().await.check(0);
    }
}

/// L5: callers that do nothing, more than there are descriptors, take none from the database and from participants. The
/// database is restarted beside them, and others are served before and after that, by the same process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_idle_callers_leave_descriptors_for_the_database() {
    let server = Server::start();
    let url = server.database().await;
    let (p, q) = (Scripted::default(), Scripted::default());
    let p = format!("--participant=p={}", p.serve().await);
    let q = format!("--participant=q={}", q.serve().await);
    let args = ["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--node=one"];
    let more = ["--lease=10s", "--database-url", &url, &p, &q];
    let inner = command(&[&args[..], &more].concat());
    let mut program = Program::start(limited("ulimit -n 256", &inner));
    let (grpc, _) = addresses(&mut program).await;
    program.until_err("the limit of open files leaves fewer connections").await;
    let (mut idle, mut kept) = (Vec::new(), 0);
    for _ in 0..300 {
        let (stream, has_place) = idle_caller(&grpc).await;
        idle.push(stream);
        kept += usize::from(has_place);
    }
    assert!((30..96).contains(&kept), "{kept} of 300 have a place");
    let other = Endpoint::from_shared(grpc.clone()).unwrap();
    let other = other.local_address(Some("127.0.0.2".parse().unwrap()));
    let served = async |gid: &str, participant: &str| {
        let mut client = CoordinatorServiceClient::new(other.connect().await.ok()?);
        let answer = client.submit_transaction(tcc(gid, participant)).await.ok()?.into_inner();
        (answer.result?.outcome() == Outcome::Committed).then_some(())
    };
    until("another caller to be served", async || served("before", "p").await).await;
    server.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.launch();
    // With a participant that was not called before.
    until("it to go on", async || served("after", "q").await).await;
    let errors = program.err();
    assert!(!errors.contains("no connection can be accepted"), "{errors}");
    drop(idle);
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}

/// L5: a listener that can accept nothing, because the descriptors are gone all the same, takes no processor time, says so
/// once, and goes on when there are some again. Connections that are there are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_listener_without_descriptors_pauses_and_goes_on() {
    let mut program = super::serve(&sqlite(&new_path(".db")), &[]);
    let (grpc, _) = addresses(&mut program).await;
    let mut client = CoordinatorServiceClient::connect(grpc.clone()).await.unwrap();
    client.get_server_info(GetServerInfoRequest {}).await.unwrap();
    let pid = Pid::from_child(program.process.child());
    // Below every number that is taken, so that there is not one more.
    let few = Rlimit { current: Some(8), maximum: getrlimit(Resource::Nofile).maximum };
    let enough = prlimit(Some(pid), Resource::Nofile, few).unwrap();
    let waiting = tokio::spawn(async move { idle_caller(&grpc).await.1 });
    program.until_err("no connection can be accepted").await;
    let before = processor_time(pid);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let used = processor_time(pid) - before;
    assert!(used < Duration::from_millis(600), "{used:?} of 4 s");
    client.get_server_info(GetServerInfoRequest {}).await.unwrap();
    assert!(!waiting.is_finished(), "there is no descriptor for it");
    prlimit(Some(pid), Resource::Nofile, enough).unwrap();
    assert!(waiting.await.unwrap(), "it is accepted then");
    let errors = program.err();
    assert_eq!(errors.matches("no connection can be accepted").count(), 1, "{errors}");
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}

/// Connects a caller that begins HTTP/2 and asks for nothing; tells whether the server does, too.
async fn idle_caller(grpc: &str) -> (TcpStream, bool) {
    let address = grpc.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // One that is closed at once is one too many, and says so here or below.
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    let has_place = stream.read_exact(&mut [0; 9]).await.is_ok();
    (stream, has_place)
}

/// Processor time that the process has used.
fn processor_time(pid: Pid) -> Duration {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = std::fs::read_to_string(path).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    // Of which Linux has 100 a second.
    Duration::from_millis(ticks * 10)
}
