//! Record of a handler that lost its local transaction: it ended that by itself, or let it be ended.
//!
//! Nobody can tell what it has left behind, and a further call would do it again. So the branch's row says
//! `running`, by a transaction of its own: every further Prepare has no vote, and Commit and Cancel answer that
//! it is a hazard. Where the handler has committed, its own row says so already. A row that another process has
//! left meanwhile, whatever it says, is changed to that, too: what was left behind stands beside it.
//!
//! The database may be gone just then. So a loss is kept in memory until it is recorded: nothing is done for its
//! branch before that, and the record is tried again and again, also by a clean stop. A process that dies before
//! has told of it in the log alone.

mod kept;

use std::time::{Duration, Instant};

use self::kept::Loss;
pub(crate) use self::kept::Losses;
pub(crate) use self::kept::Unrecorded;
use super::row::State;
use super::{Block, Blocks, Row, affirm, kept as committed, leave, or_released};
use crate::handler::Isolation;
use crate::resource::{Fault, PhaseTwoAnswer, RawCall};

/// Attempts to leave the row: the branch's twin may hold it for a moment.
const ATTEMPTS_MAX: usize = 3;

/// Time after which an attempt to record all losses is over with the first one that fails.
const ALL_AT_MOST: Duration = Duration::from_secs(5);

const NOT_RECORDED: &str = "an earlier attempt has ended its local transaction, and the database does not take the record of that yet";

/// Records a loss of the branch that could not be recorded before.
///
/// # Errors
/// It cannot be recorded yet: nothing may be done for the branch.
pub(crate) async fn recorded_before<B: Blocks>(
    blocks: &B,
    losses: &Losses,
    call: &RawCall,
) -> Result<(), Fault> {
    let Some(loss) = losses.of(call) else { return Ok(()) };
    let recorded = record(blocks, losses, &loss, ATTEMPTS_MAX).await;
    recorded.map_err(|fault| told(&loss, &fault)).map_err(|()| Fault::Lost(NOT_RECORDED))
}

/// Records such a loss behind the end of the branch's prepared transaction, which has held its row, and tells whether
/// there was one.
///
/// # Errors
/// It cannot be recorded yet: the operation has no answer. [`Fault::Busy`] tells that somebody holds the row.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) async fn recorded_behind<B: Blocks>(
    blocks: &B,
    losses: &Losses,
    call: &RawCall,
) -> Result<bool, Fault> {
    let Some(loss) = losses.of(call) else { return Ok(false) };
    match record(blocks, losses, &loss, 1).await {
        Ok(()) => Ok(true),
        Err(Fault::Busy) => Err(Fault::Busy),
        Err(fault) => {
            told(&loss, &fault);
            Err(Fault::Lost(NOT_RECORDED))
        }
    }
}

/// Records all losses, and tells whether none is left. A database that does not answer for one of them will not for
/// the others either, and each would take seconds: this attempt is over then, and the next one goes on behind that one. So it
/// is after a while.
pub(crate) async fn record_all<B: Blocks>(blocks: &B, losses: &Losses) -> bool {
    let begun = Instant::now();
    for loss in losses.all() {
        let Err(fault) = record(blocks, losses, &loss, ATTEMPTS_MAX).await else { continue };
        told(&loss, &fault);
        if matches!(fault, Fault::Indeterminate { .. }) || begun.elapsed() >= ALL_AT_MOST {
            losses.tried_to(&loss);
            break;
        }
    }
    losses.is_empty()
}

/// Records the loss, if the result of a handler's phase one is one.
pub(crate) async fn recorded<B: Blocks, T>(
    blocks: &B,
    losses: &Losses,
    call: &RawCall,
    result: Result<T, Fault>,
) -> Result<T, Fault> {
    if let Err(Fault::Lost(text)) = &result {
        noted(blocks, losses, call, text).await;
    }
    result
}

/// Records the loss, if the result of a handler's phase two is one. A database that keeps nothing of it is as it
/// was: a handler that is mended can still end the branch.
pub(crate) async fn recorded_end<B: Blocks>(
    blocks: &B,
    losses: &Losses,
    call: &RawCall,
    result: Result<PhaseTwoAnswer, Fault>,
) -> Result<PhaseTwoAnswer, Fault> {
    if let Err(Fault::Lost(text)) = &result
        && !B::Block::KEEPS_NOTHING
    {
        noted(blocks, losses, call, text).await;
    }
    result
}

async fn noted<B: Blocks>(blocks: &B, losses: &Losses, call: &RawCall, text: &'static str) {
    let loss = Loss::of(call, text);
    // First of all: whoever waits for the record may be ended at any moment.
    losses.note(&loss);
    if let Err(fault) = record(blocks, losses, &loss, ATTEMPTS_MAX).await {
        told(&loss, &fault);
    }
}

/// Attempts the record so many times, as long as somebody holds the row.
async fn record<B: Blocks>(
    blocks: &B,
    losses: &Losses,
    loss: &Loss,
    attempts: usize,
) -> Result<(), Fault> {
    let mut attempt = 1;
    loop {
        match left(blocks, loss).await {
            Err(Fault::Busy) if attempt < attempts => attempt += 1,
            Ok(()) => {
                losses.is_recorded(&loss.call);
                return Ok(());
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// Tells of an attempt that has failed.
fn told(loss: &Loss, fault: &Fault) {
    let branch = loss.call.branch();
    tracing::error!(
        alarm = "handler_lost_transaction",
        tx_id = %branch.tx_id,
        gid = branch.gid,
        branch_id = branch.branch_id,
        error = %fault,
        "failed to record that a handler lost its local transaction; it is tried again, and nothing is done \
         for the branch here before that"
    );
}

/// Leaves the loss's row, or writes it over another one.
async fn left<B: Blocks>(blocks: &B, Loss { call, text }: &Loss) -> Result<(), Fault> {
    match leave(blocks, call, &Row::of_loss((*text).to_owned()), None).await? {
        None => Ok(()),
        Some(found) if found.tells_loss() => Ok(()),
        Some(_) => overwrite(blocks, call, text).await,
    }
}

/// Writes the loss over the row that somebody has left meanwhile: the end of the branch tells it, if that is still to
/// come, and a person is told.
async fn overwrite<B: Blocks>(blocks: &B, call: &RawCall, text: &str) -> Result<(), Fault> {
    let mut block = blocks.begin(Isolation::ReadCommitted).await?;
    let locked = block.lock(call).await;
    let (mut block, locked) = or_released(block, locked)?;
    let found = match locked {
        // Purged in between.
        None => {
            block.release();
            return Err(Fault::Busy);
        }
        Some(found) if found.tells_loss() => return affirm(block).await,
        Some(found) => found,
    };
    let (state, is_owed) = (found.state.as_str(), found.state == State::Prepared);
    let of_handler = found.state == State::Running;
    let text = if of_handler { text.to_owned() } else { format!("{text}; the row said {state}") };
    block.mark(call, &Row { output: found.output, ..Row::of_loss(text) }).await?;
    committed(block).await?;
    if !is_owed && !of_handler {
        let branch = call.branch();
        tracing::error!(
            alarm = "handler_lost_transaction",
            tx_id = %branch.tx_id,
            gid = branch.gid,
            branch_id = branch.branch_id,
            state,
            "a handler had lost its local transaction, and that is recorded only now: the branch may have been \
             answered as its row said, and what the handler has left behind stands beside it"
        );
    }
    Ok(())
}
