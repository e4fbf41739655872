//! The program `transfer`, where a bank does not do as was decided: what it says, and its exit code.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tonic::{Request, Response, Status};
use unanimo_sdk::proto::v1::participant_service_server::{
    ParticipantService, ParticipantServiceServer,
};
use unanimo_sdk::proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, Done, HeuristicKind,
    HeuristicOutcome, PrepareRequest, PrepareResponse, Prepared, Refusal, cancel_response,
    commit_response, prepare_response,
};

/// Process that ends with the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A bank whose accounts say how their branches end.
struct Bank;

fn says(payload: Option<&unanimo_sdk::proto::v1::Payload>, word: &str) -> bool {
    payload.is_some_and(|payload| String::from_utf8_lossy(&payload.data).contains(word))
}

fn heuristic(kind: HeuristicKind) -> HeuristicOutcome {
    HeuristicOutcome { kind: kind.into(), note: "by hand".to_owned() }
}

#[tonic::async_trait]
impl ParticipantService for Bank {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        use prepare_response::Answer;
        let answer = match says(request.get_ref().payload.as_ref(), "refused") {
            true => Answer::Refused(Refusal { reason: "NO".to_owned(), message: String::new() }),
            false => Answer::Prepared(Prepared::default()),
        };
        Ok(Response::new(PrepareResponse { answer: Some(answer), ..Default::default() }))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        use commit_response::Answer;
        let answer = match says(request.get_ref().payload.as_ref(), "gone") {
            true => Answer::Heuristic(heuristic(HeuristicKind::Hazard)),
            false => Answer::Done(Done {}),
        };
        Ok(Response::new(CommitResponse { answer: Some(answer) }))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        use cancel_response::Answer;
        let answer = match says(request.get_ref().payload.as_ref(), "kept") {
            true => Answer::Heuristic(heuristic(HeuristicKind::Commit)),
            false => Answer::Done(Done {}),
        };
        Ok(Response::new(CancelResponse { answer: Some(answer) }))
    }
}

/// Starts a coordinator that has the bank, and returns its endpoint. The program of the sagas is one, too.
fn coordinator(folder: &Path, bank: SocketAddr) -> (Owned, String) {
    let config = folder.join("unanimo.toml");
    let text = format!(
        "database-url = \"sqlite:unanimo.db\"\n\n[participants]\nbank = [\"http://{bank}\"]\n"
    );
    std::fs::write(&config, text).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.arg("--config").arg(config);
    command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a coordinator");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut endpoints = lines.map_while(Result::ok);
    let endpoint = endpoints.find_map(|line| line.strip_prefix("grpc ").map(str::to_owned));
    (Owned(child), endpoint.expect("an endpoint"))
}

/// S11: whoever reads "committed" or "aborted", or the exit code, is told of each deviation.
#[test]
fn s11_a_bank_that_ends_otherwise_is_told_by_the_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let bank = listener.local_addr().expect("its address");
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tonic::transport::Server::builder()
            .add_service(ParticipantServiceServer::new(Bank))
            .serve_with_incoming(incoming)
            .await
    });
    let (_coordinator, endpoint) = coordinator(folder.path(), bank);
    for (from, to, code, words) in [
        ("ann", "bob", 0, "committed"),
        ("ann", "gone", 6, "cannot tell"),
        ("ann", "refused", 4, "aborted"),
        ("kept", "refused", 6, "cannot tell"),
    ] {
        for mode in ["tcc", "two-phase"] {
            let (from, to) = (format!("bank/{from}"), format!("bank/{to}"));
            let mut transfer = Command::new(env!("CARGO_BIN_EXE_transfer"));
            transfer.args(["--gid", &format!("{mode}-{to}-{code}").replace('/', "-")]);
            transfer.args(["--from", &from, "--to", &to, "--cents", "5", "--mode", mode]);
            let ran = transfer.args(["--coordinator", &endpoint]).output().expect("a run");
            let said = String::from_utf8_lossy(&ran.stdout);
            assert_eq!(ran.status.code(), Some(code), "{mode}: {from} to {to}: {ran:?}");
            assert!(said.contains(words), "{mode}: {from} to {to}: {said}");
        }
    }
}
