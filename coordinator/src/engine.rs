//! The engine: owns live transactions, and turns the core's effects into writes, calls and timers.
//!
//! One loop (`service`) owns all of them and takes one message at a time; nothing in it waits for a
//! database or a participant. Each message becomes an input of the core; what the core answers goes
//! to the journal, and what must wait until that is durable is held (`live`). [`Handle`] checks
//! and admits requests, and finds transactions that are not in memory.

mod admission;
pub(crate) mod adoption;
pub(crate) mod children;
mod clock;
mod failing;
mod handle;
mod live;
mod message;
pub(crate) mod quotas;
mod service;
pub(crate) mod sleepers;
mod timers;
mod unread;
pub(crate) mod unreadable;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use unanimo_core::{
    BranchNumber, Decision, Enlistment, Input, Outcome, Phase, Rejection, Transaction, TxId,
    Version, Violation,
};

pub use self::admission::{Bounds, Overloaded};
pub(crate) use self::clock::Clock;
pub use self::handle::{BranchKey, Handle, Inquired, Verdict, Watched, Word};
pub(crate) use self::handle::{PEEK_MAX, Parts, WeakHandle, engine};
pub use self::quotas::{OverQuota, Owner};
pub use self::service::Service;
pub(crate) use self::service::survey::Survey;
use crate::identity::Quotas;
use crate::participants::directory;
use crate::store;

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Limits and pauses, as the core takes them.
    pub policy: unanimo_core::Policy,
    /// Bounds on what may be in flight.
    pub bounds: Bounds,
    /// Time to wait for a participant's answer before the call is sent again.
    pub call_timeout: Duration,
    /// Time after its end at which a transaction is deleted.
    pub gid_retention: Duration,
    /// Quotas of identities.
    pub(crate) quotas: Quotas,
}

/// State that a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All that is known so far is durable.
    Durable,
    /// The branch has voted, or the transaction is decided.
    Voted(BranchNumber),
    /// The transaction has its locks, or is decided: its initiator may call a participant.
    Locked,
    /// The transaction is a child, and has voted or ended; or it waits for time, for so long that it leaves memory.
    ChildVoted,
    /// The decision is durable.
    Decided,
    /// Every branch has ended.
    Ended,
}

impl Until {
    /// Returns the state that a caller of Enlist or Execute waits for. No vote of a branch that its
    /// initiator calls ever comes here.
    fn of_enlisting(enlistment: Enlistment, number: BranchNumber) -> Self {
        match enlistment {
            Enlistment::Coordinator => Self::Voted(number),
            Enlistment::Initiator => Self::Locked,
        }
    }

    /// Tells whether the transaction has got so far.
    pub(crate) fn is_reached(self, tx: &Transaction) -> bool {
        let decided = tx.phase().decision().is_some();
        match self {
            Self::Durable => true,
            Self::Voted(number) => {
                decided || tx.branch(number).is_none_or(|branch| branch.progress.vote.is_some())
            }
            Self::Locked => decided || tx.has_its_locks(),
            Self::ChildVoted => match tx.phase() {
                Phase::Scheduled | Phase::Active => false,
                // A refusal is told once everything is undone.
                Phase::Decided { decision, .. } => decision == Decision::Commit,
                Phase::InDoubt { .. } | Phase::Ended { .. } => true,
            },
            Self::Decided => decided,
            Self::Ended => tx.phase().ended_at().is_some(),
        }
    }
}

/// A transaction at a moment at which everything that anybody waits for is durable.
#[derive(Clone, Debug)]
pub struct View {
    /// The transaction.
    pub tx: Transaction,
    /// The last version that is durable. The transaction may be ahead of it by notes that nothing
    /// waits for, such as attempts; what follows after a crash has a later one.
    pub revision: Version,
    /// Its details are purged.
    pub stripped: bool,
    /// It waits for time alone, for so long that it leaves memory.
    pub is_asleep: bool,
}

/// Answer to a caller.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The transaction, whether or not what was waited for has come.
    View(Box<View>),
    /// Nothing can be said yet: ask again.
    NotYet(Option<TxId>),
}

/// Reason for which a request is not served.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request break rules.
    #[error("the request breaks {} rule(s): {}", .0.len(), join(.0))]
    Invalid(Vec<Violation>),
    /// Branches name participants that nobody knows.
    #[error("the request names {} unknown participant(s): {}", .0.len(), join(.0))]
    UnknownParticipants(Vec<Violation>),
    /// The core rejected it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The gid belongs to another request, durably.
    #[error("the gid is in use for another request: transaction {tx_id}")]
    GidReused {
        /// That request's transaction.
        tx_id: TxId,
        /// Its outcome, if it is decided.
        outcome: Option<Outcome>,
    },
    /// A branch names a participant that takes no new work.
    #[error(transparent)]
    Participant(#[from] directory::Error),
    /// Too much is in flight.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// Its initiator has as much open as it may have.
    #[error(transparent)]
    OverQuota(Box<OverQuota>),
    /// Nobody knows yet how much its initiator has open.
    #[error("it is not counted yet what is open of {}: send the request again", quotas::named(.0))]
    NotCounted(String),
    /// The coordinator is about to stop.
    #[error(
        "the coordinator is stopping: send the request again, to another node or after the restart"
    )]
    Draining,
    /// Nobody ever saw this transaction.
    #[error("no transaction of this tx_id was ever seen by the coordinator's database")]
    NeverSeen,
    /// No transaction has this gid.
    #[error(
        "no transaction has this gid: it was never seen, or was purged after the gid retention"
    )]
    UnknownGid,
    /// It ended so long ago that it was deleted.
    #[error("the transaction of this tx_id has ended, and was purged after the gid retention")]
    Purged,
    /// Its details were deleted.
    #[error("the transaction has ended, and its details were purged")]
    Stripped,
    /// The transaction is stored in a form that this version cannot read.
    #[error(transparent)]
    Unreadable(Box<store::Unreadable>),
    /// The store did not answer.
    #[error("the coordinator's database does not answer")]
    Store(#[source] Arc<store::Error>),
    /// The store does not answer in the time that the caller has.
    #[error("the coordinator's database did not answer within the time of the call")]
    StoreSilent,
    /// The database refuses what was to be written.
    #[error("the coordinator's database refuses to store the transaction: {0}")]
    Refused(String),
    /// The transaction moved while it was looked for.
    #[error("the transaction is moving between owners: send the request again")]
    Moving,
    /// The engine has ended.
    #[error("the coordinator has stopped")]
    Stopped,
}

/// Judges an input to a transaction that has ended and whose details are gone: its end answers what asks for the decision.
fn on_stripped(input: &Input) -> Result<(), Error> {
    match input {
        Input::CommitAsked { .. } | Input::RollbackAsked | Input::ParentDecided { .. } => Ok(()),
        _ => Err(Error::Stripped),
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unreadable(unreadable) => Self::Unreadable(unreadable),
            error => Self::Store(Arc::new(error)),
        }
    }
}

fn join(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
}
