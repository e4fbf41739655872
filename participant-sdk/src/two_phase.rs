//! Two-phase commit on transactions that the database itself prepares.
//!
//! The branch's barrier row is inside the prepared transaction. It says `committed`, and nobody sees
//! it before that is so: it is the proof where the database finds nothing to commit. While the
//! transaction is prepared its row locks out every duplicate, and the tombstone of a Cancel.

use std::time::SystemTime;

use crate::action::{Registered, caught};
use crate::barrier::{self, Block, Blocks, Losses, Row, State, Worked};
use crate::handler::{Isolation, PrepareError};
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Voted};
use crate::wire::presentable;

/// Times that Cancel takes turns between rolling back and leaving its tombstone: a Prepare that is
/// under way can get in between once.
const TURNS_MAX: usize = 4;

/// Connections that an operation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    One,
    Two,
}

/// Result of an attempt to end a prepared transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// Nothing is prepared under the branch's name.
    Missing,
    /// Another session is at it.
    Busy,
}

/// The prepared transactions of a database.
pub(crate) trait Prepares: Sync {
    type Block: Block;
    type Reading: Reading<Connection = <Self::Block as Block>::Connection>;

    /// Begins ordinary local transactions: rows that say no, and tombstones, are never prepared.
    fn blocks(&self, phase: Phase) -> impl Blocks<Block = Self::Block>;

    /// Begins a local transaction that can be prepared. `None` tells that the branch's is prepared
    /// already.
    fn begin(
        &self,
        call: &RawCall,
        isolation: Isolation,
    ) -> impl Future<Output = Result<Option<Self::Block>, Fault>> + Send;

    /// Tells whether the branch's transaction is prepared, durably.
    fn is_prepared(&self, call: &RawCall) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Prepares the block's transaction. `Some` says that this failed for good, and why.
    fn prepare(
        &self,
        block: Self::Block,
        call: &RawCall,
    ) -> impl Future<Output = Result<Option<Refusal>, Fault>> + Send;

    /// Ends the branch's prepared transaction in the way of the operation.
    fn end(
        &self,
        operation: PhaseTwoOperation,
        call: &RawCall,
    ) -> impl Future<Output = Result<End, Fault>> + Send;

    /// Reads the branch's row as it is committed, without a lock, and commits a write of its own behind one that is
    /// found, in the session that has found it.
    fn find(
        &self,
        phase: Phase,
        call: &RawCall,
    ) -> impl Future<Output = Result<Option<Row>, Fault>> + Send;

    /// Begins a transaction that can only read.
    fn begin_reading(
        &self,
        isolation: Isolation,
    ) -> impl Future<Output = Result<Self::Reading, Fault>> + Send;
}

/// A local transaction that can only read. It begins with a savepoint that no handler knows: inside of it
/// nothing makes the transaction another one.
pub(crate) trait Reading: Send + Sized {
    type Connection: Send;

    fn connection(&mut self) -> &mut Self::Connection;

    /// Fails if the transaction is not what it was: it has failed, or the handler has ended it.
    fn is_intact(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Fails if a handler that has not succeeded has ended its transaction besides.
    fn is_there(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Tells whether a handler that has not returned has ended its transaction besides: a statement of it may be at work,
    /// and is ended first. `None` tells that the database has given no answer in time.
    fn is_lost_at_work(&mut self) -> impl Future<Output = Option<bool>> + Send;

    /// Returns the vote no for a handler's error that would come again: it wrote, or the error speaks of
    /// the work.
    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal>;

    /// Tells whether a handler's error would come again on this connection, and on no other one.
    fn is_spoiled(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let _ = error;
        false
    }

    /// Ends it, and gives the connection back. One that is dropped closes it.
    fn release(self);
}

/// Phase one: works, and prepares the transaction.
pub(crate) async fn prepare<D: Prepares>(
    database: &D,
    call: &RawCall,
    until: Option<SystemTime>,
    action: &Registered<<D::Block as Block>::Connection>,
) -> Result<Voted, Fault> {
    let yes = || Ok(Voted::Prepared(Payload::default()));
    let Some(block) = database.begin(call, action.isolation).await? else { return yes() };
    let blocks = database.blocks(Phase::One);
    let mut block = match barrier::work(block, call, until, action).await {
        Ok(Worked::Answered(voted)) => return Ok(voted),
        Ok(Worked::Gone(refusal)) => return barrier::refuse(&blocks, call, refusal).await,
        Ok(Worked::Done(block, _)) => block,
        // By a twin at work, or by one that has prepared meanwhile.
        Err(Fault::Busy) if database.is_prepared(call).await? => return yes(),
        Err(fault) => return Err(fault),
    };
    // The last statement before it is prepared, which answers success in a block that has failed.
    block.mark(call, &Row::new(State::Committed)).await?;
    crash_point!("participant-before-prepare-transaction");
    match database.prepare(block, call).await? {
        None => {
            crash_point!("participant-after-prepare-transaction");
            yes()
        }
        // Transaction and row are gone: the no needs a row of its own.
        Some(refusal) => barrier::refuse(&blocks, call, refusal).await,
    }
}

/// Phase one of an action that only reads.
pub(crate) async fn read<D: Prepares>(
    database: &D,
    call: &RawCall,
    until: Option<SystemTime>,
    action: &Registered<<D::Block as Block>::Connection>,
) -> Result<Voted, Fault> {
    let blocks = database.blocks(Phase::One);
    if let Some(row) = database.find(Phase::One, call).await? {
        return row.vote();
    }
    let mut reading = database.begin_reading(action.isolation).await?;
    let worked = match caught(action.action.prepare(reading.connection(), &call.call)).await {
        Ok(worked) => worked,
        Err(broken) => {
            return Err(match reading.is_lost_at_work().await {
                Some(true) => barrier::lost(),
                Some(false) => broken.into(),
                None => barrier::unseen(broken),
            });
        }
    };
    let row = match worked {
        Ok(_) => {
            reading.is_intact().await?;
            Row::new(State::ReadOnly)
        }
        Err(PrepareError::Refused(refusal)) => {
            reading.is_there().await?;
            Row::refused(presentable(refusal))
        }
        Err(PrepareError::Working(pause)) => {
            reading.is_there().await?;
            reading.release();
            return Ok(Voted::Working(pause));
        }
        Err(PrepareError::Failed(failed)) => {
            reading.is_there().await?;
            match reading.refusal(failed.as_ref()) {
                Some(refusal) => Row::refused(presentable(refusal)),
                None => {
                    if !reading.is_spoiled(failed.as_ref()) {
                        reading.release();
                    }
                    return Err(Fault::Handler(failed));
                }
            }
        }
    };
    // There is nothing to lose: it only read.
    reading.release();
    let found = barrier::leave(&blocks, call, &row, until).await?;
    found.unwrap_or(row).vote()
}

/// Phase two. What is prepared under the branch's name is ended first: it holds the row. Only then a handler's loss of which
/// this process knows, and the database does not, is recorded, and before any answer: a hazard is never told as done.
pub(crate) async fn end<D: Prepares>(
    database: &D,
    losses: &Losses,
    operation: PhaseTwoOperation,
    call: &RawCall,
) -> Result<PhaseTwoAnswer, Fault> {
    match operation {
        PhaseTwoOperation::Commit => commit(database, losses, call).await,
        PhaseTwoOperation::Cancel => cancel(database, losses, call).await,
    }
}

async fn commit<D: Prepares>(
    database: &D,
    losses: &Losses,
    call: &RawCall,
) -> Result<PhaseTwoAnswer, Fault> {
    let end = ended(database, PhaseTwoOperation::Commit, call).await?;
    if end == End::Busy {
        return Err(Fault::Busy);
    }
    // Another attempt than the one that lost its transaction may have voted yes, elsewhere.
    let is_lost = barrier::recorded_behind(&database.blocks(Phase::Two), losses, call).await?;
    if end == End::Done && !is_lost {
        return Ok(PhaseTwoAnswer::Done);
    }
    // Committed before, or lost: the row tells.
    match database.find(Phase::Two, call).await? {
        // One that has no end says that its branch is prepared: it was not made by two-phase commit, and nothing is done.
        Some(row) => row.end(PhaseTwoOperation::Commit).ok_or_else(|| {
            Fault::SetUp("the branch's row is not one of two-phase commit".to_owned())
        }),
        None => barrier::nothing_to_commit(&database.blocks(Phase::Two), call).await,
    }
}

/// Makes sure that nothing is prepared, and that nothing ever will be.
async fn cancel<D: Prepares>(
    database: &D,
    losses: &Losses,
    call: &RawCall,
) -> Result<PhaseTwoAnswer, Fault> {
    for _ in 0..TURNS_MAX {
        match ended(database, PhaseTwoOperation::Cancel, call).await? {
            End::Done | End::Missing => {}
            End::Busy => return Err(Fault::Busy),
        }
        let blocks = database.blocks(Phase::Two);
        // The row is held by a Prepare at work, or one that has prepared meanwhile: from the beginning.
        match barrier::recorded_behind(&blocks, losses, call).await {
            Err(Fault::Busy) => continue,
            recorded => drop(recorded?),
        }
        match barrier::leave_tombstone(&blocks, call).await {
            Err(Fault::Busy) | Ok(None) => {}
            Ok(Some(answered)) => return Ok(answered),
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault::Busy)
}

async fn ended<D: Prepares>(
    database: &D,
    operation: PhaseTwoOperation,
    call: &RawCall,
) -> Result<End, Fault> {
    crash_point!("participant-before-end-prepared");
    let end = database.end(operation, call).await?;
    if end == End::Done {
        crash_point!("participant-after-end-prepared");
    }
    Ok(end)
}
