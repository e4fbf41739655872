//! Local transactions that are given up.

use super::Block;
use crate::action::Panic;
use crate::handler::BoxError;
use crate::resource::Fault;

/// Gives the block back to its pool if an attempt in it has failed and its session is in order: under
/// contention many fail, and a new session for each would cost more than the attempt.
pub(super) fn or_released<B: Block, T>(
    block: B,
    attempt: Result<T, Fault>,
) -> Result<(B, T), Fault> {
    match attempt {
        Ok(done) => Ok((block, done)),
        Err(fault) => {
            if fault.leaves_a_clean_session() {
                block.release();
            }
            Err(fault)
        }
    }
}

/// Gives the answer of a handler that has not succeeded, unless it has lost its transaction besides, and
/// the database may have kept something that it did without. SQLite rolls a whole transaction back by
/// itself, as when the disk is full, and keeps nothing.
pub(super) async fn released_unless_lost<B: Block, T>(
    mut block: B,
    answer: Result<T, Fault>,
) -> Result<T, Fault> {
    if !B::KEEPS_NOTHING && block.is_lost().await {
        return Err(lost());
    }
    block.release();
    answer
}

/// The same for a handler that has failed.
pub(super) async fn failed_unless_lost<B: Block, T>(
    mut block: B,
    error: BoxError,
) -> Result<T, Fault> {
    if !B::KEEPS_NOTHING && block.is_lost().await {
        return Err(lost());
    }
    Err(failed(block, error))
}

/// Gives back the block of a handler that has failed. Where the error would come again on its connection, as one of
/// a statement that is prepared there and no longer fits its table, the connection is closed.
fn failed<B: Block>(block: B, error: BoxError) -> Fault {
    if block.is_spoiled(error.as_ref()) {
        drop(block);
    } else {
        block.release();
    }
    Fault::Handler(error)
}

/// Returns the fault of a handler that has panicked. Its connection is closed: nobody knows what it was at.
pub(super) async fn panicked<B: Block>(mut block: B, Panic(text): Panic) -> Fault {
    if !B::KEEPS_NOTHING && block.is_lost().await {
        return lost();
    }
    Fault::Panicked(text)
}

/// The fault of a handler whose transaction is not the one that it was given any more.
pub(crate) fn lost() -> Fault {
    Fault::Lost("it ended the local transaction that it was given")
}
