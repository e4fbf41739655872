//! Size of a lane's batches.

use super::super::{BATCH_BYTES_MAX, BATCH_ROWS_MAX};

/// Size of the batches that a lane writes: less after a timeout or a lock, more after successes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// It was too large: it grows after some successes only, until it is whole again.
    is_cautious: bool,
    /// Successes since it grew last.
    successes: u32,
}

impl Budget {
    pub(super) const MAX: Self =
        Self { rows: BATCH_ROWS_MAX, bytes: BATCH_BYTES_MAX, is_cautious: false, successes: 0 };

    pub(super) const ONE_ROW: Self = Self { rows: 1, ..Self::MAX };

    /// Bytes below which a batch is not cut: what one transaction takes is written whole anyhow.
    const BYTES_MIN: usize = 64 << 10;

    /// Successes after which one that was too large grows again.
    const CAUTION: u32 = 8;

    /// Halves it because a batch was too large, and remembers that.
    pub(super) fn shrink(&mut self) {
        self.halve();
        (self.is_cautious, self.successes) = (true, 0);
    }

    /// Makes it as small as this because a batch was too large, and remembers that.
    pub(super) fn shrink_to(&mut self, rows: usize) {
        self.shrink();
        self.rows = self.rows.min(rows).max(1);
    }

    pub(super) fn halve(&mut self) {
        self.rows = (self.rows / 2).max(1);
        self.bytes = (self.bytes / 2).max(Self::BYTES_MIN);
    }

    /// Doubles it, if it is time.
    pub(super) fn grow(&mut self) {
        self.successes += 1;
        if self.is_cautious && self.successes < Self::CAUTION {
            return;
        }
        self.successes = 0;
        self.rows = (self.rows * 2).min(Self::MAX.rows);
        self.bytes = (self.bytes * 2).min(Self::MAX.bytes);
        self.is_cautious &= self.rows < Self::MAX.rows || self.bytes < Self::MAX.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_was_too_large_is_not_tried_again_at_once() {
        let mut budget = Budget::MAX;
        budget.grow();
        assert_eq!(budget.rows, BATCH_ROWS_MAX);
        budget.shrink();
        for grown in 0..Budget::CAUTION {
            assert_eq!(budget.rows, BATCH_ROWS_MAX / 2, "after {grown}");
            budget.grow();
        }
        assert_eq!((budget.rows, budget.is_cautious), (BATCH_ROWS_MAX, false));
        // One that only looks for a lock is as large again at once.
        budget.halve();
        budget.grow();
        assert_eq!(budget.rows, BATCH_ROWS_MAX);
    }
}
