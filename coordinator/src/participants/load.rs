//! Load of one participant: transactions and bytes in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Transactions in memory with a branch at the participant, and bytes of those branches' payloads.
#[derive(Debug, Default)]
pub(crate) struct Load {
    transactions: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    pub(crate) fn add(&self, transactions: usize, bytes: usize) {
        self.transactions.fetch_add(transactions, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, transactions: usize, bytes: usize) {
        self.transactions.fetch_sub(transactions, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn transactions(&self) -> usize {
        self.transactions.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}
