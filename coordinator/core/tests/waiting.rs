//! Answers to "why is it waiting?", after each line of a script.

mod common;

use common::script::{Script, check};
use unanimo_core::waiting::{Cause, Waiting};
use unanimo_core::{Operation, Timestamp, Transaction};

/// When each script begins.
const BEGUN: u64 = 1_000_000;

/// Tells what is waited for, with times from the begin on.
fn waits(script: &Script) -> String {
    let Some(waiting) = script.tx.waiting(script.now) else { return "nothing".to_owned() };
    let Waiting { cause, branch, since, until, branches } = waiting;
    let from_begin = |at: Timestamp| format!("+{}", at.0 - BEGUN);
    let named = |word: &str, operation: Operation| format!("{word} {}", operation.as_str());
    let mut told = match cause {
        Cause::Time => "time".to_owned(),
        Cause::Parent => "parent".to_owned(),
        Cause::Initiator => "initiator".to_owned(),
        Cause::Lock(None) => "lock".to_owned(),
        Cause::Lock(Some(obstacle)) => format!("lock {} of {}", obstacle.lock, obstacle.holder),
        Cause::Turn(operation) => named("turn", operation),
        Cause::Answer(operation) => named("answer", operation),
        Cause::Retry(operation) => named("retry", operation),
    };
    if let Some(branch) = branch {
        told += &format!(" {}", branch.spec.branch_id);
    }
    told += &format!(" since {}", from_begin(since));
    if let Some(until) = until {
        told += &format!(" until {}", from_begin(until));
    }
    told + &format!(" ({branches})")
}

/// Plays a script, and compares what is waited for after each of its lines: the text behind `?`.
#[track_caller]
fn check_waits(setup: &str, script: &str) {
    let mut lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
    let (first, expected) =
        lines.next().and_then(|line| line.split_once('?')).expect("a line with ?");
    let first = if first.is_empty() { String::new() } else { format!("{first}\n") };
    let mut played = check(setup, &first);
    assert_eq!(waits(&played), expected.trim(), "at the begin");
    for line in lines {
        let (line, expected) = line.split_once('?').expect("a line with ?");
        played.line(line);
        assert_eq!(waits(&played), expected.trim(), "after {line}");
    }
}

/// The one that has waited longest stands for the others, and what failed says when it is sent again.
#[test]
fn a_call_that_is_not_answered_is_waited_for() {
    check_waits(
        "tcc a b",
        "? answer prepare a since +0 (2)
         a failed => note ? retry prepare a since +0 until +50 (2)
         b prepared => ? retry prepare a since +0 until +50 (1)
         tick +100 => prepare a#2 ? answer prepare a since +0 (1)
         a prepared => COMMIT; commit a; commit b ? answer commit a since +100 (2)
         a done => ? answer commit b since +100 (1)
         crash => note+adopted; commit a#2; commit b#2 ? answer commit a since +100 (2)
         a done => ? answer commit b since +100 (1)
         b done => END ? nothing",
    );
}

/// A transaction that is read from the store, and that nobody has in memory, has calls that are due.
#[test]
fn a_stored_transaction_waits_for_its_turn() {
    let mut script = check("tcc a b", "a prepared =>\n b prepared => COMMIT; commit a; commit b");
    script.tx = Transaction::restore(script.tx.record());
    assert_eq!(waits(&script), "turn commit a since +0 (2)");
}

/// A Cancel that waits for others is not what is told.
#[test]
fn a_compensation_waits_behind_those_before_it() {
    check_waits(
        "saga a b<a",
        "write; prepare a ? answer prepare a since +0 (1)
         a prepared => prepare b ? answer prepare b since +0 (1)
         rollback => ABORT Rollback; cancel b ? answer cancel b since +0 (1)
         b done => cancel a ? answer cancel a since +0 (1)",
    );
}

/// An initiator that says nothing is waited for until the deadline, once every call was answered.
#[test]
fn an_initiator_is_waited_for() {
    check_waits(
        "interactive tcc a",
        "? answer prepare a since +0 (1)
         a prepared => ? initiator since +0 until +60000 (0)
         commit a => COMMIT; commit a ? answer commit a since +0 (1)",
    );
}

/// Time and locks are told where nothing else is waited for.
#[test]
fn time_and_locks_are_waited_for() {
    check_waits(
        "saga a+delay=700 +start=5000",
        "write ? time since +0 until +5000 (0)
         tick +5000 => write+started ? time a since +0 until +5700 (1)
         tick +700 => prepare a ? answer prepare a since +5700 (1)",
    );
    check_waits(
        "saga a+lock",
        "write; lock a ? lock a since +0 (1)
         a locks held_by_older => note ? lock l of h a since +0 until +19 (1)
         tick +100 => lock a#2 ? lock l of h a since +0 (1)
         a locks granted => prepare a ? answer prepare a since +100 (1)",
    );
    check_waits(
        "saga a +lock",
        "write; lock ? lock since +0 (0)
         locks held_by_older => ? lock l of h since +0 until +19 (0)",
    );
    check_waits(
        "saga a +child",
        "write; prepare a ? answer prepare a since +0 (1)
         a prepared => write+in_doubt ? parent since +0 (0)",
    );
}

/// A call tells more than what only waits for time or for a lock, and of two calls the older one tells more.
#[test]
fn what_tells_most_stands_for_the_others() {
    check_waits(
        "saga a+delay=100 b c+lock",
        "write; prepare b; lock c ? answer prepare b since +0 (3)
         tick +100 => prepare a ? answer prepare b since +0 (3)
         b prepared => ? answer prepare a since +100 (2)
         a prepared => ? lock c since +0 (1)",
    );
}
