//! Admission: bounds on what may be in flight (promise L5).
//!
//! New work is counted before it is begun. What is begun is never refused: votes, Commit, Rollback,
//! phase two and adoption only add to the count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most that may be in flight on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Transactions in memory.
    pub transactions_max: usize,
    /// Bytes of their payloads, outputs, metadata and texts.
    pub bytes_max: usize,
}

/// Too much is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is in flight: {what} would go over {max}")]
pub struct Overloaded {
    /// The quantity that would exceed its bound.
    pub what: &'static str,
    /// The bound.
    pub max: usize,
}

/// Counts what is in flight.
#[derive(Debug)]
pub(super) struct Admission {
    bounds: Bounds,
    transactions: AtomicUsize,
    bytes: AtomicUsize,
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    transactions: usize,
    bytes: usize,
}

impl Admission {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, transactions: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    /// Admits a new transaction, or with `transactions` 0 more bytes of a known one.
    pub(super) fn admit(
        self: &Arc<Self>,
        transactions: usize,
        bytes: usize,
    ) -> Result<Permit, Overloaded> {
        let Bounds { transactions_max, bytes_max } = self.bounds;
        // Counted first, so that two at once cannot both take the last place.
        let permit = self.admit_always(transactions, bytes);
        if self.transactions() > transactions_max && transactions > 0 {
            return Err(Overloaded { what: "transactions", max: transactions_max });
        }
        if self.bytes() > bytes_max && bytes > 0 {
            return Err(Overloaded { what: "bytes of payloads and outputs", max: bytes_max });
        }
        Ok(permit)
    }

    /// Counts work that must not be refused.
    pub(super) fn admit_always(self: &Arc<Self>, transactions: usize, bytes: usize) -> Permit {
        self.transactions.fetch_add(transactions, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Permit { admission: Arc::clone(self), transactions, bytes }
    }

    pub(super) fn transactions(&self) -> usize {
        self.transactions.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// Counts as many bytes as are held by now.
    pub(super) fn resize(&mut self, bytes: usize) {
        let Self { admission, bytes: counted, .. } = self;
        // Added first: a count that is too low would let others in.
        admission.bytes.fetch_add(bytes, Ordering::Relaxed);
        admission.bytes.fetch_sub(std::mem::replace(counted, bytes), Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.transactions.fetch_sub(self.transactions, Ordering::Relaxed);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_a_bound_is_refused_until_a_place_is_given_back() {
        let bounds = Bounds { transactions_max: 2, bytes_max: 100 };
        let admission = Arc::new(Admission::new(bounds));
        let first = admission.admit(1, 60).expect("a place");
        let error = admission.admit(1, 60).expect_err("too many bytes");
        assert_eq!(
            error.to_string(),
            "too much is in flight: bytes of payloads and outputs would go over 100"
        );
        let _second = admission.admit(1, 0).expect("a place");
        let error = admission.admit(1, 0).expect_err("too many transactions");
        assert_eq!(error.to_string(), "too much is in flight: transactions would go over 2");
        let mut forced = admission.admit_always(1, 0);
        assert_eq!(admission.transactions(), 3);
        forced.resize(30);
        forced.resize(20);
        assert_eq!(admission.bytes(), 80);
        drop((first, forced));
        admission.admit(1, 100).expect("a place");
        assert_eq!((admission.transactions(), admission.bytes()), (1, 0));
    }
}
