//! Calls for a branch, all of it drawn from a seed.

use fastrand::Rng;
use uuid::Uuid;

use super::lab::Mode;

/// Longest schedule, in groups, and largest group.
const GROUPS_MAX: usize = 4;
const CALLS_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Prepare,
    Commit,
    Cancel,
}

/// Fault in a call, if its handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The handler votes no, after it has written.
    Refuses,
    /// The handler fails, after it has written.
    Fails,
    /// The connection dies under the handler, after it has written.
    Dies,
    /// All goes well, and nobody hears of it: the participant died right after.
    AnswerLost,
    /// The Prepare comes after its time.
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) fault: Fault,
}

impl Call {
    pub(super) fn plain(operation: Operation) -> Self {
        Self { operation, fault: Fault::None }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub(super) tx_id: Uuid,
    pub(super) repeatable_read: bool,
    pub(super) groups: Vec<Vec<Call>>,
    /// Operation that brings it to an end.
    pub(super) last: Operation,
}

impl Schedule {
    pub(super) fn new(seed: u64, mode: Mode) -> Self {
        let mut rng = Rng::with_seed(seed);
        let repeatable_read = rng.u8(0..4) == 0;
        // Some schedules know the one decision only, as a real coordinator does; some know both.
        let decided = match rng.u8(0..3) {
            0 => Some(Operation::Commit),
            1 => Some(Operation::Cancel),
            _ => None,
        };
        let mut groups = Vec::new();
        for _ in 0..rng.usize(1..=GROUPS_MAX) {
            let size = if rng.bool() { 1 } else { rng.usize(2..=CALLS_MAX) };
            groups.push((0..size).map(|_| call(&mut rng, decided, mode)).collect());
        }
        let last = decided.unwrap_or_else(|| phase_two(&mut rng));
        Self { tx_id: Uuid::now_v7(), repeatable_read, groups, last }
    }
}

fn phase_two(rng: &mut Rng) -> Operation {
    if rng.bool() { Operation::Commit } else { Operation::Cancel }
}

fn call(rng: &mut Rng, decided: Option<Operation>, mode: Mode) -> Call {
    let operation = match rng.u8(0..5) {
        0..=2 => Operation::Prepare,
        _ => decided.unwrap_or_else(|| phase_two(rng)),
    };
    let fault = match (rng.u8(0..10), operation) {
        (0, Operation::Prepare) => Fault::Refuses,
        (1, Operation::Prepare) => Fault::Late,
        // Phase two of a prepared transaction has no handler.
        (2, _) if mode == Mode::Tcc || operation == Operation::Prepare => Fault::Fails,
        (3, _) if mode == Mode::Tcc || operation == Operation::Prepare => Fault::Dies,
        (4 | 5, _) => Fault::AnswerLost,
        _ => Fault::None,
    };
    Call { operation, fault }
}
