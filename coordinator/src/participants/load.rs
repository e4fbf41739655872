//! Load of the participants: transactions and bytes in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use unanimo_core::ParticipantName;

/// Transactions in memory with a branch at one participant, and bytes of those branches' payloads.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Those that hold a place of the participant's share.
    transactions: AtomicUsize,
    /// All of these: something is owed to the participant, or may be.
    owed: AtomicUsize,
    bytes: AtomicUsize,
    /// Those that are out of memory, and wait for this participant, as far as they were counted.
    parked: AtomicUsize,
    /// Those that are set aside, or are to be, and wait for this participant, whose calls fail.
    lasting: AtomicUsize,
}

impl Load {
    pub(crate) fn add(&self, transactions: usize, bytes: usize) {
        self.transactions.fetch_add(transactions, Ordering::Relaxed);
        self.owed.fetch_add(transactions, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, transactions: usize, bytes: usize) {
        self.transactions.fetch_sub(transactions, Ordering::Relaxed);
        self.owed.fetch_sub(transactions, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Transactions that hold no place from here on.
    pub(crate) fn set_aside(&self, transactions: usize) {
        self.transactions.fetch_sub(transactions, Ordering::Relaxed);
    }

    /// Transactions that were set aside, and hold their places again.
    pub(crate) fn take_back(&self, transactions: usize) {
        self.transactions.fetch_add(transactions, Ordering::Relaxed);
    }

    /// Transactions that are to be set aside, and wait for this participant, whose calls fail.
    pub(crate) fn last(&self, transactions: usize) {
        self.lasting.fetch_add(transactions, Ordering::Relaxed);
    }

    /// Transactions that do not any more.
    pub(crate) fn go_on(&self, transactions: usize) {
        self.lasting.fetch_sub(transactions, Ordering::Relaxed);
    }

    pub(crate) fn lasting(&self) -> usize {
        self.lasting.load(Ordering::Relaxed)
    }

    pub(crate) fn transactions(&self) -> usize {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Transactions of which something is owed to the participant, or may be, those out of memory among them.
    pub(crate) fn owed(&self) -> usize {
        self.here() + self.parked()
    }

    /// Transactions in memory with a branch there.
    pub(crate) fn here(&self) -> usize {
        self.owed.load(Ordering::Relaxed)
    }

    /// Sets the number of transactions out of memory that wait for this participant.
    pub(crate) fn set_parked(&self, transactions: usize) {
        self.parked.store(transactions, Ordering::Relaxed);
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Loads by name. A name may be forgotten, and registered anew, while transactions count on it.
#[derive(Debug, Default)]
pub(super) struct Loads {
    by_name: RwLock<BTreeMap<ParticipantName, Weak<Load>>>,
}

impl Loads {
    /// Returns the load of a name, for as long as anybody holds it.
    pub(super) fn of(&self, name: &ParticipantName) -> Arc<Load> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = known.get(name).and_then(Weak::upgrade) {
            return load;
        }
        drop(known);
        let mut known = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = known.get(name).and_then(Weak::upgrade) {
            return load;
        }
        let load = Arc::default();
        known.insert(name.clone(), Arc::downgrade(&load));
        load
    }

    /// Tells whether something is owed to this name, or may be.
    pub(super) fn is_owed(&self, name: &ParticipantName) -> bool {
        self.owed_by(name) > 0
    }

    /// Number of transactions of which something is owed to this name, or may be.
    pub(super) fn owed_by(&self, name: &ParticipantName) -> usize {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).and_then(Weak::upgrade).map_or(0, |load| load.owed())
    }

    /// Names to which something is owed, or may be, with the number of transactions.
    pub(super) fn owed(&self) -> Vec<(ParticipantName, usize)> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let owed = known.iter().filter_map(|(name, load)| {
            let owed = load.upgrade()?.owed();
            (owed > 0).then(|| (name.clone(), owed))
        });
        owed.collect()
    }

    /// Names that transactions out of memory wait for, with the number of these.
    pub(super) fn parked(&self) -> Vec<(ParticipantName, usize)> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let parked = known.iter().filter_map(|(name, load)| {
            let parked = load.upgrade()?.parked();
            (parked > 0).then(|| (name.clone(), parked))
        });
        parked.collect()
    }

    /// Lets go of the names that nobody counts on.
    pub(super) fn sweep(&self) {
        let mut known = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, load| load.strong_count() > 0);
    }
}
