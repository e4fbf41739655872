//! Transactions that travel with an initiator's own calls.
//!
//! An initiator that calls services itself, and not through the coordinator, gives them its
//! transaction along: a [`ClientLayer`] puts the transaction's [`Context`] into headers of each call, a
//! [`ServerLayer`] takes it out again, and a service's own handler [joins](Joiner::join). On the way
//! back the reply's headers name the branches with their votes, those of calls further below too, and
//! [`Transaction::commit`](crate::client::Transaction::commit) lists them. gRPC metadata are headers of
//! HTTP: the layers fit tonic and axum, and clients of either.
//!
//! ```
//! # #[cfg(feature = "sqlite")] mod example {
//! # use std::error::Error;
//! # use sqlx::SqliteConnection;
//! # use unanimo_sdk::{Call, PhaseTwoError, PrepareError, Tcc};
//! # pub struct Reserve;
//! # impl Tcc<Sqlite> for Reserve {
//! #     type Payload = Json<String>;
//! #     type Output = ();
//! #     async fn try_(&self, _: &mut SqliteConnection, _: &Call<Json<String>>)
//! #         -> Result<(), PrepareError> { Ok(()) }
//! #     async fn confirm(&self, _: &mut SqliteConnection, _: &Call<Json<String>>, (): ())
//! #         -> Result<(), PhaseTwoError> { Ok(()) }
//! #     async fn cancel(&self, _: &mut SqliteConnection, _: &Call<Json<String>>, (): ())
//! #         -> Result<(), PhaseTwoError> { Ok(()) }
//! # }
//! use axum::Router;
//! use axum::extract::{Path, State};
//! use axum::http::{Request, StatusCode};
//! use axum::routing::post;
//! use tower::{ServiceBuilder, ServiceExt};
//! use unanimo_sdk::propagation::{Joiner, ServerLayer};
//! use unanimo_sdk::{Client, Json, Participant, Serve, Sqlite};
//!
//! // A shop: a participant that is served for the coordinator, and a service of its own.
//! async fn order(
//!     State(shop): State<Joiner<Sqlite>>,
//!     Path(item): Path<String>,
//! ) -> Result<&'static str, (StatusCode, String)> {
//!     let joined = shop.join("reserve", Json(item)).await;
//!     let joined = joined.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
//!     match joined.accepted() {
//!         Ok(_output) => Ok("reserved"),
//!         Err(refusal) => Err((StatusCode::CONFLICT, refusal.message)),
//!     }
//! }
//!
//! # pub async fn run(coordinator: &str, database: Sqlite) -> Result<(), Box<dyn Error>> {
//! let shop = Participant::new("shop", database).tcc("reserve", Reserve).service()?;
//! let mut serving = shop.serve(Serve::on("127.0.0.1:0").register_with(coordinator)).await?;
//! # serving.registered().await?;
//! let service = Router::new()
//!     .route("/order/{item}", post(order))
//!     .layer(ServerLayer::new())
//!     .with_state(shop.joiner(Client::new(coordinator)?));
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let shop = format!("http://{}", listener.local_addr()?);
//! # tokio::spawn(async move { axum::serve(listener, service).await });
//! # let executor = hyper_util::rt::TokioExecutor::new();
//! # let http = hyper_util::client::legacy::Client::builder(executor).build_http::<String>();
//!
//! // An initiator, with any client that is a tower service, such as a channel of tonic's.
//! let transaction = Client::new(coordinator)?.tcc("order-4711").begin().await?;
//! let http = ServiceBuilder::new().layer(transaction.propagation().layer()).service(http);
//! let request = Request::post(format!("{shop}/order/lamp")).body(String::new())?;
//! let response = http.oneshot(request).await?;
//! let outcome = match response.status() {
//!     StatusCode::OK => transaction.commit().await?,
//!     _ => transaction.rollback().await?,
//! };
//! assert!(outcome.is_committed() && outcome.deviation().is_none(), "{outcome}");
//! # serving.stop().await?;
//! # Ok(())
//! # }
//! # }
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     let folder = tempfile::tempdir()?;
//! #     let config = unanimo_coordinator::Config {
//! #         database_url: unanimo_coordinator::config::DatabaseUrl::new(
//! #             format!("sqlite:{}", folder.path().join("coordinator.db").display())),
//! #         listen: ([127, 0, 0, 1], 0).into(),
//! #         admin_listen: ([127, 0, 0, 1], 0).into(),
//! #         drain_timeout: unanimo_coordinator::config::Period::millis(100),
//! #         ..Default::default()
//! #     };
//! #     let running = unanimo_coordinator::Builder::new(config).start().await?;
//! #     let address = running.grpc_address().expect("it serves gRPC");
//! #     let database = unanimo_sdk::Sqlite::open(folder.path().join("shop.db")).await?;
//! #     example::run(&format!("http://{address}"), database).await?;
//! #     running.stop().await?;
//! #     Ok(())
//! # }
//! # #[cfg(not(feature = "sqlite"))]
//! # fn main() {}
//! ```
//!
//! A service in the middle wears both: its server the [`ServerLayer`], its clients a
//! [`ClientLayer::new`], which finds the transaction of the request that is being served. It need not
//! join itself. Work that it moves to a task of its own it takes along with [`Propagation::scope`].
//!
//! # Which calls count
//!
//! A transaction commits only if every branch that ever joined it is listed with its yes. So
//!
//! - a branch whose reply is lost is not listed, and one without a vote is listed so: either means
//!   ABORT. No vote is ever guessed;
//! - a call that **failed** leaves the transaction unable to commit if somebody had prepared for it:
//!   any status but 2xx, or but OK in gRPC, and any reply that breaks off, or is dropped by whoever
//!   was reading it. The call may be sent again, and then the work would be there twice. A service
//!   that wants to be counted answers with success;
//! - a call that is sent again joins with a new branch. Where retries are to succeed, the service
//!   joins under a name of the caller's ([`Joiner::join_as`]), and the two are one branch;
//! - a call that reached nobody, or whose service did not join, changes nothing.
//!
//! [`Transaction::commit`](crate::client::Transaction::commit) then answers
//! [`Outcome::Aborted`](crate::Outcome::Aborted), and everything that was prepared is cancelled.
//!
//! # Headers
//!
//! On a request, all or none of `unanimo-tx-id` (a UUID), `unanimo-gid`, `unanimo-mode` (the mode of the
//! branches that join: `tcc`, `2pc` or `saga`) and `unanimo-cluster-id`; `traceparent` and `tracestate` travel
//! with them, unless the caller has set its own. Another header whose name begins with `unanimo-` is
//! refused: a later version may put there what the request means. On a reply `unanimo-tx-id`, and
//! `unanimo-branches` with items `<branch_id>=<vote>` of at most 4,096 bytes together, where a vote is
//! `prepared`, `refused`, `read_only` or `none`. Trailers are not looked at for branches: what joins
//! after a reply's headers are sent is not listed.
//!
//! They are for services that trust each other. Take them off at the edge, as you do with other headers
//! of your own: whoever sends them can make a participant join a transaction of its coordinator, if it
//! guesses the transaction's UUID. An address never comes from a request: each participant knows its own
//! coordinator, and joins nothing of another cluster's.

mod branches;
mod client;
mod context;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod join;
mod reply;
mod scope;
mod server;
mod trace;

pub use self::branches::{BRANCHES, CallEnd};
pub use self::client::{ClientFuture, ClientLayer, ClientService};
pub use self::context::{CLUSTER_ID, Context, GID, MODE, Malformed, TX_ID};
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use self::join::{JoinError, Joined, Joiner};
pub use self::reply::Reply;
pub use self::scope::Propagation;
pub use self::server::{Answer, ServerFuture, ServerLayer, ServerService};
pub(crate) use self::trace::Trace;
