//! Handlers, which a participant writes, and their answers.

mod closures;
mod input;
mod outside;
mod saga;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

pub use self::closures::{Argument, Handles, NotDone, fail, working};
pub use self::input::InputError;
pub use self::outside::{SagaOutside, TccOutside};
pub use self::saga::{Saga, Uncompensated};
use crate::payload::{Decode, Encode, Payload};
use crate::refusal::Refusal;
use crate::resource::Resource;
#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::resource::TwoPhaseResource;

/// A branch of a transaction: what a handler works for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The transaction. With `branch_id` the idempotency key for effects outside the database.
    pub tx_id: Uuid,
    /// The initiator's name for the transaction.
    pub gid: String,
    /// The branch.
    pub branch_id: String,
    /// The branch's number within the transaction, from 1.
    pub number: u32,
    /// The coordinator group that the transaction belongs to.
    pub cluster_id: String,
    /// This participant, as the coordinator names it.
    pub participant: String,
}

/// A call of a handler.
#[derive(Clone, Debug)]
pub struct Call<P> {
    /// Whose it is.
    pub branch: Branch,
    /// Name of the work.
    pub action: String,
    /// The action's argument.
    pub payload: P,
    /// Metadata of the transaction, as the initiator gave them.
    pub metadata: HashMap<String, String>,
    /// Number of this attempt, as far as the coordinator remembers; from 1.
    pub attempt: u32,
    pub(crate) must_succeed: bool,
    pub(crate) deadline: Option<SystemTime>,
    pub(crate) inputs: Arc<HashMap<String, Payload>>,
}

impl<P> Call<P> {
    /// Returns the transaction's deadline for its Prepares, with the coordinator's allowance for clocks that
    /// differ: past it no Prepare is taken, and the transaction is aborted unless it is decided. It is
    /// absent where there is none, as behind a saga's pivot, and in phase two after COMMIT. A handler may
    /// bound by it what it waits for.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        self.deadline
    }

    /// Tells whether the work may only succeed: the transaction can no longer be aborted, as a saga
    /// after its pivot. A handler may still refuse. That is then no vote: it is not stored, the
    /// coordinator raises an alarm, and the call comes again.
    #[must_use]
    pub fn must_succeed(&self) -> bool {
        self.must_succeed
    }
}

/// An action of a TCC transaction: try, confirm, cancel.
///
/// Each method runs in a local transaction of the participant's database, which the SDK begins,
/// guards against duplicates and wrong orders, and commits: use `db` for everything, and neither
/// commit nor roll back. A handler need not check whether it ran before, or whether its `cancel`
/// came first.
///
/// # What a handler never does
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
/// It never blocks its thread: an operation that takes too long is
/// [ended](crate::Participant::overtime) where it awaits something.
///
/// Work outside of the database, such as a request to another service, is [`TccOutside`].
pub trait Tcc<R: Resource>: Send + Sync + 'static {
    /// Type of the action's argument: [`Json`](crate::Json), [`Prost`](crate::Prost),
    /// [`Payload`], [`Bytes`](bytes::Bytes) or `()`. An argument that cannot be read is
    /// refused before the handler.
    type Payload: Decode + Send + Sync + 'static;
    /// Result of `try_`: kept with the branch and its media type, sent to the initiator, and given to
    /// `confirm` and `cancel`. At most 1 MiB.
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

/// Defines [`TwoPhase`]. Where PostgreSQL is not built in, every handler names its database.
#[cfg(any(feature = "mysql", feature = "postgres"))]
macro_rules! two_phase {
    ($($default:ty)?) => {
        /// An action of a two-phase commit: ordinary work in a local transaction, which the database
        /// prepares, and commits or rolls back by the coordinator's word.
        ///
        /// `TwoPhase<Postgres>`, or `TwoPhase` for short, uses `PREPARE TRANSACTION`; `TwoPhase<MySql>` uses
        /// XA transactions. There, only what a handler has *changed* stays locked: a server that was restarted
        /// has forgotten the locks of rows that were only read (`FOR UPDATE`), and of gaps between rows. And
        /// there, what commits implicitly (DDL, `LOCK TABLES`) is refused by the server, and is a vote no.
        pub trait TwoPhase<R: TwoPhaseResource $(= $default)?>: Send + Sync + 'static {
            /// The action's argument, as in [`Tcc`].
            type Payload: Decode + Send + Sync + 'static;

            /// Does the work. Rows that it changes stay locked until the transaction has ended.
            ///
            /// # Errors
            /// As of [`Tcc::try_`].
            fn prepare(
                &self,
                db: &mut R::Connection,
                call: &Call<Self::Payload>,
            ) -> impl Future<Output = Result<(), PrepareError>> + Send;

            /// Tells whether it only reads. Its transactions are then read-only, it votes READ_ONLY, and no
            /// phase two is owed to it.
            fn read_only(&self) -> bool {
                false
            }

            /// In which isolation its transactions run.
            fn isolation(&self) -> Isolation {
                Isolation::ReadCommitted
            }
        }
    };
}

#[cfg(feature = "postgres")]
two_phase!(crate::Postgres);
#[cfg(all(feature = "mysql", not(feature = "postgres")))]
two_phase!();

/// Isolation of a handler's local transaction. SQLite's are always serializable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED.
    #[default]
    ReadCommitted,
    /// REPEATABLE READ. A serialization failure is no vote: the call comes again.
    RepeatableRead,
}

/// Votes no: `return refuse("INSUFFICIENT_FUNDS", "…")`.
///
/// # Errors
/// Always.
pub fn refuse<T>(reason: impl Into<String>, message: impl Into<String>) -> Result<T, PrepareError> {
    Err(PrepareError::Refused(Refusal::new(reason, message)))
}

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Phase one of a branch without a yes. Every error becomes [`PrepareError::Failed`] by `?`.
#[derive(Debug)]
pub enum PrepareError {
    /// The vote no.
    Refused(Refusal),
    /// No vote yet: to be called again after this time.
    Working(Duration),
    /// No vote: something went wrong, and it is to be called again.
    Failed(BoxError),
}

/// Phase two of a branch that is not done. Every error becomes [`PhaseTwoError::Failed`] by `?`.
#[derive(Debug)]
pub enum PhaseTwoError {
    /// To be called again after this time.
    Working(Duration),
    /// Something went wrong: to be called again.
    Failed(BoxError),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for PrepareError {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for PhaseTwoError {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.branch_id, self.tx_id)
    }
}
