//! Queue of writes: of each transaction at most one waits, and at most one is under way.

mod lines;
mod slot;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use unanimo_core::{Incarnation, Transition, TxId, Version};
use uuid::Uuid;

use self::lines::{Alone, Waiting};
use self::slot::Slot;
pub(super) use self::slot::{Blame, Line};
use self::trouble::Trouble;
use super::super::{Life, Write};
use super::Reach;

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<TxId, Slot>,
    fast: Waiting,
    slow: Waiting,
    alone: Alone,
    /// Those that another lane has left to the fast one, each to be written by itself, in turn with batches.
    lone: Waiting,
    is_turn_of_lone: bool,
    /// The fast lane takes what goes on first, in a batch of its own.
    are_moves_first: bool,
    /// Lives that have lost their rows, until their owner says that it knows. So they are as few as
    /// results that are not read yet.
    lost: HashMap<TxId, Life>,
    /// Writes of which it is not known yet what becomes of them, and since when they are here.
    open: BTreeMap<Uuid, Instant>,
    /// The highest identifier of a write that was handed over.
    last: Option<Uuid>,
    /// Rows that were written.
    written: u64,
    /// When a write was completed last.
    completed_at: Option<Instant>,
    closed: bool,
}

/// The queue that all lanes share.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    fast_work: Notify,
    slow_work: Notify,
    alone_work: Notify,
    trouble: Mutex<Trouble>,
}

impl Inner {
    /// Puts the transaction in line, if it has something waiting and nothing under way. Tells which
    /// line that is.
    fn enqueue(&mut self, tx_id: TxId) -> Option<Line> {
        let slot = self.slots.get(&tx_id)?;
        let begins = slot.begins()?;
        let line = slot.line;
        match line {
            Line::Fast if slot.is_lone => self.lone.push(tx_id, begins),
            Line::Fast => self.fast.push(tx_id, begins),
            Line::Slow => self.slow.push(tx_id, begins),
            Line::Alone if slot.timed_out_alone => self.alone.push_late(tx_id),
            Line::Alone if slot.tries_alone == 0 => self.alone.untried.push(tx_id, begins),
            Line::Alone => self.alone.tried.push_back(tx_id),
        }
        Some(line)
    }

    fn take(&mut self, tx_id: TxId) -> Option<Write> {
        let slot = self.slots.get_mut(&tx_id)?;
        slot.tries_alone = slot.tries_alone.saturating_add(u32::from(slot.line == Line::Alone));
        let write = slot.again.take().or_else(|| slot.waiting.take())?;
        slot.under_way = true;
        Some(write)
    }

    /// Takes one that was left to the fast lane, if it is its turn.
    fn take_lone(&mut self) -> Option<Write> {
        self.is_turn_of_lone = !self.is_turn_of_lone || self.fast.len() == 0;
        while self.is_turn_of_lone
            && let Some(tx_id) = self.lone.pop()
        {
            if let Some(write) = self.take(tx_id) {
                return Some(write);
            }
        }
        None
    }

    fn next_of(&mut self, line: Line) -> Option<TxId> {
        match line {
            Line::Fast if self.are_moves_first => self.fast.pop_move(),
            Line::Fast => self.fast.pop(),
            Line::Slow => self.slow.pop(),
            Line::Alone => self.alone.pop(),
        }
    }

    /// Has all that went alone, and did not take too long, go in batches once more: what held them up may be gone.
    fn release(&mut self) {
        for tx_id in std::mem::take(&mut self.alone.tried) {
            let Some(slot) = self.slots.get_mut(&tx_id) else { continue };
            (slot.line, slot.tries_alone) = (Line::Slow, 0);
            let begins = slot.begins().unwrap_or_default();
            self.slow.push(tx_id, begins);
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_for(&self, line: Line) -> &Notify {
        match line {
            Line::Fast => &self.fast_work,
            Line::Slow => &self.slow_work,
            Line::Alone => &self.alone_work,
        }
    }

    fn wake(&self, line: Option<Line>) {
        if let Some(line) = line {
            self.work_for(line).notify_one();
        }
    }

    fn wake_all(&self) {
        for line in [Line::Fast, Line::Slow, Line::Alone] {
            self.wake(Some(line));
        }
    }

    /// Takes a transition, and what the row must have before it: its version, and its owner if that is another
    /// one. Where more waits, that is in between.
    pub(super) fn submit(
        &self,
        transition: Transition,
        write_id: Uuid,
        life: Life,
        (base, former): (Version, Option<Incarnation>),
    ) {
        let mut inner = self.lock();
        let tx_id = transition.tx_id;
        if inner.lost.get(&tx_id) == Some(&life) {
            return;
        }
        inner.last = inner.last.max(Some(write_id));
        let slot = inner.slots.entry(tx_id).or_default();
        if let Some(write) = &mut slot.waiting {
            debug_assert_eq!(write.life, life, "a life ends before the next one begins");
            write.transition.fold(transition);
            return;
        }
        let in_line = slot.begins().is_some();
        slot.waiting = Some(Write { life, write_id, base, former, transition });
        inner.open.insert(write_id, Instant::now());
        let line = if in_line { None } else { inner.enqueue(tx_id) };
        drop(inner);
        self.wake(line);
    }

    /// Returns up to where it is known of each write what became of it, but for those that are open for longer than
    /// this: these are named. `None` before the first write.
    pub(super) fn reach(&self, patience: Duration, open_max: usize) -> Option<Reach> {
        let inner = self.lock();
        let last = inner.last?;
        let mut open = Vec::new();
        for (write_id, since) in &inner.open {
            if open.len() == open_max || since.elapsed() < patience {
                return Some(Reach { until: *write_id, open });
            }
            open.push(*write_id);
        }
        let until = Uuid::from_u128(last.as_u128().saturating_add(1));
        Some(Reach { until, open })
    }

    pub(super) fn backlog(&self) -> usize {
        self.lock().slots.len()
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake_all();
    }

    /// The next batch of a lane, as soon as there is one; `None` once nothing can come any more.
    pub(super) async fn next(&self, line: Line, rows: usize, bytes: usize) -> Option<Vec<Write>> {
        loop {
            let batch = self.gather(line, rows, bytes);
            if !batch.is_empty() {
                return Some(batch);
            }
            if self.is_drained() {
                return None;
            }
            self.work_for(line).notified().await;
        }
    }

    fn gather(&self, line: Line, rows: usize, bytes: usize) -> Vec<Write> {
        let mut inner = self.lock();
        let (mut batch, mut size) = (Vec::new(), 0);
        if line == Line::Fast {
            if let Some(write) = inner.take_lone() {
                return vec![write];
            }
            inner.are_moves_first &= inner.fast.has_moves();
        }
        let rows = if line == Line::Alone { 1 } else { rows };
        while batch.len() < rows && size < bytes {
            let Some(tx_id) = inner.next_of(line) else { break };
            if let Some(write) = inner.take(tx_id) {
                size += write.transition.size();
                batch.push(write);
            }
        }
        inner.are_moves_first &= line != Line::Fast;
        batch
    }

    /// The write is durable: what came for the transaction meanwhile goes next. Where one is through that was held up
    /// alone, what held the others up may be gone, too.
    pub(super) fn done(&self, tx_id: TxId, write_id: Uuid) {
        let mut inner = self.lock();
        inner.written += 1;
        inner.completed_at = Some(Instant::now());
        inner.open.remove(&write_id);
        let Some(slot) = inner.slots.get_mut(&tx_id) else {
            return;
        };
        let old = std::mem::take(slot);
        slot.waiting = old.waiting;
        let is_released = old.line == Line::Alone && old.tries_alone > 1 && !old.timed_out_alone;
        if is_released {
            inner.release();
            self.wake(Some(Line::Slow));
        }
        if inner.slots[&tx_id].waiting.is_none() {
            inner.slots.remove(&tx_id);
            self.wake_if_drained(inner);
        } else {
            let line = inner.enqueue(tx_id);
            drop(inner);
            self.wake(line);
        }
    }

    /// The write cannot be made: what came for the transaction meanwhile goes with it, and so does
    /// what this life hands over from now on.
    pub(super) fn drop_all(&self, tx_id: TxId, write_id: Uuid, life: Life) {
        let mut inner = self.lock();
        inner.completed_at = Some(Instant::now());
        inner.open.remove(&write_id);
        if let Some(slot) = inner.slots.remove(&tx_id) {
            for write in [slot.again, slot.waiting].into_iter().flatten() {
                inner.open.remove(&write.write_id);
            }
        }
        inner.lost.insert(tx_id, life);
        self.wake_if_drained(inner);
    }

    pub(super) fn forget(&self, tx_id: TxId, life: Life) {
        let mut inner = self.lock();
        if inner.lost.get(&tx_id) == Some(&life) {
            inner.lost.remove(&tx_id);
        }
    }

    /// The write waits in one of the lines. More is folded into it only if it was definitely
    /// not made, and nothing was found about it.
    pub(super) fn put_back(&self, mut write: Write, line: Line) {
        let mut inner = self.lock();
        let tx_id = write.transition.tx_id;
        let slot = inner.slots.entry(tx_id).or_default();
        slot.under_way = false;
        // The fast lane has tried one by itself that was left to it.
        let is_tried = std::mem::take(&mut slot.is_lone) && line == Line::Slow;
        let line = if is_tried { Line::Alone } else { line };
        slot.line = line;
        if line != Line::Alone {
            slot.tries_alone = 0;
        }
        if slot.sent || slot.refused_at.is_some() {
            slot.again = Some(write);
        } else {
            let later = slot.waiting.take();
            let folded = later.as_ref().map(|later| later.write_id);
            if let Some(later) = later {
                write.transition.fold(later.transition);
            }
            slot.waiting = Some(write);
            if let Some(folded) = folded {
                inner.open.remove(&folded);
            }
        }
        let line = inner.enqueue(tx_id);
        drop(inner);
        self.wake(line);
    }

    /// Notes that an attempt to make these writes, which are under way, had no known end.
    pub(super) fn note_sent(&self, batch: &[Write]) {
        let mut inner = self.lock();
        for write in batch {
            if let Some(slot) = inner.slots.get_mut(&write.transition.tx_id) {
                slot.sent = true;
            }
        }
    }

    /// Notes that the server refused these writes as more than it takes, or as damaged, and tells whom that is to
    /// be blamed on. It is a row if there is one, others were made since it was first refused, it was refused alone
    /// before, and no attempt of its own may have fared better.
    pub(super) fn note_refused(&self, batch: &[Write]) -> Blame {
        let mut inner = self.lock();
        let written = inner.written;
        let mut blame = Blame::Open;
        for write in batch {
            let tx_id = write.transition.tx_id;
            // A batch is blamed for nothing, and is not compared with all that waits.
            let is_other = |(other, slot): (&TxId, &Slot)| *other != tx_id && slot.refused_alone;
            let is_other_refused = batch.len() == 1 && inner.slots.iter().any(is_other);
            let Some(slot) = inner.slots.get_mut(&tx_id) else { continue };
            let before = *slot.refused_at.get_or_insert(written);
            if slot.refused_alone {
                blame = match (before < written, slot.sent) {
                    (true, false) => Blame::Row,
                    (true, true) => Blame::Held,
                    (false, _) if is_other_refused => Blame::Nobody,
                    (false, _) => Blame::Alone,
                };
            }
            slot.refused_alone = batch.len() == 1;
        }
        if batch.len() == 1 { blame } else { Blame::Open }
    }

    /// Tells whether this is one write that the server has refused before, alone as well.
    pub(super) fn was_refused_alone(&self, batch: &[Write]) -> bool {
        let [write] = batch else { return false };
        self.lock().slots.get(&write.transition.tx_id).is_some_and(|slot| slot.refused_alone)
    }

    /// Counts those that were sent alone and were not tried yet.
    pub(super) fn untried(&self) -> usize {
        self.lock().alone.untried.len()
    }

    /// Notes that a write took too long alone.
    pub(super) fn note_timed_out(&self, tx_id: TxId) {
        if let Some(slot) = self.lock().slots.get_mut(&tx_id) {
            slot.timed_out_alone = true;
        }
    }

    /// Notes that a write is held up by what only it needs, and tells whether that is new.
    pub(super) fn note_held(&self, tx_id: TxId) -> bool {
        let mut inner = self.lock();
        let slot = inner.slots.get_mut(&tx_id);
        slot.is_some_and(|slot| !std::mem::replace(&mut slot.is_held, true))
    }

    fn wake_if_drained(&self, inner: MutexGuard<'_, Inner>) {
        if inner.closed && inner.slots.is_empty() {
            drop(inner);
            self.wake_all();
        }
    }
}
