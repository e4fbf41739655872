//! Durations counted in buckets that can be read back: eight for each power of two.
//!
//! Noting one costs an addition. A quantile is told as the middle of its bucket: within a sixteenth of the true one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Buckets of each power of two, as a power of two.
const PARTS: u32 = 3;

/// Highest power of two of microseconds: longer than a day and a half. Longer durations count as that.
const POWER_MAX: u32 = 37;

/// Number of buckets.
const BUCKETS: usize = ((POWER_MAX - PARTS + 2) << PARTS) as usize;

/// Counters of the buckets. They go round after 4 billion: only differences of two snapshots tell something.
#[derive(Debug)]
pub(super) struct Buckets {
    counts: [AtomicU32; BUCKETS],
}

impl Default for Buckets {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU32::new(0)) }
    }
}

/// Counts of the buckets at one moment, or between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    counts: Box<[u32]>,
}

impl Buckets {
    pub(super) fn note(&self, took: Duration) {
        self.counts[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot { counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect() }
    }
}

impl Snapshot {
    /// Returns what was counted since an earlier one.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts);
        Self { counts: counts.map(|(now, then)| now.wrapping_sub(*then)).collect() }
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Returns the duration that so many in a hundred took at most; `None` without any.
    pub(super) fn percentile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut counted = 0;
        let place = self.counts.iter().position(|count| {
            counted += u64::from(*count);
            counted >= rank
        });
        place.map(middle)
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min((2 << POWER_MAX) - 1);
    let power = micros.max(1).ilog2();
    let place = match power.checked_sub(PARTS) {
        None => micros,
        Some(shift) => (u64::from(shift) << PARTS) + (micros >> shift),
    };
    usize::try_from(place).unwrap_or(BUCKETS - 1)
}

/// Returns the middle of a bucket.
fn middle(place: usize) -> Duration {
    let place = place as u64;
    let micros = match (place >> PARTS).checked_sub(1) {
        None => place,
        Some(shift) => {
            let start = ((1 << PARTS) + (place & ((1 << PARTS) - 1))) << shift;
            start + (1 << shift) / 2
        }
    };
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_its_bucket_and_is_near_the_middle() {
        let mut last = 0;
        for micros in (0..4_096).chain((12..=POWER_MAX).flat_map(|power| {
            let start = 1_u64 << power;
            [start - 1, start, start + 1, start + start / 3, 2 * start - 1]
        })) {
            let place = bucket(Duration::from_micros(micros));
            assert!(place < BUCKETS, "{micros}");
            assert!(place >= last || micros < 4_096, "{micros}: buckets are in order");
            last = place;
            let told = u64::try_from(middle(place).as_micros()).expect("small");
            assert!(told.abs_diff(micros) * 16 <= micros.max(16), "{micros}: {told}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_within_a_sixteenth_of_the_exact_ones() {
        let mut seed = 7_u64;
        for spread in [3, 12, 24, 33] {
            for count in [1_usize, 2, 10, 99, 100, 101, 5_000] {
                let buckets = Buckets::default();
                let before = buckets.snapshot();
                let mut exact: Vec<u64> = (0..count)
                    .map(|_| {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (seed >> 20) % (1 << (1 + (seed >> 8) % spread))
                    })
                    .collect();
                exact.iter().for_each(|micros| buckets.note(Duration::from_micros(*micros)));
                exact.sort_unstable();
                let counted = buckets.snapshot().since(&before);
                assert_eq!(counted.count(), count as u64);
                for percent in [50, 90, 99, 100] {
                    let rank = (count * percent).div_ceil(100).max(1);
                    let exact = exact[rank - 1];
                    let told = counted.percentile(percent as u64).expect("there are some");
                    let told = u64::try_from(told.as_micros()).expect("small");
                    assert!(
                        told.abs_diff(exact) * 16 <= exact.max(16),
                        "p{percent} of {count}: {told}, exactly {exact}"
                    );
                }
            }
        }
        assert_eq!(Buckets::default().snapshot().percentile(50), None);
    }

    #[test]
    fn a_difference_outlives_counters_that_go_round() {
        let buckets = Buckets::default();
        let took = Duration::from_millis(3);
        buckets.counts[bucket(took)].store(u32::MAX, Ordering::Relaxed);
        let before = buckets.snapshot();
        buckets.note(took);
        buckets.note(took);
        assert_eq!(buckets.snapshot().since(&before).count(), 2);
    }
}
