//! Children: transactions in the place of participants.

use std::time::Duration;

use tonic::Code;
use unanimo_proto::v1::{
    AbortCause, BranchSpec, BranchState, ChildTransaction, CommitTransactionRequest, Lock, Mode,
    Outcome, ParentBranch, RollbackTransactionRequest, SubmitTransactionRequest, TransactionState,
    Vote, rollback_transaction_request::Key,
};

use super::super::{World, config, describe, sqlite_url, tcc};
use super::bad_input::child_step;
use super::{accept, called, ended, input, order, saga, step};

/// A child of two steps, one after the other.
fn two_steps(first: &str, second: &str) -> ChildTransaction {
    let branches = vec![step("x", first, &[]), step("y", second, &["x"])];
    ChildTransaction { mode: Mode::Saga.into(), branches, ..Default::default() }
}

/// A saga with a child between two steps.
fn around(gid: &str, child: ChildTransaction, last: &str) -> SubmitTransactionRequest {
    let steps = vec![step("a", "ok", &[]), child_step("b", child, &["a"]), step("c", last, &["b"])];
    saga(gid, steps)
}

async fn in_doubt(world: &World, gid: &str) -> String {
    let voted = |tx: &unanimo_proto::v1::Transaction| tx.state() == TransactionState::InDoubt;
    // It begins a moment later than its parent.
    super::until("the child", async || {
        let request = unanimo_proto::v1::GetTransactionRequest {
            key: Some(unanimo_proto::v1::get_transaction_request::Key::Gid(gid.to_owned())),
            ..Default::default()
        };
        let shown = world.client().get_transaction(request).await.ok()?.into_inner();
        shown.transaction.filter(voted).map(|tx| tx.tx_id)
    })
    .await
}

/// A child runs in its place, and its parent's COMMIT is its own.
#[tokio::test]
async fn a_child_commits_with_its_parent() {
    for world in [World::sqlite().await, World::postgres().await] {
        let mut request = around("g", two_steps("ok", "ok"), "ok");
        request.metadata.insert("tenant".into(), "blue".into());
        let result = world.submit(request).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        let parent = world.get("g").await;
        assert_eq!(parent.branches[1].child_gid, "g.b");
        assert_eq!(parent.branches[1].state(), BranchState::Committed);
        let child = world.get("g.b").await;
        assert_eq!(child.state(), TransactionState::Committed);
        let branch_id = "b".to_owned();
        assert_eq!(child.parent, Some(ParentBranch { tx_id: parent.tx_id, branch_id }));
        assert_eq!(child.metadata["tenant"], "blue");
        let prepared: Vec<_> = world.p.seen().into_iter().map(|seen| seen.branch_id).collect();
        assert_eq!(prepared, ["a", "x", "y", "c"]);
        assert!(world.p.seen().iter().all(|seen| seen.metadata["tenant"] == "blue"));
    }
}

/// A child that aborts has undone everything before its parent hears of it, and its parent aborts.
#[tokio::test]
async fn a_child_that_aborts_aborts_its_parent() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let request = || around("g", two_steps("ok", "refuse"), "ok");
        accept(&world, request()).await;
        super::until("the child's compensation", async || {
            world.p.seen().into_iter().find(|seen| seen.operation == "cancel")
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let shown = world.get("g").await;
        assert_eq!(shown.outcome(), Outcome::NotDecided, "the child has not ended");
        world.p.hold(false);
        let result = world.submit(request()).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
        assert_eq!((result.abort_cause(), &*result.abort_branch_id), (AbortCause::Refused, "b"));
        let refusal = result.branches[1].refusal.clone().unwrap();
        assert_eq!(refusal.reason, "CHILD_ABORTED");
        let message = "child g.b aborted: branch y refused: NO_MONEY: the account is empty";
        assert_eq!(refusal.message, message);
        let child = world.get("g.b").await;
        assert_eq!(child.abort_cause(), AbortCause::Refused);
        let seen = world.p.seen().into_iter();
        let cancels: Vec<String> =
            seen.filter(|seen| seen.operation == "cancel").map(|seen| seen.branch_id).collect();
        assert_eq!(cancels, ["x", "a"]);
        assert_eq!(world.p.calls(&result.tx_id, "c"), [""; 0]);
    }
}

/// S7: an ABORT of the parent reaches a child that has voted: it compensates, and only then is what came
/// before it compensated.
#[tokio::test]
async fn s7_an_abort_reaches_a_child_that_has_voted() {
    for world in [World::sqlite().await, World::postgres().await] {
        let result = world.submit(around("g", two_steps("ok", "ok"), "refuse")).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
        assert!(result.ended);
        let child = world.get("g.b").await;
        assert_eq!(child.state(), TransactionState::Aborted);
        assert_eq!(child.abort_cause(), AbortCause::Parent);
        let cancels: Vec<String> = world
            .p
            .seen()
            .into_iter()
            .filter(|seen| seen.operation == "cancel")
            .map(|seen| seen.branch_id)
            .collect();
        assert_eq!(cancels, ["y", "x", "a"]);
    }
}

/// S4: only the parent moves a child that is in doubt; a crash of the coordinator changes nothing of it.
#[tokio::test]
async fn s4_only_the_parent_decides_a_child_in_doubt() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let mut child = two_steps("ok", "ok");
        child.timeout = super::super::millis(500);
        accept(&world, around("g", child, "gated")).await;
        let child = in_doubt(&world, "g.b").await;
        let world = world.crash_and_restart().await;
        for key in [Key::Gid("g.b".into()), Key::TxId(child.clone())] {
            let request = RollbackTransactionRequest { key: Some(key), ..Default::default() };
            let status = world.client().rollback_transaction(request).await.unwrap_err();
            assert_eq!(describe(&status).0, Code::FailedPrecondition);
            assert_eq!(describe(&status).1, "PARENT_DECIDES");
        }
        let request = CommitTransactionRequest { tx_id: child, ..Default::default() };
        let status = world.client().commit_transaction(request).await.unwrap_err();
        assert_eq!(describe(&status).1, "PARENT_DECIDES");
        // Its own deadline has passed: it ended with its vote.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(world.get("g.b").await.state(), TransactionState::InDoubt);
        world.p.hold(false);
        assert_eq!(ended(&world, "g").await.outcome(), Outcome::Committed);
        assert_eq!(ended(&world, "g.b").await.outcome(), Outcome::Committed);
    }
}

/// A crash while the child works: the parent asks again, and finds the same child.
#[tokio::test]
async fn s9_a_restart_finds_the_same_child() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        accept(&world, around("g", two_steps("gated", "ok"), "refuse")).await;
        let first = super::until("the child's step", async || {
            world.p.seen().into_iter().find(|seen| seen.branch_id == "x")
        })
        .await;
        let world = world.crash_and_restart().await;
        called(&world, &first.tx_id, "x", 2).await;
        world.p.hold(false);
        assert_eq!(ended(&world, "g").await.outcome(), Outcome::Aborted);
        let child = ended(&world, "g.b").await;
        assert_eq!((&child.tx_id, child.outcome()), (&first.tx_id, Outcome::Aborted));
        assert_eq!(order(&world, &child.tx_id, "cancel"), ["y", "x"]);
    }
}

/// Phase two of a child goes on after a crash, and its parent ends with it. A child in TCC hears the
/// decision as any other transaction.
#[tokio::test]
async fn s7_a_restart_goes_on_with_phase_two_of_a_child() {
    for world in [World::sqlite().await, World::postgres().await] {
        for (gid, last, operation) in [("yes", "ok", "commit"), ("no", "refuse", "cancel")] {
            let child = ChildTransaction {
                mode: Mode::Tcc.into(),
                branches: vec![super::super::branch("x", "gated")],
                ..Default::default()
            };
            let tx_id = accept(&world, around(gid, child, last)).await;
            let child = super::until("the child", async || {
                let seen = world.p.seen().into_iter();
                seen.rev().find(|seen| seen.branch_id == "x" && seen.tx_id > tx_id)
            })
            .await
            .tx_id;
            world.get_until(gid, "its end", |tx| tx.ended_at.is_some()).await;
            assert_eq!(world.p.calls(&child, "x"), ["prepare", operation]);
        }
        world.p.hold(true);
        let child = ChildTransaction {
            mode: Mode::Tcc.into(),
            branches: vec![super::super::branch("x", "ok")],
            ..Default::default()
        };
        accept(&world, around("g", child, "ok")).await;
        let decided = |tx: &unanimo_proto::v1::Transaction| tx.outcome() == Outcome::Committed;
        world.get_until("g", "its decision", decided).await;
        let child = world.get_until("g.b", "its decision", decided).await.tx_id;
        called(&world, &child, "x", 2).await;
        let world = world.crash_and_restart().await;
        assert!(world.get("g").await.ended_at.is_none(), "its child has not ended");
        world.p.hold(false);
        ended(&world, "g").await;
        assert!(world.get("g.b").await.ended_at.is_some());
    }
}

/// S2: a child that has not voted is no yes, however often its parent asks.
#[tokio::test]
async fn s2_a_child_that_works_has_not_voted() {
    let mut quick = config(&sqlite_url());
    quick.call_timeout = unanimo_coordinator::config::Period::millis(100);
    let world = World::start(quick).await;
    world.p.hold(true);
    let tx_id = accept(&world, around("g", two_steps("gated", "refuse"), "ok")).await;
    let asked_again = |tx: &unanimo_proto::v1::Transaction| {
        tx.branches[1].prepare_attempts.as_ref().is_some_and(|attempts| attempts.count >= 3)
    };
    let shown = world.get_until("g", "more attempts", asked_again).await;
    assert_eq!(shown.branches[1].vote(), Vote::Unspecified);
    assert_eq!(world.p.calls(&tx_id, "c"), [""; 0]);
    world.p.hold(false);
    assert_eq!(ended(&world, "g").await.outcome(), Outcome::Aborted);
    assert_eq!(world.p.calls(&tx_id, "c"), [""; 0]);
}

/// An operator who sends a child's calls again is told which branch of its parent it is.
#[tokio::test]
async fn an_operator_is_told_the_parents_branch() {
    let world = World::sqlite().await;
    world.p.hold(true);
    let parent = accept(&world, around("g", two_steps("ok", "ok"), "gated")).await;
    let tx_id = in_doubt(&world, "g.b").await;
    let retry = unanimo_proto::v1::RetryTransactionRequest {
        tx_id,
        operator: "op".into(),
        ..Default::default()
    };
    let told = world.operator().retry_transaction(retry).await.unwrap().into_inner();
    let expected = ParentBranch { tx_id: parent, branch_id: "b".into() };
    assert_eq!(told.transaction.unwrap().parent, Some(expected));
    world.p.hold(false);
    assert_eq!(ended(&world, "g.b").await.outcome(), Outcome::Committed);
}

/// S8: a gid that was rolled back before the child began is the child's ABORT; one that is another
/// transaction's is left alone.
#[tokio::test]
async fn s8_a_gid_that_is_taken_is_a_refusal() {
    let world = World::sqlite().await;
    let request =
        RollbackTransactionRequest { key: Some(Key::Gid("g.b".into())), ..Default::default() };
    world.client().rollback_transaction(request).await.unwrap();
    let result = world.submit(around("g", two_steps("ok", "ok"), "ok")).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    assert_eq!(result.branches[1].refusal.clone().unwrap().reason, "CHILD_ABORTED");

    world.p.hold(true);
    let foreign = accept(&world, saga("h.b", vec![step("x", "gated", &[])])).await;
    called(&world, &foreign, "x", 1).await;
    let request = around("h", two_steps("ok", "ok"), "ok");
    accept(&world, request).await;
    let shown = world.get_until("h", "its decision", |tx| tx.decided_at.is_some()).await;
    assert_eq!(shown.branches[1].refusal.clone().unwrap().reason, "CHILD_GID_REUSED");
    world.p.hold(false);
    assert_eq!(ended(&world, "h.b").await.outcome(), Outcome::Committed, "it was left alone");
    ended(&world, "h").await;
}

/// S8: an ABORT that comes before the child began leaves a tombstone, and no child begins.
#[tokio::test]
async fn s8_an_abort_before_the_child_begins_leaves_a_tombstone() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let steps = vec![step("a", "gated", &[]), child_step("b", two_steps("ok", "ok"), &["a"])];
        let tx_id = accept(&world, saga("g", steps)).await;
        called(&world, &tx_id, "a", 1).await;
        // After a crash nobody knows whether the child was begun.
        let world = world.crash_and_restart().await;
        called(&world, &tx_id, "a", 2).await;
        let rollback =
            RollbackTransactionRequest { key: Some(Key::TxId(tx_id)), ..Default::default() };
        let rolled = world.client().rollback_transaction(rollback).await.unwrap().into_inner();
        assert_eq!(rolled.result.unwrap().outcome(), Outcome::Aborted);
        world.p.hold(false);
        ended(&world, "g").await;
        let tombstone = world.get("g.b").await;
        assert_eq!((tombstone.mode(), tombstone.outcome()), (Mode::Unspecified, Outcome::Aborted));
        let late = saga("g.b", vec![step("x", "ok", &[])]);
        assert_eq!(world.submit(late).await.unwrap().outcome(), Outcome::Aborted);
        assert!(world.p.seen().iter().all(|seen| seen.branch_id != "x"));
    }
}

/// L5: a child belongs to what has begun: it is not refused where new work is.
#[tokio::test]
async fn l5_a_child_needs_no_free_place() {
    let mut full = config(&sqlite_url());
    full.transactions_max = 1;
    let world = World::start(full).await;
    let result = world.submit(around("g", two_steps("ok", "ok"), "ok")).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
}

/// The same steps under the gid of a child are not the child.
#[tokio::test]
async fn s9_a_transaction_without_the_parent_is_not_the_child() {
    let world = World::sqlite().await;
    let branches = vec![step("x", "ok", &[]), step("y", "ok", &["x"])];
    world.submit(saga("g.b", branches)).await.unwrap();
    let result = world.submit(around("g", two_steps("ok", "ok"), "ok")).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    assert_eq!(result.branches[1].refusal.clone().unwrap().reason, "CHILD_GID_REUSED");
}

/// An ABORT while the child works stops it, and it compensates what it has done.
#[tokio::test]
async fn an_abort_stops_a_child_that_works() {
    for world in [World::sqlite().await, World::postgres().await] {
        let tx_id = accept(&world, around("g", two_steps("ok", "hang"), "ok")).await;
        let child = super::until("the child's step", async || {
            world.p.seen().into_iter().find(|seen| seen.branch_id == "y")
        })
        .await
        .tx_id;
        let result = world.rollback(&tx_id).await.unwrap();
        assert_eq!((result.outcome(), result.ended), (Outcome::Aborted, true));
        assert_eq!(world.get("g.b").await.abort_cause(), AbortCause::Parent);
        assert_eq!(order(&world, &child, "cancel"), ["y", "x"]);
        assert_eq!(order(&world, &tx_id, "cancel"), ["a"]);
    }
}

/// An interactive saga executes a child as any other branch.
#[tokio::test]
async fn a_child_is_executed_by_an_interactive_saga() {
    let world = World::sqlite().await;
    let tx = world.begin("g", Mode::Saga).await.unwrap();
    let child = || child_step("b", two_steps("ok", "ok"), &[]);
    let voted = world.execute(&tx.tx_id, child()).await.unwrap();
    assert_eq!(voted.vote(), Vote::Prepared);
    assert_eq!(world.execute(&tx.tx_id, child()).await.unwrap(), voted, "sent again");
    let status = world.enlist(&tx.tx_id, child_step("c", two_steps("ok", "ok"), &[])).await;
    assert_eq!(describe(&status.unwrap_err()).2, ["branch.child"]);
    let empty = ChildTransaction { mode: Mode::Saga.into(), ..Default::default() };
    let status = world.execute(&tx.tx_id, child_step("c", empty, &[])).await.unwrap_err();
    assert_eq!(describe(&status).2, ["branch.child.branches"]);
    let result = world.commit(&tx.tx_id, &[("b", Vote::Unspecified)]).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    assert_eq!(world.get("g.b").await.outcome(), Outcome::Committed);
}

/// Parent and children hold their locks together.
#[tokio::test]
async fn a_family_shares_its_locks() {
    for world in [World::sqlite().await, World::postgres().await] {
        let locks = vec![Lock { name: "account:42".into(), ..Default::default() }];
        let child = ChildTransaction { locks: locks.clone(), ..two_steps("ok", "ok") };
        let request = SubmitTransactionRequest { locks, ..around("g", child, "ok") };
        let result = world.submit(request).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
    }
}

/// L3: parents that wait for their children take no place from anybody, their own children included.
#[tokio::test]
async fn l3_waiting_parents_hold_up_nobody() {
    let mut narrow = config(&sqlite_url());
    narrow.participant_slots = 4;
    let world = World::start(narrow).await;
    let other = unanimo_tests::scripted::Scripted::default();
    let endpoint = other.serve().await;
    super::super::participants::register(&world, "slow", &endpoint).await;
    other.hold(true);
    let slow = |id: &str| BranchSpec { participant: "slow".into(), ..step(id, "gated", &[]) };
    for n in 0..100 {
        let inner = ChildTransaction {
            mode: Mode::Saga.into(),
            branches: vec![slow("x")],
            ..Default::default()
        };
        let outer = ChildTransaction {
            mode: Mode::Saga.into(),
            branches: vec![child_step("in", inner, &[])],
            ..Default::default()
        };
        accept(&world, saga(&format!("g{n}"), vec![child_step("out", outer, &[])])).await;
    }
    let began = std::time::Instant::now();
    let mut quick = around("quick", two_steps("ok", "ok"), "ok");
    quick.branches[2].mode = Mode::Tcc.into();
    assert_eq!(world.submit(quick).await.unwrap().outcome(), Outcome::Committed);
    world.submit(tcc("plain", &["ok", "ok"])).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    other.hold(false);
    for n in 0..100 {
        assert_eq!(ended(&world, &format!("g{n}")).await.outcome(), Outcome::Committed);
    }
    assert_eq!(world.get("g0.out.in").await.outcome(), Outcome::Committed);
}

/// Only a saga has children, whoever adds them.
#[tokio::test]
async fn a_child_is_refused_in_another_mode() {
    let world = World::sqlite().await;
    for mode in [Mode::Tcc, Mode::TwoPhaseCommit] {
        let gid = format!("begun-{}", mode.as_str_name());
        let tx = world.begin(&gid, mode).await.unwrap();
        let child = child_step("b", two_steps("ok", "ok"), &[]);
        let status = world.execute(&tx.tx_id, child.clone()).await.unwrap_err();
        assert_eq!(describe(&status).0, Code::InvalidArgument, "{status:?}");
        assert_eq!(describe(&status).2, ["branch.child"]);
        let mut submit = tcc(&format!("sent-{}", mode.as_str_name()), &[]);
        (submit.mode, submit.branches) = (mode.into(), vec![child]);
        let status = world.submit(submit).await.unwrap_err();
        assert_eq!(describe(&status).0, Code::InvalidArgument, "{status:?}");
    }
    assert_eq!(world.p.seen(), []);
}

/// S9: a child that is executed again is the same one if all that is compared is the same: not its times, nor those of its
/// steps.
#[tokio::test]
async fn s9_a_child_that_is_executed_again_may_have_other_times() {
    for world in [World::sqlite().await, World::postgres().await] {
        let tx = world.begin("g", Mode::Saga).await.unwrap();
        let child = |timeout_ms: i64, wait_ms: i64, last: &str| {
            let mut child = two_steps("ok", last);
            child.timeout = super::super::millis(timeout_ms);
            child.branches[1].attempt_timeout = super::super::millis(timeout_ms);
            let wait_max = super::super::millis(wait_ms);
            child.locks = vec![Lock { name: "account:42".into(), wait_max, ..Default::default() }];
            child_step("c", child, &[])
        };
        let first = world.execute(&tx.tx_id, child(10_000, 100, "ok")).await.unwrap();
        for (timeout_ms, wait_ms) in [(20_000, 100), (10_000, 200), (5_000, 50)] {
            let again = world.execute(&tx.tx_id, child(timeout_ms, wait_ms, "ok")).await.unwrap();
            assert_eq!(again, first, "{timeout_ms} {wait_ms}");
        }
        let other = world.execute(&tx.tx_id, child(10_000, 100, "refuse")).await.unwrap_err();
        assert_eq!(describe(&other).1, "BRANCH_REUSED");
        let plain = world.execute(&tx.tx_id, step("c", "ok", &[])).await.unwrap_err();
        assert_eq!(describe(&plain).1, "BRANCH_REUSED");
        let result = world.commit(&tx.tx_id, &[("c", Vote::Unspecified)]).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        let child = ended(&world, "g.c").await;
        assert_eq!(order(&world, &child.tx_id, "prepare"), ["x", "y"]);
    }
}

/// A child has no output: a step that is added to an interactive saga cannot read it, as none of a definition can.
#[tokio::test]
async fn a_step_that_is_added_cannot_read_a_child() {
    for world in [World::sqlite().await, World::postgres().await] {
        let tx = world.begin("g", Mode::Saga).await.unwrap();
        let child = child_step("c", two_steps("ok", "ok"), &[]);
        world.execute(&tx.tx_id, child).await.unwrap();
        let reads = BranchSpec { inputs: vec![input("of_c", "c")], ..step("b", "ok", &["c"]) };
        let status = world.execute(&tx.tx_id, reads.clone()).await.unwrap_err();
        let (code, reason, fields) = describe(&status);
        assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "FIELD_INVALID"), "{status:?}");
        assert_eq!(fields, ["branch.inputs[0].branch_id"]);
        let rule = "must name a branch with an output, c is a child and has none";
        assert!(status.message().contains(rule), "{}", status.message());
        // It is lost by nothing: the step goes on without, and so does its saga.
        let without = BranchSpec { inputs: Vec::new(), ..reads };
        world.execute(&tx.tx_id, without).await.unwrap();
        let listed = [("c", Vote::Unspecified), ("b", Vote::Unspecified)];
        let result = world.commit(&tx.tx_id, &listed).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        assert_eq!(ended(&world, "g.c").await.outcome(), Outcome::Committed);
    }
}

/// Inputs of a child would be lost: they are refused, in a definition and one by one, and nobody is called.
#[tokio::test]
async fn inputs_of_a_child_are_refused() {
    for world in [World::sqlite().await, World::postgres().await] {
        let refused = |status: tonic::Status, field: &str| {
            let (code, reason, fields) = describe(&status);
            assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "FIELD_INVALID"));
            assert_eq!(fields, [field]);
            let rule = "must not be set together with child: the child's steps cannot read them";
            assert!(status.message().contains(rule), "{}", status.message());
        };
        let inputs = vec![input("of_a", "a")];
        let mut whole = around("whole", two_steps("ok", "ok"), "ok");
        let at = whole.branches.iter().position(|branch| branch.child.is_some()).unwrap();
        let before = whole.branches[at].depends_on[0].clone();
        whole.branches[at].inputs = vec![input("of", &before)];
        let status = world.submit(whole).await.unwrap_err();
        refused(status, &format!("branches[{at}].inputs"));
        assert_eq!(world.p.seen(), [], "nobody was called");

        let tx = world.begin("g", Mode::Saga).await.unwrap();
        world.execute(&tx.tx_id, step("a", "ok", &[])).await.unwrap();
        let child = child_step("c", two_steps("ok", "ok"), &["a"]);
        let reads = BranchSpec { inputs, ..child.clone() };
        refused(world.execute(&tx.tx_id, reads).await.unwrap_err(), "branch.inputs");
        world.execute(&tx.tx_id, child).await.unwrap();
        let listed = [("a", Vote::Unspecified), ("c", Vote::Unspecified)];
        let result = world.commit(&tx.tx_id, &listed).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
    }
}

/// S1: the Cancel of a child finds a stranger under the child's gid, and leaves it alone.
#[tokio::test]
async fn s1_the_cancel_of_a_child_rolls_back_no_stranger() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let foreign = accept(&world, saga("g.b", vec![step("x", "gated", &[])])).await;
        called(&world, &foreign, "x", 1).await;
        let steps = vec![step("a", "gated", &[]), child_step("b", two_steps("ok", "ok"), &["a"])];
        let tx_id = accept(&world, saga("g", steps)).await;
        called(&world, &tx_id, "a", 1).await;
        // After a crash nobody knows whether the child was begun: its Cancel is owed.
        let world = world.crash_and_restart().await;
        called(&world, &tx_id, "a", 2).await;
        let rollback = RollbackTransactionRequest {
            key: Some(Key::TxId(tx_id.clone())),
            ..Default::default()
        };
        world.client().rollback_transaction(rollback).await.unwrap();
        called(&world, &tx_id, "a", 3).await;
        assert_eq!(world.get("g.b").await.outcome(), Outcome::NotDecided, "it was left alone");
        world.p.hold(false);
        assert_eq!(ended(&world, "g").await.outcome(), Outcome::Aborted);
        assert_eq!(ended(&world, "g.b").await.outcome(), Outcome::Committed);
        assert_eq!(world.p.calls(&foreign, "x").last(), Some(&"prepare"));
    }
}
