//! Waits for locks over crashes, and children in sagas that are driven step by step.

mod common;

use common::script::check;

/// A wait is over after `wait_max`, however often the coordinator is started again meanwhile: the transaction's own
/// locks are asked for when it starts.
#[test]
fn a_crash_does_not_prolong_a_wait_of_the_transaction() {
    let script = check(
        "saga a +lock",
        "write; lock
         locks held_by_older =>
         tick +400 => lock#2
         crash => note+adopted; lock
         locks held_by_older =>
         tick +200 => lock#2
         crash => note+adopted; lock
         locks held_by_older =>
         tick +100 => lock#2
         locks held_by_older => ABORT Locked(None); cancel a
         a done => END",
    );
    assert_eq!(script.tx.abort_detail(), Some("lock l is held by transaction h"));
    check(
        "saga a +lock +start=5000",
        "write
         tick +5000 => write+started; lock
         locks held_by_older =>
         crash => note+adopted; lock
         locks held_by_older =>
         tick +690 => lock#2
         locks held_by_older =>
         tick +10 => lock#3
         locks held_by_older => ABORT Locked(None); cancel a",
    );
}

/// That of a step is written down when it has to wait, and is forgotten when it has its locks.
#[test]
fn a_crash_does_not_prolong_a_wait_of_a_step() {
    check(
        "saga a b<a+lock",
        "write; prepare a
         a prepared => lock b
         b locks held_by_older => note
         tick +400 => lock b#2
         b locks held_by_older =>
         crash => note+adopted; lock b
         b locks held_by_older =>
         tick +300 => lock b#2
         b locks held_by_older => ABORT Locked(Some(BranchNumber(2))); cancel b",
    );
    let script = check(
        "saga a b<a+lock",
        "write; prepare a
         a prepared => lock b
         b locks held_by_older => note
         tick +100 => lock b#2
         b locks granted => prepare b",
    );
    assert_eq!(script.tx.branches()[1].progress.locks_asked_at, None);
    // A crash so soon that nothing of the wait is written loses the vote before it, too.
    check(
        "saga a b<a+lock",
        "write; prepare a
         a prepared => lock b
         b locks held_by_older => note
         tick +600 => lock b#2
         crash loses notes => note+adopted; prepare a#2
         a prepared => lock b
         b locks held_by_older => note
         tick +100 => lock b#2
         b locks held_by_older =>",
    );
}

/// An older transaction waits on for a younger one: its limit is the deadline, also after a crash.
#[test]
fn an_older_transaction_waits_on_after_a_crash() {
    check(
        "saga a+lock",
        "write; lock a
         a locks held_by_younger => note
         tick +5000 => lock a#2
         crash => note+adopted; lock a
         a locks held_by_younger =>
         tick +54999 => lock a#2
         tick +1 => ABORT Deadline; cancel a",
    );
}

/// A child has no output: the rule of definitions holds for steps that are added one by one.
#[test]
fn a_step_that_is_added_cannot_read_a_child() {
    let child = "must name a branch with an output, c is a child and has none";
    check(
        "interactive saga",
        &format!(
            "write
             execute c:tcc+nested => write; prepare c
             execute b<c+reads => ! branch.inputs[0].branch_id {child}
             c prepared =>
             execute b<c+reads => ! branch.inputs[0].branch_id {child}
             execute b<c => write; prepare b
             execute d<b,c+reads => ! branch.inputs[1].branch_id {child}
             execute e:tcc<b+nested => write
             b prepared => prepare e
             e prepared =>
             commit c b e => COMMIT; commit c; commit e
             c done =>
             e done => END"
        ),
    );
}

/// A child hands no inputs on: the rule of definitions holds for children that are added one by one.
#[test]
fn a_child_that_is_added_has_no_inputs() {
    check(
        "interactive saga",
        "write
         execute a => write; prepare a
         a prepared =>
         execute c:tcc<a+nested+reads => ! branch.inputs must not be set together with child: the child's steps \
         cannot read them
         execute c:tcc<a+nested => write; prepare c
         c prepared =>
         commit a c => COMMIT; commit c
         c done => END",
    );
}

/// Who holds what an older one waits for does not wait for an older one, whatever its time. It waits for a younger one,
/// and after its pivot was sent for its answer alone.
#[test]
fn l1_who_is_in_the_way_of_an_older_one_waits_for_no_older_one() {
    for (answer, has_it) in [
        ("held_by_older_and_blocks_older", "held by transaction h"),
        (
            "waited_for_by_older_and_blocks_older",
            "waited for by transaction h, which is older and goes first",
        ),
    ] {
        let script = check(
            "saga a b<a+lock",
            &format!(
                "write; prepare a
                 a prepared => lock b
                 b locks held_by_older => note
                 tick +20 => lock b#2
                 b locks {answer} => ABORT Locked(Some(BranchNumber(2))); cancel a"
            ),
        );
        let why = "; an older transaction waits for a lock that this one holds";
        let detail = format!("lock l is {has_it}{why}");
        assert_eq!(script.tx.abort_detail(), Some(&*detail));
    }
    check(
        "saga a b<a+lock",
        "write; prepare a
         a prepared => lock b
         b locks held_by_younger_and_blocks_older => note",
    );
    // A crash loses nothing of it: it is told when it asks anew.
    check(
        "saga a b<a+lock",
        "write; prepare a
         a prepared => lock b
         b locks held_by_older => note
         crash => note+adopted; lock b
         b locks held_by_older_and_blocks_older => ABORT Locked(Some(BranchNumber(2))); cancel b",
    );
    check(
        "saga a p!<a +lock",
        "write; lock
         locks granted => prepare a
         a prepared => write; prepare p
         crash => note+adopted; prepare p#2; lock
         locks held_by_older_and_blocks_older =>",
    );
}

/// A step that was done had its locks, and keeps them: after a crash, too, where nothing asks for them again. And a request
/// without an answer may have been granted.
#[test]
fn l1_who_may_hold_locks_says_so_after_a_crash() {
    let script = check(
        "saga a+lock b<a+lock",
        "write; lock a
         a locks granted => prepare a
         a prepared => lock b
         b locks held_by_older => note
         crash => note+adopted; lock b",
    );
    assert!(script.tx.may_hold_locks(), "step a had its lock");
    let script = check(
        "saga a b<a+lock",
        "write; prepare a
         a prepared => lock b
         b locks held_by_older => note
         tick +20 => lock b#2
         b locks failed =>",
    );
    assert!(script.tx.branches()[1].obstacle().is_none(), "nothing is known of it");
}
