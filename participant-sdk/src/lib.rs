//! Take part in, and start, all-or-nothing transactions across services that each own their data.
//!
//! A *participant* registers handlers for its actions with a coordinator. An *initiator* asks the
//! coordinator for a transaction of such actions: it commits only if every participant votes yes.
//! Whatever dies at whatever moment, each branch that voted yes is committed once or cancelled once.
//!
//! # A participant and an initiator
//!
//! ```
//! # #[cfg(feature = "sqlite")] mod example {
//! use serde::{Deserialize, Serialize};
//! use unanimo_sdk::{Client, Json, Participant, Serve, Sqlite, fail, refuse};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     item: String,
//!     pieces: i64,
//! }
//!
//! # pub async fn run(coordinator: &str, file: &str) -> Result<(), Box<dyn std::error::Error>> {
//! # let setup = sqlx::SqlitePool::connect(&format!("sqlite:{file}?mode=rwc")).await?;
//! # sqlx::raw_sql("CREATE TABLE stock (item text PRIMARY KEY, free integer, reserved integer);
//! #                INSERT INTO stock VALUES ('lamp', 5, 0)").execute(&setup).await?;
//! // The participant: its name, its data, its actions, and where it listens.
//! let mut shop = Participant::new("shop", Sqlite::open(file).await?)
//!     .tcc_fn("reserve", async |db, Json(order): Json<Order>| {
//!         let take = "UPDATE stock SET free = free - $2, reserved = reserved + $2
//!                     WHERE item = $1 AND free >= $2 AND $2 > 0";
//!         let taken = sqlx::query(take).bind(&order.item).bind(order.pieces).execute(db).await?;
//!         match taken.rows_affected() {
//!             0 => refuse("SOLD_OUT", format!("too few {} left", order.item)),
//!             _ => Ok(()),
//!         }
//!     })
//!     // What was reserved must be there: else the call comes again, until somebody looks at it.
//!     .confirm(async |db, Json(order)| {
//!         let sell = "UPDATE stock SET reserved = reserved - $2
//!                     WHERE item = $1 AND reserved >= $2";
//!         let sold = sqlx::query(sell).bind(order.item).bind(order.pieces).execute(db).await?;
//!         if sold.rows_affected() == 1 { Ok(()) } else { fail("the item is gone") }
//!     })
//!     .cancel(async |db, Json(order)| {
//!         let back = "UPDATE stock SET reserved = reserved - $2, free = free + $2
//!                     WHERE item = $1 AND reserved >= $2";
//!         let done = sqlx::query(back).bind(order.item).bind(order.pieces).execute(db).await?;
//!         if done.rows_affected() == 1 { Ok(()) } else { fail("the item is gone") }
//!     })
//!     .serve(Serve::on("127.0.0.1:0").register_with(coordinator))
//!     .await?;
//! shop.registered().await?;
//!
//! // The initiator: a transaction under a name of its own, here with one branch.
//! let lamps = Json(Order { item: "lamp".into(), pieces: 2 });
//! let outcome = Client::new(coordinator)?
//!     .tcc("order-4711")
//!     .branch("stock", "shop", "reserve", lamps)
//!     .submit()
//!     .await?;
//! assert!(outcome.is_committed());
//! # shop.stop().await?;
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
//! #     let file = folder.path().join("shop.db");
//! #     example::run(&format!("http://{address}"), &file.display().to_string()).await?;
//! #     running.stop().await?;
//! #     Ok(())
//! # }
//! # #[cfg(not(feature = "sqlite"))]
//! # fn main() {}
//! ```
//!
//! The local transaction that a handler works in also holds the *barrier*: a row for the branch in
//! the table `unanimo_barrier` of the participant's own database. By it a call that comes twice has
//! its effect once and gets the same answer, a Cancel that overtakes its Prepare wins, and a vote is
//! durable before it is answered. A handler does its own work and nothing of that.
//!
//! # Closures and traits
//!
//! A handler is closures in the simple case, as above: [`Participant::tcc_fn`], [`Participant::saga_fn`],
//! [`Participant::uncompensated_fn`] and [`Participant::two_phase_fn`]. It is a type with a trait of its mode where it
//! has more to say. Either answers alike: `Ok` with the output, [`refuse`] for the vote no, `?` or [`fail()`] for what may
//! pass, [`working`] for "not yet". Written for any [`Resource`] whose connection has what it needs, the same
//! handler serves several databases.
//!
//! Work that is done outside of the participant's database, too, is [`TccOutside`] or [`SagaOutside`].
//!
//! # Which mode
//!
//! - **TCC** ([`Tcc`], [`Client::tcc`]): `try_` reserves in a local transaction that is committed at
//!   once, so others see the reservation and no row stays locked; `confirm` and `cancel` end it.
//! - **Two-phase commit** ([`TwoPhase`], [`Client::two_phase`], PostgreSQL and MariaDB): the handler is
//!   ordinary work in a transaction; the database keeps it prepared, with its rows locked, until the
//!   decision.
//! - **Saga** ([`Saga`], [`Uncompensated`]): `run` does its work for good, in a local transaction of its
//!   own, and `compensate` makes up for it where the saga is given up. A step reads what earlier ones
//!   answered by [`Call::input`].
//!
//! # Two-phase commit
//!
//! One function, and nothing to undo: the database does that. PostgreSQL's `max_prepared_transactions`
//! must be set; MariaDB 10.5.2 and MySQL 8.0.30 are the first versions whose XA transactions can be relied
//! on. Both are looked at when the participant is made. On MariaDB and MySQL only rows that were
//! *changed* stay locked.
//!
//! ```
//! # #[cfg(feature = "postgres")] mod example {
//! use serde::Deserialize;
//! use unanimo_sdk::{Json, Participant, Postgres, Serve, Serving, refuse};
//!
//! #[derive(Deserialize)]
//! struct Posting {
//!     account: String,
//!     cents: i64,
//! }
//!
//! async fn serve(database: &str, coordinator: &str) -> Result<Serving, Box<dyn std::error::Error>> {
//!     let bank = Participant::new("bank", Postgres::connect(database).await?)
//!         .two_phase_fn("debit", async |db, Json(debit): Json<Posting>| {
//!             let take = "UPDATE account SET cents = cents - $2
//!                         WHERE id = $1 AND cents >= $2 AND $2 > 0";
//!             let taken = sqlx::query(take).bind(&debit.account).bind(debit.cents).execute(db).await?;
//!             match taken.rows_affected() {
//!                 0 => refuse("INSUFFICIENT_FUNDS", format!("{} has too little", debit.account)),
//!                 _ => Ok(()),
//!             }
//!         })
//!         .serve(Serve::on("127.0.0.1:7701").register_with(coordinator))
//!         .await?;
//!     Ok(bank)
//! }
//! # }
//! ```
//!
//! # A plain action, and what makes up for it
//!
//! Ordinary work that is committed at once, as a saga has it.
//!
//! ```
//! # #[cfg(feature = "postgres")] mod example {
//! use sqlx::PgConnection;
//! use unanimo_sdk::{Call, Json, PhaseTwoError, Postgres, PrepareError, Saga, fail};
//!
//! struct Book;
//!
//! impl Saga<Postgres> for Book {
//!     /// The seat.
//!     type Payload = Json<String>;
//!     /// The booking's number: kept with the branch, and given to `compensate`.
//!     type Output = Json<i64>;
//!
//!     async fn run(
//!         &self,
//!         db: &mut PgConnection,
//!         call: &Call<Json<String>>,
//!     ) -> Result<Json<i64>, PrepareError> {
//!         let book = sqlx::query_scalar("INSERT INTO booking (seat) VALUES ($1) RETURNING id");
//!         Ok(Json(book.bind(&*call.payload).fetch_one(db).await?))
//!     }
//!
//!     async fn compensate(
//!         &self,
//!         db: &mut PgConnection,
//!         _: &Call<Json<String>>,
//!         Json(booking): Json<i64>,
//!     ) -> Result<(), PhaseTwoError> {
//!         let cancel = "DELETE FROM booking WHERE id = $1";
//!         let cancelled = sqlx::query(cancel).bind(booking).execute(db).await?;
//!         // Else the call comes again, until somebody looks at it.
//!         if cancelled.rows_affected() == 1 { Ok(()) } else { fail("the booking is gone") }
//!     }
//! }
//! # }
//! ```
//!
//! A mail or a payment cannot be rolled back with a row. Give the remote side an idempotency key made of
//! [`Branch::tx_id`] and [`Branch::branch_id`], so that it does its part once however often it is asked.
//!
//! # Calls of one's own
//!
//! An initiator may also call services by itself, over gRPC or HTTP, and they call others: see
//! [`propagation`] for the two layers that carry the transaction along, and the votes back.
//!
//! # In a service of one's own
//!
//! A service that has a pool, a server and channels already brings them: [`Postgres::from_pool`] and
//! [`Postgres::connect_with`] (and those of the other databases), [`Service::server`] and
//! [`Service::register`], [`Client::with_channel`] and [`Coordinator`]. [`Metrics`] and the spans
//! `participant_operation` show what a participant does. Connections to PostgreSQL may be another crate's than
//! sqlx's: see [`driver`].
//!
//! # Which answer
//!
//! An initiator hears [`Outcome::Committed`], [`Outcome::Aborted`] or [`Outcome::NotDecided`]. The
//! last is no failure: the transaction goes on, and the same call, sent again, tells more.
//!
//! # In doubt
//!
//! A participant that was cut off from its coordinator, or whose database failed over, may hold a
//! branch that nobody will end any more. A sweeper finds it, asks, and ends it as it was decided;
//! what only a person can end raises an alarm. See [`participant`] for both, and for how long barrier
//! rows are kept.
//!
//! # Features
//!
//! - `postgres` (default): participants on PostgreSQL 13 or later.
//! - `tokio-postgres`: the same over the crates `tokio-postgres` and `deadpool-postgres`, whose connections
//!   handlers then work with. It includes `postgres`.
//! - `mysql`: participants on MariaDB 10.6 or later; tested on MariaDB 10.11. Or on MySQL
//!   8.0.16 or later; tested on MySQL 9.7. MySQL's passwords need TLS or a socket: RSA is left out.
//! - `sqlite`: participants on an SQLite file.
//! - `opentelemetry`: with a layer of the crate `tracing-opentelemetry` 0.34 in the subscriber, spans of handlers are
//!   children of the coordinator's, and calls to coordinators name the span that is entered. It is for the client, too.
//!
//! Without any of the databases, the crate is the client alone.

#[macro_use]
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
#[doc(hidden)]
pub mod crash;

mod causes;
mod channel;
pub mod client;
mod names;
mod panics;
mod payload;
pub mod propagation;
mod refusal;
mod status;

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod action;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod barrier;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod doubt;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod features;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod handler;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub mod participant;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod resource;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod two_phase;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod wire;

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
#[doc(hidden)]
pub use action::Interrupt;
pub use channel::Coordinator;
pub use client::{Client, Outcome};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use handler::TwoPhase;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use handler::{
    Argument, BoxError, Branch, Call, HandlerFn, Handles, InputError, Isolation, NotDone, Output,
    OutputFn, PhaseTwoError, PrepareError, Saga, SagaOutside, Tcc, TccOutside, Uncompensated, fail,
    refuse, working,
};
#[cfg(feature = "mysql")]
pub use mysql::{MySql, MySqlOptions};
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use participant::{
    Accept, InDoubt, Metrics, Participant, Register, Registration, Serve, Service, Serving, Sweep,
    Sweeper,
};
pub use payload::{Decode, Encode, Error as PayloadError, Json, Payload, Prost};
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresOptions, driver};
#[cfg(feature = "tokio-postgres")]
pub use postgres::{TokioConnection, TokioPostgres};
pub use refusal::Refusal;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use resource::Resource;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use resource::TwoPhaseResource;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use schema::Error as DatabaseError;
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;
pub use unanimo_proto as proto;
pub use unanimo_tls as tls;
