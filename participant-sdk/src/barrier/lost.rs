//! Record of a handler that lost its local transaction: it ended that by itself, or let it be ended.
//!
//! Nobody can tell what it has left behind, and a further call would do it again. So the branch's row says
//! `running`, by a transaction of its own: every further Prepare has no vote, and Commit and Cancel answer that
//! it is a hazard. Where the handler has committed, its own row says so already.

use super::row::State;
use super::{Block, Blocks, Row, kept, leave, or_released};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoAnswer, RawCall};

/// Attempts to leave the row: the branch's twin may hold it for a moment.
const ATTEMPTS_MAX: usize = 3;

/// Records the loss, if the result of a handler's phase one is one.
pub(crate) async fn recorded<B: Blocks, T>(
    blocks: &B,
    call: &RawCall,
    result: Result<T, Fault>,
) -> Result<T, Fault> {
    let Err(Fault::Lost(text)) = &result else { return result };
    record(blocks, call, text, Owed::Vote).await;
    result
}

/// Records the loss, if the result of a handler's phase two is one. A database that keeps nothing of it is as it
/// was: a handler that is mended can still end the branch.
pub(crate) async fn recorded_end<B: Blocks>(
    blocks: &B,
    call: &RawCall,
    result: Result<PhaseTwoAnswer, Fault>,
) -> Result<PhaseTwoAnswer, Fault> {
    let Err(Fault::Lost(text)) = &result else { return result };
    if !B::Block::KEEPS_NOTHING {
        record(blocks, call, text, Owed::End).await;
    }
    result
}

/// Answer that the handler was to give.
#[derive(Clone, Copy)]
enum Owed {
    Vote,
    End,
}

async fn record<B: Blocks>(blocks: &B, call: &RawCall, text: &str, owed: Owed) {
    let row = Row { refusal: Refusal::new("TRANSACTION_LOST", text), ..Row::new(State::Running) };
    for attempt in 1..=ATTEMPTS_MAX {
        let recorded = match owed {
            Owed::Vote => leave(blocks, call, &row, None).await.map(drop),
            Owed::End => overwrite(blocks, call, &row).await,
        };
        match recorded {
            Ok(()) => break,
            Err(Fault::Busy) if attempt < ATTEMPTS_MAX => {}
            Err(fault) => {
                let branch = call.branch();
                tracing::error!(
                    tx_id = %branch.tx_id,
                    gid = branch.gid,
                    branch_id = branch.branch_id,
                    error = %fault,
                    "failed to record that a handler lost its local transaction"
                );
                break;
            }
        }
    }
}

/// Writes the loss into the row of a branch whose end is owed. One that has ended meanwhile stays as it is.
async fn overwrite<B: Blocks>(blocks: &B, call: &RawCall, lost: &Row) -> Result<(), Fault> {
    let mut block = blocks.begin(Isolation::ReadCommitted).await?;
    let locked = block.lock(call).await;
    let (mut block, locked) = or_released(block, locked)?;
    match locked {
        None => {
            block.release();
            leave(blocks, call, lost, None).await.map(drop)
        }
        Some(row) if row.state == State::Prepared || row.is_not_understood() => {
            block.mark(call, &Row { output: row.output, ..lost.clone() }).await?;
            kept(block).await
        }
        Some(_) => {
            block.release();
            Ok(())
        }
    }
}
