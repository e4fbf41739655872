//! Pivots that an operator answers for, outputs from the pivot on, and steps that are kept: a script each, see
//! [`common::script`].
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::script::{Script, check};
use unanimo_core::{BranchId, BranchState, Heuristic, Policy};

fn state(script: &Script, id: &str) -> BranchState {
    let branch = script.tx.branch_by_id(&BranchId::new(id).unwrap()).unwrap();
    branch.state(script.tx.phase().decision())
}

/// S1, S2: an operator's *committed* stands for the pivot's yes. It is not sent again.
#[test]
fn an_operator_commits_for_a_pivot_that_never_answers() {
    let script = check(
        "saga a b:tcc p! c<p+delay=1000 d<c",
        "write; prepare a; prepare b
         a prepared =>
         b prepared => write; prepare p
         p failed => note
         p resolve hazard => ! resolution must be committed or rolled_back for a pivot: its answer decides
         tick +120000 => note+pivot_unanswered; prepare p#2
         p resolve committed => COMMIT+resolved; commit b
         p#2 refused =>
         p resolve committed =>
         p resolve rolled_back => ! branch p was resolved as committed before, and stays so
         rollback =>
         crash => note+adopted; commit b#2
         b done =>
         tick +1000 => prepare c
         c prepared => prepare d
         d prepared => END
         p resolve committed =>",
    );
    assert_eq!(script.tx.heuristic(), Heuristic::Hazard, "a word is no proof");
    assert_eq!(script.tx.branches()[2].progress.prepare_attempts.count, 2);
}

/// S1, S7: an operator's *rolled back* stands for the pivot's no. Its participant is told, whatever its
/// compensation, and nothing waits for that.
#[test]
fn an_operator_aborts_for_a_pivot_that_never_answers() {
    for pivot in ["p!", "p!+none"] {
        let script = check(
            &format!("saga a b<a {pivot} c<p"),
            "write; prepare a
             a prepared => prepare b
             b prepared => write; prepare p
             p resolve rolled_back => ABORT Rollback+resolved; cancel b; cancel p
             p#1 prepared =>
             p resolve rolled_back =>
             crash => note+adopted; cancel b#2; cancel p#2
             b done => cancel a
             a done =>
             p failed => note
             tick +200 => cancel p#3
             p resolve rolled_back =>
             p done => END
             p resolve rolled_back =>
             p resolve committed => ! step p is neither to be compensated, nor to be done after COMMIT, nor a pivot that was sent: there is nothing to resolve",
        );
        assert_eq!(script.tx.heuristic(), Heuristic::None, "its participant has confirmed it");
        assert_eq!(
            script.tx.abort_detail(),
            Some("the pivot was resolved as rolled back by op: by hand")
        );
        assert_eq!(state(&script, "p"), BranchState::Cancelled);
        assert_eq!(state(&script, "c"), BranchState::Cancelled);
    }
}

/// S11: if the participant never answers that either, a second word ends the branch, and is a heuristic one.
#[test]
fn a_pivot_whose_participant_is_gone_for_ever_is_ended_by_a_second_word() {
    for (word, heuristic) in [("hazard", Heuristic::Hazard), ("committed", Heuristic::Mixed)] {
        let script = check(
            "saga a p!",
            &format!(
                "write; prepare a
                 a prepared => write; prepare p
                 crash => note+adopted; prepare p#2
                 p resolve rolled_back => ABORT Rollback+resolved; cancel a; cancel p
                 a done =>
                 tick +60000 => note+stalled
                 p resolve {word} => END+resolved"
            ),
        );
        assert_eq!(script.tx.heuristic(), heuristic);
    }
}

#[test]
fn a_pivot_that_was_not_sent_has_nothing_to_resolve() {
    check(
        "saga a p!",
        "write; prepare a
         p resolve committed => ! step p is neither to be compensated, nor to be done after COMMIT, nor a pivot that was sent: there is nothing to resolve
         a resolve committed => ! step a is neither to be compensated, nor to be done after COMMIT, nor a pivot that was sent: there is nothing to resolve
         a prepared => write; prepare p
         a resolve rolled_back => ! step a is neither to be compensated, nor to be done after COMMIT, nor a pivot that was sent: there is nothing to resolve
         p prepared => COMMIT+END
         p resolve rolled_back => ! step p is neither to be compensated, nor to be done after COMMIT, nor a pivot that was sent: there is nothing to resolve",
    );
}

/// Bytes of the room for all outputs, divided by the most branches.
const SHARE: usize = (3 << 19) / 64;

/// No committed saga waits for ever for an input that was dropped.
#[test]
fn outputs_that_are_read_from_the_pivot_on_have_room() {
    // Whatever the steps before it leave, and those whose outputs nobody reads.
    let script = check(
        "saga a p! x<p b<p+reads c<b+reads",
        &format!(
            "write; prepare a
             a prepared {before} => write; prepare p
             p prepared {SHARE} => COMMIT; prepare x; prepare b
             x prepared {over} => note+output_dropped
             b prepared {SHARE} => write; prepare c
             c prepared 1 => END",
            before = 1 << 20,
            over = (1 << 19) - SHARE - (1 << 18) + 1,
        ),
    );
    let share =
        |index: usize| script.tx.output_bytes_max(&script.tx.branches()[index], &Policy::default());
    assert_eq!((share(0), share(2), share(4)), (None, None, None));
    assert_eq!((share(1), share(3)), (Some(1 << 18), Some(1 << 18)));
}

/// A participant that does not keep to its share gives no vote: it is told, and sent again.
#[test]
fn an_output_that_is_too_large_from_the_pivot_on_is_no_vote() {
    check(
        "saga p! b<p+reads c<b+reads d<c",
        "write; prepare p
         p prepared 786433 => write+output_too_large
         tick +50 => prepare p#2
         p prepared 786432 => COMMIT; prepare b
         b prepared 786433 => write+output_too_large
         tick +100 => prepare b#2
         b prepared 1048577 => note
         crash => write+adopted; prepare b#3
         b prepared 786432 => write; prepare c
         c prepared => prepare d
         d prepared => END",
    );
    // An operator's word lets the saga go on.
    check(
        "saga p! b<p+reads",
        "write; prepare p
         p prepared 1048577 => write+output_too_large
         p resolve committed 3 => COMMIT+resolved; prepare b
         b prepared => END",
    );
}

/// Inputs of a branch, as name and size.
fn inputs(script: &Script, id: &str) -> Vec<(String, usize)> {
    let branch = script.tx.branch_by_id(&BranchId::new(id).unwrap()).unwrap();
    let size = |(name, output): (unanimo_core::InputName, unanimo_core::Payload)| {
        (name.to_string(), output.data.len())
    };
    script.tx.inputs_of(branch).into_iter().map(size).collect()
}

/// A step must succeed that reads what an operator answers for: so the operator gives the output, too.
#[test]
fn who_answers_for_a_branch_gives_the_output_that_others_read() {
    let script = check(
        "saga p! b<p+reads c<b+reads d<c+reads",
        "write; prepare p
         p resolve committed => ! output must be given: it is read by b
         p resolve rolled_back 3 => ! output must be left out where nothing is committed
         p resolve committed 1048577 => ! output must be at most 524288 bytes, has 1048577
         p resolve committed 3 => COMMIT+resolved; prepare b
         p resolve committed =>
         crash => write+adopted; prepare b#2
         b resolve committed => ! output must be given: it is read by c
         b resolve committed 0 => write+resolved; prepare c
         c prepared 5 => write; prepare d
         crash => write+adopted; prepare d#2",
    );
    // One that has no bytes is given all the same.
    for (id, read) in [("b", ("p", 3)), ("c", ("b", 0)), ("d", ("c", 5))] {
        assert_eq!(inputs(&script, id), [(read.0.to_owned(), read.1)], "{id}");
    }
    // What nobody reads any more is not asked for, and what is said not to be done has none.
    check(
        "saga p! b<p c<b+reads d<b+reads",
        "write; prepare p
         p resolve committed => COMMIT+resolved; prepare b
         c resolve committed => write+resolved
         b resolve committed => ! output must be given: it is read by d
         d resolve hazard => write+resolved
         b resolve committed => END+resolved",
    );
    let script = check(
        "saga p! b<p c<b+reads",
        "write; prepare p
         p prepared => COMMIT; prepare b
         b resolve rolled_back => write+resolved; prepare c
         c resolve committed 1 => END+resolved",
    );
    assert_eq!(inputs(&script, "c"), []);
    check(
        "tcc a",
        "a prepared => COMMIT; commit a
         a resolve committed 1 => ! output must be left out: the branch has answered",
    );
}

/// An output without which an earlier version took the word is missing, not empty, until the word brings it.
#[test]
fn an_output_that_an_earlier_version_did_not_ask_for_is_given_later() {
    for size in [0, 3] {
        let mut script = check(
            "saga p! b<p+reads",
            &format!(
                "write; prepare p
                 p resolve committed {size} => COMMIT+resolved; prepare b"
            ),
        );
        script.wrote_no_given_outputs();
        script.line("crash => write+adopted; prepare b#2");
        assert_eq!(inputs(&script, "b"), []);
        script.line("p resolve committed =>");
        script.line(
            "p resolve rolled_back 1 => ! branch p was resolved as committed before, and stays so",
        );
        script.line(
            "p resolve committed 1048577 => ! output must be at most 1048576 bytes, has 1048577",
        );
        script.line(&format!("p resolve committed {size} => write+resolved"));
        for again in ["p resolve committed 5 =>", "crash => write+adopted; prepare b#3"] {
            script.line(again);
            assert_eq!(inputs(&script, "b"), [("p".to_owned(), size)], "{again}");
        }
        script.line("b prepared => END");
        script.line("p resolve committed 5 =>");
    }
    // Nobody waits for it any more.
    let mut script = check(
        "saga p! b<p+reads c<p",
        "write; prepare p
         p resolve committed 3 => COMMIT+resolved; prepare b; prepare c
         b resolve hazard => write+resolved",
    );
    script.wrote_no_given_outputs();
    script.line("crash => note+adopted; prepare c#2");
    script.line("p resolve committed 3 =>");
}

/// A step that an operator's word has ended brings no output any more, and keeps no room for one.
#[test]
fn a_step_ended_by_word_gives_its_share_back() {
    let ended = "write; prepare p
         p prepared => COMMIT; prepare x; prepare b
         b resolve committed 3 => write+resolved; prepare c";
    let mut script = check("saga p! x<p b<p c<b+reads", ended);
    script.line("x prepared 1048576 =>");
    // Unless it may still come.
    let mut script = check("saga p! x<p b<p c<b+reads", ended);
    script.wrote_no_given_outputs();
    script.line("crash => write+adopted; prepare x#2; prepare c#2");
    script.line("x prepared 1048576 => note+output_dropped");
    script.line("b resolve committed 1048576 => write+resolved");
}

/// After ABORT no step is sent, and so none reads anything.
#[test]
fn an_output_is_refused_where_no_step_is_sent_any_more() {
    let script = check(
        "saga a b<a+reads",
        "write; prepare a
         tick +60000 => ABORT Deadline; cancel a
         a resolve committed 3 => ! output must be left out: no step that reads it is sent any more
         a resolve committed => END+resolved",
    );
    assert_eq!(inputs(&script, "b"), []);
}

/// A step that is kept is shown as such only if it may have run.
#[test]
fn a_kept_step_that_was_never_sent_is_not_kept() {
    for (setup, refused) in [
        ("saga a k<a+kept", "a refused => ABORT Refused(BranchNumber(1)); cancel a"),
        // Its sending would be in the record, or is not due.
        ("saga a k<a+kept+reads", "rollback => ABORT Rollback; cancel a"),
        ("saga a k<a+kept+delay=50000", "rollback => ABORT Rollback; cancel a"),
        ("saga a b<a+reads k<b+kept", "rollback => ABORT Rollback; cancel b"),
    ] {
        let script = check(
            setup,
            &format!("write; prepare a\n crash => note+adopted; prepare a#2\n {refused}"),
        );
        assert_eq!(state(&script, "k"), BranchState::Cancelled, "{setup}");
    }
    // What a crash has lost may have been sent.
    let script = check(
        "saga a k<a+kept",
        "write; prepare a
         crash => note+adopted; prepare a#2
         rollback => ABORT Rollback; cancel a",
    );
    assert_eq!(state(&script, "k"), BranchState::Kept);
}

/// The initiator called it, perhaps: the coordinator does not know more.
#[test]
fn a_kept_step_that_its_initiator_calls_is_kept() {
    let script = check(
        "interactive saga",
        "write
         enlist k+kept => write
         execute a<k => write; prepare a
         rollback => ABORT Rollback; cancel a",
    );
    assert_eq!(state(&script, "k"), BranchState::Kept);
}

/// The pivot and the steps after it have pauses of their own, though no bounds.
#[test]
fn pauses_of_the_pivot_and_after_it_are_those_of_the_step() {
    check(
        "saga p!+backoff=3000 b<p+backoff=5000",
        "write; prepare p
         p failed => note
         tick +2999 =>
         tick +1 => prepare p#2
         p prepared => COMMIT; prepare b
         b failed => note
         tick +4999 =>
         tick +1 => prepare b#2
         b prepared => END",
    );
}
