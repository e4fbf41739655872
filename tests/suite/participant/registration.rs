//! A participant's registrations, as a directory sees them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_directory_service_server::{
    ParticipantDirectoryService, ParticipantDirectoryServiceServer,
};
use unanimo_proto::v1::{
    DeregisterEndpointRequest, DeregisterEndpointResponse, ListParticipantsRequest,
    ListParticipantsResponse, RegisterEndpointRequest, RegisterEndpointResponse,
};
use unanimo_sdk::{Participant, Serve, Sqlite};
use unanimo_tests::reaper;
use uuid::Uuid;

use super::sweeper::Reserve;

#[derive(Clone, Default)]
struct Directory {
    registered: Arc<Mutex<Vec<RegisterEndpointRequest>>>,
    deregistered: Arc<Mutex<Vec<DeregisterEndpointRequest>>>,
}

impl Directory {
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = ParticipantDirectoryServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        format!("http://{address}")
    }

    fn registered(&self) -> Vec<RegisterEndpointRequest> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn deregistered(&self) -> Vec<DeregisterEndpointRequest> {
        self.deregistered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl ParticipantDirectoryService for Directory {
    async fn register_endpoint(
        &self,
        request: Request<RegisterEndpointRequest>,
    ) -> Result<Response<RegisterEndpointResponse>, Status> {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.push(request.into_inner());
        let interval = prost_types::Duration { seconds: 0, nanos: 20_000_000 };
        let keep_alive_interval = Some(interval);
        Ok(Response::new(RegisterEndpointResponse { keep_alive_interval, cluster_id: "c".into() }))
    }

    async fn deregister_endpoint(
        &self,
        request: Request<DeregisterEndpointRequest>,
    ) -> Result<Response<DeregisterEndpointResponse>, Status> {
        let mut deregistered = self.deregistered.lock().unwrap_or_else(PoisonError::into_inner);
        deregistered.push(request.into_inner());
        Ok(Response::new(DeregisterEndpointResponse {}))
    }

    async fn list_participants(
        &self,
        _: Request<ListParticipantsRequest>,
    ) -> Result<Response<ListParticipantsResponse>, Status> {
        Err(Status::unimplemented("nobody lists here"))
    }
}

/// One life of a process has one instance id, whichever group hears it.
#[tokio::test]
async fn a_registration_tells_features_sdk_and_the_life_of_the_process() {
    let [one, other] = [Directory::default(), Directory::default()];
    let (at_one, at_other) = (one.serve().await, other.serve().await);
    let mut instances = Vec::new();
    for life in 1..=2 {
        let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
        let serve = Serve::on("127.0.0.1:0").register_with(&at_one).register_with(&at_other);
        let participant =
            Participant::new("p", Sqlite::open(&file).await.unwrap()).tcc("ok", Reserve);
        let mut serving = participant.serve(serve.without_sweep()).await.unwrap();
        serving.registered().await;
        // Registered again, as the same.
        tokio::time::sleep(Duration::from_millis(100)).await;
        serving.stop().await;
        let mut seen = [one.registered(), other.registered()].concat();
        seen.retain(|request| !instances.contains(&request.instance_id));
        let RegisterEndpointRequest { instance_id, sdk, features, .. } = seen[0].clone();
        assert!(seen.len() > 2 && seen.iter().all(|again| again == &seen[0]), "{seen:?}");
        assert!(Uuid::parse_str(&instance_id).is_ok(), "{instance_id}");
        assert!(sdk.starts_with("unanimo-sdk-rust/"), "{sdk}");
        let known = ["must_succeed", "saga", "step_inputs", "tcc", "two_phase_commit"];
        assert_eq!(features, known);
        for directory in [&one, &other] {
            let last = directory.deregistered().pop().unwrap();
            assert_eq!(
                (last.instance_id, directory.deregistered().len()),
                (instance_id.clone(), life)
            );
        }
        instances.push(instance_id);
    }
    assert_ne!(instances[0], instances[1]);
}
