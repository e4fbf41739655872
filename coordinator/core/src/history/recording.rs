//! Recording: inputs of the state machine in their recorded form.

use super::{
    Caller, Input, LAST_VERSION, LockResult, PhaseTwoResult, PrepareResult, RecordedOperation,
    Settings, Size, Standing, TEXT_BYTES_MAX, definition,
};
use crate::branch::{Enlistment, Refusal};
use crate::decision::{Operation, Phase, PhaseTwoOperation};
use crate::definition::BranchSpec;
use crate::ids::BranchNumber;
use crate::input::{LockAnswer, PhaseTwoAnswer, PrepareAnswer};
use crate::payload::Payload;
use crate::policy::Policy;
use crate::transaction::Transaction;

impl Input {
    /// Makes the first input of a transaction, if it is recorded.
    pub(crate) fn begin(
        tx: &Transaction,
        branches: &[BranchSpec],
        policy: &Policy,
    ) -> Option<Self> {
        is_recorded(tx, policy).then(|| Self::Begin {
            branches: u16::try_from(branches.len()).unwrap_or(u16::MAX),
            settings: Box::new(Settings::of(policy)),
            definition: {
                let branches = branches.iter().map(|spec| (spec, Caller::Coordinator));
                definition::of_begin(&tx.identity, branches)
            },
        })
    }

    /// Makes the recorded form of an input that the transaction is about to take, if it is recorded.
    pub(crate) fn of(input: &crate::Input, tx: &Transaction, policy: &Policy) -> Option<Self> {
        use crate::Input as Live;
        let idle = match input {
            Live::Retry { operator: None, .. } => {
                tx.locks.retry_at().is_none() && !tx.branches().iter().any(crate::Branch::waits)
            }
            _ => false,
        };
        (!idle && is_recorded(tx, policy)).then(|| Self::taken(input, tx, policy))
    }

    /// Tells whether the input has effects if it changes anything. One of this kind that has none is
    /// not worth a record, and may come any number of times.
    pub(crate) fn shows_in_effects(&self) -> bool {
        !matches!(
            self,
            Self::Recovered { .. }
                | Self::PrepareAnswered { .. }
                | Self::PhaseTwoAnswered { .. }
                | Self::LocksAnswered { .. }
                | Self::Retry { .. }
        )
    }

    fn taken(input: &crate::Input, tx: &Transaction, policy: &Policy) -> Self {
        use crate::Input as Live;
        match input {
            Live::Enlist { branch, enlistment } => Self::Enlist {
                // One that is known changes nothing, and is not kept.
                number: BranchNumber::from_index(tx.branches().len()),
                by: (*enlistment).into(),
                definition: tx.identity.mode().map(|mode| {
                    definition::of_branch(&branch.clone().in_mode(mode), (*enlistment).into())
                }),
            },
            Live::CommitAsked { listed } => {
                let known = |(id, vote): &(_, _)| Some((tx.branch_by_id(id)?.number, *vote));
                Self::CommitAsked { listed: listed.iter().filter_map(known).collect() }
            }
            Live::RollbackAsked => Self::RollbackAsked,
            Live::ParentDecided { operation } => {
                Self::ParentDecided { operation: Operation::PhaseTwo(*operation).into() }
            }
            Live::PrepareAnswered { number, attempt, answer } => {
                Self::PrepareAnswered { number: *number, attempt: *attempt, answer: answer.into() }
            }
            Live::PhaseTwoAnswered { number, operation, attempt, answer } => {
                Self::PhaseTwoAnswered {
                    number: *number,
                    operation: Operation::PhaseTwo(*operation).into(),
                    attempt: *attempt,
                    answer: answer.into(),
                }
            }
            Live::LocksAnswered { number, attempt, answer } => {
                Self::LocksAnswered { number: *number, attempt: *attempt, answer: answer.into() }
            }
            Live::Tick => Self::Tick,
            Live::Rewrite => Self::Rewrite,
            Live::Recovered { by } => Self::Recovered {
                by: *by,
                settings: Box::new(Settings::of(policy)),
                found: Box::new(Standing::of(tx, policy)),
            },
            Live::Retry { number, operator } => {
                Self::Retry { number: *number, operator: operator.as_deref().map(short) }
            }
            Live::Resolve { number, kind, output, operator, note } => Self::Resolve {
                number: *number,
                kind: *kind,
                output: output.as_ref().map(Size::from),
                operator: short(operator),
                note: short(note),
            },
            Live::Forget { operator, note } => {
                Self::Forget { operator: short(operator), note: short(note) }
            }
        }
    }
}

fn is_recorded(tx: &Transaction, policy: &Policy) -> bool {
    // Whoever clears the alarm of a stripped transaction adds to a history that is deleted.
    let stripped = matches!(tx.phase, Phase::Ended { .. }) && tx.branches.is_empty();
    tx.version < LAST_VERSION && !stripped && policy.record.applies_to(tx.identity.mode())
}

impl From<Enlistment> for Caller {
    fn from(enlistment: Enlistment) -> Self {
        match enlistment {
            Enlistment::Coordinator => Self::Coordinator,
            Enlistment::Initiator => Self::Initiator,
        }
    }
}

impl From<Caller> for Enlistment {
    fn from(caller: Caller) -> Self {
        match caller {
            Caller::Coordinator => Self::Coordinator,
            Caller::Initiator => Self::Initiator,
        }
    }
}

impl From<Operation> for RecordedOperation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Prepare => Self::Prepare,
            Operation::PhaseTwo(PhaseTwoOperation::Commit) => Self::Commit,
            Operation::PhaseTwo(PhaseTwoOperation::Cancel) => Self::Cancel,
        }
    }
}

impl RecordedOperation {
    /// Returns the operation of phase two; `None` for Prepare.
    #[must_use]
    pub fn phase_two(self) -> Option<PhaseTwoOperation> {
        match self {
            Self::Prepare => None,
            Self::Commit => Some(PhaseTwoOperation::Commit),
            Self::Cancel => Some(PhaseTwoOperation::Cancel),
        }
    }
}

impl From<&Payload> for Size {
    fn from(payload: &Payload) -> Self {
        Self { bytes: payload.data.len(), media_type: payload.media_type.clone() }
    }
}

impl From<&PrepareAnswer> for PrepareResult {
    fn from(answer: &PrepareAnswer) -> Self {
        match answer {
            PrepareAnswer::Prepared(output) => {
                // A bad one is dropped by the transaction too, and could be of any length.
                let output = output.clone().without_bad_media_type();
                Self::Prepared { output: (&output).into() }
            }
            PrepareAnswer::ReadOnly => Self::ReadOnly,
            PrepareAnswer::Refused(Refusal { reason, message }) => {
                Self::Refused { reason: short(reason), message: short(message) }
            }
            PrepareAnswer::Working { retry_after } => Self::Working { retry_after: *retry_after },
            PrepareAnswer::Asleep { until } => Self::Asleep { until: *until },
            PrepareAnswer::Failed(error) => Self::Failed { error: short(error) },
        }
    }
}

impl From<&PhaseTwoAnswer> for PhaseTwoResult {
    fn from(answer: &PhaseTwoAnswer) -> Self {
        match answer {
            PhaseTwoAnswer::Done => Self::Done,
            PhaseTwoAnswer::Heuristic { kind, note } => {
                Self::Heuristic { kind: *kind, note: short(note) }
            }
            PhaseTwoAnswer::Working { retry_after } => Self::Working { retry_after: *retry_after },
            PhaseTwoAnswer::Failed(error) => Self::Failed { error: short(error) },
        }
    }
}

impl From<&LockAnswer> for LockResult {
    fn from(answer: &LockAnswer) -> Self {
        match answer {
            LockAnswer::Granted => Self::Granted,
            LockAnswer::Held { lock, holder, older, waits, blocks_older } => Self::Held {
                lock: lock.clone(),
                holder: holder.clone(),
                older: *older,
                waits: *waits,
                blocks_older: *blocks_older,
            },
            LockAnswer::Failed(error) => Self::Failed { error: short(error) },
        }
    }
}

/// Cuts a text at [`TEXT_BYTES_MAX`], on a character's boundary.
fn short(text: &str) -> String {
    match text.len() {
        0..=TEXT_BYTES_MAX => text.to_owned(),
        _ => {
            let end = text.floor_char_boundary(TEXT_BYTES_MAX - '…'.len_utf8());
            format!("{}…", &text[..end])
        }
    }
}
