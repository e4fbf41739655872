//! Messages to the engine's loop.

use tokio::sync::{oneshot, watch};
use unanimo_core::{
    BranchNumber, BranchRequest, Call, Definition, Digests, Enlistment, Gid, Input, LockAnswer,
    LockRequest, Namespace, ParticipantName, PhaseTwoAnswer, PhaseTwoOperation, PrepareAnswer,
    Record, TxId, Version,
};

use super::admission::Permit;
use super::live::Watching;
use super::service::parking::Absence;
use super::service::survey::Survey;
use super::{Error, Until, View};
use crate::store::{GidHolder, Key};

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<Box<View>, Failure>>;

/// Reason for which the loop cannot answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// It says so itself.
    Error(Error),
    /// The transaction is not in memory (any more): it has to be looked for.
    NotLive,
    /// The gid belongs to this transaction. It may be another request's, and not durable: nothing of
    /// it may be told before it was looked at.
    Elsewhere(GidHolder),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Result of a call to a participant.
#[derive(Debug)]
pub(super) enum CallEnd {
    Prepare(PrepareAnswer),
    PhaseTwo(PhaseTwoOperation, PhaseTwoAnswer),
    /// It was not sent: its participant began to fail before.
    Deferred,
}

impl CallEnd {
    /// Tells whether the call was sent, or was to be sent, and there is no answer that counts.
    pub(super) fn has_failed(&self) -> bool {
        matches!(
            self,
            Self::Prepare(PrepareAnswer::Failed(_)) | Self::PhaseTwo(_, PhaseTwoAnswer::Failed(_))
        )
    }
}

/// A message. At most one for each request and each call under way, and both of those are bounded.
#[derive(Debug)]
pub(super) enum Message {
    /// A new transaction, unless its gid is live already.
    Begin { request: Box<(Definition, Digests)>, permit: Permit, until: Until, reply: Reply },
    /// A repeated request under a gid that is live: it waits for the transaction that is there.
    Attach { gid: Gid, digests: Box<Digests>, until: Until, reply: Reply },
    /// ABORT of a gid that the store does not know: a tombstone, unless the gid is live by now. Then
    /// its transaction is rolled back.
    Tombstone { gid: Gid, initiator: String, permit: Permit, until: Until, reply: Reply },
    /// Waits for a live transaction.
    Observe { key: Key, until: Until, reply: Reply },
    /// Reads a live transaction at once: gives no view while something of it is not durable. One that
    /// is not stored yet is not seen at all; nor is one of another request than this, if one is
    /// named, as long as something of it is not durable.
    Peek {
        key: Key,
        request: Option<Box<Digests>>,
        reply: oneshot::Sender<Option<(TxId, Option<Box<View>>)>>,
    },
    /// A branch of an interactive transaction. Waits for its vote if the coordinator asks for it.
    Enlist {
        tx_id: TxId,
        branch: BranchRequest,
        enlistment: Enlistment,
        permit: Permit,
        reply: Reply,
    },
    /// Any other input from outside. With a record, the transaction is first brought to memory.
    Input { key: Key, input: Input, adopt: Option<Box<ClaimedOne>>, until: Until, reply: Reply },
    /// Database that holds a branch's vote; it comes before the vote.
    Database { tx_id: TxId, number: BranchNumber, database_id: String },
    /// A call has ended; with the endpoint that it failed at.
    CallEnded { tx_id: TxId, call: Call, end: CallEnd, failed_at: Option<u64> },
    /// A request for locks has ended.
    LocksTaken { tx_id: TxId, request: LockRequest, answer: LockAnswer },
    /// Transactions that this incarnation has durably made its own; they were `woken` for a participant that they
    /// wait for.
    Adopt { records: Vec<Record>, generation: Option<u64>, woken: bool, done: oneshot::Sender<()> },
    /// Asks for those of these transactions that are not in memory.
    NotLive { transactions: Vec<(TxId, Version)>, reply: oneshot::Sender<Vec<(TxId, Version)>> },
    /// Asks whether a transaction that is not in the store is known here all the same: it is brought back to memory.
    Recall { key: Key, reply: oneshot::Sender<bool> },
    /// Asks whether nothing more is known of a transaction than its row, which says that it sleeps.
    Sleeps { tx_id: TxId, reply: oneshot::Sender<bool> },
    /// It is noted for whom these transactions wait, or that failed.
    Parked { transactions: Vec<Absence>, noted: bool },
    /// Follows a live transaction.
    Watch { key: Key, reply: oneshot::Sender<Option<watch::Receiver<Watching>>> },
    /// Counts the transactions that wait for something other than time.
    AtWork { reply: oneshot::Sender<usize> },
    /// Asks for numbers and ages of what is in memory, of one namespace or of all.
    Survey { of: Option<Namespace>, reply: oneshot::Sender<Survey> },
    /// The coordinator stops: whoever follows a transaction is told so.
    EndWatches,
    /// Participants came back: what waits for them goes out.
    Returned(Vec<ParticipantName>),
}

/// A transaction that this incarnation has durably made its own.
#[derive(Debug)]
pub(super) struct ClaimedOne {
    pub(super) record: Record,
    /// Generation of the server that it was claimed at, or an earlier one.
    pub(super) generation: Option<u64>,
}

impl Message {
    /// Tells whether somebody still waits for what it asks for, or nobody ever did. A request whose
    /// caller went away was answered with *not decided*, or not at all: dropped, it never came.
    pub(super) fn is_wanted(&self) -> bool {
        match self {
            Self::Begin { reply, .. }
            | Self::Attach { reply, .. }
            | Self::Tombstone { reply, .. }
            | Self::Observe { reply, .. }
            | Self::Enlist { reply, .. }
            | Self::Input { adopt: None, reply, .. } => !reply.is_closed(),
            Self::Peek { reply, .. } => !reply.is_closed(),
            Self::NotLive { reply, .. } => !reply.is_closed(),
            Self::Recall { reply, .. } | Self::Sleeps { reply, .. } => !reply.is_closed(),
            Self::Watch { reply, .. } => !reply.is_closed(),
            Self::AtWork { reply } => !reply.is_closed(),
            Self::Survey { reply, .. } => !reply.is_closed(),
            Self::Input { adopt: Some(_), .. }
            | Self::CallEnded { .. }
            | Self::LocksTaken { .. }
            | Self::Adopt { .. }
            | Self::Database { .. }
            | Self::Parked { .. }
            | Self::EndWatches
            | Self::Returned(_) => true,
        }
    }
}
