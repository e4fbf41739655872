//! Crash points, at which a test can kill the process as `kill -9` does.
//!
//! There is one between any two durable steps of the coordinator and a participant, so that a test
//! can loop over [`POINTS`], [`SAGA_POINTS`], [`AUDIT_POINTS`], [`FEED_POINTS`], [`WEBHOOK_POINTS`] and [`ADOPTION_POINTS`] and check the state after a crash at each;
//! `conversion-after-chunk` is passed by a start that brings tables of an earlier version to this one. They
//! exist only with the feature `failpoints`; without it `crash_point!` expands to nothing.

/// Marks a crash point.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        ::fail::fail_point!($name);
    };
}

/// Crash points that a transaction passes.
#[cfg(feature = "failpoints")]
pub const POINTS: &[&str] = &[
    "journal-before-write",
    "journal-after-write",
    "engine-before-release",
    "call-before-send",
    "call-after-answer",
];

/// Crash points that a saga passes besides, if it takes locks or has a child.
#[cfg(feature = "failpoints")]
pub const SAGA_POINTS: &[&str] = &["locks-taken", "child-voted", "child-ended"];

/// Crash points around an operator's act, between its two entries of the audit.
#[cfg(feature = "failpoints")]
pub const AUDIT_POINTS: &[&str] = &["audit-before-act", "audit-after-act"];

/// Crash points around the adding of events to the feed.
#[cfg(feature = "failpoints")]
pub const FEED_POINTS: &[&str] = &["feed-before-advance", "feed-after-advance"];

/// Crash points around the sending of an event to a webhook.
#[cfg(feature = "failpoints")]
pub const WEBHOOK_POINTS: &[&str] =
    &["webhook-before-send", "webhook-after-send", "webhook-before-note"];

/// Crash points between the end of an incarnation and the work of its successor. An incarnation
/// passes each of them once.
#[cfg(feature = "failpoints")]
pub const ADOPTION_POINTS: &[&str] =
    &["birth-after-fence", "birth-after-birth", "adoption-while-parking", "adoption-after-claim"];
