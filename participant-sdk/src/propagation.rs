//! Transactions that travel with an initiator's own calls.
mod branches;
mod client;
mod context;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod join;
mod reply;
mod scope;
mod server;
mod trace;

pub use self::branches::{BRANCHES, CallEnd};
pub use self::client::{ClientFuture, ClientLayer, ClientService};
pub use self::context::{CLUSTER_ID, Context, GID, MODE, Malformed, TX_ID};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use self::join::{JoinError, Joined, Joiner};
pub use self::reply::Reply;
pub use self::scope::Propagation;
pub use self::server::{Answer, ServerFuture, ServerLayer, ServerService};
pub(crate) use self::trace::Trace;
