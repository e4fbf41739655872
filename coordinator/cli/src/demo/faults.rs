//! Faults between a bank and the coordinator, on demand.

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

/// Network in front of a participant, with faults.
#[derive(Clone, Debug)]
pub(super) struct Network<S> {
    pub(super) participant: S,
    pub(super) faults: Faults,
}

/// Faults of a network at this moment.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// Answers to Prepare are lost.
    pub(super) loses_votes: watch::Sender<bool>,
    /// Commits are held back.
    pub(super) holds_commits: watch::Sender<bool>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { loses_votes: watch::Sender::new(false), holds_commits: watch::Sender::new(false) }
    }
}

impl<S: ParticipantService + Clone> Network<S> {
    /// Serves the participant behind it, and returns the endpoint.
    pub(super) async fn serve(self) -> std::io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = ParticipantServiceServer::new(self);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Ok(format!("http://{address}"))
    }
}

#[tonic::async_trait]
impl<S: ParticipantService + Clone> ParticipantService for Network<S> {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let response = self.participant.prepare(request).await;
        if *self.faults.loses_votes.borrow() {
            return std::future::pending().await;
        }
        response
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        // The sender lives as long as `self`, so the wait does not fail.
        let mut holds = self.faults.holds_commits.subscribe();
        let _ = holds.wait_for(|holds| !holds).await;
        self.participant.commit(request).await
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        self.participant.cancel(request).await
    }
}
