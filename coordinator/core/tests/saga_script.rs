//! Rules of sagas, one script each: see [`common::script`]. The first line of a script is the begin.

mod common;

use std::time::Duration;

use common::script::check;
use unanimo_core::Timestamp;

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

#[test]
fn a_pivot_without_a_compensation_is_never_cancelled() {
    check(
        "saga a p!+none",
        "write; prepare a
         a prepared => write; prepare p
         p failed => note
         tick +50 => prepare p#2
         p refused => ABORT Refused(BranchNumber(2)); cancel a
         a done => END",
    );
}

#[test]
fn a_step_that_waits_for_its_time_after_commit_is_no_stall() {
    check(
        "saga p! b<p+delay=100000",
        "write; prepare p
         p prepared => COMMIT
         tick +60000 =>
         tick +40000 => prepare b
         tick +59999 =>
         tick +1 => note+stalled
         b prepared => END",
    );
}

#[test]
fn the_pivots_answer_clears_its_alarm_and_a_refusal_after_it_raises_another() {
    check(
        "saga p! b<p",
        "write; prepare p
         tick +120000 => note+pivot_unanswered
         p prepared => COMMIT; prepare b
         b refused => write+refused_after_commit",
    );
}

#[test]
fn steps_run_in_order_and_are_undone_in_reverse() {
    check(
        "saga a b<a c<a d<b,c",
        "write; prepare a
         a prepared => prepare b; prepare c
         c prepared =>
         b prepared => prepare d
         d refused => ABORT Refused(BranchNumber(4)); cancel b; cancel c
         b done =>
         c failed => note
         tick +100 => cancel c#2
         c done => cancel a
         a done => END",
    );
}

#[test]
fn a_saga_without_a_pivot_commits_with_its_last_yes_and_sends_no_commit() {
    check(
        "saga a b<a",
        "write; prepare a
         a prepared => prepare b
         b prepared => COMMIT+END",
    );
}

#[test]
fn what_was_never_sent_is_owed_nothing() {
    check(
        "saga a b<a c<b",
        "write; prepare a
         a prepared => prepare b
         rollback => ABORT Rollback; cancel b
         b done => cancel a
         a done => END",
    );
}

/// No vote between the steps is awaited: after a crash the record does not tell what was sent.
#[test]
fn after_a_crash_whatever_may_have_been_sent_is_cancelled() {
    check(
        "saga a b<a c<b",
        "write; prepare a
         a prepared => prepare b
         b prepared => prepare c
         crash loses notes => note+adopted; prepare a#2
         rollback => ABORT Rollback; cancel c
         c done => cancel b
         b done => cancel a
         a done => END",
    );
}

#[test]
fn after_a_crash_a_step_is_asked_again_before_those_behind_it() {
    check(
        "saga a b<a",
        "write; prepare a
         a prepared => prepare b
         crash loses notes => note+adopted; prepare a#2
         a prepared => prepare b
         b prepared => COMMIT+END",
    );
}

#[test]
fn what_is_kept_is_ended_at_once_and_never_cancelled() {
    check(
        "saga a b<a+kept c<b",
        "write; prepare a
         a prepared => prepare b
         b prepared => prepare c
         c refused => ABORT Refused(BranchNumber(3)); cancel a
         a done => END",
    );
}

#[test]
fn a_step_that_uses_up_its_attempts_is_owed_a_cancel() {
    check(
        "saga a+attempts=2",
        "write; prepare a
         a failed => note
         tick +50 => prepare a#2
         a working => note
         tick +60000 => ABORT Deadline; cancel a
         a done => END",
    );
    check(
        "saga a+attempts=2",
        "write; prepare a
         a failed => note
         tick +50 => prepare a#2
         a failed => ABORT GaveUp(BranchNumber(1)); cancel a
         a done => END",
    );
}

#[test]
fn a_step_that_uses_up_its_patience_is_owed_a_cancel() {
    let script = check("saga a b<a+patience=1000", "write; prepare a\n a prepared => prepare b");
    assert_eq!(script.wakes_in(), Some(Duration::from_secs(1)));
    check(
        "saga a b<a+patience=1000",
        "write; prepare a
         tick +20000 =>
         a prepared => note; prepare b
         tick +999 =>
         tick +1 => ABORT GaveUp(BranchNumber(2)); cancel b
         b prepared =>
         b done => cancel a
         a done => END",
    );
}

#[test]
fn the_pivots_release_is_durable_and_then_only_its_answer_decides() {
    check(
        "saga a b p!<a",
        "write; prepare a; prepare b
         a prepared =>
         b prepared => write; prepare p
         rollback =>
         tick +60000 =>
         crash loses notes => note+adopted; prepare p#2
         rollback =>
         p prepared => COMMIT+END",
    );
    check(
        "saga a p!",
        "write; prepare a
         a prepared => write; prepare p
         tick +70000 =>
         p refused => ABORT Refused(BranchNumber(2)); cancel a
         a done => END",
    );
}

#[test]
fn before_the_pivot_is_sent_rollback_and_deadline_abort() {
    check(
        "saga a b p!",
        "write; prepare a; prepare b
         a prepared =>
         tick +60000 => ABORT Deadline; cancel a; cancel b
         a done =>
         b done => END",
    );
}

/// The pivot's effect may be there: its no alone proves that it is not.
#[test]
fn the_pivot_is_sent_for_ever_and_never_cancelled_unanswered() {
    check(
        "saga p!",
        "write; prepare p
         p failed => note
         tick +50 => prepare p#2
         tick +120000 => note+pivot_unanswered
         p failed => note
         tick +100 => prepare p#3
         p prepared => COMMIT+END",
    );
}

#[test]
fn after_commit_there_is_only_forward() {
    let script = check(
        "saga a p! b<p c<b",
        "write; prepare a
         a prepared => write; prepare p
         p prepared => COMMIT; prepare b
         rollback =>
         tick +50000 =>
         b refused => write+refused_after_commit
         tick +100 => prepare b#2
         crash => note+adopted; prepare b#2
         b prepared => prepare c
         c prepared => END",
    );
    assert!(script.tx.branches().iter().all(|branch| branch.progress.refusal.is_none()));
}

#[test]
fn a_reserved_step_holds_until_the_decision_and_is_then_committed() {
    check(
        "saga a:tcc b<a p!",
        "write; prepare a
         a prepared => prepare b
         b prepared => write; prepare p
         p prepared => COMMIT; commit a
         a done => END",
    );
    check(
        "saga a b:tcc<a c:2pc<b d<c",
        "write; prepare a
         a prepared => prepare b
         b prepared => prepare c
         c read_only => prepare d
         d refused => ABORT Refused(BranchNumber(4)); cancel b
         b done => cancel a
         a done => END",
    );
}

#[test]
fn a_reserved_step_after_the_pivot_is_prepared_and_committed() {
    check(
        "saga p! a:tcc<p b<a",
        "write; prepare p
         p prepared => COMMIT; prepare a
         a prepared => commit a; prepare b
         a done =>
         b prepared => END",
    );
}

#[test]
fn a_child_that_has_voted_waits_for_its_parent_alone() {
    let script = check(
        "saga a b:tcc<a +child",
        "write; prepare a
         parent commits => ! the transaction has not voted: its parent cannot commit it
         a prepared => prepare b
         b prepared => write+in_doubt
         tick +600000 =>
         rollback => ! the transaction is a branch of another one, and has voted: its parent decides
         crash => note+adopted",
    );
    assert_eq!(script.wakes_in(), None);
    check(
        "saga a b:tcc<a +child",
        "write; prepare a
         a prepared => prepare b
         b prepared => write+in_doubt
         parent commits => COMMIT; commit b
         parent commits =>
         b done => END",
    );
    check(
        "saga a b:tcc<a +child",
        "write; prepare a
         a prepared => prepare b
         b prepared => write+in_doubt
         crash loses notes => note+adopted
         parent cancels => ABORT Parent; cancel b
         b done => cancel a
         a done => END",
    );
}

#[test]
fn a_child_that_has_not_voted_meets_its_own_deadline() {
    check(
        "saga a +child",
        "write; prepare a
         tick +60000 => ABORT Deadline; cancel a
         parent cancels =>
         a done => END",
    );
}

#[test]
fn a_saga_is_sent_nothing_before_it_has_its_locks() {
    check(
        "saga a b<a+lock +lock",
        "write; lock
         locks held_by_younger =>
         tick +20 => lock#2
         locks failed =>
         tick +40 => lock#3
         locks granted => prepare a
         a prepared => lock b
         b locks granted => prepare b
         crash loses notes => note+adopted; lock
         locks granted => prepare a
         a prepared => lock b
         b locks granted => prepare b
         b prepared => COMMIT+END",
    );
}

#[test]
fn a_younger_transaction_waits_for_a_lock_within_its_limit() {
    let script = check(
        "saga a b<a+lock",
        "write; prepare a
         a prepared => lock b
         b locks held_by_older => note
         tick +20 => lock b#2
         tick +680 =>
         b locks held_by_older => ABORT Locked(Some(BranchNumber(2))); cancel a
         a done => END",
    );
    assert_eq!(script.tx.abort_detail(), Some("lock l is held by transaction h"));
}

#[test]
fn an_older_transaction_waits_for_a_lock_until_its_deadline() {
    check(
        "saga a+lock",
        "write; lock a
         tick +59000 =>
         a locks held_by_younger => note
         tick +999 => lock a#2
         a locks held_by_younger =>
         tick +1 => ABORT Deadline+END",
    );
}

/// A transaction that waited for a lock until the deadline is told who had it.
#[test]
fn a_deadline_names_the_holder_of_a_lock_that_was_waited_for() {
    for (locks, owner) in [("saga a+lock", "a locks"), ("saga a +lock", "locks")] {
        let (first, note) = if owner == "locks" { ("lock", "") } else { ("lock a", "note") };
        for (answer, text) in [
            ("held_by_younger", "lock l is held by transaction h"),
            (
                "waited_for_by_older",
                "lock l is waited for by transaction h, which is older and goes first",
            ),
        ] {
            let wait = if answer == "held_by_younger" { "" } else { "tick +1 =>" };
            let mut script =
                check(locks, &format!("write; {first}\n {owner} {answer} => {note}\n {wait}"));
            assert_eq!(script.shown_obstacle().as_deref(), Some(text));
            if answer == "held_by_younger" {
                script.line("tick +60000 => ABORT Deadline+END");
                assert_eq!(script.tx.abort_detail(), Some(text));
                assert_eq!(script.tx.abort_explanation().as_deref(), Some(text));
            }
        }
        let mut script =
            check(locks, &format!("write; {first}\n {owner} held_by_younger => {note}"));
        script.line(&format!("tick +30 => {first}#2"));
        script.line(&format!("{owner} granted => prepare a"));
        assert_eq!(script.shown_obstacle(), None);
        script.line("tick +60000 => ABORT Deadline; cancel a");
        assert_eq!(script.tx.abort_detail(), None);
    }
}

/// The flag of a branch's alarm is its own: what took too long before, or another branch, hides nothing.
#[test]
fn each_alarm_of_a_branch_is_raised() {
    let script = check(
        "saga p! b<p",
        "write; prepare p
         p prepared => COMMIT; prepare b
         tick +60000 => note+stalled
         b refused => write+refused_after_commit
         tick +100 => prepare b#2
         b refused => note
         b#2 prepared => END",
    );
    assert!(!script.tx.state().attention());
    let script = check(
        "saga p! b<p+reads c<b",
        "write; prepare p
         p failed => note
         tick +60000 => prepare p#2
         tick +60000 => note+pivot_unanswered
         p prepared 1600000 => write+output_too_large",
    );
    assert!(script.tx.state().attention());
}

/// An alarm is over with the vote of its branch, and the next one is heard.
#[test]
fn an_alarm_is_over_with_its_branch() {
    let mut script = check(
        "saga p! b<p c<b",
        "write; prepare p
         p prepared => COMMIT; prepare b
         b refused => write+refused_after_commit",
    );
    assert!(script.tx.state().attention());
    script.line("tick +100 => prepare b#2");
    script.line("b prepared => prepare c");
    assert!(!script.tx.state().attention(), "b is done");
    script.line("c refused => write+refused_after_commit");
    assert!(script.tx.state().attention());
    script.line("c resolve committed => END+resolved");

    let mut script = check(
        "saga p! b<p c<b",
        "write; prepare p
         p prepared => COMMIT; prepare b
         tick +60000 => note+stalled",
    );
    script.line("b prepared => note; prepare c");
    assert!(!script.tx.state().attention(), "b is done");
    script.line("tick +60000 => note+stalled");
}

/// Nothing is sent in a sleep without a write before it: so a row that slept tells that nothing was.
#[test]
fn what_slept_owes_no_cancel_to_steps_that_were_never_sent() {
    for crash in ["crash", "crash loses notes"] {
        let mut script = check(
            "saga a b<a+delay=30000 c<b",
            "write; prepare a
             a prepared => note
             tick +20000 =>",
        );
        script.line(&format!(
            "{crash} => note+adopted{}",
            if crash == "crash" { "" } else { "; prepare a#2" }
        ));
        if crash == "crash" {
            script.line("crash => note+adopted");
            script.line("rollback => ABORT Rollback; cancel a");
        }
    }
    // Once it was sent it is owed one.
    check(
        "saga a b<a+delay=30000 c<b",
        "write; prepare a
         a prepared => note
         crash => note+adopted
         tick +30000 => write; prepare b
         crash => note+adopted; prepare b#2
         rollback => ABORT Rollback; cancel c
         c done => cancel b
         b done => cancel a
         a done => END",
    );
}

/// Many steps that are late after a stop do not come at once.
#[test]
fn late_steps_are_spread() {
    for (setup, begun) in [
        ("saga a b<a+delay=20000", "write; prepare a\n a prepared => note"),
        ("saga p! b<p+delay=20000", "write; prepare p\n p prepared => COMMIT"),
    ] {
        let mut script = check(setup, begun);
        script.sleep(Duration::from_secs(40));
        script.line("crash => note+adopted");
        let waits = script.wakes_in().expect("it is sent");
        assert!(waits <= Duration::from_secs(20), "{waits:?}");
        assert!(waits > Duration::ZERO, "at once");
        script.sleep(waits);
        script.line("tick +0 => prepare b");
    }
}

/// A delay behind a step that an operator ended counts from the word.
#[test]
fn a_delay_counts_from_an_operators_word() {
    let mut script = check(
        "saga p! a<p b<a+delay=5000",
        "write; prepare p
         p prepared => COMMIT; prepare a
         tick +10000 =>
         a resolve committed => write+resolved
         tick +4999 =>",
    );
    script.line("tick +1 => prepare b");
}

/// A child that sleeps lets its parent sleep, and is asked again when it goes on.
#[test]
fn a_parent_sleeps_with_its_child() {
    let mut script = check(
        "saga a:tcc b<a",
        "write; prepare a
         a asleep 50000 => note",
    );
    assert!(script.tx.sleeps_until().is_some());
    assert_eq!(script.wakes_in(), Some(Duration::from_secs(50)));
    script.line("crash => write+adopted; prepare a#2");
    script.line("a asleep 50000 => note");
    script.line("retry => write; prepare a#3");
    script.line("a refused => ABORT Refused(BranchNumber(1)); cancel a");
    let mut script = check(
        "saga a:tcc+patience=2000",
        "write; prepare a
         a asleep 50000 => note",
    );
    let until = script.tx.sleeps_until().expect("it sleeps");
    assert_eq!(until, Timestamp(1_002_000), "not longer than its policy has patience");
    script.line("tick +2000 => ABORT GaveUp(BranchNumber(1)); cancel a");
    script.line("a done => END");
}

#[test]
fn a_step_is_not_added_whose_input_is_not_there() {
    check(
        "interactive saga",
        "write
         execute a => write; prepare a
         a prepared 1100000 => note+output_dropped
         execute b<a+reads => ! branch.inputs[0].branch_id must name a branch with an output: that of a \
         was over a limit, and was dropped
         enlist c => write
         execute d<c+reads => ! branch.inputs[0].branch_id must name a branch with an output: that of c is \
         known to its initiator only, which calls it
         execute e<a => write; prepare e",
    );
}

#[test]
fn a_scheduled_saga_sends_nothing_before_its_time() {
    let script = check(
        "saga a +start=5000",
        "write
         tick +4999 =>
         crash => note+adopted
         retry =>
         tick +1 => write+started; prepare a
         tick +59999 =>",
    );
    assert_eq!(script.wakes_in(), Some(Duration::from_millis(1)));
    check("saga a +start=5000 +lock", "write\n rollback => ABORT Rollback+END");
}

/// Deadline and attempts count from the start, and many that are late do not start at once.
#[test]
fn a_late_start_is_spread_and_moves_the_deadline() {
    let script = check("saga a +start=5000", "write\n tick +0 =>\n crash => note+adopted");
    assert_eq!(script.wakes_in(), Some(Duration::from_secs(5)));
    let mut script = script;
    script.sleep(Duration::from_secs(3600));
    script.line("crash => note+adopted");
    let waits = script.wakes_in().expect("it starts");
    assert!(waits <= Duration::from_secs(30), "{waits:?}");
    script.sleep(waits);
    script.line("tick +0 => write+started; prepare a");
    assert_eq!(script.wakes_in(), Some(Duration::from_secs(60)));
    script.line("tick +60000 => ABORT Deadline; cancel a");
}

#[test]
fn a_delay_counts_from_the_last_vote_that_is_waited_for() {
    let script = check(
        "saga a b c<a,b+delay=3000",
        "write; prepare a; prepare b
         a prepared =>
         tick +500 =>
         b prepared => note
         tick +2999 =>
         retry =>
         tick +1 => write; prepare c",
    );
    assert_eq!(script.wakes_in(), Some(Duration::from_millis(56_500)));
}

/// A vote is worth a write of its own only if a crash would lose long work.
#[test]
fn a_vote_is_noted_where_the_last_write_is_long_ago() {
    check(
        "saga a b<a c<b",
        "write; prepare a
         tick +1000 =>
         a prepared => prepare b
         tick +1 =>
         b prepared => note; prepare c
         crash => note+adopted; prepare c#2",
    );
}

#[test]
fn interactive_steps_keep_their_order_and_are_undone_in_reverse() {
    check(
        "interactive saga",
        "write
         execute a => write; prepare a
         execute b<a => write
         execute c<x => ! branch.depends_on[0] must name a branch of the transaction, x is none
         a prepared => prepare b
         b prepared =>
         rollback => ABORT Rollback; cancel b
         b done => cancel a
         a done => END",
    );
    check(
        "interactive saga",
        "write
         execute a => write; prepare a
         a prepared =>
         execute b:tcc<a => write; prepare b
         commit a b => write
         b prepared => COMMIT; commit b
         b done => END",
    );
}

#[test]
fn an_operator_ends_a_step_after_the_pivot_and_those_behind_it_go_on() {
    check(
        "saga p! a<p b<a",
        "write; prepare p
         p prepared => COMMIT; prepare a
         a resolve committed => write+resolved; prepare b
         a prepared =>
         b prepared => END",
    );
}

#[test]
fn after_a_crash_a_delayed_step_after_the_pivot_is_woken_though_locks_were_taken() {
    let script = check(
        "saga p! b<p+delay=100000 +lock",
        "write; lock
         locks granted => write; prepare p
         p prepared => COMMIT
         crash => note+adopted",
    );
    assert_eq!(script.wakes_in(), Some(Duration::from_secs(100)));
}

/// A branch that its initiator calls has no vote yet; the one before it has.
#[test]
fn what_stands_before_a_branch_of_the_initiator_is_waited_for() {
    check(
        "interactive saga",
        "write
         execute a => write; prepare a
         enlist b<a => write
         execute c<b => write
         a prepared => prepare c",
    );
}

#[test]
fn what_stands_before_a_step_that_an_operator_ended_is_waited_for() {
    check(
        "saga p! a<p b<a c<b",
        "write; prepare p
         p prepared => COMMIT; prepare a
         b resolve committed => write+resolved
         a prepared => prepare c
         c prepared => END",
    );
}
