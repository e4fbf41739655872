//! Telling a coordinator where the participant is, again and again.

use std::time::Duration;

use tokio::sync::watch;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{
    DeregisterEndpointRequest, RegisterEndpointRequest, RegisterEndpointResponse,
};

use super::{Error, Service};
use crate::action::caught;
use crate::causes::status_in_full;
use crate::channel::{Coordinator, Link};
use crate::client::jittered;
use crate::features::FEATURES;
use crate::resource::Resource;

/// Until the coordinator has said how often it wants to hear.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

/// After a registration that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Longest time of a registration.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// State of a registration, as its coordinator tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing yet, or nothing any more.
    Waiting,
    Registered,
    /// It takes none such, for this reason.
    Refused(String),
}

/// A participant's entry in a coordinator's directory.
#[derive(Debug)]
pub(super) struct Entry {
    client: ParticipantDirectoryServiceClient<Link>,
    coordinator: String,
    request: RegisterEndpointRequest,
    state: watch::Sender<State>,
    /// Coordinator group that it is registered with; empty before.
    group: watch::Sender<String>,
}

impl Entry {
    pub(super) fn new(
        coordinator: Coordinator,
        participant: &str,
        endpoint: &str,
        instance_id: &str,
    ) -> Result<Self, Error> {
        let route = coordinator.route(std::convert::identity)?;
        let request = RegisterEndpointRequest {
            participant: participant.to_owned(),
            endpoint: endpoint.to_owned(),
            instance_id: instance_id.to_owned(),
            features: FEATURES.map(str::to_owned).to_vec(),
            sdk: concat!("unanimo-sdk-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            requires: Vec::new(),
            database_id: String::new(),
            database_place: String::new(),
        };
        Ok(Self {
            client: ParticipantDirectoryServiceClient::new(route.link()),
            coordinator: route.name,
            request,
            state: watch::Sender::new(State::Waiting),
            group: watch::Sender::new(String::new()),
        })
    }

    pub(super) fn is_of(&self, participant: &str) -> bool {
        self.request.participant == participant
    }

    pub(super) fn coordinator(&self) -> String {
        self.coordinator.clone()
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn group(&self) -> watch::Receiver<String> {
        self.group.subscribe()
    }

    /// Registers until it is stopped, and then deregisters.
    pub(super) async fn run<R: Resource>(
        mut self,
        service: Service<R>,
        mut stopped: watch::Receiver<bool>,
    ) {
        service.database_id().clone_into(&mut self.request.database_id);
        loop {
            let pause = match caught(self.once(&service, &mut stopped)).await {
                Ok(Some(pause)) => pause,
                Ok(None) => break,
                // Code of the service's own runs in it: its driver's, and that of its interceptors.
                Err(broken) => {
                    let (coordinator, error) = (&self.coordinator, broken.text());
                    tracing::error!(
                        coordinator,
                        error,
                        "a registration has panicked; it is made again"
                    );
                    self.state.send_replace(State::Waiting);
                    jittered(RETRY_PAUSE)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        let RegisterEndpointRequest { participant, endpoint, instance_id, .. } = self.request;
        let request =
            DeregisterEndpointRequest { participant, endpoint, instance_id, requires: Vec::new() };
        if let Err(status) = self.client.deregister_endpoint(bounded(request)).await {
            let coordinator = self.coordinator;
            tracing::warn!(coordinator, error = status_in_full(&status), "failed to deregister");
        }
    }

    /// Registers once; says when to do it again, or nothing if it is stopped.
    async fn once<R: Resource>(
        &mut self,
        service: &Service<R>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Option<Duration> {
        // Asked each time: a database moves when a replica of it is promoted.
        self.request.database_place = tokio::select! {
            place = service.look_at_place() => place,
            _ = stopped.wait_for(|stop| *stop) => return None,
        };
        Some(self.register().await)
    }

    /// The same with what is known.
    async fn register(&mut self) -> Duration {
        let RegisterEndpointRequest { participant, endpoint, .. } = &self.request;
        let coordinator = &self.coordinator;
        match self.client.register_endpoint(bounded(self.request.clone())).await {
            Ok(response) => {
                let RegisterEndpointResponse { keep_alive_interval, cluster_id } =
                    response.into_inner();
                self.group.send_if_modified(|group| {
                    let is_new = *group != cluster_id;
                    *group = cluster_id;
                    is_new
                });
                if self.state.send_replace(State::Registered) != State::Registered {
                    tracing::info!(coordinator, participant, endpoint, "registered");
                }
                keep_alive_interval
                    .and_then(|interval| Duration::try_from(interval).ok())
                    .filter(|interval| !interval.is_zero())
                    .unwrap_or(INTERVAL_DEFAULT)
            }
            Err(status) if is_refusal(status.code()) => {
                let error = status_in_full(&status);
                self.state.send_replace(State::Refused(error.clone()));
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
                self.other_database(status.message(), both_live(&status))
            }
            Err(status) => {
                let error = status_in_full(&status);
                if self.state.send_replace(State::Waiting) == State::Registered {
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
                jittered(RETRY_PAUSE)
            }
        }
    }

    /// Tells of a refusal for another database's sake; says when to register again.
    fn other_database(&self, error: &str, both_live: bool) -> Duration {
        let (coordinator, RegisterEndpointRequest { participant, endpoint, .. }) =
            (&self.coordinator, &self.request);
        if !both_live {
            tracing::warn!(
                coordinator,
                participant,
                error,
                "the database has moved or is another one, and other processes of this name have not found that yet, or have died"
            );
            return jittered(RETRY_PAUSE);
        }
        self.state.send_replace(State::Refused(error.to_owned()));
        tracing::error!(
            alarm = "participant_other_database",
            coordinator,
            participant,
            endpoint,
            error,
            "the registration is refused: this process has another database than those of its name that are \
             alive, or a copy of it"
        );
        INTERVAL_DEFAULT
    }
}

/// A call that is given up after a while.
fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Tells whether a coordinator, or who guards it, will say the same again until somebody mends it. It is no coordinator,
/// or one of another version, where the call is not implemented.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

/// Reason of a coordinator that knows living processes of the name on another database.
const OTHER_DATABASE: &str = "OTHER_DATABASE";

/// Tells whether the coordinator has seen a process with the known database since this one came: then a person is needed.
/// Otherwise the others may have died, or be about to find that the database has moved.
fn both_live(status: &tonic::Status) -> bool {
    let details = status.get_error_details();
    let told = details.error_info().and_then(|info| info.metadata.get("both_live"));
    told.is_none_or(|told| told != "false")
}

pub(super) fn is_other_database(status: &tonic::Status) -> bool {
    let details = status.get_error_details();
    status.code() == Code::FailedPrecondition
        && details.error_info().is_some_and(|info| info.reason == OTHER_DATABASE)
}
