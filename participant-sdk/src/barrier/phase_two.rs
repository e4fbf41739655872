//! Phase two behind the branch's row.

use std::time::Duration;

use unanimo_proto::v1::HeuristicKind;

use super::outside::{cancel_unseen, was_never_called};
use super::row::NOTHING_TO_COMMIT;
use super::{
    Block, Blocks, Row, State, affirm, broken, failed_unless_lost, leave, or_released,
    released_unless_lost,
};
use crate::action::{Registered, caught};
use crate::handler::PhaseTwoError;
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall};

/// Phase two of TCC, and of a saga's step.
pub(crate) async fn phase_two<B: Blocks>(
    blocks: &B,
    operation: PhaseTwoOperation,
    call: &RawCall,
    action: Option<&Registered<<B::Block as Block>::Connection>>,
) -> Result<PhaseTwoAnswer, Fault> {
    let isolation = action.map(|action| action.isolation).unwrap_or_default();
    let mut block = blocks.begin(isolation).await?;
    let locked = block.lock(call).await;
    let (mut block, locked) = or_released(block, locked)?;
    let Some(row) = locked else {
        block.release();
        return match (operation, action.filter(|action| action.outside)) {
            (PhaseTwoOperation::Cancel, Some(action)) => cancel_unseen(blocks, call, action).await,
            (PhaseTwoOperation::Cancel, None) => {
                leave_tombstone(blocks, call).await?.ok_or(Fault::Busy)
            }
            (PhaseTwoOperation::Commit, _) => nothing_to_commit(blocks, call).await,
        };
    };
    // The coordinator sends this Cancel only if another attempt was not answered: it may have worked outside.
    let is_to_be_taken_back = operation == PhaseTwoOperation::Cancel
        && row.is_not_understood()
        && action.is_some_and(|action| action.outside);
    if let Some(answered) = row.end(operation)
        && !is_to_be_taken_back
    {
        return affirm(block).await.map(|()| answered);
    }
    let Some(action) = action else {
        block.release();
        return Err(Fault::NotOffered(call.call.action.clone()));
    };
    let output = (!is_to_be_taken_back).then(|| row.output.clone());
    block.claim(call).await?;
    finish(block, operation, call, action, (row, output)).await
}

/// Runs the handler of phase two behind the branch's row, which this transaction holds and which says that it
/// is running.
pub(super) async fn finish<B: Block>(
    block: B,
    operation: PhaseTwoOperation,
    call: &RawCall,
    action: &Registered<B::Connection>,
    (row, output): (Row, Option<Payload>),
) -> Result<PhaseTwoAnswer, Fault> {
    let mut block = match run(block, operation, call, action, output).await? {
        Ran::Done(block) => block,
        Ran::Working(pause) => return Ok(PhaseTwoAnswer::Working(pause)),
    };
    let state = match operation {
        PhaseTwoOperation::Commit => State::Committed,
        PhaseTwoOperation::Cancel => State::Cancelled,
    };
    block.mark(call, &Row { state, ..row }).await?;
    crash_point!("participant-before-end-is-durable");
    match block.commit().await? {
        None => {
            crash_point!("participant-after-end-is-durable");
            Ok(PhaseTwoAnswer::Done)
        }
        Some(Refusal { message, .. }) => Err(Fault::Handler(message.into())),
    }
}

/// Result of a handler's phase two.
pub(super) enum Ran<B> {
    /// The work is done, in this transaction.
    Done(B),
    /// It is still under way, and to be asked about again after this time. The transaction is rolled back.
    Working(Duration),
}

/// Runs a handler's phase two in a transaction that holds the branch's row. Without an output nothing is known of
/// phase one.
pub(super) async fn run<B: Block>(
    mut block: B,
    operation: PhaseTwoOperation,
    call: &RawCall,
    action: &Registered<B::Connection>,
    output: Option<Payload>,
) -> Result<Ran<B>, Fault> {
    let is_unseen = output.is_none();
    let work = action.action.phase_two(operation, block.connection(), &call.call, output);
    let done = match caught(work).await {
        Ok(done) => done,
        Err(why) => return Err(broken(block, why).await),
    };
    match done {
        Ok(()) => {}
        Err(error) if is_unseen && was_never_called(&error) => {}
        Err(PhaseTwoError::Working(pause)) => {
            return released_unless_lost(block, Ok(Ran::Working(pause))).await;
        }
        Err(PhaseTwoError::Failed(error)) => return failed_unless_lost(block, error).await,
    }
    match block.check().await? {
        None => Ok(Ran::Done(block)),
        Some(Refusal { message, .. }) => failed_unless_lost(block, message.into()).await,
    }
}

/// Makes sure that a Prepare that is still to come has no effect. `None` if one has come meanwhile,
/// and can be cancelled.
pub(crate) async fn leave_tombstone<B: Blocks>(
    blocks: &B,
    call: &RawCall,
) -> Result<Option<PhaseTwoAnswer>, Fault> {
    match leave(blocks, call, &Row::new(State::Cancelled), call.until).await? {
        None => Ok(Some(PhaseTwoAnswer::Done)),
        Some(row) => Ok(row.end(PhaseTwoOperation::Cancel)),
    }
}

/// Commit found no trace of its branch. That gets a row, so that a late Prepare finds it.
pub(crate) async fn nothing_to_commit<B: Blocks>(
    blocks: &B,
    call: &RawCall,
) -> Result<PhaseTwoAnswer, Fault> {
    match leave(blocks, call, &Row::new(State::Lost), None).await? {
        None => {
            let note = NOTHING_TO_COMMIT.to_owned();
            Ok(PhaseTwoAnswer::Heuristic(HeuristicKind::Hazard, note))
        }
        Some(_) => Err(Fault::Busy),
    }
}
