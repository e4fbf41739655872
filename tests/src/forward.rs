//! Participant service that forwards calls to another endpoint.

use async_trait::async_trait;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

/// Service that forwards every call over gRPC.
#[derive(Clone, Debug)]
pub struct Forward(ParticipantServiceClient<Channel>);

impl Forward {
    /// Forwards to this endpoint. It connects at the first call.
    ///
    /// # Panics
    /// The endpoint is not valid.
    #[must_use]
    pub fn to(endpoint: String) -> Self {
        let endpoint = Endpoint::from_shared(endpoint).expect("an endpoint").tcp_nodelay(true);
        Self(ParticipantServiceClient::new(endpoint.connect_lazy()))
    }
}

#[async_trait]
impl ParticipantService for Forward {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        self.0.clone().prepare(request).await
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        self.0.clone().commit(request).await
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        self.0.clone().cancel(request).await
    }
}
