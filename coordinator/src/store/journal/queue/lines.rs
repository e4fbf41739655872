//! Lines of transactions that wait for a lane.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use unanimo_core::TxId;

/// Share of the lane's time for what takes too long alone, while others wait: one part, and so many for the others.
const OTHERS: u32 = 4;

/// Time that is taken for that of an attempt that was too long, where it is not known.
const LATE: Duration = Duration::from_secs(1);

/// Line of batches. Decisions and everything else of transactions that exist go before those that begin one.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    moves: VecDeque<TxId>,
    begins: VecDeque<TxId>,
}

impl Waiting {
    pub(super) fn push(&mut self, tx_id: TxId, begins: bool) {
        let line = if begins { &mut self.begins } else { &mut self.moves };
        line.push_back(tx_id);
    }

    pub(super) fn pop(&mut self) -> Option<TxId> {
        self.moves.pop_front().or_else(|| self.begins.pop_front())
    }

    /// Takes one that begins nothing.
    pub(super) fn pop_move(&mut self) -> Option<TxId> {
        self.moves.pop_front()
    }

    pub(super) fn has_moves(&self) -> bool {
        !self.moves.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.moves.len() + self.begins.len()
    }

    /// Takes all.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = TxId> + use<> {
        let Self { moves, begins } = std::mem::take(self);
        moves.into_iter().chain(begins)
    }
}

/// Line of those that go alone: no kind of them keeps another one waiting for long.
#[derive(Debug, Default)]
pub(super) struct Alone {
    /// Those that were not tried alone yet.
    pub(super) untried: Waiting,
    /// Those that have met a lock, or a failure. They and the untried take turns.
    pub(super) tried: VecDeque<TxId>,
    is_turn_of_tried: bool,
    /// Those that took too long alone.
    late: VecDeque<TxId>,
    /// When one of these was taken that is under way.
    late_taken: Option<Instant>,
    /// One of these was taken last: the next one is another one, if there is any.
    was_late: bool,
    /// Until then the others come first.
    late_at: Option<Instant>,
}

impl Alone {
    /// Adds one that took too long. What it took is given to the others some times, if there are any.
    pub(super) fn push_late(&mut self, tx_id: TxId) {
        let took = self.late_taken.take().map_or(LATE, |at| at.elapsed());
        self.late_at = Some(Instant::now() + took * OTHERS);
        self.late.push_back(tx_id);
    }

    /// Takes all but those that took too long: whoever else tries one of these keeps all others waiting for as long.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = TxId> + use<> {
        let tried = std::mem::take(&mut self.tried);
        self.untried.take_all().chain(tried)
    }

    pub(super) fn pop(&mut self) -> Option<TxId> {
        let is_due = self.late_at.is_none_or(|at| at <= Instant::now());
        let has_others = self.untried.len() + self.tried.len() > 0;
        if (!has_others || is_due && !self.was_late)
            && let Some(late) = self.late.pop_front()
        {
            (self.late_taken, self.was_late) = (Some(Instant::now()), true);
            return Some(late);
        }
        self.was_late = false;
        self.is_turn_of_tried = !self.is_turn_of_tried;
        if self.is_turn_of_tried {
            self.tried.pop_front().or_else(|| self.untried.pop())
        } else {
            self.untried.pop().or_else(|| self.tried.pop_front())
        }
    }
}
