//! The database of a participant's data and barrier.

#[cfg(any(feature = "mysql", feature = "postgres"))]
mod follow;
mod local;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod options;

use std::future::Future;
use std::time::{Duration, SystemTime};

use unanimo_proto::v1;

#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::follow::follow;
pub(crate) use self::local::Local;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::options::{ACQUIRE_TIMEOUT, options};
use crate::action::Registered;
use crate::barrier::Losses;
use crate::doubt::Sweepable;
use crate::handler::{BoxError, Branch, Call};
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::schema::Error;

/// A database that a participant keeps its data in: `Postgres`, `MySql` or `Sqlite`, each there with
/// the crate's feature of that name.
///
/// PostgreSQL by the connections of another crate is `Postgres<D>`, for every `driver::Driver` `D`: that is the
/// trait to implement. This one is not.
pub trait Resource: Sweepable + Clone {
    /// Type that handlers work with: a connection inside the branch's local transaction.
    type Connection: Send + 'static;

    /// Returns how many Prepares, and how many Commits and Cancels, it does at once.
    #[doc(hidden)]
    fn slots(&self) -> Slots;

    /// Returns the id beside the barrier's table, once it is known.
    #[doc(hidden)]
    fn database_id(&self) -> Option<&str>;

    /// Asks where the database is: a copy of it, which has the same id, is elsewhere. `None` if the server does
    /// not tell.
    #[doc(hidden)]
    fn place(&self) -> impl Future<Output = Result<Option<String>, Fault>> + Send;

    /// Returns what handlers have lost and is not recorded yet.
    #[doc(hidden)]
    fn losses(&self) -> &Losses;

    /// Records all of that, and tells whether nothing is left.
    #[doc(hidden)]
    fn record_losses(&self) -> impl Future<Output = bool> + Send;

    /// The same on connections of its own, few of them: nothing that others do keeps the sweeper waiting.
    #[doc(hidden)]
    #[must_use]
    fn for_sweeper(&self) -> Self;

    /// Tells whether the barrier's table is as this version needs it.
    #[doc(hidden)]
    fn is_made(&self) -> bool;

    /// Makes or upgrades the barrier's table where that has had to wait.
    #[doc(hidden)]
    fn make(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Opens a connection for the service's own set-up, with a bound on each wait for a lock.
    #[doc(hidden)]
    fn to_set_up(&self) -> impl Future<Output = Result<Self::Connection, Error>> + Send;

    /// Tells whether such a wait has ended without the lock.
    #[doc(hidden)]
    fn is_locked_out(error: &BoxError) -> bool;

    /// Opens a session as operations have it, in each phase.
    #[doc(hidden)]
    fn is_there(&self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Phase one.
    #[doc(hidden)]
    fn prepare(
        &self,
        call: &RawCall,
        prepare_until: Option<SystemTime>,
        action: &Registered<Self::Connection>,
    ) -> impl Future<Output = Result<Voted, Fault>> + Send;

    /// Votes no without asking a handler, unless there is a vote already.
    #[doc(hidden)]
    fn refuse(
        &self,
        call: &RawCall,
        refusal: Refusal,
    ) -> impl Future<Output = Result<Voted, Fault>> + Send;

    /// Phase two.
    #[doc(hidden)]
    fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        call: &RawCall,
        action: Option<&Registered<Self::Connection>>,
    ) -> impl Future<Output = Result<PhaseTwoAnswer, Fault>> + Send;
}

/// A database that can prepare transactions, for two-phase commit: `Postgres` or `MySql`.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub trait TwoPhaseResource: Resource {
    /// Says why this server cannot, if it cannot.
    #[doc(hidden)]
    fn cannot_prepare(&self) -> Option<&str>;
}

/// Connections of a sweeper. It does one thing at a time, and a connection is given back behind its back.
pub(crate) const SWEEP_CONNECTIONS: u32 = 2;

pub(crate) mod sealed {
    /// Only the databases of this crate.
    pub trait Sealed {}
}

/// A call with its payload as it came, and the mode of its branch: `Unspecified` if it is not known here.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct RawCall {
    pub call: Call<Payload>,
    pub mode: v1::Mode,
    /// Features that the participant must know to do it.
    pub requires: Vec<String>,
    /// Until then a Prepare of this branch may come. It is stored with the branch's row.
    pub until: Option<SystemTime>,
    /// Most bytes of its output: a larger one would be no answer.
    pub output_max: Option<u64>,
}

impl RawCall {
    pub(crate) fn branch(&self) -> &Branch {
        &self.call.branch
    }
}

/// Operations at once. Phase two has its own: Prepares that wait for locks of branches in doubt
/// must not keep out the Commits that free them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    pub prepare: usize,
    pub phase_two: usize,
}

/// Operation of phase two.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseTwoOperation {
    Commit,
    Cancel,
}

/// A vote that is durable, or that there is none yet.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Voted {
    Prepared(Payload),
    ReadOnly,
    Refused(Refusal),
    Working(Duration),
}

/// An end that is durable, or that there is none yet.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhaseTwoAnswer {
    Done,
    Working(Duration),
    Heuristic(v1::HeuristicKind, String),
}

/// Failure to answer: the operation is to be sent again.
#[doc(hidden)]
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Another operation of the branch, or of the database, is at work.
    #[error("another operation is at work")]
    Busy,
    /// The handler's own error.
    #[error("the handler failed: {}", crate::causes::in_full(&**.0))]
    Handler(BoxError),
    /// The handler panicked, with this text.
    #[error("the handler panicked: {0}")]
    Panicked(String),
    /// The handler broke the rules of a handler, and nothing of its work is kept.
    #[error("the handler is wrong: {0}")]
    Wrong(&'static str),
    /// The handler has ended its local transaction, or let it be ended: what it left behind is not known.
    #[error("the handler is wrong: {0}")]
    Lost(&'static str),
    /// Neither the handler nor the database had come to an end by then.
    #[error("it was ended after {0:?}: neither the handler nor the database had answered")]
    Overtime(Duration),
    /// It was ended, has panicked, or has left a statement at work, and the database has not told since what has become of
    /// its transaction.
    #[error(
        "{0}; the database does not tell whether it was still in the transaction that it was given"
    )]
    Unseen(String),
    /// The handler does not return to its runtime, so that nothing can end it.
    #[error(
        "it has not returned after {0:?}: the handler blocks its thread, and holds its place among the operations \
         until it returns"
    )]
    Blocked(Duration),
    /// The action is not offered (any more), and its handler is needed.
    #[error("action {0} is not offered here, and its branch is prepared")]
    NotOffered(String),
    /// Something in the participant's set-up is wrong.
    #[error("{0}")]
    SetUp(String),
    /// The database answered a statement with this error.
    #[error("the database refused to {doing}: {text}")]
    Definite { doing: &'static str, code: String, text: String },
    /// The statement may have taken effect or not: its acknowledgement was lost.
    #[error("the database did not answer when asked to {doing}: {text}")]
    Indeterminate { doing: &'static str, text: String },
}

impl Fault {
    /// Tells whether the session that it was met in is known to be in order: the database has answered, and
    /// takes a ROLLBACK.
    pub(crate) fn leaves_a_clean_session(&self) -> bool {
        matches!(self, Self::Busy | Self::Definite { .. } | Self::SetUp(_))
    }
}
