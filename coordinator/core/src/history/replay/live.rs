//! Recorded inputs as the state machine takes them.

use bytes::Bytes;

use crate::branch::Refusal;
use crate::history::{Document, Input, LockResult, PhaseTwoResult, PrepareResult};
use crate::input::{LockAnswer, PhaseTwoAnswer, PrepareAnswer};
use crate::{Input as Live, PhaseTwoOperation};

/// The input of a checked document; zeroes stand for bytes that are not recorded.
pub(super) fn input(document: &Document, recorded: &Input, zeroes: &Bytes) -> Live {
    match recorded.clone() {
        // The caller begins the transaction by itself.
        Input::Begin { .. } | Input::Tick => Live::Tick,
        Input::Rewrite => Live::Rewrite,
        Input::Recovered { by, .. } => Live::Recovered { by },
        Input::Enlist { number, by, .. } => Live::Enlist {
            branch: document.spec(number.index(), zeroes).into(),
            enlistment: by.into(),
        },
        Input::CommitAsked { listed } => {
            let id =
                |number: crate::BranchNumber| document.branches[number.index()].branch_id.clone();
            Live::CommitAsked {
                listed: listed.into_iter().map(|(number, vote)| (id(number), vote)).collect(),
            }
        }
        Input::RollbackAsked => Live::RollbackAsked,
        Input::ParentDecided { operation } => {
            Live::ParentDecided { operation: phase_two(operation) }
        }
        Input::PrepareAnswered { number, attempt, answer } => {
            Live::PrepareAnswered { number, attempt, answer: prepare_answer(answer, zeroes) }
        }
        Input::PhaseTwoAnswered { number, operation, attempt, answer } => Live::PhaseTwoAnswered {
            number,
            operation: phase_two(operation),
            attempt,
            answer: phase_two_answer(answer),
        },
        Input::LocksAnswered { number, attempt, answer } => {
            Live::LocksAnswered { number, attempt, answer: lock_answer(answer) }
        }
        Input::Retry { number, operator } => Live::Retry { number, operator },
        Input::Resolve { number, kind, output, operator, note } => {
            let output = output.map(|output| output.of_zeroes(zeroes));
            Live::Resolve { number, kind, output, operator, note }
        }
        Input::Forget { operator, note } => Live::Forget { operator, note },
    }
}

fn phase_two(operation: crate::history::RecordedOperation) -> PhaseTwoOperation {
    operation.phase_two().expect("the document was checked")
}

fn prepare_answer(answer: PrepareResult, zeroes: &Bytes) -> PrepareAnswer {
    match answer {
        PrepareResult::Prepared { output } => PrepareAnswer::Prepared(output.of_zeroes(zeroes)),
        PrepareResult::ReadOnly => PrepareAnswer::ReadOnly,
        PrepareResult::Refused { reason, message } => {
            PrepareAnswer::Refused(Refusal { reason, message })
        }
        PrepareResult::Working { retry_after } => PrepareAnswer::Working { retry_after },
        PrepareResult::Asleep { until } => PrepareAnswer::Asleep { until },
        PrepareResult::Failed { error } => PrepareAnswer::Failed(error),
    }
}

fn phase_two_answer(answer: PhaseTwoResult) -> PhaseTwoAnswer {
    match answer {
        PhaseTwoResult::Done => PhaseTwoAnswer::Done,
        PhaseTwoResult::Heuristic { kind, note } => PhaseTwoAnswer::Heuristic { kind, note },
        PhaseTwoResult::Working { retry_after } => PhaseTwoAnswer::Working { retry_after },
        PhaseTwoResult::Failed { error } => PhaseTwoAnswer::Failed(error),
    }
}

fn lock_answer(answer: LockResult) -> LockAnswer {
    match answer {
        LockResult::Granted => LockAnswer::Granted,
        LockResult::Held { lock, holder, older, waits, blocks_older } => {
            LockAnswer::Held { lock, holder, older, waits, blocks_older }
        }
        LockResult::Failed { error } => LockAnswer::Failed(error),
    }
}
