//! Coordinator of all-or-nothing transactions across services, as a library to embed in a program.
//!
//! The program `unanimo` (`coordinator/cli`) is a command line around this library. A program that
//! embeds it can do the same with transactions.
//!
//! # A coordinator and a participant in one process
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use tokio::time::Instant;
//! use unanimo_coordinator::config::DatabaseUrl;
//! use unanimo_coordinator::engine::{Answer, Until};
//! use unanimo_coordinator::{
//!     ActionName, BranchId, BranchSpec, Builder, Config, Definition, Drive, Gid, Mode, Outcome,
//!     ParticipantName, ParticipantService, Payload,
//! };
//!
//! # mod bank {
//! #     use tonic::{Request, Response, Status, async_trait};
//! #     use unanimo_proto::v1::*;
//! #     pub struct Bank;
//! #     #[async_trait]
//! #     impl unanimo_coordinator::ParticipantService for Bank {
//! #         async fn prepare(
//! #             &self,
//! #             _: Request<PrepareRequest>,
//! #         ) -> Result<Response<PrepareResponse>, Status> {
//! #             let yes = prepare_response::Answer::Prepared(Prepared::default());
//! #             Ok(Response::new(PrepareResponse { answer: Some(yes), ..Default::default() }))
//! #         }
//! #         async fn commit(
//! #             &self,
//! #             _: Request<CommitRequest>,
//! #         ) -> Result<Response<CommitResponse>, Status> {
//! #             let done = commit_response::Answer::Done(Done {});
//! #             Ok(Response::new(CommitResponse { answer: Some(done) }))
//! #         }
//! #         async fn cancel(
//! #             &self,
//! #             _: Request<CancelRequest>,
//! #         ) -> Result<Response<CancelResponse>, Status> {
//! #             let done = cancel_response::Answer::Done(Done {});
//! #             Ok(Response::new(CancelResponse { answer: Some(done) }))
//! #         }
//! #     }
//! # }
//! # async fn run(file: &str, bank: bank::Bank) -> Result<(), Box<dyn std::error::Error>> {
//! // Any implementation of the wire contract, such as the SDK's `Service`.
//! let bank: Arc<dyn ParticipantService> = Arc::new(bank);
//! let config = Config {
//!     database_url: DatabaseUrl::new(format!("sqlite:{file}")),
//!     ..Config::default()
//! };
//! let running = Builder::new(config)
//!     .participant(ParticipantName::new("bank")?, bank)
//!     .without_network()
//!     .start()
//!     .await?;
//!
//! let order = Definition {
//!     gid: Gid::new("order-4711")?,
//!     mode: Mode::Tcc,
//!     drive: Drive::Declarative,
//!     branches: vec![BranchSpec {
//!         branch_id: BranchId::new("pay")?,
//!         participant: ParticipantName::new("bank")?,
//!         action: ActionName::new("debit")?,
//!         payload: Payload { data: "10 EUR".into(), media_type: "text/plain".into() },
//!         mode: Mode::Tcc,
//!         step: Default::default(),
//!     }],
//!     timeout: None,
//!     start: Default::default(),
//!     locks: Vec::new(),
//!     parent: None,
//!     children: Vec::new(),
//!     metadata: Default::default(),
//!     trace: Default::default(),
//!     initiator: String::new(),
//! };
//! let patience = Instant::now() + Duration::from_secs(30);
//! match running.engine().begin(order, Until::Decided, patience).await? {
//!     Answer::View(view) => assert_eq!(view.tx.outcome(), Outcome::Committed),
//!     // The coordinator goes on: ask again with the same gid.
//!     _ => println!("not decided yet"),
//! }
//! running.stop().await?;
//! # Ok(())
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     let folder = tempfile::tempdir()?;
//! #     let file = folder.path().join("coordinator.db").display().to_string();
//! #     tokio::runtime::Runtime::new()?.block_on(run(&file, bank::Bank))
//! # }
//! ```
//!
//! With its network, [`Builder::start`] serves gRPC on `listen`, and health and metrics on
//! `admin-listen`. Settings come from code as above, or from a file and the environment:
//!
//! ```
//! use unanimo_coordinator::config::{Layer, Loaded};
//!
//! # fn main() -> Result<(), unanimo_coordinator::config::Error> {
//! let file = None; // or Some(Path::new("unanimo.toml"))
//! let config = Loaded::load(file, Layer::from_env()?, Layer::default())?.config;
//! # Ok(())
//! # }
//! ```
//!
//! Log lines are events of the crate `tracing`. Without a subscriber they are lost. The settings
//! `log` and `log-format` are for the program `unanimo`; your program configures its own
//! subscriber.
//!
//! # Feature flags
//!
//! - `otlp`: traces for a collector of OpenTelemetry, at the setting `otlp-endpoint`.
//! - `failpoints`: points at which a test can kill the process. Not for production builds.
//!
//! # Structure
//!
//! | module | contents |
//! | --- | --- |
//! | [`config`] | every setting, its sources and its rules |
//! | [`coordinator`] | [`Builder`] and [`Running`]: start and stop of everything |
//! | [`engine`] | live transactions; [`engine::Handle`] begins, ends and reads them |
//!
//! All other public items are for the program and for this repository's tests. They are not
//! documented, and change without notice.

#[macro_use]
#[doc(hidden)]
pub mod crash;
mod admin;
#[doc(hidden)]
pub mod advice;
#[doc(hidden)]
pub mod alarm;
#[doc(hidden)]
pub mod api;
#[doc(hidden)]
pub mod audit;
#[doc(hidden)]
pub mod cluster;
pub mod config;
pub mod coordinator;
mod dashboard;
mod descriptors;
pub mod engine;
mod entries;
#[doc(hidden)]
pub mod env;
#[doc(hidden)]
pub mod feed;
mod held;
#[doc(hidden)]
pub mod identity;
mod lines;
#[doc(hidden)]
pub mod metrics;
mod outbound;
#[doc(hidden)]
pub mod participants;
mod spans;
#[doc(hidden)]
pub mod store;
mod suspension;
#[doc(hidden)]
pub mod webhook;
mod wire;

#[doc(hidden)]
pub use api::joined_history;
pub use config::Config;
pub use coordinator::{Builder, Running};
#[doc(hidden)]
pub use dashboard::Recorded;
pub use participants::ParticipantService;
pub use unanimo_core::{
    ActionName, BranchId, BranchRequest, BranchSpec, Definition, Drive, Gid, Mode, Outcome,
    ParticipantName, Payload, TraceContext,
};
