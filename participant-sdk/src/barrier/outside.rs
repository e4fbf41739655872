//! Work outside of the participant's database: it may have been done though the database holds no trace of it.
//!
//! - A Cancel that finds no row inserts it, and calls the handler behind it, in one local transaction: a
//!   Prepare at work keeps it waiting, and one that comes later finds the tombstone.
//! - A vote no is stored only behind that handler: nobody sends a Cancel to a branch that voted no, and any
//!   attempt before may have done the work and died.

use super::phase_two::finish;
use super::{Block, Blocks, Inserted, Row, State, affirmed, or_released};
use crate::action::{Registered, Unreadable};
use crate::handler::PhaseTwoError;
use crate::resource::{Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall};

/// Cancel of a branch without a row.
pub(super) async fn cancel_unseen<B: Blocks>(
    blocks: &B,
    call: &RawCall,
    action: &Registered<<B::Block as Block>::Connection>,
) -> Result<PhaseTwoAnswer, Fault> {
    let mut block = blocks.begin(action.isolation).await?;
    let row = Row::new(State::Running);
    let inserted = block.insert(call, &row, call.until).await;
    let (mut block, inserted) = or_released(block, inserted)?;
    match inserted {
        Inserted::New { .. } => {
            block.claim(call).await?;
            finish(block, PhaseTwoOperation::Cancel, call, action, (row, None)).await
        }
        // Where there is no end a Prepare has come meanwhile, and can be cancelled.
        Inserted::Found(row) => {
            affirmed(block, row.end(PhaseTwoOperation::Cancel).ok_or(Fault::Busy)).await
        }
    }
}

/// Tells whether a handler cannot have run, in no attempt: it cannot read the payload.
pub(super) fn was_never_called(error: &PhaseTwoError) -> bool {
    matches!(error, PhaseTwoError::Failed(error) if Unreadable::is_of_the_payload(error))
}
