//! The gRPC services. Protobuf types come in here, are checked, and go no further: the engine takes
//! and gives the core's types.

mod convert;
mod coordinator;
mod deadline;
mod directory;
pub mod error;
mod operator;
mod parse;

/// Bounds on requests, for docs/reference/limits.md.
pub mod limits {
    pub use super::coordinator::{INQUIRE_MAX, PAGE_DEFAULT, PAGE_MAX};
    pub use super::directory::INSTANCE_BYTES_MAX;
    pub use super::parse::{NOTE_BYTES_MAX, OPERATOR_BYTES_MAX, TRACE_BYTES_MAX};

    /// Most bytes of a timeline in an answer; a longer one is cut to its newest entries.
    pub const TIMELINE_BYTES_MAX: usize = 256 << 10;
}

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use unanimo_core::{Incarnation, ParticipantName};
use unanimo_proto::v1::coordinator_service_server::CoordinatorServiceServer;
use unanimo_proto::v1::operator_service_server::OperatorServiceServer;
use unanimo_proto::v1::participant_directory_service_server::ParticipantDirectoryServiceServer;

use crate::engine;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::participants::allow::Pattern;
use crate::participants::directory::Directory;
use crate::store::Store;

/// What may be set of the services.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest gRPC message that is accepted.
    pub message_bytes_max: usize,
    /// Largest header list of a request.
    pub header_bytes_max: u32,
    /// How long a call waits for an outcome if it has no deadline of its own.
    pub wait_max: Duration,
    /// Endpoints that may be registered.
    pub endpoint_allow: Vec<Pattern>,
}

/// What the services need.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) engine: engine::Handle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) me: Incarnation,
    pub(crate) options: Arc<Options>,
}

impl Api {
    /// Counts the answer of a request.
    async fn served<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let result = work.await;
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.metrics.served(method, code);
        if let Err(status) = &result {
            tracing::debug!(method, code = ?status.code(), message = status.message(), "refused");
        }
        result
    }

    /// Keeps a participant's registration, in the store and in the directory.
    async fn register(
        &self,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
    ) -> Result<(), crate::store::Error> {
        self.store.endpoints().register(self.me, name, endpoint, self.env.now()).await?;
        self.directory.seen(name, endpoint, instance);
        Ok(())
    }
}

/// Connection-wide flow control. Wide, so that slow streams hold up no one: HTTP/2 ends a connection
/// that holds many unread frames.
const WINDOW_BYTES: u32 = 64 << 20;

/// Serves until `stop` resolves, then lets running requests end.
pub(crate) async fn serve(
    api: Api,
    listener: TcpListener,
    health: tonic_health::server::HealthReporter,
    health_service: impl tonic::codegen::Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<tonic::body::Body>,
        Error = std::convert::Infallible,
        Future: Send,
    > + tonic::server::NamedService
    + Clone
    + Send
    + Sync
    + 'static,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    health.set_serving::<CoordinatorServiceServer<Api>>().await;
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(unanimo_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are generated with the code");
    let bytes = api.options.message_bytes_max;
    let coordinator = CoordinatorServiceServer::new(api.clone())
        .max_decoding_message_size(bytes)
        .max_encoding_message_size(usize::MAX);
    let directory =
        ParticipantDirectoryServiceServer::new(api.clone()).max_decoding_message_size(bytes);
    let operator = OperatorServiceServer::new(api.clone()).max_decoding_message_size(bytes);
    Server::builder()
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(api.options.header_bytes_max)
        .add_service(coordinator)
        .add_service(directory)
        .add_service(operator)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop)
        .await
}
