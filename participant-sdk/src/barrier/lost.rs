//! Record of a handler that lost its local transaction: it ended that by itself, or let it be ended.
//!
//! Nobody can tell what it has left behind, and a further call would do it again. So the branch gets a row
//! in state `running`, in a transaction of its own: every further Prepare has no vote, and Commit and Cancel
//! answer that it is a hazard. Where the handler has committed, its own row says so already.

use super::row::State;
use super::{Blocks, Row, leave};
use crate::refusal::Refusal;
use crate::resource::{Fault, RawCall};

/// Attempts to leave the row: the branch's twin may hold it for a moment.
const ATTEMPTS_MAX: usize = 3;

/// Records the loss, if the result of a handler's phase one is one.
pub(crate) async fn recorded<B: Blocks, T>(
    blocks: &B,
    call: &RawCall,
    result: Result<T, Fault>,
) -> Result<T, Fault> {
    let Err(Fault::Lost(text)) = &result else { return result };
    let refusal = Refusal::new("TRANSACTION_LOST", *text);
    let row = Row { refusal, ..Row::new(State::Running) };
    for attempt in 1..=ATTEMPTS_MAX {
        match leave(blocks, call, &row, None).await {
            Ok(_) => break,
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
    result
}
