//! An operation that is sent until it is answered.

use std::time::{Duration, Instant};

use tonic::{Code, Status};

/// The operation.
pub(super) struct Asking {
    pub(super) operation: &'static str,
    pub(super) started: Instant,
    pub(super) attempt: u32,
    /// When this attempt was sent.
    sent: Instant,
}

impl Asking {
    pub(super) fn new(operation: &'static str) -> Self {
        let started = Instant::now();
        Self { operation, started, attempt: 1, sent: started }
    }

    /// The next attempt begins now.
    pub(super) fn again(&mut self) {
        (self.attempt, self.sent) = (self.attempt + 1, Instant::now());
    }

    /// Tells whether this attempt has had its whole time: nobody has answered in it, whatever a client makes of that.
    pub(super) fn is_silent(&self, status: &Status, call_timeout: Duration) -> bool {
        status.code() == Code::DeadlineExceeded || self.sent.elapsed() >= call_timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_took_its_whole_time_was_silent_whatever_its_status() {
        let mut asking = Asking::new("Prepare");
        let (late, cancelled) =
            (Status::deadline_exceeded("late"), Status::cancelled("Timeout expired"));
        let hour = Duration::from_secs(3600);
        assert!(asking.is_silent(&late, hour));
        assert!(!asking.is_silent(&cancelled, hour), "somebody has said that, and at once");
        std::thread::sleep(Duration::from_millis(20));
        assert!(asking.is_silent(&cancelled, Duration::from_millis(20)));
        asking.again();
        assert!(!asking.is_silent(&cancelled, hour), "its time is its own");
        assert_eq!(asking.attempt, 2);
    }
}
