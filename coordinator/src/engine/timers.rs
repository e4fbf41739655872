//! When each transaction is to be looked at next.

use std::collections::BTreeSet;

use unanimo_core::TxId;

/// One time a transaction, by the clock of `T`; removed exactly, so that no stale entry remains.
#[derive(Debug)]
pub(super) struct Timers<T> {
    due: BTreeSet<(T, TxId)>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { due: BTreeSet::new() }
    }
}

impl<T: Copy + Ord> Timers<T> {
    /// Moves a transaction's time.
    pub(super) fn set(&mut self, tx_id: TxId, from: &mut Option<T>, to: Option<T>) {
        if *from == to {
            return;
        }
        if let Some(from) = from.take() {
            self.due.remove(&(from, tx_id));
        }
        if let Some(to) = to {
            self.due.insert((to, tx_id));
        }
        *from = to;
    }

    /// Every transaction that has a time.
    pub(super) fn all(&self) -> Vec<TxId> {
        self.due.iter().map(|(_, tx_id)| *tx_id).collect()
    }

    /// The earliest time of all.
    pub(super) fn next(&self) -> Option<T> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A transaction whose time has come. Its time stays set until it is moved.
    pub(super) fn due(&self, now: T) -> Option<TxId> {
        self.due.first().filter(|(at, _)| *at <= now).map(|(_, tx_id)| *tx_id)
    }
}
