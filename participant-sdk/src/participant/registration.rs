//! Telling a coordinator where the participant is, again and again.

use std::time::Duration;

use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{
    DeregisterEndpointRequest, RegisterEndpointRequest, RegisterEndpointResponse,
};

use super::Error;
use crate::causes::status_in_full;
use crate::channel;
use crate::features::FEATURES;

/// Until the coordinator has said how often it wants to hear.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

/// After a registration that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Longest time of a registration.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Registration {
    client: ParticipantDirectoryServiceClient<Channel>,
    coordinator: String,
    request: RegisterEndpointRequest,
    registered: watch::Sender<bool>,
    /// Coordinator group that it is registered with; empty before.
    group: watch::Sender<String>,
}

impl Registration {
    pub(super) fn new(
        coordinator: &str,
        participant: &str,
        endpoint: &str,
        instance_id: &str,
        database_id: &str,
    ) -> Result<Self, Error> {
        let bounded = |endpoint: tonic::transport::Endpoint| endpoint.timeout(CALL_TIMEOUT);
        let channel = channel::lazy(coordinator.to_owned(), bounded)
            .map_err(|source| Error::Coordinator { endpoint: coordinator.to_owned(), source })?;
        let request = RegisterEndpointRequest {
            participant: participant.to_owned(),
            endpoint: endpoint.to_owned(),
            instance_id: instance_id.to_owned(),
            features: FEATURES.map(str::to_owned).to_vec(),
            sdk: concat!("unanimo-sdk-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            requires: Vec::new(),
            database_id: database_id.to_owned(),
        };
        Ok(Self {
            client: ParticipantDirectoryServiceClient::new(channel),
            coordinator: coordinator.to_owned(),
            request,
            registered: watch::Sender::new(false),
            group: watch::Sender::new(String::new()),
        })
    }

    pub(super) fn is_of(&self, participant: &str) -> bool {
        self.request.participant == participant
    }

    pub(super) fn registered(&self) -> watch::Receiver<bool> {
        self.registered.subscribe()
    }

    pub(super) fn group(&self) -> watch::Receiver<String> {
        self.group.subscribe()
    }

    /// Registers until it is stopped, and then deregisters.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            let pause = self.register().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        let RegisterEndpointRequest { participant, endpoint, instance_id, .. } = self.request;
        let request =
            DeregisterEndpointRequest { participant, endpoint, instance_id, requires: Vec::new() };
        if let Err(status) = self.client.deregister_endpoint(request).await {
            let coordinator = self.coordinator;
            tracing::warn!(coordinator, error = status_in_full(&status), "failed to deregister");
        }
    }

    /// Once; says when to do it again.
    async fn register(&mut self) -> Duration {
        let RegisterEndpointRequest { participant, endpoint, .. } = &self.request;
        let coordinator = &self.coordinator;
        match self.client.register_endpoint(self.request.clone()).await {
            Ok(response) => {
                let RegisterEndpointResponse { keep_alive_interval, cluster_id } =
                    response.into_inner();
                self.group.send_if_modified(|group| {
                    let is_new = *group != cluster_id;
                    *group = cluster_id;
                    is_new
                });
                if !self.registered.send_replace(true) {
                    tracing::info!(coordinator, participant, endpoint, "registered");
                }
                keep_alive_interval
                    .and_then(|interval| Duration::try_from(interval).ok())
                    .filter(|interval| !interval.is_zero())
                    .unwrap_or(INTERVAL_DEFAULT)
            }
            Err(status)
                if matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied) =>
            {
                let error = status_in_full(&status);
                tracing::error!(
                    coordinator,
                    participant,
                    endpoint,
                    error,
                    "the registration is refused"
                );
                INTERVAL_DEFAULT
            }
            Err(status) if is_other_database(&status) => {
                let (error, participant) = (status.message(), &self.request.participant);
                self.registered.send_replace(false);
                tracing::error!(
                    alarm = "participant_other_database",
                    coordinator,
                    participant,
                    endpoint,
                    error,
                    "the registration is refused: this process has another database than those of its \
                     name that are alive"
                );
                INTERVAL_DEFAULT
            }
            Err(status) => {
                let error = status_in_full(&status);
                if self.registered.send_replace(false) {
                    tracing::warn!(
                        coordinator,
                        participant,
                        endpoint,
                        error,
                        "the registration is lost"
                    );
                } else {
                    tracing::warn!(coordinator, participant, endpoint, error, "not registered yet");
                }
                RETRY_PAUSE
            }
        }
    }
}

/// Reason of a coordinator that knows living processes of the name on another database.
const OTHER_DATABASE: &str = "OTHER_DATABASE";

pub(super) fn is_other_database(status: &tonic::Status) -> bool {
    let details = status.get_error_details();
    status.code() == Code::FailedPrecondition
        && details.error_info().is_some_and(|info| info.reason == OTHER_DATABASE)
}
