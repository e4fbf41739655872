//! Local transactions that are over without work of their own: given up, or behind a row that was found.

use super::Block;
use super::given_up::gave_up_unseen;
use crate::action::Broken;
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

/// Commits behind a row that this transaction has found. What was read is then as durable as this commit: a row can
/// be seen while its own commit waits for a synchronous standby, or was never confirmed by one. Another session would
/// prove nothing, because it may lead to a server that was promoted meanwhile and does not have the row.
pub(super) async fn affirm<B: Block>(mut block: B) -> Result<(), Fault> {
    let written = block.write().await;
    let (block, ()) = or_released(block, written)?;
    match block.commit().await? {
        None => Ok(()),
        Some(refusal) => {
            let text = format!("what was found cannot be affirmed: {}", refusal.message);
            Err(Fault::SetUp(text))
        }
    }
}

/// Gives the answer that a row tells which was found, once it is affirmed.
pub(super) async fn affirmed<B: Block, T>(block: B, told: Result<T, Fault>) -> Result<T, Fault> {
    match told {
        Ok(answer) => affirm(block).await.map(|()| answer),
        Err(fault) => {
            block.release();
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
    if !B::KEEPS_NOTHING {
        match block.is_lost().await {
            Some(true) => return Err(lost()),
            Some(false) => {}
            None => return Err(gave_up_unseen()),
        }
    }
    block.release();
    answer
}

/// The same for a handler that has failed.
pub(super) async fn failed_unless_lost<B: Block, T>(
    mut block: B,
    error: BoxError,
) -> Result<T, Fault> {
    if B::KEEPS_NOTHING {
        return Err(failed(block, error));
    }
    match block.is_lost().await {
        Some(true) => Err(lost()),
        Some(false) => Err(failed(block, error)),
        None => Err(Fault::Unseen(Fault::Handler(error).to_string())),
    }
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

/// Time in which a database must tell whether a handler that was ended has lost its transaction. It is shorter than what
/// its operation has for that, and for the record.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const LOOKS_WITHIN: std::time::Duration = std::time::Duration::from_millis(1_200);

/// Returns the fault of a handler that has not returned. Its connection is closed: nobody knows what it was at.
pub(super) async fn broken<B: Block>(mut block: B, broken: Broken) -> Fault {
    if B::KEEPS_NOTHING {
        return broken.into();
    }
    match block.is_lost_at_work().await {
        Some(true) => lost(),
        Some(false) => broken.into(),
        None => unseen(broken),
    }
}

/// The fault of such a handler where the database has not told what has become of its transaction. It is taken for no
/// loss: a database that has fallen silent would make one of every handler at work. A person is told.
pub(crate) fn unseen(broken: Broken) -> Fault {
    Fault::Unseen(Fault::from(broken).to_string())
}

/// The fault of a handler whose transaction is not the one that it was given any more.
pub(crate) fn lost() -> Fault {
    Fault::Lost("it ended the local transaction that it was given")
}
