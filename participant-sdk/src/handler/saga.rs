//! Steps of sagas, as a participant writes them.

use super::{Call, Isolation, PhaseTwoError, PrepareError};
use crate::payload::{Decode, Encode};
use crate::resource::Resource;

/// A step of a saga: an action that is done for good, and another one that makes up for it.
///
/// Both run in local transactions as the methods of [`Tcc`](crate::Tcc) do, with the same guards: a handler need
/// not check whether it ran before, or whether it is compensated before it ran. What a handler never does is
/// [said there](crate::Tcc#what-a-handler-never-does).
pub trait Saga<R: Resource>: Send + Sync + 'static {
    /// The action's argument, as in [`Tcc`](crate::Tcc).
    type Payload: Decode + Send + Sync + 'static;
    /// Result of `run`: kept with the branch, sent to the initiator, and given to `compensate`. Its size is
    /// that of [`Tcc::Output`](crate::Tcc::Output).
    type Output: Encode + Decode + Send + Sync + 'static;

    /// Does the work. It is committed at once, and everybody sees it.
    ///
    /// # Errors
    /// As of [`Tcc::try_`](crate::Tcc::try_).
    fn run(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
    ) -> impl Future<Output = Result<Self::Output, PrepareError>> + Send;

    /// Makes up for the work of `run`. Runs only after it, and has its effect once.
    ///
    /// # Errors
    /// It is called again until it succeeds.
    fn compensate(
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

/// A step of a saga that works outside of the participant's database, too. Guarantees and costs are those of
/// [`TccOutside`](crate::TccOutside), and `compensate` is its `cancel`.
///
/// One thing differs: a no to work that [must succeed](Call::must_succeed) is no vote, so that nothing is
/// undone before it. The call comes again.
pub trait SagaOutside<R: Resource>: Send + Sync + 'static {
    /// The action's argument, as in [`Saga`].
    type Payload: Decode + Send + Sync + 'static;
    /// Result of `run`, as in [`Saga`].
    type Output: Encode + Decode + Send + Sync + 'static;

    /// Does the work, in the database and outside of it.
    ///
    /// # Errors
    /// As of [`TccOutside::try_`](crate::TccOutside::try_).
    fn run(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
    ) -> impl Future<Output = Result<Self::Output, PrepareError>> + Send;

    /// Makes up for the work of `run`, if it was done. `None` tells that the database holds nothing of it: it
    /// never ran, it is undone, or it died.
    ///
    /// # Errors
    /// It is called again until it succeeds.
    fn compensate(
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

/// A step of a saga that nothing makes up for: a mail, or what follows a pivot.
///
/// It is for branches that their saga declares without a compensation: such a step is never sent Cancel
/// after it has run. A Cancel may still come for one that has not run, or whose vote the coordinator
/// does not know; where it has not run, that is done without a handler, and keeps it from running later.
/// A Cancel that finds it done is a mistake of the saga's definition: it is not answered, and is sent
/// again until an operator resolves it, or the action is offered as [`Saga`].
///
/// ```
/// # #[cfg(feature = "sqlite")] mod example {
/// use serde::Deserialize;
/// use sqlx::SqliteConnection;
/// use unanimo_sdk::{Call, Json, PrepareError, Sqlite, Uncompensated};
///
/// #[derive(Deserialize)]
/// struct Ticket {
///     number: i64,
/// }
///
/// struct Print;
///
/// impl Uncompensated<Sqlite> for Print {
///     type Payload = ();
///     type Output = ();
///
///     async fn run(&self, db: &mut SqliteConnection, call: &Call<()>) -> Result<(), PrepareError> {
///         let ticket: Json<Ticket> = call.input("ticket")?;
///         let print = sqlx::query("INSERT INTO printed (ticket) VALUES ($1)");
///         print.bind(ticket.number).execute(db).await?;
///         Ok(())
///     }
/// }
/// # }
/// ```
pub trait Uncompensated<R: Resource>: Send + Sync + 'static {
    /// The action's argument, as in [`Saga`].
    type Payload: Decode + Send + Sync + 'static;
    /// Result of `run`: kept with the branch, and sent to the initiator and to later steps. Its size is
    /// that of [`Tcc::Output`](crate::Tcc::Output).
    type Output: Encode + Decode + Send + Sync + 'static;

    /// Does the work. It is committed at once, and stays.
    ///
    /// # Errors
    /// As of [`Saga::run`].
    fn run(
        &self,
        db: &mut R::Connection,
        call: &Call<Self::Payload>,
    ) -> impl Future<Output = Result<Self::Output, PrepareError>> + Send;

    /// In which isolation its transactions run.
    fn isolation(&self) -> Isolation {
        Isolation::ReadCommitted
    }
}
