//! Ways of a call to an endpoint: gRPC, and HTTP/1.1 with JSON. Both take the same requests and give the same answers.

use std::time::Duration;

use tonic::transport::Channel;
use tonic::{ConnectError, Request, Response, Status};
use unanimo_proto::over_http::{self, Call};
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

use crate::outbound::{Bounds, Counted, Failure, Outbound};

/// Bound of a call that names none. Each call of the caller names one.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Client of one endpoint. Cheap to clone.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few, and each is beside a connection")]
pub(crate) enum Client {
    /// Over gRPC.
    Grpc(ParticipantServiceClient<Counted<Channel>>),
    /// Over HTTP/1.1 with JSON.
    Json(Json),
}

/// Client over HTTP/1.1 with JSON.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    outbound: Outbound,
    /// Address below which the calls are.
    base: String,
    /// Most bytes of a message either way, as it is over gRPC.
    message_bytes_max: usize,
}

type Answered<T> = Result<Response<T>, Status>;

impl Client {
    pub(super) async fn prepare(
        &mut self,
        request: Request<PrepareRequest>,
    ) -> Answered<PrepareResponse> {
        match self {
            Self::Grpc(client) => client.prepare(request).await,
            Self::Json(client) => client.call(request).await,
        }
    }

    pub(super) async fn commit(
        &mut self,
        request: Request<CommitRequest>,
    ) -> Answered<CommitResponse> {
        match self {
            Self::Grpc(client) => client.commit(request).await,
            Self::Json(client) => client.call(request).await,
        }
    }

    pub(super) async fn cancel(
        &mut self,
        request: Request<CancelRequest>,
    ) -> Answered<CancelResponse> {
        match self {
            Self::Grpc(client) => client.cancel(request).await,
            Self::Json(client) => client.call(request).await,
        }
    }
}

impl Json {
    /// A client that sends below this base, with requests and answers of so many bytes over gRPC. In JSON they have more.
    pub(super) fn new(outbound: Outbound, base: String, message_bytes_max: usize) -> Self {
        Self { outbound, base, message_bytes_max }
    }

    async fn call<C: Call>(&self, request: Request<C>) -> Answered<C::Answer> {
        self.check_size(request.get_ref())?;
        let patience = over_http::timeout(request.metadata()).unwrap_or(PATIENCE);
        let bounds = Bounds { patience, body_bytes_max: self.message_bytes_max.saturating_mul(2) };
        let request = over_http::request(&self.base, request)?;
        let response = self.outbound.send(request, bounds).await.map_err(status)?;
        over_http::answer::<C>(&response).map(Response::new)
    }

    /// Refuses what is too large over gRPC as well, with the same code: nothing of it is sent.
    fn check_size<C: Call>(&self, message: &C) -> Result<(), Status> {
        let (bytes, most) = (message.encoded_len(), self.message_bytes_max);
        if bytes <= most {
            return Ok(());
        }
        Err(Status::out_of_range(format!(
            "the {} has {bytes} bytes, and message-bytes-max of the coordinator allows {most}: it was not sent",
            C::PATH
        )))
    }
}

/// Makes the status of a call without a response, with the code that gRPC gives it.
fn status(failure: Failure) -> Status {
    let text = failure.to_string();
    match failure {
        Failure::NotSent(cause) => {
            let mut status = Status::unavailable(text);
            // By this the caller knows that nothing was sent.
            status.set_source(std::sync::Arc::new(ConnectError(cause.into())));
            status
        }
        Failure::Broken(_) => Status::unavailable(text),
        Failure::Late(_) => Status::deadline_exceeded(text),
        // It tells nothing of the participant's health.
        Failure::TooLong(_) | Failure::TooMuch(_) => Status::out_of_range(text),
    }
}

#[cfg(test)]
mod tests;
