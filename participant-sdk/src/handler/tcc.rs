//! Actions of TCC transactions, as a participant writes them.

use super::{Call, Isolation, PhaseTwoError, PrepareError};
use crate::payload::{Decode, Encode};
use crate::resource::Resource;

/// An action of a TCC transaction: try, confirm, cancel.
///
/// Each method runs in a local transaction of the participant's database, which the SDK begins,
/// guards against duplicates and wrong orders, and commits: use `db` for everything, and neither
/// commit nor roll back. A handler need not check whether it ran before, or whether its `cancel`
/// came first.
///
/// # What a handler never does
///
/// It never ends its transaction, or lets it be ended:
/// - no `COMMIT`, `ROLLBACK` or `PREPARE TRANSACTION`, and on MariaDB nothing that commits implicitly (DDL,
///   `LOCK TABLES`, `SET autocommit`);
/// - no `db.begin()` whose future may be dropped half way, as under `select!` or a timeout, and no transaction
///   of `db` that is forgotten (`std::mem::forget`);
/// - on SQLite no `ON CONFLICT ROLLBACK` and no `RAISE(ROLLBACK, …)`;
/// - it does not go on after a deadlock, or after an error of PostgreSQL without a savepoint of its own:
///   the work before it is undone.
///
/// The SDK finds out, and gives no yes. What the handler has committed stays: its branch is then a hazard,
/// and an alarm `handler_lost_transaction` is raised.
///
/// It never returns while a statement is at work whose future it has dropped, as under a timeout of its own: the database
/// is at it still. After a second it is ended, and there is no vote.
///
/// It never blocks its thread: an operation that takes too long is
/// [ended](crate::Participant::overtime) where it awaits something, and nothing else can end it. One that does not
/// return is told by an alarm `operation_overtime`, and holds its place among the operations until it does.
///
/// Work outside of the database, such as a request to another service, is [`TccOutside`].
pub trait Tcc<R: Resource>: Send + Sync + 'static {
    /// Type of the action's argument: [`Json`](crate::Json), [`Prost`](crate::Prost),
    /// [`Payload`](crate::Payload), [`Bytes`](bytes::Bytes) or `()`. An argument that cannot be read is
    /// refused before the handler.
    type Payload: Decode + Send + Sync + 'static;
    /// Result of `try_`: kept with the branch and its media type, sent to the initiator, and given to
    /// `confirm` and `cancel`. The coordinator passes on what is within its `output-bytes-max`, 1 MiB unless it is
    /// set otherwise; [`output_bytes_at_most`](crate::Participant::output_bytes_at_most) makes more a vote no.
    type Output: Encode + Decode + Send + Sync + 'static;

    /// Reserves: does the work so that it can be confirmed and can be cancelled, whatever happens.
    ///
    /// # Errors
    /// [`PrepareError::Refused`] is the vote no: what was written is undone. So is an error of the database
    /// that speaks of the work and would be raised again: a broken constraint, a value that does not fit, what
    /// a trigger raises. Any other error is no vote: what was written is undone, and the call comes again
    /// until the transaction's deadline.
    fn try_(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
    ) -> impl Future<Output = Result<Self::Output, PrepareError>> + Send;

    /// Makes the reservation final. Runs only after `try_`, and has its effect once.
    ///
    /// # Errors
    /// It is called again until it succeeds.
    fn confirm(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
        output: Self::Output,
    ) -> impl Future<Output = Result<(), PhaseTwoError>> + Send;

    /// Takes the reservation back. Runs only after `try_`, and has its effect once.
    ///
    /// # Errors
    /// It is called again until it succeeds.
    fn cancel(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
        output: Self::Output,
    ) -> impl Future<Output = Result<(), PhaseTwoError>> + Send;

    /// In which isolation its transactions run.
    fn isolation(&self) -> Isolation {
        Isolation::ReadCommitted
    }
}

/// An action of a TCC transaction that works outside of the participant's database, too: `try_` asks another
/// service to hold something.
///
/// A process that dies behind that request, and before its local transaction is committed, leaves nothing in
/// the database by which anybody could know of it. With [`Tcc`] a Cancel that finds no trace of
/// `try_` calls no handler. Here it calls [`cancel`](Self::cancel) with `None`.
///
/// # What is guaranteed
/// - Whatever is *not* confirmed is cancelled: `cancel` has succeeded before the participant answers that a
///   branch is cancelled, and before it stores a vote no, whoever votes it: the handler, the database, or the
///   deadline. A branch that voted no is sent no Cancel.
/// - `cancel` runs in a local transaction that holds the branch's row, as `try_` does. A `try_` that is at work
///   keeps it waiting, and a Cancel that waits too long is answered with "working" and comes again.
/// - That transaction leaves a tombstone. A `try_` that comes later is refused without a handler, and a Cancel
///   that comes again is done without one.
///
/// # What it costs
/// - **`cancel` must tolerate what never happened**, and say that it is done: a Cancel may come for a branch
///   whose `try_` was never called, and a no of `try_` may come before its request to the other service.
/// - **`cancel` is idempotent outside.** If the process dies behind it and before its commit, or the commit
///   fails, it is called again. What it does in the database is done once, as ever.
/// - **Every request has the branch's key**, [`Branch::tx_id`](crate::Branch::tx_id) and
///   [`Branch::branch_id`](crate::Branch::branch_id), and the other service keeps a key that was cancelled: a
///   request to hold that arrives later is refused there. Where a session ends before its request, the row is free
///   though the request of a `try_` may still be on its way: the process died, the operation was
///   [ended](crate::Participant::overtime), or the database ended the session (a time-out, a failover, a network
///   that was cut). Where the service cannot do that, bound the request, and let what it holds expire.
/// - The local transaction is open while the other service is waited for: its connection is in use, and on
///   SQLite nobody else writes. Give requests a time-out below
///   [`handler_timeout`](crate::Participant::handler_timeout).
/// - The action is offered until no transaction names it any more. A participant that does not offer it leaves
///   the tombstone alone. So does one that cannot read the payload.
///
/// ```
/// # #[cfg(feature = "sqlite")] mod example {
/// use sqlx::SqliteConnection;
/// use unanimo_sdk::{Branch, Call, Json, PhaseTwoError, PrepareError, Sqlite, TccOutside, refuse};
///
/// # struct Payments;
/// # impl Payments {
/// #     async fn hold(&self, _: &str, _: i64) -> Result<bool, std::io::Error> { Ok(true) }
/// #     async fn capture(&self, _: &str) -> Result<(), std::io::Error> { Ok(()) }
/// #     async fn release(&self, _: &str) -> Result<(), std::io::Error> { Ok(()) }
/// # }
/// struct Pay {
///     payments: Payments,
/// }
///
/// /// Key of the hold at the payment service.
/// fn key(branch: &Branch) -> String {
///     format!("{}/{}", branch.tx_id, branch.branch_id)
/// }
///
/// impl TccOutside<Sqlite> for Pay {
///     type Payload = Json<i64>;
///     type Output = ();
///
///     async fn try_(&self, _: &mut SqliteConnection, call: &Call<Json<i64>>) -> Result<(), PrepareError> {
///         match self.payments.hold(&key(&call.branch), *call.payload).await? {
///             true => Ok(()),
///             false => refuse("NO_MONEY", "the card is not covered"),
///         }
///     }
///
///     async fn confirm(
///         &self,
///         _: &mut SqliteConnection,
///         call: &Call<Json<i64>>,
///         (): (),
///     ) -> Result<(), PhaseTwoError> {
///         Ok(self.payments.capture(&key(&call.branch)).await?)
///     }
///
///     /// There may be no hold of this key. It is released all the same, and can never be made later.
///     async fn cancel(
///         &self,
///         _: &mut SqliteConnection,
///         call: &Call<Json<i64>>,
///         _: Option<()>,
///     ) -> Result<(), PhaseTwoError> {
///         Ok(self.payments.release(&key(&call.branch)).await?)
///     }
/// }
/// # }
/// ```
pub trait TccOutside<R: Resource>: Send + Sync + 'static {
    /// The action's argument, as in [`Tcc`].
    type Payload: Decode + Send + Sync + 'static;
    /// Result of `try_`, as in [`Tcc`].
    type Output: Encode + Decode + Send + Sync + 'static;

    /// Reserves, in the database and outside of it.
    ///
    /// # Errors
    /// As of [`Tcc::try_`]. Before a no is stored, [`cancel`](Self::cancel) is called.
    fn try_(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
    ) -> impl Future<Output = Result<Self::Output, PrepareError>> + Send;

    /// Makes the reservation final. Runs only after `try_`, and has its effect in the database once.
    ///
    /// # Errors
    /// It is called again until it succeeds.
    fn confirm(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
        output: Self::Output,
    ) -> impl Future<Output = Result<(), PhaseTwoError>> + Send;

    /// Takes the reservation back, if there is one. `None` tells that the database holds nothing of `try_`: it
    /// never ran, it is undone, or it died; take back what it may have done outside.
    ///
    /// # Errors
    /// It is called again until it succeeds.
    fn cancel(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
        output: Option<Self::Output>,
    ) -> impl Future<Output = Result<(), PhaseTwoError>> + Send;

    /// In which isolation its transactions run.
    fn isolation(&self) -> Isolation {
        Isolation::ReadCommitted
    }
}
