//! Rules of sagas, one script each: see [`common::script`]. The first line of a script is the begin.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::script::check;

#[test]
fn a_transaction_that_is_decided_waits_for_no_lock() {
    let script = check(
        "saga a b +lock",
        "write; lock
         locks granted => prepare a; prepare b
         crash => note+adopted; lock
         locks held_by_younger =>
         rollback => ABORT Rollback; cancel a; cancel b
         tick +100 =>",
    );
    // Only a stall is due, a minute after the decision.
    assert_eq!(script.wakes_in(), Some(Duration::from_millis(59_900)));
}
