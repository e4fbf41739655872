//! What participants call to be found.

use tonic::{Request, Response, Status};
use unanimo_core::Timestamp;
use unanimo_proto::v1;
use unanimo_proto::v1::participant_directory_service_server::ParticipantDirectoryService;

use super::error::{from_endpoint, from_store, invalid};
use super::{Api, parse};
use crate::participants::allow;
use crate::wire::time_to_wire;

/// Most bytes of the name of a participant's process.
pub const INSTANCE_BYTES_MAX: usize = 64;

impl Api {
    async fn keep_endpoint(
        &self,
        request: v1::RegisterEndpointRequest,
    ) -> Result<v1::RegisterEndpointResponse, Status> {
        let v1::RegisterEndpointRequest { participant, endpoint, instance_id, .. } = request;
        let name = parse::participant("participant", &participant)?;
        allow::check_endpoint(&endpoint, &self.options.endpoint_allow).map_err(from_endpoint)?;
        parse::text("instance_id", &instance_id, INSTANCE_BYTES_MAX, true)?;
        self.register(&name, &endpoint, &instance_id).await.map_err(from_store)?;
        let interval = prost_types::Duration::try_from(self.directory.keep_alive_interval());
        Ok(v1::RegisterEndpointResponse {
            keep_alive_interval: interval.ok(),
            cluster_id: self.engine.cluster_id().to_owned(),
        })
    }

    async fn remove_endpoint(
        &self,
        request: v1::DeregisterEndpointRequest,
    ) -> Result<v1::DeregisterEndpointResponse, Status> {
        let v1::DeregisterEndpointRequest { participant, endpoint, .. } = request;
        let name = parse::participant("participant", &participant)?;
        allow::parse_endpoint(&endpoint).map_err(invalid)?;
        self.store.endpoints().deregister(self.me, &name, &endpoint).await.map_err(from_store)?;
        self.directory.remove(&name, &endpoint);
        tracing::info!(participant = %name, endpoint, "a participant has left");
        Ok(v1::DeregisterEndpointResponse {})
    }

    fn participants(&self) -> v1::ListParticipantsResponse {
        let now = self.env.now();
        let participants = self.directory.list().into_iter().map(|(name, endpoints)| {
            let endpoints = endpoints.into_iter().map(|shown| {
                let silent_ms = u64::try_from(shown.silent_for.as_millis()).unwrap_or(u64::MAX);
                let seen = Timestamp(now.0.saturating_sub(silent_ms));
                v1::ParticipantEndpoint {
                    endpoint: shown.url,
                    configured: shown.configured,
                    last_seen_at: (!shown.configured).then(|| time_to_wire(seen)),
                    alive: shown.alive,
                    ..Default::default()
                }
            });
            v1::Participant { name: name.to_string(), endpoints: endpoints.collect() }
        });
        v1::ListParticipantsResponse {
            participants: participants.collect(),
            next_page_token: String::new(),
        }
    }
}

#[tonic::async_trait]
impl ParticipantDirectoryService for Api {
    async fn register_endpoint(
        &self,
        request: Request<v1::RegisterEndpointRequest>,
    ) -> Result<Response<v1::RegisterEndpointResponse>, Status> {
        let work = self.keep_endpoint(request.into_inner());
        self.served("RegisterEndpoint", work).await.map(Response::new)
    }

    async fn deregister_endpoint(
        &self,
        request: Request<v1::DeregisterEndpointRequest>,
    ) -> Result<Response<v1::DeregisterEndpointResponse>, Status> {
        let work = self.remove_endpoint(request.into_inner());
        self.served("DeregisterEndpoint", work).await.map(Response::new)
    }

    async fn list_participants(
        &self,
        _request: Request<v1::ListParticipantsRequest>,
    ) -> Result<Response<v1::ListParticipantsResponse>, Status> {
        let work = async { Ok(self.participants()) };
        self.served("ListParticipants", work).await.map(Response::new)
    }
}
