//! Points at which a test can kill the process as if by `kill -9`.
//!
//! They stand between any two durable steps, ours and a participant's, so that a test can loop over
//! [`POINTS`] and [`ADOPTION_POINTS`] and check what a crash at each leaves. They exist only with
//! the feature `failpoints`; without it `crash_point!` expands to nothing.

/// Marks a point.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        ::fail::fail_point!($name);
    };
}

/// Every point on a transaction's way.
#[cfg(feature = "failpoints")]
pub const POINTS: &[&str] = &[
    "journal-before-write",
    "journal-after-write",
    "engine-before-release",
    "call-before-send",
    "call-after-answer",
];

/// Every point on the way from an earlier incarnation to the next one. An incarnation passes
/// each of them once.
#[cfg(feature = "failpoints")]
pub const ADOPTION_POINTS: &[&str] =
    &["birth-after-fence", "birth-after-birth", "adoption-after-claim"];
