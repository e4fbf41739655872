//! Points at which a test can kill the process, or its database, as if by `kill -9`.
//!
//! They stand around every durable step of a participant. Only with the feature `failpoints`;
//! without it `crash_point!` is nothing.

/// Marks a point.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        ::fail::fail_point!($name);
    };
}

/// Points on the way of a branch of TCC.
#[cfg(feature = "failpoints")]
pub const TCC_POINTS: &[&str] = &[
    "participant-before-vote-is-durable",
    "participant-after-vote-is-durable",
    "participant-before-end-is-durable",
    "participant-after-end-is-durable",
    "participant-after-row-is-left",
];

/// Points on the way of a branch of two-phase commit.
#[cfg(feature = "failpoints")]
pub const TWO_PHASE_POINTS: &[&str] = &[
    "participant-before-prepare-transaction",
    "participant-after-prepare-transaction",
    "participant-before-end-prepared",
    "participant-after-end-prepared",
    "participant-after-row-is-left",
];
