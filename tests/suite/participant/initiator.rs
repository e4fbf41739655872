//! The initiator's client, against a coordinator that answers as it is told.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimo_proto::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use unanimo_proto::v1::*;
use unanimo_sdk::client::{Error, Executed};
use unanimo_sdk::{Client, Json, Outcome as Heard};

mod sagas;
mod served;

/// An enum value that a later version may add.
const LATER: i32 = 99;

const TX: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A coordinator that gives one answer to everything, and notes what it was asked.
#[derive(Clone, Default)]
pub(super) struct Fake {
    result: TransactionResult,
    executed: ExecuteBranchResponse,
    /// Answer to every call that `first` leaves.
    refusal: Option<Status>,
    /// Answers to the first calls.
    first: Arc<Mutex<VecDeque<Status>>>,
    asked: Arc<Mutex<Vec<String>>>,
    begun: Arc<Mutex<Vec<BeginTransactionRequest>>>,
    run: Arc<Mutex<Vec<ExecuteBranchRequest>>>,
    traceparents: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(super) fn new(outcome: i32) -> Self {
        let (tx_id, heuristic) = (TX.to_owned(), Heuristic::None.into());
        Self {
            result: TransactionResult { tx_id, outcome, heuristic, ..Default::default() },
            ..Self::default()
        }
    }

    /// Gives its results this text.
    pub(super) fn with_detail(mut self, detail: String) -> Self {
        self.result.abort_detail = detail;
        self
    }

    /// Makes it answer so before all else, once each.
    pub(super) fn at_first(self, answers: impl IntoIterator<Item = Status>) -> Self {
        Self { first: Arc::new(Mutex::new(answers.into_iter().collect())), ..self }
    }

    /// Makes it refuse whatever comes.
    pub(super) fn refusing(self, refusal: Status) -> Self {
        Self { refusal: Some(refusal), ..self }
    }

    pub(super) async fn client(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = CoordinatorServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Client::new(format!("http://{address}")).unwrap().wait_at_most(Duration::from_secs(5))
    }

    /// Headers `traceparent` of Submits.
    pub(super) fn traceparents(&self) -> Vec<String> {
        self.traceparents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note<T>(&self, asked: impl Into<String>, answer: T) -> Result<Response<T>, Status> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked.into());
        if let Some(status) = self.first.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
        {
            return Err(status);
        }
        self.refusal.clone().map_or_else(|| Ok(Response::new(answer)), Err)
    }
}

fn wait(value: i32) -> &'static str {
    WaitFor::try_from(value).unwrap().as_str_name().strip_prefix("WAIT_FOR_").unwrap()
}

#[tonic::async_trait]
impl CoordinatorService for Fake {
    type WatchTransactionStream = tokio_stream::Empty<Result<WatchTransactionResponse, Status>>;
    type WatchTransactionsStream = tokio_stream::Empty<Result<WatchTransactionsResponse, Status>>;

    async fn submit_transaction(
        &self,
        request: Request<SubmitTransactionRequest>,
    ) -> Result<Response<SubmitTransactionResponse>, Status> {
        if let Some(parent) = request.metadata().get("traceparent") {
            let mut traceparents = self.traceparents.lock().unwrap_or_else(PoisonError::into_inner);
            traceparents.push(parent.to_str().unwrap().to_owned());
        }
        let request = request.into_inner();
        let types: Vec<_> = request.branches.iter().flat_map(|branch| &branch.payload).collect();
        let types: Vec<_> = types.iter().map(|payload| payload.media_type.as_str()).collect();
        let asked = format!(
            "submit {} outputs={} {}",
            wait(request.wait_for),
            request.include_outputs,
            types.join(",")
        );
        self.note(asked, SubmitTransactionResponse { result: Some(self.result.clone()) })
    }

    async fn begin_transaction(
        &self,
        request: Request<BeginTransactionRequest>,
    ) -> Result<Response<BeginTransactionResponse>, Status> {
        self.begun.lock().unwrap().push(request.into_inner());
        let (tx_id, cluster_id) = (self.result.tx_id.clone(), "c".to_owned());
        self.note("begin", BeginTransactionResponse { tx_id, cluster_id, ..Default::default() })
    }

    async fn execute_branch(
        &self,
        request: Request<ExecuteBranchRequest>,
    ) -> Result<Response<ExecuteBranchResponse>, Status> {
        self.run.lock().unwrap().push(request.into_inner());
        self.note("execute", self.executed.clone())
    }

    async fn enlist_branch(
        &self,
        _: Request<EnlistBranchRequest>,
    ) -> Result<Response<EnlistBranchResponse>, Status> {
        Err(Status::unimplemented("nobody enlists here"))
    }

    async fn export_transaction(
        &self,
        _: Request<ExportTransactionRequest>,
    ) -> Result<Response<ExportTransactionResponse>, Status> {
        Err(Status::unimplemented("nothing is recorded here"))
    }

    async fn commit_transaction(
        &self,
        request: Request<CommitTransactionRequest>,
    ) -> Result<Response<CommitTransactionResponse>, Status> {
        let request = request.into_inner();
        let asked =
            format!("commit {} outputs={}", wait(request.wait_for), request.include_outputs);
        self.note(asked, CommitTransactionResponse { result: Some(self.result.clone()) })
    }

    async fn rollback_transaction(
        &self,
        request: Request<RollbackTransactionRequest>,
    ) -> Result<Response<RollbackTransactionResponse>, Status> {
        let RollbackTransactionRequest { key, wait_for, include_outputs, .. } =
            request.into_inner();
        let asked = format!("rollback {key:?} {} outputs={include_outputs}", wait(wait_for));
        self.note(asked, RollbackTransactionResponse { result: Some(self.result.clone()) })
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        let GetTransactionRequest { wait_for, include_outputs, .. } = request.into_inner();
        let result = self.result.clone();
        let transaction = Some(Transaction {
            tx_id: result.tx_id,
            outcome: result.outcome,
            heuristic: result.heuristic,
            abort_cause: result.abort_cause,
            abort_branch_id: result.abort_branch_id,
            abort_detail: result.abort_detail,
            ..Default::default()
        });
        let asked = format!("get {} outputs={include_outputs}", wait(wait_for));
        self.note(asked, GetTransactionResponse { transaction })
    }

    async fn list_transactions(
        &self,
        _: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        Err(Status::unimplemented("nobody lists here"))
    }

    async fn watch_transaction(
        &self,
        _: Request<WatchTransactionRequest>,
    ) -> Result<Response<Self::WatchTransactionStream>, Status> {
        Err(Status::unimplemented("nobody watches here"))
    }

    async fn watch_transactions(
        &self,
        _: Request<WatchTransactionsRequest>,
    ) -> Result<Response<Self::WatchTransactionsStream>, Status> {
        Err(Status::unimplemented("nobody watches here"))
    }

    async fn inquire_branches(
        &self,
        _: Request<InquireBranchesRequest>,
    ) -> Result<Response<InquireBranchesResponse>, Status> {
        Err(Status::unimplemented("nobody inquires here"))
    }

    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        let limits = ServerLimits { branches_max: 64, ..Default::default() };
        let answer = GetServerInfoResponse {
            version: "9.9.9".to_owned(),
            cluster_id: "c".to_owned(),
            features: vec!["tcc".to_owned()],
            limits: Some(limits),
            ..Default::default()
        };
        self.note("info", answer)
    }
}

/// S10: only COMMITTED and ABORTED are final, whatever a later version adds.
#[tokio::test]
async fn s10_an_outcome_of_a_later_version_is_not_decided() {
    for (outcome, decided) in [
        (Outcome::Unspecified.into(), None),
        (Outcome::NotDecided.into(), None),
        (LATER, None),
        (Outcome::Committed.into(), Some(true)),
        (Outcome::Aborted.into(), Some(false)),
    ] {
        let client = Fake::new(outcome).client().await;
        let tx = client.tcc("g").begin().await.unwrap();
        for heard in [
            client.tcc("g").submit().await,
            client.find("g").await,
            client.rollback("g").await,
            tx.commit().await,
            tx.rollback().await,
        ] {
            let heard = heard.unwrap();
            let is = (heard.is_committed() || heard.is_aborted()).then(|| heard.is_committed());
            assert_eq!(is, decided, "{outcome}: {heard:?}");
        }
    }
}

/// S11: a deviation that is not known here needs a person all the same.
#[tokio::test]
async fn s11_a_deviation_of_a_later_version_is_a_hazard() {
    for (heuristic, read) in [
        (Heuristic::None.into(), Heuristic::None),
        (Heuristic::Mixed.into(), Heuristic::Mixed),
        (Heuristic::Unspecified.into(), Heuristic::Hazard),
        (LATER, Heuristic::Hazard),
    ] {
        let mut fake = Fake::new(Outcome::Committed.into());
        fake.result.heuristic = heuristic;
        let client = fake.client().await;
        for heard in [client.tcc("g").submit().await, client.find("g").await] {
            let Ok(Heard::Committed(committed)) = heard else { panic!("{heard:?}") };
            assert_eq!(committed.heuristic, read);
        }
        fake.result.outcome = Outcome::Aborted.into();
        fake.result.abort_cause = LATER;
        let heard = fake.client().await.tcc("g").submit().await;
        let Ok(Heard::Aborted(aborted)) = heard else { panic!("{heard:?}") };
        assert_eq!((aborted.heuristic, aborted.cause), (read, AbortCause::Unspecified));
    }
}

#[tokio::test]
async fn s2_a_vote_of_a_later_version_is_none() {
    for (vote, outcome, expected) in [
        (LATER, Outcome::NotDecided.into(), "NotVoted"),
        (LATER, LATER, "NotVoted"),
        (LATER, Outcome::Aborted.into(), "Aborted"),
        (Vote::Prepared.into(), LATER, "Prepared"),
        (Vote::ReadOnly.into(), LATER, "ReadOnly"),
        (Vote::Refused.into(), LATER, "Refused"),
    ] {
        let mut fake = Fake::new(Outcome::NotDecided.into());
        fake.executed = ExecuteBranchResponse { vote, outcome, ..Default::default() };
        let mut tx = fake.client().await.tcc("g").begin().await.unwrap();
        let executed: Executed = tx.execute("b", "p", "a", ()).await.unwrap();
        assert!(format!("{executed:?}").starts_with(expected), "{vote} {outcome}: {executed:?}");
    }
}

#[tokio::test]
async fn calls_ask_for_what_their_caller_wants() {
    let fake = Fake::new(Outcome::Committed.into());
    let client = fake.client().await;
    let draft = || client.tcc("g").branch("b", "p", "a", Json(1)).branch("c", "p", "a", ());
    let _ = draft().submit().await.unwrap();
    let _ = draft().wait_until_accepted().submit().await.unwrap();
    let _ = draft().wait_until_ended().with_outputs().submit().await.unwrap();
    assert_eq!(
        fake.asked(),
        [
            "submit DECIDED outputs=false application/json,",
            "submit ACCEPTED outputs=false application/json,",
            "submit ENDED outputs=true application/json,",
        ]
    );
    let _ = client.find("g").await.unwrap();
    let _ = client.find("g").wait_until_decided().await.unwrap();
    let _ = client.find("g").wait_until_ended().with_outputs().await.unwrap();
    let asked =
        ["get ACCEPTED outputs=false", "get DECIDED outputs=false", "get ENDED outputs=true"];
    assert_eq!(fake.asked(), asked);
    let _ = client.rollback("g").await.unwrap();
    let _ = client.rollback("g").wait_until_ended().await.unwrap();
    let by_gid = |wait| format!("rollback Some(Gid(\"g\")) {wait} outputs=false");
    assert_eq!(fake.asked(), [by_gid("DECIDED"), by_gid("ENDED")]);
    let tx = client.tcc("g").with_outputs().begin().await.unwrap();
    let _ = tx.commit().await.unwrap();
    let _ = tx.rollback().await.unwrap();
    let by_tx_id = format!("rollback Some(TxId(\"{TX}\")) DECIDED outputs=true");
    assert_eq!(fake.asked(), ["begin", "commit DECIDED outputs=true", &by_tx_id]);
    let info = client.server_info().await.unwrap();
    assert_eq!((&*info.version, &*info.cluster_id), ("9.9.9", "c"));
    assert_eq!((info.features, info.limits.branches_max), (vec!["tcc".to_owned()], 64));
}

#[tokio::test]
async fn a_gid_that_is_taken_tells_whose_it_is() {
    for (word, outcome) in [
        ("OUTCOME_COMMITTED", Outcome::Committed),
        ("committed", Outcome::Committed),
        ("ABORTED", Outcome::Aborted),
        ("NOT_DECIDED", Outcome::NotDecided),
        ("later", Outcome::NotDecided),
    ] {
        let metadata = HashMap::from([
            ("retryable".to_owned(), "false".to_owned()),
            ("tx_id".to_owned(), TX.to_owned()),
            ("outcome".to_owned(), word.to_owned()),
        ]);
        let details = ErrorDetails::with_error_info("GID_REUSED", "unanimo", metadata);
        let refusal = Some(Status::with_error_details(Code::AlreadyExists, "it is taken", details));
        let fake = Fake { refusal, ..Fake::default() };
        let error = fake.client().await.tcc("g").submit().await.unwrap_err();
        assert_eq!(error.to_string(), "it is taken (GID_REUSED)");
        let Error::GidReused { tx_id, outcome: heard, .. } = error else { panic!("{error:?}") };
        assert_eq!((&*tx_id, heard), (TX, outcome), "{word}");
    }
}
