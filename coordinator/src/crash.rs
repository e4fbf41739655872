//! Points at which a test can kill the process as if by `kill -9`.
//!
//! They stand between any two durable steps, ours and a participant's, so that a test can loop over
//! [`POINTS`] and [`ADOPTION_POINTS`], and see what a crash at each leaves. Only with the feature `failpoints`; without it
//! `crash_point!` is nothing.

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

/// Every point on the way from an earlier incarnation to the next one. Each is come to once in a
/// life.
#[cfg(feature = "failpoints")]
pub const ADOPTION_POINTS: &[&str] =
    &["birth-after-fence", "birth-after-birth", "adoption-after-claim"];
