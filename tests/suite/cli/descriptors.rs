//! A process with few file descriptors.

use std::process::Command;

use rustix::process::Signal;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{
    BranchSpec, GetServerInfoRequest, Mode, Outcome, RegisterEndpointRequest,
    SubmitTransactionRequest,
};
use unanimo_tests::scripted::Scripted;

use super::{Program, addresses, command, new_path, sqlite};

/// Runs the command with this limit of open files, as first and last word of the shell.
fn limited(limit: &str, inner: &Command) -> Command {
    let mut outer = Command::new("sh");
    outer.arg("-c").arg(format!("{limit}; exec \"$0\" \"$@\""));
    outer.arg(inner.get_program()).args(inner.get_args());
    outer
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
            let branch = BranchSpec {
                branch_id: "a".into(),
                participant: format!("invented-{n}"),
                action: "ok".into(),
                ..Default::default()
            };
            let request = SubmitTransactionRequest {
                gid: format!("g{n}"),
                mode: Mode::Tcc.into(),
                branches: vec![branch],
                ..Default::default()
            };
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
