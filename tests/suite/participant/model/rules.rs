//! Effects of a call on a branch, by the rules alone.

use std::collections::BTreeSet;

use super::lab::{Effects, Mode};
use super::schedule::{Call, Fault, Operation};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Never heard of.
    None,
    Prepared,
    Refused,
    Committed,
    /// Cancelled after it had been prepared.
    Undone,
    /// Cancelled before its Prepare came.
    Tombstone,
    /// Told to commit, and there was nothing.
    Lost,
}

/// The answer that the caller hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Yes,
    No,
    Done,
    HeuristicCommit,
    HeuristicRollback,
    Hazard,
    /// No answer, or that it is still at work.
    Nothing,
}

impl State {
    /// Content of the database in this state.
    pub(super) fn effects(self, mode: Mode) -> Effects {
        let [prepared, committed, cancelled] = match (self, mode) {
            // What is prepared is seen once it is committed, and never if it is not.
            (Self::None | Self::Refused | Self::Tombstone | Self::Lost, _)
            | (Self::Prepared | Self::Undone, Mode::TwoPhase) => [0, 0, 0],
            (Self::Prepared, Mode::Tcc) | (Self::Committed, Mode::TwoPhase) => [1, 0, 0],
            (Self::Committed, Mode::Tcc) => [1, 1, 0],
            (Self::Undone, Mode::Tcc) => [1, 0, 1],
        };
        Effects { prepared, committed, cancelled }
    }

    /// State that a call which runs to its end leads to.
    fn after(self, call: Call) -> (Self, Heard) {
        match (call.operation, self) {
            (Operation::Prepare, Self::None) => match call.fault {
                Fault::Late | Fault::Refuses => (Self::Refused, Heard::No),
                Fault::Fails | Fault::Dies => (Self::None, Heard::Nothing),
                Fault::None | Fault::AnswerLost => (Self::Prepared, Heard::Yes),
            },
            (Operation::Prepare, Self::Prepared | Self::Committed) => (self, Heard::Yes),
            (Operation::Prepare, _) => (self, Heard::No),

            (Operation::Commit, Self::None) => (Self::Lost, Heard::Hazard),
            (Operation::Commit, Self::Prepared) => self.phase_two(call, Self::Committed),
            (Operation::Commit, Self::Committed) => (self, Heard::Done),
            (Operation::Commit, Self::Refused | Self::Undone | Self::Tombstone) => {
                (self, Heard::HeuristicRollback)
            }

            (Operation::Cancel, Self::None) => (Self::Tombstone, Heard::Done),
            (Operation::Cancel, Self::Prepared) => self.phase_two(call, Self::Undone),
            (Operation::Cancel, Self::Refused | Self::Undone | Self::Tombstone) => {
                (self, Heard::Done)
            }
            (Operation::Cancel, Self::Committed) => (self, Heard::HeuristicCommit),
            (Operation::Commit | Operation::Cancel, Self::Lost) => (self, Heard::Hazard),
        }
    }

    fn phase_two(self, call: Call, end: Self) -> (Self, Heard) {
        match call.fault {
            Fault::Fails | Fault::Dies => (self, Heard::Nothing),
            _ => (end, Heard::Done),
        }
    }
}

/// Every state that the branch may be in, if the calls of a group were at work at once and each
/// heard what it heard: those that some order of the calls leads to.
///
/// Cancel of two-phase commit takes two steps: what is prepared is rolled back, and only then can the
/// tombstone be left. In between there is no trace of the branch, and a call that comes just then may
/// meet that.
pub(super) fn explain(
    from: &BTreeSet<State>,
    calls: &[(Call, Heard)],
    mode: Mode,
) -> BTreeSet<State> {
    if calls.is_empty() {
        return from.clone();
    }
    let mut to = BTreeSet::new();
    for first in 0..calls.len() {
        let mut rest = calls.to_vec();
        let (call, heard) = rest.remove(first);
        let rolls_back = mode == Mode::TwoPhase && call.operation == Operation::Cancel;
        if rolls_back && from.contains(&State::Prepared) {
            to.extend(explain(&BTreeSet::from([State::None]), calls, mode));
        }
        let mut after = BTreeSet::new();
        for &state in from {
            let (next, answer) = state.after(call);
            if heard == Heard::Nothing {
                // It may have been at work to its end, or not at all.
                after.extend([state, next]);
            } else if heard == answer {
                after.insert(next);
            }
        }
        if !after.is_empty() {
            to.extend(explain(&after, &rest, mode));
        }
    }
    to
}
