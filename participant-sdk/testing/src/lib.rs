//! Test what takes part in Unanimo's transactions: your own handlers, and what uses them.
//!
//! - [`Harness`] drives a participant's handlers through what networks and crashes do to them, looks
//!   at the data, and says in words which guarantee a handler breaks.
//! - [`Coordinator`] is a whole coordinator inside the test's process, on a temporary file and free
//!   ports.
//!
//! # Are my handlers right?
//!
//! The SDK's barrier keeps duplicates and wrong orders away from a handler. What it cannot keep away
//! is a `cancel` that forgets something, a `confirm` that does not match its `try_`, or work that is
//! done past the connection that a handler is given. So tell the harness how to make your participant
//! on fresh data, and how to look at the data:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use sqlx::{Connection, SqliteConnection};
//! use unanimo_sdk::{
//!     BoxError, Call, Json, Participant, PhaseTwoError, PrepareError, Sqlite, Tcc, fail, refuse,
//! };
//! use unanimo_testing::{Harness, Subject};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     pieces: i64,
//! }
//!
//! // Your handlers, as your program has them.
//! struct Reserve;
//!
//! impl Tcc<Sqlite> for Reserve {
//!     type Payload = Json<Order>;
//!     type Output = ();
//!
//!     async fn try_(
//!         &self,
//!         db: &mut SqliteConnection,
//!         order: &Call<Json<Order>>,
//!     ) -> Result<(), PrepareError> {
//!         let take = "UPDATE stock SET free = free - $1, reserved = reserved + $1
//!                     WHERE free >= $1 AND $1 > 0";
//!         let taken = sqlx::query(take).bind(order.payload.pieces).execute(db).await?;
//!         match taken.rows_affected() {
//!             0 => refuse("SOLD_OUT", "too few left"),
//!             _ => Ok(()),
//!         }
//!     }
//!
//!     async fn confirm(
//!         &self,
//!         db: &mut SqliteConnection,
//!         order: &Call<Json<Order>>,
//!         (): (),
//!     ) -> Result<(), PhaseTwoError> {
//!         let sell = "UPDATE stock SET reserved = reserved - $1 WHERE reserved >= $1";
//!         let sold = sqlx::query(sell).bind(order.payload.pieces).execute(db).await?;
//!         if sold.rows_affected() == 1 { Ok(()) } else { fail("what was reserved is gone") }
//!     }
//!
//!     async fn cancel(
//!         &self,
//!         db: &mut SqliteConnection,
//!         order: &Call<Json<Order>>,
//!         (): (),
//!     ) -> Result<(), PhaseTwoError> {
//!         let back = "UPDATE stock SET reserved = reserved - $1, free = free + $1
//!                     WHERE reserved >= $1";
//!         let done = sqlx::query(back).bind(order.payload.pieces).execute(db).await?;
//!         if done.rows_affected() == 1 { Ok(()) } else { fail("what was reserved is gone") }
//!     }
//! }
//!
//! // The shop on data of its own, as often as the harness needs one.
//! struct Shop {
//!     folder: tempfile::TempDir,
//! }
//!
//! impl Shop {
//!     async fn database(&self) -> Result<SqliteConnection, sqlx::Error> {
//!         let file = self.folder.path().join("shop.db");
//!         SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", file.display())).await
//!     }
//! }
//!
//! impl Subject for Shop {
//!     type Resource = Sqlite;
//!
//!     async fn fresh() -> Result<Self, BoxError> {
//!         let shop = Shop { folder: tempfile::tempdir()? };
//!         let stock = "CREATE TABLE stock (free integer, reserved integer);
//!                      INSERT INTO stock VALUES (100, 0)";
//!         sqlx::raw_sql(stock).execute(&mut shop.database().await?).await?;
//!         Ok(shop)
//!     }
//!
//!     async fn participant(&self) -> Result<Participant<Sqlite>, BoxError> {
//!         let database = Sqlite::open(self.folder.path().join("shop.db")).await?;
//!         Ok(Participant::new("shop", database).tcc("reserve", Reserve))
//!     }
//!
//!     async fn observe(&self) -> Result<String, BoxError> {
//!         let stock = sqlx::query_as("SELECT free, reserved FROM stock");
//!         let (free, reserved): (i64, i64) = stock.fetch_one(&mut self.database().await?).await?;
//!         Ok(format!("free {free}, reserved {reserved}"))
//!     }
//! }
//!
//! #[tokio::main] // In your tests: #[tokio::test].
//! async fn main() {
//!     let report = Harness::<Shop>::tcc("reserve")
//!         .payload(Json(Order { pieces: 2 }))
//!         .refused_payload(Json(Order { pieces: 1000 }))
//!         .effect("free 98, reserved 0")
//!         .run()
//!         .await;
//!     report.assert_passed();
//! }
//! ```
//!
//! A `cancel` that forgets `free = free + $1` is told so:
//!
//! ```text
//! FAILED   cancel-undoes: `cancel` does not undo what `try_` did:
//!          before  free 100, reserved 0
//!          after   free 98, reserved 0
//! ```
//!
//! Each check has a participant on fresh data: calls once; calls several times, eight at once, and out
//! of order; refuses; rolls the local transaction back between the handler and its commit; ends the
//! participant's process at many moments of each call (each life of it has a runtime of its own, which
//! is dropped) and starts it again on the same data; runs transactions beside each other. After each
//! of these the data must be what one undisturbed transaction leaves, or what was there before. Then
//! the answers are driven through the list of `unanimo participant check`. It takes some seconds. A check whose
//! crashes have all come before or after the call that they were meant for is skipped, and says so.
//!
//! # Steps of sagas
//!
//! [`Harness::saga`] tests `run` and `compensate`. A step is sent no Commit, so `effect` is what `run` leaves.
//! Give it what it reads of earlier steps: `.input("ticket", Json(…))`. Beside the checks above it is asked for
//! without its inputs, and as a step after a pivot, which must succeed: a refusal leaves nothing, and is
//! no vote.
//!
//! # What it cannot see
//!
//! Effects that [`Subject::observe`] does not show: a mail that was sent, a call to a payment service.
//! Give such a service an idempotency key made of `tx_id` and `branch_id`, and let `observe` show how
//! often it was asked.
//!
//! # A coordinator for tests of whole transactions
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use unanimo_testing::Coordinator;
//!
//! let coordinator = Coordinator::start().await?;
//! // Participants register with `coordinator.endpoint()`, initiators submit through
//! // `coordinator.client()?`; `coordinator.crash()` ends it in the middle of things and starts it
//! // again on the same file.
//! coordinator.stop().await?;
//! # Ok(())
//! # }
//! ```

mod bench;
mod checks;
mod coordinator;
mod harness;
mod lives;
mod report;
mod subject;

pub use unanimo_conformance::{Checked, Report as ProtocolReport, Verdict};

pub use self::coordinator::{Coordinator, Error};
pub use self::harness::Harness;
pub use self::report::Report;
pub use self::subject::Subject;
