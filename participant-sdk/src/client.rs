//! Starting transactions, and learning their outcomes.

mod action;
mod calls;
mod draft;
mod error;
mod interactive;
mod lock;
mod lookup;
mod outcome;
mod output;
mod requires;
mod retry;
mod server;
mod step;
mod steps;

use std::time::Duration;

use tonic::transport::Channel;
use unanimo_proto::v1::Mode;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
pub use unanimo_proto::v1::{AbortCause, Compensation, Heuristic, ServerLimits};

pub use self::action::{Inputs, StepAction};
pub use self::draft::Draft;
pub use self::error::{BadField, Error};
pub use self::interactive::{Executed, PreparedStep, Transaction};
pub use self::lock::Lock;
pub use self::lookup::{Find, Rollback};
pub use self::outcome::{Aborted, BranchOutcome, Committed, NotDecided, Outcome};
pub use self::output::{Output, OutputError, StepOutput};
pub use self::retry::Retry;
pub use self::server::ServerInfo;
pub use self::step::{Step, StepRef};
pub use self::steps::{Child, Steps};
use crate::channel;

/// Bytes of a gRPC message: the coordinator's default, which every answer that its default limits allow
/// fits into.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Many unread small messages must not end a connection.
const WINDOW_BYTES: u32 = 64 << 20;

/// Longest wait of a call if nothing else is said.
const WAIT_DEFAULT: Duration = Duration::from_secs(60);

/// A coordinator's client. Cheap to clone.
///
/// Calls whose answer is lost are sent again until [`Self::wait_at_most`] is over: every call is
/// idempotent, by the transaction's gid and the branch's id.
#[derive(Clone, Debug)]
pub struct Client {
    service: CoordinatorServiceClient<Channel>,
    wait_max: Duration,
}

impl Client {
    /// A client of the coordinator at `http://HOST:PORT`. It connects when it is first used.
    ///
    /// # Errors
    /// The endpoint is none.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(endpoint: impl Into<String>) -> Result<Self, Error> {
        let endpoint = endpoint.into();
        let wide = |endpoint: tonic::transport::Endpoint| {
            endpoint
                .initial_connection_window_size(WINDOW_BYTES)
                .initial_stream_window_size(WINDOW_BYTES)
        };
        let channel = channel::lazy(endpoint.clone(), wide)
            .map_err(|source| Error::Endpoint { endpoint, source })?;
        let service = CoordinatorServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { service, wait_max: WAIT_DEFAULT })
    }

    /// Bounds the wait of a call for its answer, with all its repetitions. Default 60 s. It has nothing
    /// to do with the transaction's own [timeout](Draft::timeout): a call that ends, ends no
    /// transaction.
    #[must_use]
    pub fn wait_at_most(mut self, wait: Duration) -> Self {
        self.wait_max = wait;
        self
    }

    /// Bounds a gRPC message, in either direction. Default 8 MiB, the coordinator's default. A larger answer
    /// cannot be read, and what became of its call is then not known: set it as high as the coordinator's
    /// setting `message-bytes-max`.
    #[must_use]
    pub fn message_bytes_at_most(mut self, bytes: usize) -> Self {
        let service = self.service.max_decoding_message_size(bytes);
        self.service = service.max_encoding_message_size(bytes);
        self
    }

    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn wait_max(&self) -> Duration {
        self.wait_max
    }

    /// Prepares a TCC transaction under the name `gid`: 1 to 128 bytes of `[A-Za-z0-9_.:-]`, chosen
    /// by the initiator. The same gid is the same transaction, however often it is asked for, until the
    /// coordinator's gid retention is over: by default 7 days after the transaction's end. After that the
    /// gid is new, and the work would be done again; for redeliveries that may come so late there is
    /// [`Draft::must_exist`].
    pub fn tcc(&self, gid: impl Into<String>) -> Draft {
        Draft::new(self.clone(), gid.into(), Mode::Tcc)
    }

    /// Prepares a two-phase commit under the name `gid`, as [`Self::tcc`] does.
    pub fn two_phase(&self, gid: impl Into<String>) -> Draft {
        Draft::new(self.clone(), gid.into(), Mode::TwoPhaseCommit)
    }

    /// Prepares a saga under the name `gid`, as [`Self::tcc`] does: described as a whole by
    /// [`Draft::steps`] and submitted, or [begun](Draft::begin) and driven step by step. A coordinator
    /// that serves no sagas refuses it, with the reason `FEATURE_UNSUPPORTED`.
    pub fn saga(&self, gid: impl Into<String>) -> Draft {
        Draft::new(self.clone(), gid.into(), Mode::Saga)
    }
}
