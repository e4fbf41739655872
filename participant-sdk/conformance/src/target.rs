//! The participant to check: one behind an address, or one in this process.

mod over_http;

use std::time::Duration;

use async_trait::async_trait;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

pub use self::over_http::OverHttp;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A participant, as its caller sees it. A caller that waits no longer drops the call.
#[async_trait]
pub trait Target: Send + Sync + 'static {
    /// Phase one.
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<PrepareResponse, Status>;

    /// Phase two after COMMIT.
    async fn commit(&self, request: Request<CommitRequest>) -> Result<CommitResponse, Status>;

    /// Phase two after ABORT.
    async fn cancel(&self, request: Request<CancelRequest>) -> Result<CancelResponse, Status>;
}

/// A participant in this process, such as the SDK's `Service`.
#[async_trait]
impl<S: ParticipantService> Target for S {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<PrepareResponse, Status> {
        Ok(ParticipantService::prepare(self, request).await?.into_inner())
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<CommitResponse, Status> {
        Ok(ParticipantService::commit(self, request).await?.into_inner())
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<CancelResponse, Status> {
        Ok(ParticipantService::cancel(self, request).await?.into_inner())
    }
}

/// A participant that is called over gRPC.
#[derive(Clone, Debug)]
pub struct Remote {
    client: ParticipantServiceClient<Channel>,
}

impl Remote {
    /// Connects to `http://HOST:PORT`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(endpoint: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(endpoint.to_owned())?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await?;
        Ok(Self::over(channel))
    }

    /// Calls over this channel, such as one with TLS.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        let client = ParticipantServiceClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Self { client }
    }
}

#[async_trait]
impl Target for Remote {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<PrepareResponse, Status> {
        Ok(self.client.clone().prepare(request).await?.into_inner())
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<CommitResponse, Status> {
        Ok(self.client.clone().commit(request).await?.into_inner())
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<CancelResponse, Status> {
        Ok(self.client.clone().cancel(request).await?.into_inner())
    }
}
