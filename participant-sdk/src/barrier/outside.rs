//! Work outside of the participant's database: it may have been done though the database holds no trace of it.
//!
//! - A Cancel that finds no row inserts it, and calls the handler behind it, in one local transaction: a
//!   Prepare at work keeps it waiting, and one that comes later finds the tombstone.
//! - A vote no is stored only behind that handler: nobody sends a Cancel to a branch that voted no, and any
//!   attempt before may have done the work and died.

use std::time::Duration;

use super::phase_two::finish;
use super::{Block, Blocks, Inserted, Row, State, failed, or_released};
use crate::action::{Registered, Unreadable};
use crate::handler::PhaseTwoError;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall};

/// Work outside, once it is to be undone.
pub(super) enum Taken<B> {
    /// It is, in this transaction.
    Back(B),
    /// It is still under way, and to be asked about again after this time.
    NotYet(Duration),
}

/// Undoes what an attempt of phase one may have done outside, in a transaction that holds the branch's row
/// and has its savepoint set.
pub(super) async fn taken_back<B: Block>(
    mut block: B,
    call: &RawCall,
    action: &Registered<B::Connection>,
) -> Result<Taken<B>, Fault> {
    let cancel = PhaseTwoOperation::Cancel;
    match action.action.phase_two(cancel, block.connection(), &call.call, None).await {
        Ok(()) => {}
        Err(error) if was_never_called(&error) => {}
        Err(PhaseTwoError::Working(pause)) => {
            block.release();
            return Ok(Taken::NotYet(pause));
        }
        Err(PhaseTwoError::Failed(error)) => {
            return Err(failed(block, error));
        }
    }
    match block.check().await? {
        None => Ok(Taken::Back(block)),
        Some(Refusal { message, .. }) => Err(Fault::Handler(message.into())),
    }
}

/// Cancel of a branch without a row.
pub(super) async fn cancel_unseen<B: Blocks>(
    blocks: &B,
    call: &RawCall,
    action: &Registered<<B::Block as Block>::Connection>,
) -> Result<PhaseTwoAnswer, Fault> {
    let mut block = blocks.begin(action.isolation).await?;
    let row = Row::new(State::Running);
    let inserted = block.insert(call, &row, call.until).await;
    let (block, inserted) = or_released(block, inserted)?;
    match inserted {
        Inserted::New { .. } => {
            finish(block, PhaseTwoOperation::Cancel, call, action, (row, None)).await
        }
        Inserted::Found(row) => {
            block.release();
            match row.end(PhaseTwoOperation::Cancel) {
                Some(answered) => blocks.affirm(call).await.map(|()| answered),
                // A Prepare has come meanwhile, and can be cancelled.
                None => Err(Fault::Busy),
            }
        }
    }
}

/// Tells whether a handler cannot have run, in no attempt: it cannot read the payload.
pub(super) fn was_never_called(error: &PhaseTwoError) -> bool {
    matches!(error, PhaseTwoError::Failed(error) if Unreadable::is_of_the_payload(error))
}
