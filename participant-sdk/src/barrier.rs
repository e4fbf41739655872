//! The barrier, which makes operations idempotent and ordered: a row for each branch in the
//! participant's own database, written in the handler's local transaction.
//!
//! The rules, whatever the database:
//! - The row is inserted before the handler runs. Of two of one branch the second waits for the
//!   first, and then finds its row: the stored answer is the answer.
//! - A vote no is undone to a savepoint behind the row, and committed with it: there is no gap for a
//!   duplicate. A no to work that must succeed is no vote: it leaves no row, and a later Prepare runs
//!   the handler again.
//! - Cancel inserts the row too, if there is none: the late Prepare then finds it, and is refused.
//! - Of work that is done outside of the database, too, that Cancel calls the handler behind the row, and so does
//!   a vote no before it is stored: see [`outside`].
//! - Commit and Cancel lock the row before their handler runs, so the two exclude each other.
//! - Whoever waits too long answers "working", never no.
//! - What is read from a row that was found is answered after a commit of the transaction that has read it: the
//!   row's own commit may not have reached a standby yet, and another session may lead to another server.
//! - A handler that loses its transaction, in whichever phase, leaves a row that says so, and that is a hazard. No
//!   other row hides it.

#[cfg(feature = "sqlite")]
mod deferred;
mod given_up;
mod lost;
mod outside;
mod phase_two;
mod released;
mod row;
mod statements;

use std::time::SystemTime;

#[cfg(feature = "sqlite")]
pub(crate) use self::deferred::commit;
#[cfg(feature = "sqlite")]
pub(crate) use self::given_up::PATIENCE;
pub(crate) use self::given_up::gave_up;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::given_up::{Behind, LOOK_PAUSE, Seen, behind, gave_up_unseen};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::lost::recorded_behind;
pub(crate) use self::lost::{
    Losses, Unrecorded, record_all, recorded, recorded_before, recorded_end,
};
pub(crate) use self::phase_two::phase_two;
use self::phase_two::{Ran, run};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::phase_two::{leave_tombstone, nothing_to_commit};
pub(crate) use self::released::lost;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::released::{LOOKS_WITHIN, unseen};
use self::released::{
    affirm, affirmed, broken, failed_unless_lost, or_released, released_unless_lost,
};
pub(crate) use self::row::{Columns, Row, State};
pub(crate) use self::statements::unix_ms;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use self::statements::{bind_new_row, bind_outcome};
use crate::action::{Registered, caught};
use crate::handler::{Isolation, PrepareError};
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoOperation, RawCall, Voted};
use crate::wire::presentable;

/// The vote no of a Prepare that came after the deadline.
fn too_late() -> Refusal {
    Refusal::new("TOO_LATE", "Prepare came after the transaction's deadline")
}

/// The vote no of work whose output is larger than an answer may have, or than another step could get.
fn too_large(output: &Payload, call: &RawCall) -> Option<Refusal> {
    let (size, most) = (output.data.len(), call.output_max?);
    let is_over = u64::try_from(size).unwrap_or(u64::MAX) > most;
    is_over.then(|| {
        let message = format!("the output must be at most {most} bytes here, has {size}");
        Refusal::new("OUTPUT_TOO_LARGE", message)
    })
}

/// Result of an attempt to insert a row.
#[derive(Debug)]
pub(crate) enum Inserted {
    /// The row is inserted. `late` tells that the time is past `prepare_until`.
    New { late: bool },
    /// There is this row already.
    Found(Row),
}

/// A local transaction. One that is [released](Self::release) is rolled back; one that is dropped is, too,
/// and its connection is closed.
///
/// Each database has its own. What is the same in all of them is in [`statements`]; what differs does
/// so for a reason: what tells that a duplicate is at work, that the handler has ended the
/// transaction, and that a constraint is broken.
pub(crate) trait Block: Send + Sized {
    type Connection: Send;

    /// A handler that loses the transaction can leave nothing behind: the database keeps nothing that is
    /// done on the connection outside of it.
    const KEEPS_NOTHING: bool;

    /// Inserts the branch's row with its `prepare_until`, or finds it. [`Fault::Busy`] tells that
    /// another transaction held it for longer than one waits.
    fn insert(
        &mut self,
        call: &RawCall,
        row: &Row,
        until: Option<SystemTime>,
    ) -> impl Future<Output = Result<Inserted, Fault>> + Send;

    /// Locks the branch's row, if there is one.
    fn lock(&mut self, call: &RawCall) -> impl Future<Output = Result<Option<Row>, Fault>> + Send;

    /// Notes in the row, which this transaction has locked, that phase two is at work: should the handler
    /// commit by itself, everybody sees it.
    fn claim(&mut self, call: &RawCall) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Sets the point that [`Self::undo`] goes back to.
    fn savepoint(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Undoes everything since the savepoint. [`Fault::Lost`] tells that the handler has lost the
    /// transaction.
    fn undo(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Returns the vote no for a handler's error that the database would raise again: it speaks of the
    /// work, and not of the database.
    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal>;

    /// Tells whether a handler's error says that it would come again on this connection, and on no other one.
    fn is_spoiled(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let _ = error;
        false
    }

    /// Tells whether a handler that has failed has lost the transaction besides, as far as that can be
    /// told from losses that are nobody's fault. `None` tells that a statement which it has given up is in the way.
    fn is_lost(&mut self) -> impl Future<Output = Option<bool>> + Send;

    /// The same of a handler that has not returned: a statement of it may be at work, and is ended first. `None` tells
    /// that the database has given no answer in time.
    fn is_lost_at_work(&mut self) -> impl Future<Output = Option<bool>> + Send {
        self.is_lost()
    }

    /// The connection that the handler works with.
    fn connection(&mut self) -> &mut Self::Connection;

    /// Ends the handler's part: makes the checks that would otherwise wait for the
    /// commit, and undoes what it set that would stand in the way. `Some` says what they found.
    fn check(&mut self) -> impl Future<Output = Result<Option<Refusal>, Fault>> + Send;

    /// Changes the row, which this very transaction inserted or locked.
    fn mark(&mut self, call: &RawCall, row: &Row)
    -> impl Future<Output = Result<(), Fault>> + Send;

    /// Writes something that changes nothing and keeps nobody waiting, so that the commit waits for whatever a commit
    /// waits for.
    fn write(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Commits. `Some` says that this failed for good, and why.
    fn commit(self) -> impl Future<Output = Result<Option<Refusal>, Fault>> + Send;

    /// Rolls back, and gives the connection back, unless a statement was at work that the handler had given up.
    fn release(self);
}

/// Begins local transactions.
pub(crate) trait Blocks: Sync {
    type Block: Block;

    /// Begins one.
    fn begin(
        &self,
        isolation: Isolation,
    ) -> impl Future<Output = Result<Self::Block, Fault>> + Send;
}

/// Result of a handler's phase one.
pub(crate) enum Worked<B> {
    /// The answer is durable, or there is none.
    Answered(Voted),
    /// The handler has voted no, and its transaction is gone with everything in it.
    Gone(Refusal),
    /// The work is done, in this transaction; the row still says that it is running.
    Done(B, Payload),
}

/// Runs a handler's phase one behind the branch's row.
pub(crate) async fn work<B: Block>(
    mut block: B,
    call: &RawCall,
    until: Option<SystemTime>,
    action: &Registered<B::Connection>,
) -> Result<Worked<B>, Fault> {
    let inserted = block.insert(call, &Row::new(State::Running), until).await;
    let (mut block, inserted) = or_released(block, inserted)?;
    match inserted {
        Inserted::Found(row) => return affirmed(block, row.vote()).await.map(Worked::Answered),
        Inserted::New { late: true } => {
            if action.outside {
                block.savepoint().await?;
            }
            return refuse_here(block, call, action, too_late()).await;
        }
        Inserted::New { late: false } => block.savepoint().await?,
    }
    let worked = match caught(action.action.prepare(block.connection(), &call.call)).await {
        Ok(worked) => worked,
        Err(why) => return Err(broken(block, why).await),
    };
    let no = match worked {
        // The check gives up the savepoint where it finds nothing.
        Ok(output) => match too_large(&output, call) {
            Some(refusal) => refusal,
            None => match block.check().await? {
                None => return Ok(Worked::Done(block, output)),
                Some(refusal) => refusal,
            },
        },
        Err(PrepareError::Refused(refusal)) => refusal,
        Err(PrepareError::Working(pause)) => {
            let answer = Ok(Worked::Answered(Voted::Working(pause)));
            return released_unless_lost(block, answer).await;
        }
        Err(PrepareError::Failed(error)) => match block.refusal(error.as_ref()) {
            Some(refusal) => refusal,
            None => return failed_unless_lost(block, error).await,
        },
    };
    match block.undo().await {
        Ok(()) => {}
        Err(Fault::Lost(_)) if B::KEEPS_NOTHING => return Ok(Worked::Gone(no)),
        Err(fault) => return Err(fault),
    }
    refuse_here(block, call, action, no).await
}

/// Turns the row that this transaction inserted into a vote no, unless the work must succeed. What the action
/// may have done outside of the database is undone before; the savepoint is set then.
async fn refuse_here<B: Block>(
    mut block: B,
    call: &RawCall,
    action: &Registered<B::Connection>,
    no: Refusal,
) -> Result<Worked<B>, Fault> {
    let no = presentable(no);
    if call.call.must_succeed {
        // Rolls back the whole local transaction, the row with it.
        block.release();
        return Ok(Worked::Answered(Voted::Refused(no)));
    }
    if action.outside {
        match run(block, PhaseTwoOperation::Cancel, call, action, None).await? {
            Ran::Done(held) => block = held,
            Ran::Working(pause) => return Ok(Worked::Answered(Voted::Working(pause))),
        }
    }
    block.mark(call, &Row::refused(no.clone())).await?;
    kept(block).await?;
    Ok(Worked::Answered(Voted::Refused(no)))
}

/// Commits what no handler has touched: no rule of the service can stand in its way.
async fn kept(block: impl Block) -> Result<(), Fault> {
    match block.commit().await? {
        None => {
            crash_point!("participant-after-row-is-left");
            Ok(())
        }
        Some(refusal) => {
            Err(Fault::SetUp(format!("the barrier's row cannot be kept: {}", refusal.message)))
        }
    }
}

/// Phase one of TCC, and of a saga's step.
pub(crate) async fn try_<B: Blocks>(
    blocks: &B,
    call: &RawCall,
    until: Option<SystemTime>,
    action: &Registered<<B::Block as Block>::Connection>,
) -> Result<Voted, Fault> {
    let block = blocks.begin(action.isolation).await?;
    let (mut block, output) = match work(block, call, until, action).await? {
        Worked::Answered(voted) => return Ok(voted),
        Worked::Gone(refusal) => return refuse_behind(blocks, call, action, refusal).await,
        Worked::Done(block, output) => (block, output),
    };
    block.mark(call, &Row { output: output.clone(), ..Row::new(State::Prepared) }).await?;
    crash_point!("participant-before-vote-is-durable");
    match block.commit().await? {
        None => {
            crash_point!("participant-after-vote-is-durable");
            Ok(Voted::Prepared(output))
        }
        // Transaction and row are gone: the no needs a row of its own.
        Some(refusal) => refuse_behind(blocks, call, action, refusal).await,
    }
}

/// Votes no behind work whose transaction is gone, unless there is a row by now: then that is the answer.
async fn refuse_behind<B: Blocks>(
    blocks: &B,
    call: &RawCall,
    action: &Registered<<B::Block as Block>::Connection>,
    refusal: Refusal,
) -> Result<Voted, Fault> {
    if !action.outside {
        return refuse(blocks, call, refusal).await;
    }
    let mut block = blocks.begin(action.isolation).await?;
    let inserted = block.insert(call, &Row::new(State::Running), call.until).await;
    let (mut block, inserted) = or_released(block, inserted)?;
    if let Inserted::Found(row) = inserted {
        return affirmed(block, row.vote()).await;
    }
    block.savepoint().await?;
    match refuse_here(block, call, action, refusal).await? {
        Worked::Answered(voted) => Ok(voted),
        _ => Err(Fault::Busy),
    }
}

/// Votes no, unless there is a row by now: then that is the answer.
pub(crate) async fn refuse<B: Blocks>(
    blocks: &B,
    call: &RawCall,
    refusal: Refusal,
) -> Result<Voted, Fault> {
    let row = Row::refused(presentable(refusal));
    leave(blocks, call, &row, call.until).await?.unwrap_or(row).vote()
}

/// Leaves a row where there is none, in a transaction of its own. `Some` is another row that is the
/// answer: one that was found, or the no of a Prepare that is too late. A no to work that must succeed
/// is answered so, too, and leaves no row.
pub(crate) async fn leave<B: Blocks>(
    blocks: &B,
    call: &RawCall,
    row: &Row,
    until: Option<SystemTime>,
) -> Result<Option<Row>, Fault> {
    let mut block = blocks.begin(Isolation::ReadCommitted).await?;
    let inserted = block.insert(call, row, until).await;
    let (mut block, inserted) = or_released(block, inserted)?;
    match inserted {
        Inserted::Found(row) => affirm(block).await.map(|()| Some(row)),
        Inserted::New { late } => {
            let late = late && row.state.is_vote() && !row.is_not_understood();
            let answer = if late { Row::refused(too_late()) } else { row.clone() };
            if call.call.must_succeed && answer.state == State::Refused {
                block.release();
                return Ok(Some(answer));
            }
            if late {
                block.mark(call, &answer).await?;
            }
            kept(block).await.map(|()| late.then_some(answer))
        }
    }
}
