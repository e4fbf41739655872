//! 2PC and TCC by scripts: see [`common::script`].
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use bytes::Bytes;
use common::script::check;
use common::{definition, request};
use unanimo_core::{
    BranchNumber, Drive, Enlistment, Input, Mode, Payload, Policy, PrepareAnswer, Refusal,
    Rejection, Timestamp, Transaction, TxId,
};

#[test]
fn tcc_commits_when_every_vote_is_yes() {
    check(
        "tcc a b",
        "a prepared =>
         b prepared => COMMIT; commit a; commit b
         a done =>
         b done => END
         b done =>",
    );
}

#[test]
fn a_refusal_aborts_and_only_the_others_are_cancelled() {
    check(
        "tcc a b c",
        "a prepared =>
         b refused => ABORT Refused(BranchNumber(2)); cancel a; cancel c
         c prepared =>
         a done =>
         c done => END",
    );
}

#[test]
fn a_lone_refusal_ends_at_once() {
    check("tcc a", "a refused => ABORT Refused(BranchNumber(1))+END");
}

#[test]
fn a_refusal_after_an_unanswered_attempt_is_owed_a_cancel() {
    check(
        "tcc a",
        "a failed => note
         tick +100 => prepare a#2
         a refused => ABORT Refused(BranchNumber(1)); cancel a
         a done => END",
    );
    check(
        "tcc a",
        "a working 10 => note
         tick +100 => prepare a#2
         a refused => ABORT Refused(BranchNumber(1)); cancel a",
    );
    check(
        "tcc a",
        "crash => note+adopted; prepare a#2
         a refused => ABORT Refused(BranchNumber(1)); cancel a",
    );
}

#[test]
fn the_vote_of_an_attempt_that_was_given_up_counts() {
    check(
        "tcc a",
        "a failed => note
         tick +100 => prepare a#2
         a#1 prepared => COMMIT; commit a
         a#2 failed =>",
    );
}

#[test]
fn the_failure_of_an_attempt_that_was_given_up_changes_nothing() {
    check(
        "tcc a",
        "a failed => note
         tick +100 => prepare a#2
         a#1 failed =>
         a#2 prepared => COMMIT; commit a",
    );
}

#[test]
fn read_only_is_through_after_phase_one_and_no_vote_in_tcc() {
    check(
        "2pc a b",
        "a read_only =>
         b prepared => COMMIT; commit b
         b done => END",
    );
    check("2pc a", "a read_only => COMMIT+END");
    check(
        "tcc a",
        "a read_only => note
         tick +60000 => ABORT Deadline; cancel a",
    );
}

#[test]
fn the_deadline_aborts_and_whatever_may_have_run_is_cancelled() {
    check(
        "tcc a b",
        "a prepared =>
         tick +59999 =>
         tick +1 => ABORT Deadline; cancel a; cancel b
         b prepared =>
         rollback =>
         a done =>
         b done => END",
    );
}

#[test]
fn phase_two_goes_on_for_ever_and_is_stalled_after_a_while() {
    check(
        "tcc a",
        "a prepared => COMMIT; commit a
         a failed => note
         tick +100 => commit a#2
         a working 20000 => note
         tick +19999 =>
         tick +1 => commit a#3
         a failed =>
         tick +39900 => note+stalled; commit a#4
         tick +600000 =>
         a done => END",
    );
}

#[test]
fn a_crash_sends_again_what_has_no_answer() {
    check(
        "tcc a b",
        "a prepared =>
         crash => note+adopted; prepare a#2; prepare b#2
         b prepared =>
         a prepared => COMMIT; commit a; commit b",
    );
}

#[test]
fn a_crash_after_the_decision_goes_on_with_it() {
    check(
        "tcc a b",
        "a prepared =>
         b prepared => COMMIT; commit a; commit b
         a done =>
         crash => note+adopted; commit a#2; commit b#2
         rollback =>
         a done =>
         b done => END
         crash =>",
    );
    check(
        "tcc a",
        "tick +59000 =>
        rollback => ABORT Rollback; cancel a
        crash => note+adopted; cancel a#2",
    );
}

#[test]
fn a_crash_past_the_deadline_aborts() {
    check(
        "interactive tcc",
        "tick +1 =>
        execute a => write; prepare a
        crash => note+adopted; prepare a#2
        tick +59999 => ABORT Deadline; cancel a",
    );
}

#[test]
fn interactive_commit_waits_for_votes_that_are_out() {
    check(
        "interactive 2pc",
        "execute a => write; prepare a
         execute a =>
         execute b => write; prepare b
         a prepared =>
         commit a b => write
         commit b a =>
         execute c => ! the transaction is decided, or asked to commit: it takes no more branches
         b prepared => COMMIT; commit a; commit b",
    );
}

/// COMMIT that waits for votes is durable before it is answered: its caller may go away.
#[test]
fn interactive_commit_that_waits_survives_a_crash() {
    check(
        "interactive tcc",
        "enlist a => write
         execute b => write; prepare b
         execute c => write; prepare c
         b prepared =>
         commit a=prepared b c => write
         crash => note+adopted; prepare c#2
         execute d => ! the transaction is decided, or asked to commit: it takes no more branches
         commit a=refused b c => ! the transaction waits to commit with another list of branches or votes
         commit c b a=prepared =>
         c prepared => COMMIT; commit a; commit b; commit c",
    );
}

#[test]
fn another_commit_is_rejected_while_the_first_waits() {
    check(
        "interactive tcc",
        "enlist a => write
         execute b => write; prepare b
         commit a=prepared b => write
         commit a=refused b => ! the transaction waits to commit with another list of branches or votes
         commit a b => ! the transaction waits to commit with another list of branches or votes
         commit a=prepared => ! the transaction waits to commit with another list of branches or votes
         commit b=refused a=prepared =>
         b prepared => COMMIT; commit a; commit b
         commit a=refused b =>",
    );
}

#[test]
fn interactive_commit_counts_the_initiators_word_for_what_it_called() {
    check(
        "interactive tcc",
        "enlist a => write
         enlist b => write
         commit a=prepared b=prepared => COMMIT; commit a; commit b",
    );
    check(
        "interactive tcc",
        "enlist a => write
         enlist b => write
         commit a=prepared b=refused => ABORT Refused(BranchNumber(2)); cancel a; cancel b",
    );
    check(
        "interactive tcc",
        "enlist a => write
         execute b => write; prepare b
         commit a b => ABORT NoVote(BranchNumber(1)); cancel a; cancel b",
    );
    check(
        "interactive tcc",
        "enlist a => write
         execute b => write; prepare b
         commit b => ABORT Unlisted(BranchNumber(1)); cancel a; cancel b",
    );
    check(
        "interactive 2pc",
        "enlist a => write
         enlist b => write
         commit a=read_only b=prepared => COMMIT; commit b",
    );
}

#[test]
fn a_commit_that_makes_no_sense_is_rejected_and_changes_nothing() {
    check(
        "interactive tcc",
        "enlist a => write
         commit a=prepared x => ! branches[1].branch_id must name a branch of the transaction, x is none
         commit a=prepared a => ! branches[1].branch_id must be unique, a came before
         commit a=read_only => ! branches[0].vote must not be READ_ONLY: TCC has no such vote
         commit a=prepared => COMMIT; commit a",
    );
    check(
        "tcc a",
        "commit a => ! the transaction was submitted with all its branches: it commits by itself
         execute b => ! the transaction was submitted with all its branches: it commits by itself",
    );
}

#[test]
fn an_empty_interactive_transaction_commits() {
    check("interactive tcc", "commit => COMMIT+END");
}

#[test]
fn a_branch_id_names_one_content() {
    check(
        "interactive tcc",
        "execute a => write; prepare a
         enlist a => ! branch a is enlisted with other content
         rollback => ABORT Rollback; cancel a
         execute a =>
         execute b => ! the transaction is decided, or asked to commit: it takes no more branches",
    );
}

#[test]
fn a_heuristic_end_waits_to_be_forgotten() {
    check(
        "tcc a b",
        "a prepared =>
         b prepared => COMMIT; commit a; commit b
         a heuristic_commit =>
         forget => ! the transaction has not ended, or is not heuristic: there is nothing to forget
         b heuristic_rollback => END+heuristic
         crash =>
         forget => write+forgotten
         forget =>",
    );
}

/// A heuristic end is heard of while another branch is owed for days: by then no crash may lose it
/// (promise S11).
#[test]
fn s11_a_heuristic_end_is_awaited_while_others_are_owed() {
    check(
        "tcc a b",
        "a prepared =>
         b prepared => COMMIT; commit a; commit b
         a heuristic_rollback => write+heuristic
         crash => note+adopted; commit b#2
         b done => END",
    );
}

#[test]
fn a_retry_changes_nothing_once_ended() {
    check(
        "tcc a",
        "a prepared => COMMIT; commit a
         retry op => write+retried
         a done => END
         retry op =>",
    );
}

#[test]
fn a_reason_that_programs_cannot_read_is_replaced() {
    for (reason, kept) in [
        ("NO_MONEY", "NO_MONEY"),
        ("", "REFUSED"),
        ("no money", "REFUSED"),
        (&"R".repeat(64), &"R".repeat(64)),
        (&"R".repeat(65), "REFUSED"),
    ] {
        let (policy, now) = (Policy::default(), Timestamp(1));
        let definition = definition(Mode::Tcc, Drive::Declarative, &["a"]);
        let tx_id = TxId(uuid::Uuid::from_u128(7));
        let (mut tx, _) = Transaction::begin(tx_id, definition, now, &policy);
        let refusal = Refusal { reason: reason.to_owned(), message: "no, sorry".to_owned() };
        let answer = PrepareAnswer::Refused(refusal);
        let number = BranchNumber::from_index(0);
        tx.apply(Input::PrepareAnswered { number, attempt: 1, answer }, now, &policy).unwrap();
        let refusal = tx.branches()[0].progress.refusal.as_ref().unwrap();
        assert_eq!((&*refusal.reason, &*refusal.message), (kept, "no, sorry"), "{reason:?}");
    }
}

#[test]
fn an_operator_ends_a_branch_never_the_decision() {
    check(
        "tcc a b",
        "a resolve committed => ! branch a is owed neither Confirm (Commit) nor Cancel: there is nothing to resolve
         rollback => ABORT Rollback; cancel a; cancel b
         a resolve committed => write+resolved
         a done =>
         a resolve committed =>
         a resolve rolled_back => ! branch a was resolved as committed before, and stays so
         b resolve committed => END+resolved
         crash =>
         b resolve committed =>
         b resolve hazard => ! branch b was resolved as committed before, and stays so
         forget => write+forgotten",
    );
}

#[test]
fn retry_sends_what_waits_at_once() {
    check(
        "tcc a b",
        "a failed => note
         retry => prepare a#2
         retry =>
         b prepared =>
         a prepared => COMMIT; commit a; commit b
         a failed => note
         retry => commit a#2",
    );
}

#[test]
fn an_output_over_a_limit_is_dropped_and_the_vote_stands() {
    check("tcc a", "a prepared 1048577 => COMMIT+output_dropped; commit a");
    check(
        "tcc a b c",
        "a prepared 1048576 =>
         b prepared 524288 =>
         c prepared 1 => COMMIT+output_dropped; commit a; commit b; commit c",
    );
    check("2pc a", "a prepared 1 => COMMIT+output_dropped; commit a");
}

/// Nothing that comes later changes a tombstone, and nothing is ever sent for it.
#[test]
fn a_tombstone_is_aborted_and_ended_from_the_start() {
    check(
        "tombstone",
        "rollback =>
         commit =>
         commit a => ! branches[0].branch_id must name a branch of the transaction, a is none
         execute a => ! the transaction is decided, or asked to commit: it takes no more branches
         enlist a => ! the transaction is decided, or asked to commit: it takes no more branches
         tick +600000 =>
         retry =>
         forget => ! the transaction has not ended, or is not heuristic: there is nothing to forget
         crash =>
         rollback =>",
    );
}

/// An output whose media type breaks the rule loses the type; the vote and the bytes stand.
#[test]
fn an_output_keeps_its_bytes_and_a_good_media_type() {
    for (media_type, kept) in [("text/plain", "text/plain"), ("text/é", ""), (" x", "")] {
        let (policy, now) = (Policy::default(), Timestamp(1));
        let definition = definition(Mode::Tcc, Drive::Declarative, &["a"]);
        let id = TxId(uuid::Uuid::from_u128(7));
        let (mut tx, begun) = Transaction::begin(id, definition, now, &policy);
        let output = Payload { data: Bytes::from_static(b"o"), media_type: media_type.to_owned() };
        let input = Input::PrepareAnswered {
            number: begun.calls[0].number,
            attempt: 1,
            answer: PrepareAnswer::Prepared(output),
        };
        let effects = tx.apply(input, now, &policy).unwrap();
        let expected = Payload { data: Bytes::from_static(b"o"), media_type: kept.to_owned() };
        let (_, written) = &effects.transition.unwrap().outputs[0];
        assert_eq!((written, tx.branches()[0].output.as_ref()), (&expected, Some(&expected)));
    }
}

/// In this version every branch has the mode of its transaction.
#[test]
fn a_branch_of_another_mode_is_refused() {
    let (policy, now) = (Policy::default(), Timestamp(1));
    let definition = definition(Mode::Tcc, Drive::Interactive, &[]);
    let id = TxId(uuid::Uuid::from_u128(7));
    let (mut tx, _) = Transaction::begin(id, definition, now, &policy);
    let enlist = |mode| Input::Enlist {
        branch: unanimo_core::BranchRequest { mode, ..request("a") },
        enlistment: Enlistment::Coordinator,
    };
    let refused = tx.apply(enlist(Some(Mode::TwoPhaseCommit)), now, &policy).unwrap_err();
    assert_eq!(refused, Rejection::OtherMode(Mode::Tcc));
    tx.apply(enlist(None), now, &policy).unwrap();
    assert_eq!(tx.branches()[0].spec.mode, Mode::Tcc);
    // Named or not, it is the same branch.
    assert!(tx.apply(enlist(Some(Mode::Tcc)), now, &policy).unwrap().transition.is_none());
}
