//! The gRPC services. Protobuf types come in here, are checked, and go no further: the engine takes
//! and gives the core's types.

mod access;
mod admit;
mod answers;
mod audit;
mod bounds;
mod calls;
pub(crate) mod children;
mod connections;
mod convert;
mod coordinator;
mod deadline;
mod directory;
pub mod error;
pub mod features;
mod feed;
mod hidden;
mod history;
pub mod http;
mod info;
mod namespace;
mod operator;
mod others;
mod page;
mod parse;
mod query;
mod rpc;
mod stack;
mod statistics;
mod timeline;
mod turns;
mod uploads;
mod versions;
mod watch;
mod webhooks;
mod work;

/// Bounds on requests and answers, for docs/reference/limits.md.
pub mod limits {
    pub use super::bounds::{MESSAGE_BYTES_MAX, STATUS_BYTES_MAX};
    pub use super::calls::CALL_BYTES;
    pub use super::directory::{FEATURES_MAX, INSTANCE_BYTES_MAX, SDK_BYTES_MAX};
    pub use super::features::REQUIRES_MAX;
    pub use super::history::HISTORY_BYTES_MAX;
    pub use super::page::{PAGE_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX};
    pub use super::parse::{
        LOCK_WAIT_DEFAULT, NOTE_BYTES_MAX, OPERATOR_BYTES_MAX, TRACE_BYTES_MAX,
    };
    pub use super::query::{INQUIRE_MAX, METADATA_MAX, MODES_MAX, STATES_MAX};
    pub use super::timeline::{TIMELINE_BYTES_MAX, TIMELINE_ENTRIES_MAX};
    pub use crate::feed::{STREAMS_MAX, STREAMS_OF_ONE_MAX};
}

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::server::NamedService;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use unanimo_core::Incarnation;
use unanimo_proto::v1::coordinator_service_server::CoordinatorServiceServer;
use unanimo_proto::v1::operator_service_server::OperatorServiceServer;
use unanimo_proto::v1::participant_directory_service_server::ParticipantDirectoryServiceServer;

use self::access::Access;
pub(crate) use self::access::sees_the_process;
use self::connections::Connections;
pub(crate) use self::connections::RESERVED_MAX;
use self::deadline::{Deadline, Late};
pub(crate) use self::feed::event_json;
pub use self::history::joined as joined_history;
pub(crate) use self::others::MESSAGE_BYTES_MAX as OTHERS_BYTES_MAX;
use self::parse::Reading;
use self::rpc::Rpc;
pub(crate) use self::stack::Stack;
pub(crate) use self::statistics::About;
pub(crate) use self::turns::Turns;
use crate::audit::Trail;
use crate::descriptors::{Accepting, Room};
use crate::engine;
use crate::env::Env;
use crate::identity::Known;
use crate::metrics::Metrics;
use crate::participants::allow::{Pattern, Plaintext};
use crate::participants::directory::Directory;
use crate::store::Store;

/// Settings of the services.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest gRPC message that is accepted.
    pub message_bytes_max: usize,
    /// Most bytes of requests that are on their way in, altogether.
    pub upload_bytes_max: usize,
    /// Most bytes of answers that are not read yet, altogether.
    pub unread_bytes_max: usize,
    /// Room of the connections of callers.
    pub(crate) connections: Room,
    /// Longest life of a connection; zero is no bound.
    pub connection_age_max: Duration,
    /// Largest header list of a request.
    pub header_bytes_max: u32,
    /// Time that a call without a deadline waits for an outcome.
    pub wait_max: Duration,
    /// Time that a gid is kept after the end of its transaction.
    pub gid_retention: Duration,
    /// Endpoints that may be registered.
    pub endpoint_allow: Vec<Pattern>,
    /// Endpoints that may be without TLS.
    pub plaintext: Plaintext,
    /// Viewers read payloads and outputs.
    pub viewers_see_payloads: bool,
}

/// State that the services share.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) engine: engine::Handle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) me: Incarnation,
    pub(crate) known: Known,
    pub(crate) audit: Trail,
    pub(crate) feed: crate::feed::Follower,
    pub(crate) webhooks: crate::webhook::Handle,
    pub(crate) options: Arc<Options>,
    pub(crate) about: Arc<About>,
}

impl Api {
    /// Answers a request in time, and counts the answer.
    async fn served<T: Late>(
        &self,
        rpc: Rpc,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        // Everything that must go to its end does so in a task of its own.
        let result = match tokio::time::timeout_at(deadline.last, work).await {
            Ok(result) => result,
            Err(_) => T::late(crate::engine::Error::StoreSilent),
        };
        let (method, code) = (rpc.name(), result.as_ref().map_or_else(Status::code, |_| Code::Ok));
        self.metrics.served(method, code);
        if let Err(status) = &result {
            let message = status.message();
            tracing::debug!(method, roles = ?rpc.roles(), ?code, message, "refused");
        }
        result
    }

    /// Returns the circumstances under which a request of this caller is read.
    fn reading<'a>(&'a self, access: &'a Access) -> Reading<'a> {
        let limits = &self.engine.policy().limits;
        Reading { now: self.engine.now(), limits, depth: 0, names: access.names() }
    }

    /// Returns when a call has to be answered.
    fn deadline<T>(&self, request: &Request<T>) -> Deadline {
        let of = Deadline::of(request.metadata(), request.extensions(), self.options.wait_max);
        match calls::crowded_until(request.extensions()) {
            Some(until) => of.by(until),
            None => of,
        }
    }

    /// Returns until when a call may wait.
    fn answer_by<T>(&self, request: &Request<T>) -> Instant {
        self.deadline(request).until
    }
}

/// Bounds of the window of a connection, which is what may come on it before the streams' tasks have counted it. A part of
/// the bound on all, so that many connections at once are not far over it on a busy machine; wide, so that slow streams
/// hold up no one.
const WINDOW_BYTES: (u32, u32) = (1 << 20, 64 << 20);

/// Part of the bytes on their way in that one connection may send before they are counted: one in so many.
const WINDOW_PART: usize = 8;

/// Returns the window of a connection where so many bytes may be on their way in altogether.
fn window_bytes(upload_bytes_max: usize) -> u32 {
    let (least, most) = WINDOW_BYTES;
    u32::try_from(upload_bytes_max / WINDOW_PART).unwrap_or(most).clamp(least, most)
}

/// Most requests of one connection at once. Its own client waits with further ones: more than are in flight where the
/// throughput is highest, and few enough that what each costs before it is counted is no matter.
const STREAMS_MAX: u32 = 4_096;

/// Most connections where health and metrics are served.
pub(crate) const ADMIN_CONNECTIONS_MAX: usize = 128;

/// Tells the health of the server, and of each of its services.
pub(crate) async fn tell_health(health: &HealthReporter, status: ServingStatus) {
    let services = [
        "",
        CoordinatorServiceServer::<Api>::NAME,
        ParticipantDirectoryServiceServer::<Api>::NAME,
        OperatorServiceServer::<Api>::NAME,
    ];
    for service in services {
        health.set_service_status(service, status).await;
    }
}

/// Serves until `stop` resolves, then lets running requests end.
pub(crate) async fn serve(
    stack: Stack,
    listener: TcpListener,
    tls: Option<unanimo_tls::Server>,
    health: HealthReporter,
    health_service: impl tonic::codegen::Service<
        ::http::Request<tonic::body::Body>,
        Response = ::http::Response<tonic::body::Body>,
        Error = std::convert::Infallible,
        Future: Send,
    > + NamedService
    + Clone
    + Send
    + Sync
    + 'static,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    tell_health(&health, ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(unanimo_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are generated with the code")
        .max_decoding_message_size(OTHERS_BYTES_MAX);
    let options = stack.options();
    let (room, metrics) = (options.connections, Arc::clone(&stack.api().metrics));
    let mut server = Server::builder();
    if !options.connection_age_max.is_zero() {
        server = server.max_connection_age(options.connection_age_max);
    }
    let server = server
        .initial_connection_window_size(window_bytes(options.upload_bytes_max))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(options.header_bytes_max)
        .layer(InterceptorLayer::new(deadline::note_arrival))
        .layer(stack.uploads.clone())
        .layer(stack.answers.clone())
        .layer(stack.admit())
        .add_routes(stack.routes.clone().add_service(health_service).add_service(reflection));
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(Duration::from_secs(60)));
    let incoming = Accepting::new(incoming);
    match tls {
        None => {
            let incoming = Connections::new(incoming, room, metrics);
            server.serve_with_incoming_shutdown(incoming, stop).await
        }
        Some(tls) => {
            let incoming =
                Connections::new(tls.grpc(incoming).at_most(room.handshakes), room, metrics);
            server.serve_with_incoming_shutdown(incoming, stop).await
        }
    }
}
