//! Participant that records calls and forwards them to another participant.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::prepare_response::Answer;
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest,
    PrepareResponse,
};

/// Calls to a branch, and its votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Number of Prepares that were answered with PREPARED.
    pub prepared: u32,
    /// Number of Commits.
    pub commits: u32,
    /// Number of Cancels.
    pub cancels: u32,
}

/// Recorder in front of a participant.
#[derive(Clone, Debug)]
pub struct Recorder<S> {
    inner: S,
    told: Arc<Mutex<BTreeMap<(String, String), Told>>>,
}

impl<S: ParticipantService + Clone> Recorder<S> {
    /// Makes a recorder in front of a participant.
    pub fn new(inner: S) -> Self {
        Self { inner, told: Arc::default() }
    }

    /// Returns the calls to each branch, by transaction and branch id.
    #[must_use]
    pub fn told(&self) -> BTreeMap<(String, String), Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, context: Option<&BranchContext>, note: impl FnOnce(&mut Told)) {
        let context = context.cloned().unwrap_or_default();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        note(told.entry((context.tx_id, context.branch_id)).or_default());
    }

    /// Serves it over gRPC, and returns its endpoint.
    ///
    /// # Panics
    /// No port is free.
    pub async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = ParticipantServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        format!("http://{address}")
    }
}

#[async_trait]
impl<S: ParticipantService + Clone> ParticipantService for Recorder<S> {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let context = request.get_ref().context.clone();
        let response = self.inner.prepare(request).await?;
        if matches!(response.get_ref().answer, Some(Answer::Prepared(_))) {
            self.note(context.as_ref(), |told| told.prepared += 1);
        }
        Ok(response)
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        self.note(request.get_ref().context.as_ref(), |told| told.commits += 1);
        self.inner.commit(request).await
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        self.note(request.get_ref().context.as_ref(), |told| told.cancels += 1);
        self.inner.cancel(request).await
    }
}
