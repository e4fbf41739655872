//! Record of a handler that lost its local transaction: it ended that by itself, or let it be ended.
//!
//! Nobody can tell what it has left behind, and a further call would do it again. So the branch's row says
//! `running`, by a transaction of its own: every further Prepare has no vote, and Commit and Cancel answer that
//! it is a hazard. Where the handler has committed, its own row says so already.
//!
//! The database may be gone just then. So a loss is kept in memory until it is recorded: nothing is done for its
//! branch before that, and the record is tried again and again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::row::State;
use super::{Block, Blocks, Row, kept, leave, or_released};
use crate::doubt::RowKey;
use crate::handler::Isolation;
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoAnswer, RawCall};

/// Attempts to leave the row: the branch's twin may hold it for a moment.
const ATTEMPTS_MAX: usize = 3;

/// Most losses that are kept in memory. Each is of a handler that is wrong, at a time when its database is gone.
const LOSSES_MAX: usize = 10_000;

const NOT_RECORDED: &str = "an earlier attempt has ended its local transaction, and the database does not take the record of that yet";

/// Losses that are not recorded yet.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Losses(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_branch: BTreeMap<RowKey, Loss>,
    /// Somebody is at recording them.
    is_at_work: bool,
}

/// A loss: what it was of, and the answer that the handler was to give.
#[derive(Clone, Debug)]
struct Loss {
    call: RawCall,
    text: &'static str,
    owed: Owed,
}

/// Answer that the handler was to give.
#[derive(Clone, Copy, Debug)]
enum Owed {
    Vote,
    End,
}

impl Losses {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, loss: &Loss) {
        let mut kept = self.kept();
        if kept.by_branch.len() < LOSSES_MAX {
            kept.by_branch.insert(key(&loss.call), loss.clone());
        }
    }

    fn is_recorded(&self, call: &RawCall) {
        self.kept().by_branch.remove(&key(call));
    }

    fn of(&self, call: &RawCall) -> Option<Loss> {
        let kept = self.kept();
        if kept.by_branch.is_empty() { None } else { kept.by_branch.get(&key(call)).cloned() }
    }

    /// Tells whether somebody has to begin to record them: there are some, and nobody is at it.
    pub(crate) fn begin(&self) -> bool {
        let mut kept = self.kept();
        !kept.by_branch.is_empty() && !std::mem::replace(&mut kept.is_at_work, true)
    }

    /// Ends that if there are none any more.
    fn end(&self) -> bool {
        let mut kept = self.kept();
        kept.is_at_work = !kept.by_branch.is_empty();
        !kept.is_at_work
    }
}

fn key(call: &RawCall) -> RowKey {
    let branch = call.branch();
    (branch.tx_id, branch.branch_id.clone())
}

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
    match record(blocks, losses, &loss).await {
        true => Ok(()),
        false => Err(Fault::Lost(NOT_RECORDED)),
    }
}

/// Records all losses, and tells whether none is left.
pub(crate) async fn record_all<B: Blocks>(blocks: &B, losses: &Losses) -> bool {
    let all: Vec<Loss> = losses.kept().by_branch.values().cloned().collect();
    for loss in all {
        record(blocks, losses, &loss).await;
    }
    losses.end()
}

/// Records the loss, if the result of a handler's phase one is one.
pub(crate) async fn recorded<B: Blocks, T>(
    blocks: &B,
    losses: &Losses,
    call: &RawCall,
    result: Result<T, Fault>,
) -> Result<T, Fault> {
    if let Err(Fault::Lost(text)) = &result {
        noted(blocks, losses, call, text, Owed::Vote).await;
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
        noted(blocks, losses, call, text, Owed::End).await;
    }
    result
}

async fn noted<B: Blocks>(
    blocks: &B,
    losses: &Losses,
    call: &RawCall,
    text: &'static str,
    owed: Owed,
) {
    let mut call = call.clone();
    // No row holds it.
    call.call.payload = Payload::default();
    let loss = Loss { call, text, owed };
    // First of all: whoever waits for the record may be ended at any moment.
    losses.note(&loss);
    record(blocks, losses, &loss).await;
}

/// Attempts the record, and tells whether it is there.
async fn record<B: Blocks>(blocks: &B, losses: &Losses, loss: &Loss) -> bool {
    let Loss { call, text, owed } = loss;
    let row = Row { refusal: Refusal::new("TRANSACTION_LOST", *text), ..Row::new(State::Running) };
    let mut attempt = 1;
    let recorded = loop {
        let recorded = match owed {
            Owed::Vote => leave(blocks, call, &row, None).await.map(drop),
            Owed::End => overwrite(blocks, call, &row).await,
        };
        match recorded {
            Err(Fault::Busy) if attempt < ATTEMPTS_MAX => attempt += 1,
            recorded => break recorded,
        }
    };
    match recorded {
        Ok(()) => losses.is_recorded(call),
        Err(fault) => {
            let branch = call.branch();
            tracing::error!(
                alarm = "handler_lost_transaction",
                tx_id = %branch.tx_id,
                gid = branch.gid,
                branch_id = branch.branch_id,
                error = %fault,
                "failed to record that a handler lost its local transaction; it is tried again, and nothing is done \
                 for the branch here before that"
            );
            return false;
        }
    }
    true
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
