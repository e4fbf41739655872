//! Order, inputs, compensations, and branches of other modes.

use std::time::Duration;

use unanimo_proto::v1::{
    AbortCause, BranchSpec, BranchState, Compensation, Mode, Outcome, RetryPolicy, Vote,
};

use super::super::{World, millis};
use super::{accept, called, ended, input, order, saga, step};

/// Steps are sent once those before them have voted, and side by side where nothing orders them. The yes
/// of a step is all: no Commit is sent.
#[tokio::test]
async fn steps_run_in_order_and_side_by_side() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let request = saga(
            "g",
            vec![
                step("last", "ok", &["left", "right"]),
                step("left", "gated", &["first"]),
                step("right", "gated", &["first"]),
                step("first", "ok", &[]),
            ],
        );
        let tx_id = accept(&world, request).await;
        called(&world, &tx_id, "left", 1).await;
        called(&world, &tx_id, "right", 1).await;
        let waiting = world.get("g").await;
        assert_eq!(waiting.branches[0].state(), BranchState::Waiting);
        assert_eq!(waiting.branches[0].depends_on, ["left", "right"]);
        assert_eq!(world.p.calls(&tx_id, "last").len(), 0);
        world.p.hold(false);
        let shown = ended(&world, "g").await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        assert!(shown.branches.iter().all(|branch| branch.state() == BranchState::Done));
        let prepares = order(&world, &tx_id, "prepare");
        assert_eq!((&*prepares[0], &*prepares[3], prepares.len()), ("first", "last", 4));
        assert_eq!(order(&world, &tx_id, "commit"), [""; 0]);
    }
}

/// S7: after a refusal what was done is compensated, once each, whatever depends on a step before the
/// step itself. Outputs reach later steps and compensations.
#[tokio::test]
async fn s7_compensations_run_in_reverse_order_with_outputs() {
    for world in [World::sqlite().await, World::postgres().await] {
        let mut charge = step("charge", "output-3", &["book"]);
        charge.inputs = vec![input("ticket", "book")];
        let mut ship = step("ship", "refuse", &["charge", "side"]);
        ship.inputs = vec![input("ticket", "book"), input("receipt", "charge")];
        let side = step("side", "ok", &["book"]);
        let book = step("book", "output-2", &[]);
        let result = world.submit(saga("g", vec![book, charge, side, ship])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
        assert_eq!(result.abort_cause(), AbortCause::Refused);
        assert_eq!(result.abort_branch_id, "ship");
        let cancels = order(&world, &result.tx_id, "cancel");
        assert_eq!((cancels.len(), &*cancels[2]), (3, "book"), "{cancels:?}");
        let seen = world.p.seen();
        let call = |operation: &str, id: &str| {
            let same = |s: &&unanimo_tests::scripted::Seen| {
                s.operation == operation && s.branch_id == id && s.tx_id == result.tx_id
            };
            seen.iter().find(same).unwrap().clone()
        };
        for operation in ["prepare", "cancel"] {
            assert_eq!(call(operation, "charge").inputs["ticket"], b"oo"[..], "{operation}");
        }
        assert_eq!(call("prepare", "ship").inputs.len(), 2);
        assert_eq!(call("prepare", "ship").inputs["receipt"], b"ooo"[..]);
        assert_eq!(call("cancel", "charge").output, b"ooo"[..]);
        assert_eq!(call("cancel", "book").output, b"oo"[..]);
    }
}

/// A step that has no answer may have been done: it is compensated, first of all.
#[tokio::test]
async fn a_step_without_an_answer_is_compensated() {
    let world = World::sqlite().await;
    let mut hanging = step("b", "hang", &["a"]);
    hanging.attempt_timeout = millis(50);
    hanging.retry = Some(RetryPolicy { attempts_max: 2, ..Default::default() });
    let result = world.submit(saga("g", vec![step("a", "ok", &[]), hanging])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    assert_eq!(result.abort_cause(), AbortCause::GaveUp);
    assert_eq!(result.abort_branch_id, "b");
    assert!(result.abort_detail.starts_with("2 attempt(s); last: no answer"), "{result:?}");
    assert_eq!(world.p.calls(&result.tx_id, "b"), ["prepare", "prepare", "cancel"]);
    assert_eq!(order(&world, &result.tx_id, "cancel"), ["b", "a"]);

    // The same by the time that its policy gives it.
    let mut slow = step("b", "fail-1000", &["a"]);
    let give_up_after = millis(100);
    slow.retry = Some(RetryPolicy { give_up_after, ..Default::default() });
    let result = world.submit(saga("h", vec![step("a", "ok", &[]), slow])).await.unwrap();
    assert_eq!(result.abort_cause(), AbortCause::GaveUp);
    assert_eq!(order(&world, &result.tx_id, "cancel"), ["b", "a"]);
}

/// A step that was never sent is owed nothing.
#[tokio::test]
async fn what_was_never_sent_is_not_compensated() {
    let world = World::sqlite().await;
    let steps = vec![step("a", "refuse", &[]), step("b", "ok", &["a"]), step("c", "ok", &["b"])];
    let result = world.submit(saga("g", steps)).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    assert_eq!(world.p.seen().len(), 1, "{:?}", world.p.seen());
}

/// A step that is kept is not compensated, and is shown so.
#[tokio::test]
async fn a_kept_step_keeps_its_effect() {
    let world = World::sqlite().await;
    let mut notify = step("notify", "ok", &[]);
    notify.compensation = Compensation::Kept.into();
    let result = world.submit(saga("g", vec![notify, step("b", "refuse", &["notify"])])).await;
    let result = result.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    assert_eq!(world.p.calls(&result.tx_id, "notify"), ["prepare"]);
    let shown = world.get("g").await;
    assert_eq!(shown.branches[0].state(), BranchState::Kept);
    assert_eq!(shown.branches[0].compensation(), Compensation::Kept);
}

/// A branch of another mode keeps its work reserved until the saga is decided: then it gets the
/// decision.
#[tokio::test]
async fn reserved_branches_hear_the_decision() {
    for world in [World::sqlite().await, World::postgres().await] {
        let reserved = |id: &str, mode: Mode, after: &[&str]| BranchSpec {
            mode: mode.into(),
            ..step(id, "ok", after)
        };
        for (gid, last, outcome) in
            [("yes", "ok", Outcome::Committed), ("no", "refuse", Outcome::Aborted)]
        {
            let steps = vec![
                step("a", "ok", &[]),
                reserved("tcc", Mode::Tcc, &["a"]),
                reserved("2pc", Mode::TwoPhaseCommit, &["a"]),
                step("b", last, &["tcc", "2pc"]),
            ];
            let result = world.submit(saga(gid, steps)).await.unwrap();
            assert_eq!(result.outcome(), outcome);
            let (operation, of_step): (_, &[&str]) = match outcome {
                Outcome::Committed => ("commit", &["prepare"]),
                _ => ("cancel", &["prepare", "cancel"]),
            };
            for id in ["tcc", "2pc"] {
                assert_eq!(world.p.calls(&result.tx_id, id), ["prepare", operation], "{gid} {id}");
            }
            assert_eq!(world.p.calls(&result.tx_id, "a"), of_step, "{gid}");
        }
    }
}

/// An interactive saga: steps from code, with outputs of those before them.
#[tokio::test]
async fn an_interactive_saga_runs_step_by_step() {
    for world in [World::sqlite().await, World::postgres().await] {
        let tx = world.begin("g", Mode::Saga).await.unwrap();
        let first = world.execute(&tx.tx_id, step("a", "output-2", &[])).await.unwrap();
        assert_eq!(first.vote(), Vote::Prepared);
        let mut second = step("b", "ok", &["a"]);
        second.inputs = vec![input("ticket", "a")];
        let voted = world.execute(&tx.tx_id, second.clone()).await.unwrap();
        assert_eq!(voted.vote(), Vote::Prepared);
        let none = Vote::Unspecified;
        let result = world.commit(&tx.tx_id, &[("a", none), ("b", none)]).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        assert_eq!(world.p.calls(&tx.tx_id, "b"), ["prepare"]);
        let seen = world.p.seen();
        assert_eq!(seen[1].inputs["ticket"], b"oo"[..]);

        let tx = world.begin("h", Mode::Saga).await.unwrap();
        world.execute(&tx.tx_id, step("a", "ok", &[])).await.unwrap();
        world.execute(&tx.tx_id, step("b", "ok", &["a"])).await.unwrap();
        let result = world.rollback(&tx.tx_id).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
        assert_eq!(order(&world, &tx.tx_id, "cancel"), ["b", "a"]);
    }
}

/// Execute of a step that waits for another one is answered at the call's deadline, without a vote.
#[tokio::test]
async fn execute_of_a_step_that_waits_is_answered_in_time() {
    let world = World::sqlite().await;
    world.p.hold(true);
    let tx = world.begin("g", Mode::Saga).await.unwrap();
    let execute = |branch: BranchSpec, millis: u64| {
        let mut request = tonic::Request::new(unanimo_proto::v1::ExecuteBranchRequest {
            tx_id: tx.tx_id.clone(),
            branch: Some(branch),
            ..Default::default()
        });
        request.set_timeout(Duration::from_millis(millis));
        let mut client = world.client();
        async move { client.execute_branch(request).await.unwrap().into_inner() }
    };
    let first = execute(step("a", "gated", &[]), 1000).await;
    assert_eq!((first.vote(), first.branch_number), (Vote::Unspecified, 1));
    let second = execute(step("b", "ok", &["a"]), 1000).await;
    assert_eq!((second.vote(), second.branch_number), (Vote::Unspecified, 2));
    world.p.hold(false);
    let second = execute(step("b", "ok", &["a"]), 20_000).await;
    assert_eq!(second.vote(), Vote::Prepared);
    assert_eq!(order(&world, &tx.tx_id, "prepare"), ["a", "b"]);
}

/// A crash loses no step and repeats none out of order; what was under way is asked again.
#[tokio::test]
async fn s7_a_restart_goes_on_with_the_step_that_was_under_way() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let mut second = step("b", "gated", &["a"]);
        second.inputs = vec![input("ticket", "a")];
        let steps = vec![step("a", "output-2", &[]), second, step("c", "refuse", &["b"])];
        let tx_id = accept(&world, saga("g", steps)).await;
        called(&world, &tx_id, "b", 1).await;
        let world = world.crash_and_restart().await;
        // The vote of `a` may be lost: then it is asked again, and `b` after it.
        world.p.hold(false);
        let shown = ended(&world, "g").await;
        assert_eq!(shown.outcome(), Outcome::Aborted);
        assert_eq!(shown.abort_cause(), AbortCause::Refused);
        // What a crash may have hidden counts as unanswered: `c` may be compensated, too.
        let cancels = order(&world, &tx_id, "cancel").into_iter().filter(|id| id != "c");
        assert_eq!(cancels.collect::<Vec<_>>(), ["b", "a"]);
        let seen = world.p.seen();
        let last = seen.iter().rfind(|s| s.branch_id == "b" && s.operation == "prepare").unwrap();
        assert_eq!(last.inputs["ticket"], b"oo"[..], "the input survives");
    }
}

/// Compensations go on after a crash, in their order.
#[tokio::test]
async fn s7_a_restart_goes_on_with_the_compensations() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let steps =
            vec![step("a", "ok", &[]), step("b", "ok", &["a"]), step("c", "refuse", &["b"])];
        let tx_id = accept(&world, saga("g", steps)).await;
        world.get_until("g", "its decision", |tx| tx.outcome() == Outcome::Aborted).await;
        called(&world, &tx_id, "b", 2).await;
        assert_eq!(world.p.calls(&tx_id, "a"), ["prepare"], "`b` has not ended");
        let world = world.crash_and_restart().await;
        called(&world, &tx_id, "b", 3).await;
        assert_eq!(world.p.calls(&tx_id, "a"), ["prepare"], "`b` has still not ended");
        world.p.hold(false);
        let shown = ended(&world, "g").await;
        assert_eq!(shown.outcome(), Outcome::Aborted);
        assert_eq!(world.p.calls(&tx_id, "a"), ["prepare", "cancel"]);
    }
}
