//! A coordinator that answers a sweeper's questions as it is told, and nothing else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimo_proto::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use unanimo_proto::v1::inquired_branch::Branch as Named;
use unanimo_proto::v1::*;

use super::calls::Branch;

/// Record of a transaction, with the number of questions about it.
#[derive(Clone, Copy, Debug)]
struct Known {
    verdict: Verdict,
    ended: bool,
    until: Option<SystemTime>,
    asked: usize,
}

/// A coordinator that knows its transactions' verdicts: RUNNING until it is told otherwise.
#[derive(Clone, Default)]
pub(crate) struct Inquired {
    /// The one group that it answers for; any, if there is none.
    group: Option<&'static str>,
    known: Arc<Mutex<HashMap<String, Known>>>,
    is_silent: Arc<AtomicBool>,
    /// Number of its questions.
    questions: Arc<AtomicUsize>,
}

impl Inquired {
    /// One that refuses questions about branches of another coordinator group.
    pub(crate) fn of_group(group: &'static str) -> Self {
        Self { group: Some(group), ..Self::default() }
    }

    /// Returns the number of questions, whatever about, and however it has answered.
    pub(super) fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }

    /// Tells nothing from now on, or again.
    pub(crate) fn fall_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::SeqCst);
    }

    pub(crate) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = CoordinatorServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        format!("http://{address}")
    }

    /// From now on the answer for the branch's transaction.
    pub(super) fn tell(&self, branch: &Branch, verdict: Verdict, ended: bool) {
        self.tell_of(&branch.tx_id.to_string(), verdict, ended);
    }

    /// The same for the transaction of this id.
    pub(crate) fn tell_of(&self, tx_id: &str, verdict: Verdict, ended: bool) {
        let mut known = self.lock();
        let known = known.entry(tx_id.to_owned()).or_insert(RUNNING);
        *known = Known { verdict, ended, ..*known };
    }

    /// From now on the bound of the branch's Prepare.
    pub(super) fn tell_until(&self, branch: &Branch, until: Option<SystemTime>) {
        self.lock().entry(branch.tx_id.to_string()).or_insert(RUNNING).until = until;
    }

    /// Returns the number of questions about the branch's transaction.
    pub(super) fn asked(&self, branch: &Branch) -> usize {
        self.asked_of(&branch.tx_id.to_string())
    }

    /// Returns the number of questions about the transaction of this id.
    pub(crate) fn asked_of(&self, tx_id: &str) -> usize {
        self.lock().get(tx_id).map_or(0, |known| known.asked)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, InquiredBranch { tx_id, branch }: InquiredBranch) -> BranchVerdict {
        assert!(matches!(branch, Some(Named::BranchId(_))), "rows are named by their branch's id");
        let mut known = self.lock();
        let known = known.entry(tx_id).or_insert(RUNNING);
        known.asked += 1;
        BranchVerdict {
            verdict: known.verdict.into(),
            ended: known.ended,
            prepare_until: known.until.map(Into::into),
            ..BranchVerdict::default()
        }
    }
}

const RUNNING: Known = Known { verdict: Verdict::Running, ended: false, until: None, asked: 0 };

macro_rules! serve {
    ($($refused:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl CoordinatorService for Inquired {
            type WatchTransactionStream =
                tokio_stream::Empty<Result<WatchTransactionResponse, Status>>;
            type WatchTransactionsStream =
                tokio_stream::Empty<Result<WatchTransactionsResponse, Status>>;

            async fn inquire_branches(
                &self,
                request: Request<InquireBranchesRequest>,
            ) -> Result<Response<InquireBranchesResponse>, Status> {
                let request = request.into_inner();
                self.questions.fetch_add(1, Ordering::SeqCst);
                if self.is_silent.load(Ordering::SeqCst) {
                    return Err(Status::unavailable("it tells nothing"));
                }
                if self.group.is_some_and(|group| group != request.cluster_id) {
                    let of = ErrorDetails::with_error_info("OTHER_CLUSTER", "unanimo", HashMap::new());
                    let text = "branches of another group";
                    return Err(Status::with_error_details(Code::FailedPrecondition, text, of));
                }
                let branches = request.branches.into_iter();
                let verdicts = branches.map(|branch| self.verdict(branch)).collect();
                Ok(Response::new(InquireBranchesResponse { verdicts }))
            }

            async fn get_server_info(
                &self,
                _: Request<GetServerInfoRequest>,
            ) -> Result<Response<GetServerInfoResponse>, Status> {
                let Some(group) = self.group else {
                    return Err(Status::unimplemented("it is asked about branches only"));
                };
                let cluster_id = group.to_owned();
                Ok(Response::new(GetServerInfoResponse { cluster_id, ..Default::default() }))
            }

            $(
                async fn $refused(
                    &self,
                    _: Request<$request>,
                ) -> Result<Response<$response>, Status> {
                    Err(Status::unimplemented("it is asked about branches only"))
                }
            )*
        }
    };
}

serve! {
    submit_transaction(SubmitTransactionRequest) -> SubmitTransactionResponse;
    begin_transaction(BeginTransactionRequest) -> BeginTransactionResponse;
    execute_branch(ExecuteBranchRequest) -> ExecuteBranchResponse;
    enlist_branch(EnlistBranchRequest) -> EnlistBranchResponse;
    commit_transaction(CommitTransactionRequest) -> CommitTransactionResponse;
    rollback_transaction(RollbackTransactionRequest) -> RollbackTransactionResponse;
    get_transaction(GetTransactionRequest) -> GetTransactionResponse;
    list_transactions(ListTransactionsRequest) -> ListTransactionsResponse;
    watch_transaction(WatchTransactionRequest) -> Self::WatchTransactionStream;
    watch_transactions(WatchTransactionsRequest) -> Self::WatchTransactionsStream;
    export_transaction(ExportTransactionRequest) -> ExportTransactionResponse;
}
