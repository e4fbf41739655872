//! Queue of writes: of each transaction at most one waits, and at most one is under way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use unanimo_core::{Transition, TxId, Version};
use uuid::Uuid;

use super::super::{Life, Write};

/// A transaction's place in the queue.
#[derive(Debug, Default)]
struct Slot {
    /// Not under way: more can be folded into it.
    waiting: Option<Write>,
    /// Some lane is writing an earlier one. It is completed before the next is taken.
    under_way: bool,
    /// Its row was found locked: the slow lane has it.
    slow: bool,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<TxId, Slot>,
    /// Decisions and everything else of transactions that exist: they go first.
    moves: VecDeque<TxId>,
    /// New transactions.
    begins: VecDeque<TxId>,
    /// Whatever was found locked.
    slow: VecDeque<TxId>,
    /// Lives that have lost their rows, until their owner says that it knows. So they are as few as
    /// results that are not read yet.
    lost: HashMap<TxId, Life>,
    closed: bool,
}

/// The queue that both lanes share.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    fast_work: Notify,
    slow_work: Notify,
}

impl Inner {
    /// Puts the transaction in line, if it has something waiting and nothing under way.
    fn enqueue(&mut self, tx_id: TxId, again: bool) -> bool {
        let Some(Slot { waiting: Some(write), under_way: false, slow }) = self.slots.get(&tx_id)
        else {
            return false;
        };
        let slow = *slow;
        let line = match (slow, &write.transition.begins) {
            (true, _) => &mut self.slow,
            (false, None) => &mut self.moves,
            (false, Some(_)) => &mut self.begins,
        };
        if again {
            line.push_front(tx_id);
        } else {
            line.push_back(tx_id);
        }
        slow
    }

    fn take(&mut self, tx_id: TxId) -> Option<Write> {
        let slot = self.slots.get_mut(&tx_id)?;
        let write = slot.waiting.take()?;
        slot.under_way = true;
        Some(write)
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_for(&self, slow: bool) -> &Notify {
        if slow { &self.slow_work } else { &self.fast_work }
    }

    pub(super) fn submit(&self, transition: Transition, write_id: Uuid, life: Life) {
        let mut inner = self.lock();
        let tx_id = transition.tx_id;
        if inner.lost.get(&tx_id) == Some(&life) {
            return;
        }
        let slot = inner.slots.entry(tx_id).or_default();
        if let Some(write) = &mut slot.waiting {
            debug_assert_eq!(write.life, life, "a life ends before the next one begins");
            write.transition.fold(transition);
            return;
        }
        let base = Version(transition.version.0 - 1);
        slot.waiting = Some(Write { life, write_id, base, transition });
        let slow = inner.enqueue(tx_id, false);
        drop(inner);
        self.work_for(slow).notify_one();
    }

    pub(super) fn backlog(&self) -> usize {
        self.lock().slots.len()
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.fast_work.notify_one();
        self.slow_work.notify_one();
    }

    /// The next batch of a lane, as soon as there is one; `None` once nothing can come any more.
    pub(super) async fn next(&self, slow: bool, rows: usize, bytes: usize) -> Option<Vec<Write>> {
        loop {
            let batch = self.gather(slow, rows, bytes);
            if !batch.is_empty() {
                return Some(batch);
            }
            {
                let inner = self.lock();
                if inner.closed && inner.slots.is_empty() {
                    return None;
                }
            }
            self.work_for(slow).notified().await;
        }
    }

    fn gather(&self, slow: bool, rows: usize, bytes: usize) -> Vec<Write> {
        let mut inner = self.lock();
        let (mut batch, mut size) = (Vec::new(), 0);
        while batch.len() < rows && size < bytes {
            let next = if slow {
                inner.slow.pop_front()
            } else {
                inner.moves.pop_front().or_else(|| inner.begins.pop_front())
            };
            let Some(tx_id) = next else { break };
            if let Some(write) = inner.take(tx_id) {
                size += write.transition.size();
                batch.push(write);
            }
        }
        batch
    }

    /// The write is durable: what came for the transaction meanwhile goes next.
    pub(super) fn done(&self, tx_id: TxId) {
        let mut inner = self.lock();
        let Some(slot) = inner.slots.get_mut(&tx_id) else {
            return;
        };
        slot.under_way = false;
        slot.slow = false;
        if slot.waiting.is_none() {
            inner.slots.remove(&tx_id);
            self.wake_if_drained(inner);
        } else {
            inner.enqueue(tx_id, false);
            drop(inner);
            self.fast_work.notify_one();
        }
    }

    /// The write cannot be made: what came for the transaction meanwhile goes with it, and so does
    /// what this life hands over from now on.
    pub(super) fn drop_all(&self, tx_id: TxId, life: Life) {
        let mut inner = self.lock();
        inner.slots.remove(&tx_id);
        inner.lost.insert(tx_id, life);
        self.wake_if_drained(inner);
    }

    pub(super) fn forget(&self, tx_id: TxId, life: Life) {
        let mut inner = self.lock();
        if inner.lost.get(&tx_id) == Some(&life) {
            inner.lost.remove(&tx_id);
        }
    }

    /// The write was definitely not made: it waits in the slow lane, and more can be folded into it.
    pub(super) fn put_back(&self, mut write: Write) {
        let mut inner = self.lock();
        let tx_id = write.transition.tx_id;
        let slot = inner.slots.entry(tx_id).or_default();
        slot.under_way = false;
        slot.slow = true;
        if let Some(later) = slot.waiting.take() {
            write.transition.fold(later.transition);
        }
        slot.waiting = Some(write);
        inner.enqueue(tx_id, false);
        drop(inner);
        self.slow_work.notify_one();
    }

    fn wake_if_drained(&self, inner: MutexGuard<'_, Inner>) {
        if inner.closed && inner.slots.is_empty() {
            drop(inner);
            self.fast_work.notify_one();
            self.slow_work.notify_one();
        }
    }
}
