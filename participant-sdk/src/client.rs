//! Starting transactions, and learning their outcomes.

mod action;
mod calls;
mod draft;
mod error;
mod interactive;
mod lock;
mod lookup;
mod nodes;
mod outcome;
mod output;
mod requires;
mod retry;
mod server;
mod step;
mod steps;

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use unanimo_proto::v1::Mode;
pub use unanimo_proto::v1::{AbortCause, Compensation, Heuristic, ServerLimits};

pub use self::action::{Inputs, StepAction};
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) use self::calls::jittered;
pub use self::draft::Draft;
pub use self::error::{BadField, Error, NodeGroup};
pub use self::interactive::{Executed, PreparedStep, Transaction};
pub use self::lock::Lock;
pub use self::lookup::{Find, Rollback};
use self::nodes::Nodes;
pub use self::outcome::{Aborted, BranchOutcome, Committed, NotDecided, Outcome};
pub use self::output::{Output, OutputError, StepOutput};
pub use self::retry::Retry;
pub use self::server::ServerInfo;
pub use self::step::{Action, Nested, Step, StepRef};
pub use self::steps::{Child, Steps};
use crate::channel::{Coordinator, Route};

/// Bytes of a gRPC message: the coordinator's default, which every answer that its default limits allow
/// fits into.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Many unread small messages must not end a connection.
const WINDOW_BYTES: u32 = 64 << 20;

/// Longest wait of a call if nothing else is said.
const WAIT_DEFAULT: Duration = Duration::from_secs(60);

/// Longest wait that can be set, and for ever in effect: clocks can still add it, and gRPC can write it.
const WAIT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A coordinator's client. Cheap to clone.
///
/// Calls whose answer is lost are sent again until [`Self::wait_at_most`] is over: every call is
/// idempotent, by the transaction's gid and the branch's id.
#[derive(Clone, Debug)]
pub struct Client {
    nodes: Nodes,
    wait_max: Duration,
}

impl Client {
    /// A client of the coordinator at `http://HOST:PORT` or `https://HOST:PORT`. It connects when it is first used.
    ///
    /// # Errors
    /// The endpoint is none.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(endpoint: impl Into<String>) -> Result<Self, Error> {
        Self::of([Coordinator::at(endpoint)])
    }

    /// A client of the coordinator behind this channel: one over a proxy, say. See [`Coordinator`].
    #[must_use]
    pub fn with_channel(channel: Channel) -> Self {
        let route = Coordinator::through(channel).route(std::convert::identity);
        Self::through(route.into_iter().collect())
    }

    /// A client of several nodes of **one** coordinator group. It stays with the one that answers; where that
    /// fails, or says "not now", the next attempt goes to the next one.
    ///
    /// The client asks each node for its group before it sends it anything: a node of another group would begin
    /// the transaction once more. Nodes that name several groups at the first call make every call fail with
    /// [`Error::OtherGroup`], which names them. One that turns out later to be of another group, because it was
    /// down or has moved, is left out, and an error in the log names it. A client does not know its group
    /// before one node has answered: tell it with [`Self::group`] where a node of another group could be the
    /// only one that is up when the process starts.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), unanimo_sdk::client::Error> {
    /// let client = unanimo_sdk::Client::of(["http://node-a:7610", "http://node-b:7610"])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// There is none, or an address is none.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn of(
        coordinators: impl IntoIterator<Item = impl Into<Coordinator>>,
    ) -> Result<Self, Error> {
        let wide = |endpoint: Endpoint| {
            endpoint
                .initial_connection_window_size(WINDOW_BYTES)
                .initial_stream_window_size(WINDOW_BYTES)
        };
        let routes = coordinators.into_iter().map(|coordinator| coordinator.into().route(wide));
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        if routes.is_empty() {
            let rule = "there must be one at least".to_owned();
            return Err(Error::Endpoint { endpoint: String::new(), rule });
        }
        Ok(Self::through(routes))
    }

    fn through(routes: Vec<Route>) -> Self {
        Self { nodes: Nodes::new(routes, MESSAGE_BYTES_MAX), wait_max: WAIT_DEFAULT }
    }

    /// Tells it the group that its coordinators must be of, as `unanimo tx server` and [`Self::server_info`]
    /// name it. Nothing is sent to one of another group. If all are of others, each call fails with
    /// [`Error::OtherGroup`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), unanimo_sdk::client::Error> {
    /// let client = unanimo_sdk::Client::of(["http://node-a:7610", "http://node-b:7610"])?;
    /// let client = client.group("c0123456789ab");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn group(mut self, cluster_id: impl Into<String>) -> Self {
        self.nodes.group(cluster_id.into());
        self
    }

    /// Runs this on every call before it is sent, whichever node it goes to: see
    /// [`Coordinator::intercept`].
    #[must_use]
    pub fn intercept(
        mut self,
        interceptor: impl Fn(Request<()>) -> Result<Request<()>, Status> + Send + Sync + 'static,
    ) -> Self {
        self.nodes.intercept(interceptor);
        self
    }

    /// Bounds the wait of a call for its answer, with all its repetitions. Default 60 s. It has nothing
    /// to do with the transaction's own [timeout](Draft::timeout): a call that ends, ends no
    /// transaction.
    #[must_use]
    pub fn wait_at_most(mut self, wait: Duration) -> Self {
        self.wait_max = wait.min(WAIT_MAX);
        self
    }

    /// Bounds a gRPC message, in either direction. Default 8 MiB, the coordinator's default. A larger answer
    /// cannot be read, and what became of its call is then not known: set it as high as the coordinator's
    /// setting `message-bytes-max`.
    #[must_use]
    pub fn message_bytes_at_most(mut self, bytes: usize) -> Self {
        self.nodes.message_bytes_at_most(bytes);
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
