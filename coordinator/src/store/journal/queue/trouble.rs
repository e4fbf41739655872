//! Troubles of the journal, and what is done for a lane that has no connection.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use unanimo_core::TxId;

use super::super::super::Write;
use super::{Inner, Line, Queue, Slot};

/// Reasons for which nothing is written, each in words that fit after "failed to".
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Failure of the last batch; none if it was written.
    failed: Option<String>,
    /// Cause of a standstill; none if anything was written since.
    standstill: Option<String>,
    /// Failure to connect, of each lane that has no connection.
    cut_off: [Option<String>; 3],
}

impl Inner {
    /// Tells whether something waits for this lane, or was left to the fast one in its place.
    fn is_waited_for(&self, line: Line) -> bool {
        let waits = |slot: &Slot| slot.line == line || slot.is_lone;
        self.slots.values().any(waits)
    }
}

impl Queue {
    /// Notes why the last batch was not written; nothing if it was.
    pub(in crate::store::journal) fn note_trouble(&self, trouble: Option<String>) {
        let mut troubles = self.troubles();
        if trouble.is_none() {
            troubles.standstill = None;
        }
        troubles.failed = trouble;
    }

    /// Notes why everything stands still, and tells whether that is new; nothing if it does not.
    pub(in crate::store::journal) fn note_standstill(&self, cause: Option<String>) -> bool {
        let before = std::mem::replace(&mut self.troubles().standstill, cause);
        before.is_none()
    }

    /// Notes why a lane has no connection, and tells whether that is new; nothing if it has one.
    pub(in crate::store::journal) fn note_cut_off(
        &self,
        line: Line,
        cause: Option<String>,
    ) -> bool {
        let before = std::mem::replace(&mut self.troubles().cut_off[line as usize], cause);
        before.is_none()
    }

    pub(in crate::store::journal) fn is_cut_off(&self, line: Line) -> bool {
        self.troubles().cut_off[line as usize].is_some()
    }

    /// Returns what holds up the journal, or a part of it. That a lane has no connection holds up who waits for it.
    pub(in crate::store::journal) fn trouble(&self) -> Option<String> {
        let trouble = self.troubles();
        let of_all = trouble.failed.as_ref().or(trouble.standstill.as_ref()).cloned();
        let cut_off = trouble.cut_off.clone();
        drop(trouble);
        of_all.or_else(|| {
            let inner = self.lock();
            let of_lane =
                |(line, cause): (Line, Option<String>)| cause.filter(|_| inner.is_waited_for(line));
            [Line::Slow, Line::Alone].into_iter().zip(cut_off.into_iter().skip(1)).find_map(of_lane)
        })
    }

    /// Tells whether something waits, and nothing was completed for so long.
    pub(in crate::store::journal) fn is_at_a_standstill(&self, patience: Duration) -> bool {
        let inner = self.lock();
        let Some((_, oldest)) = inner.open.first_key_value() else { return false };
        let since = inner.completed_at.map_or(*oldest, |at| at.max(*oldest));
        since.elapsed() >= patience
    }

    /// Tells whether others were written since these were first refused.
    pub(in crate::store::journal) fn were_others_written(&self, batch: &[Write]) -> bool {
        let inner = self.lock();
        batch.iter().all(|write| {
            let slot = inner.slots.get(&write.transition.tx_id);
            let refused_at = slot.and_then(|slot| slot.refused_at);
            refused_at.is_some_and(|at| at < inner.written)
        })
    }

    /// Leaves to the fast lane what waits for one that has no connection, and waits until there is something. `false` once
    /// nothing can come any more.
    pub(in crate::store::journal) async fn leave_to_fast(&self, line: Line) -> bool {
        loop {
            if self.leave_all(line) {
                return true;
            }
            if self.is_drained() {
                return false;
            }
            self.work_for(line).notified().await;
        }
    }

    pub(super) fn leave_all(&self, line: Line) -> bool {
        let mut inner = self.lock();
        let left: Vec<TxId> = match line {
            Line::Fast => Vec::new(),
            Line::Slow => inner.slow.take_all().collect(),
            Line::Alone => inner.alone.take_all().collect(),
        };
        for tx_id in &left {
            let Some(slot) = inner.slots.get_mut(tx_id) else { continue };
            (slot.line, slot.is_lone) = (Line::Fast, true);
            let begins = slot.begins().unwrap_or_default();
            inner.lone.push(*tx_id, begins);
        }
        drop(inner);
        self.wake((!left.is_empty()).then_some(Line::Fast));
        !left.is_empty()
    }

    /// Has the slow lane, which has a connection again, write in batches what was left to the fast one.
    pub(in crate::store::journal) fn take_back(&self) {
        let mut inner = self.lock();
        for tx_id in inner.lone.take_all() {
            let Some(slot) = inner.slots.get_mut(&tx_id) else { continue };
            (slot.line, slot.is_lone, slot.tries_alone) = (Line::Slow, false, 0);
            let begins = slot.begins().unwrap_or_default();
            inner.slow.push(tx_id, begins);
        }
        drop(inner);
        self.wake(Some(Line::Slow));
    }

    /// Tells whether the fast lane can have no connection, and nothing waits for this one: then its connection may be the one
    /// that the fast lane cannot have.
    pub(in crate::store::journal) fn makes_room(&self, line: Line) -> bool {
        line != Line::Fast
            && self.is_cut_off(Line::Fast)
            && !self.lock().slots.values().any(|slot| slot.line == line)
    }

    /// Puts what goes on before what begins in the next batch of the fast lane, which has nothing else then.
    pub(in crate::store::journal) fn put_moves_first(&self) {
        self.lock().are_moves_first = true;
    }

    /// Tells whether nothing can come any more.
    pub(in crate::store::journal) fn is_drained(&self) -> bool {
        let inner = self.lock();
        inner.closed && inner.slots.is_empty()
    }

    fn troubles(&self) -> MutexGuard<'_, Trouble> {
        // Nothing in here panics half way through a change.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
