//! Recoveries: from a record that is older than what has happened, and after a stop that was longer than a step's patience.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::script::check;
use common::{Durable, definition};
use unanimo_core::{
    Branch, BranchId, BranchNumber, Definition, Drive, Incarnation, Input, Mode, Payload, Policy,
    PrepareAnswer, Timestamp, Transaction, TxId,
};

const HOUR: Duration = Duration::from_secs(60 * 60);

const BEGIN: Timestamp = Timestamp(1_000_000);

/// A saga of steps in a chain, the second an hour after the first, and one that is due in the evening.
fn waits_for_an_hour() -> Definition {
    let mut saga = definition(Mode::Saga, Drive::Declarative, &["a", "b", "c", "d"]);
    saga.branches[3].step.start_at = Some(BEGIN.after(10 * HOUR));
    saga.timeout = Some(24 * HOUR);
    for (at, before) in [(1, "a"), (2, "b")] {
        saga.branches[at].step.depends_on = vec![BranchId::new(before).unwrap()];
    }
    saga.branches[1].step.delay = Some(HOUR);
    saga
}

fn begin(definition: Definition) -> (Transaction, Durable) {
    let id = TxId(uuid::Uuid::from_u128(7));
    let (tx, effects) = Transaction::begin(id, definition, BEGIN, &Policy::default());
    let durable = Durable::begun(&effects);
    (tx, durable)
}

/// S11: a database that was restored, or a standby that had not all, has a record from before what has happened. It says
/// that nothing was under way, and does not say that nothing was sent since.
#[test]
fn s11_what_may_have_run_since_an_older_record_is_undone() {
    let (mut tx, mut durable) = begin(waits_for_an_hour());
    let number = BranchNumber::from_index(0);
    let answer = PrepareAnswer::Prepared(Payload::default());
    let voted = Input::PrepareAnswered { number, attempt: 1, answer };
    durable.write(&tx.apply(voted, BEGIN, &Policy::default()).unwrap());
    for (after, owed) in [
        (HOUR / 2, [true, false, false, false]),
        // Two may have been sent by now.
        (HOUR, [true, true, true, false]),
        (2 * HOUR, [true, true, true, false]),
        // Its deadline has passed.
        (25 * HOUR, [true; 4]),
    ] {
        let now = BEGIN.after(after);
        let mut found = durable.recover();
        let recovered = Input::Recovered { by: Incarnation(2) };
        for input in [recovered, Input::RollbackAsked] {
            found.apply(input, now, &Policy::default()).unwrap();
        }
        let found: Vec<bool> = found.branches().iter().map(Branch::is_owed).collect();
        assert_eq!(found, owed, "{after:?} after the vote");
    }
}

/// A step is asked once more before it is given up: that nobody asked it for so long is not its fault.
#[test]
fn a_stop_that_is_longer_than_a_steps_patience_gives_up_nothing() {
    let stopped = || {
        let mut script = check("saga a+patience=30000", "write; prepare a\n a failed => note");
        script.sleep(Duration::from_secs(40));
        script.line("crash => note+adopted; prepare a#2");
        script.line("tick +1 =>");
        script
    };
    stopped().line("a prepared => COMMIT+END");
    let mut script = stopped();
    script.line("tick +9998 =>");
    script.line("tick +1 => ABORT GaveUp(BranchNumber(1)); cancel a");
    // A shorter patience is enough for one question.
    let mut script = check("saga a+patience=300", "write; prepare a\n a failed => note");
    script.sleep(Duration::from_secs(40));
    script.line("crash => note+adopted; prepare a#2");
    script.line("tick +299 =>");
    script.line("tick +1 => ABORT GaveUp(BranchNumber(1)); cancel a");
    // Without a stop it counts from the first attempt.
    check(
        "saga a+patience=3000",
        "write; prepare a
         tick +2900 =>
         a failed => note
         tick +99 => prepare a#2
         tick +1 => ABORT GaveUp(BranchNumber(1)); cancel a",
    );
}

/// L5: inputs that wait to be written are counted, as everything that is held.
#[test]
fn l5_inputs_that_wait_to_be_written_are_counted() {
    let mut script = check("saga a b", "write; prepare a; prepare b\n tick +1 =>");
    let before = script.tx.held_bytes();
    for (line, inputs) in [
        ("a working 900 => note", 0),
        ("tick +900 => prepare a#2", 1),
        ("a working 900 => note", 0),
        ("tick +900 => prepare a#3", 1),
        ("a working 900 =>", 2),
        ("tick +900 => prepare a#4", 3),
        ("a working 900 => note", 0),
    ] {
        script.line(line);
        let grown = script.tx.held_bytes() - before;
        assert!((inputs * 250..inputs * 500 + 100).contains(&grown), "{line}: {grown} bytes");
    }
}

/// A participant that asks for what is under way changes nothing, and is not recorded.
#[test]
fn a_question_for_what_is_under_way_is_not_recorded() {
    let mut script = check(
        "saga a b c",
        "write; prepare a; prepare b; prepare c
         a prepared =>
         b prepared =>
         c refused => ABORT Refused(BranchNumber(3)); cancel a; cancel b
         a failed => note",
    );
    let before = script.tx.held_bytes();
    let ask = |script: &mut common::script::Script, number| {
        let number = Some(BranchNumber::from_index(number));
        let input = Input::Retry { number, operator: None };
        script.tx.apply(input, BEGIN, &Policy::default()).unwrap()
    };
    for _ in 0..200 {
        let effects = ask(&mut script, 1);
        assert!(effects.calls.is_empty() && effects.transition.is_none(), "{effects:?}");
    }
    assert_eq!(script.tx.held_bytes(), before);
    // The one that waits for its next attempt is called at once, and that is recorded.
    assert_eq!(ask(&mut script, 0).calls.len(), 1);
    assert!(script.tx.held_bytes() > before);
}
