//! The pivot: its yes decides COMMIT, and after it there is only forward.

use std::time::Duration;

use tonic::Code;
use unanimo_proto::v1::{
    AbortCause, BranchSpec, BranchState, Compensation, Heuristic, InquireBranchesRequest,
    InquiredBranch, Outcome, Resolution, ResolveBranchRequest, RollbackTransactionRequest, Verdict,
    WaitFor, inquired_branch, rollback_transaction_request::Key,
};

use unanimo_tests::payload;

use super::super::operators::resolve;
use super::super::{World, describe, millis};
use super::{accept, called, ended, order, saga, step};

fn pivot(id: &str, action: &str, after: &[&str]) -> BranchSpec {
    let compensation = Compensation::None.into();
    BranchSpec { pivot: true, compensation, ..step(id, action, after) }
}

fn after_pivot(id: &str, action: &str, after: &[&str]) -> BranchSpec {
    BranchSpec { compensation: Compensation::None.into(), ..step(id, action, after) }
}

/// S2, S4: once the pivot was sent, neither the deadline nor a Rollback decides, a crash included: only
/// its answer does.
#[tokio::test]
async fn s4_deadline_and_rollback_wait_for_the_pivot() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let steps = vec![
            step("a", "ok", &[]),
            pivot("pay", "gated", &["a"]),
            after_pivot("ship", "ok", &["pay"]),
        ];
        let mut request = saga("g", steps);
        request.timeout = millis(300);
        let tx_id = accept(&world, request).await;
        called(&world, &tx_id, "pay", 1).await;
        let rollback = RollbackTransactionRequest {
            key: Some(Key::TxId(tx_id.clone())),
            wait_for: WaitFor::Accepted.into(),
            ..Default::default()
        };
        let rolled = world.client().rollback_transaction(rollback.clone()).await.unwrap();
        assert_eq!(rolled.into_inner().result.unwrap().outcome(), Outcome::NotDecided);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(world.get("g").await.outcome(), Outcome::NotDecided, "past the deadline");
        let world = world.crash_and_restart().await;
        called(&world, &tx_id, "pay", 2).await;
        assert_eq!(world.get("g").await.outcome(), Outcome::NotDecided, "after a crash");
        world.p.hold(false);
        let shown = ended(&world, "g").await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        assert!(shown.branches.iter().all(|branch| branch.state() == BranchState::Done));
        let rolled = world.client().rollback_transaction(rollback).await.unwrap();
        assert_eq!(rolled.into_inner().result.unwrap().outcome(), Outcome::Committed);
        assert_eq!(order(&world, &tx_id, "cancel"), [""; 0]);
    }
}

/// Before the pivot is sent the deadline and a refusal abort, and it is never sent.
#[tokio::test]
async fn before_the_pivot_a_saga_aborts_as_any_other() {
    let world = World::sqlite().await;
    for (gid, action) in [("late", "hang"), ("no", "refuse")] {
        // The pivot depends on everything that does not depend on it, whether it says so or not.
        let steps = vec![
            pivot("pay", "ok", &[]),
            step("a", "ok", &[]),
            step("b", action, &["a"]),
            after_pivot("ship", "ok", &["pay"]),
        ];
        let mut request = saga(gid, steps);
        request.timeout = millis(300);
        let result = world.submit(request).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
        for id in ["pay", "ship"] {
            assert_eq!(world.p.calls(&result.tx_id, id), [""; 0], "{gid} {id}");
        }
        assert_eq!(order(&world, &result.tx_id, "cancel").last().map(String::as_str), Some("a"));
    }
}

/// A pivot that refuses aborts: what came before is compensated.
#[tokio::test]
async fn a_pivot_that_refuses_aborts() {
    let world = World::sqlite().await;
    let steps = vec![
        step("a", "ok", &[]),
        pivot("pay", "refuse", &["a"]),
        after_pivot("ship", "ok", &["pay"]),
    ];
    let result = world.submit(saga("g", steps)).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    assert_eq!(order(&world, &result.tx_id, "cancel"), ["a"]);
    assert_eq!(world.p.calls(&result.tx_id, "ship"), [""; 0]);
}

/// S11: a step after the pivot that refuses is sent again until it is done. The refusal raises an alarm,
/// and is no vote.
#[tokio::test]
async fn s11_a_refusal_after_the_pivot_raises_an_alarm_and_is_sent_again() {
    for world in [World::sqlite().await, World::postgres().await] {
        let steps = vec![
            step("a", "ok", &[]),
            pivot("pay", "ok", &["a"]),
            after_pivot("ship", "refuse-3", &["pay"]),
            after_pivot("mail", "ok", &["ship"]),
        ];
        let result = world.submit(saga("g", steps)).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        assert!(result.ended);
        assert_eq!(world.p.calls(&result.tx_id, "ship"), ["prepare"; 4]);
        let shown = world.get("g").await;
        let alarm = shown.timeline.iter().find(|line| line.event == "refused_after_commit");
        let alarm = alarm.unwrap_or_else(|| panic!("no alarm in {:?}", shown.timeline));
        assert_eq!(alarm.branch_id, "ship");
        assert!(alarm.detail.contains("NO_MONEY"), "{}", alarm.detail);
        for seen in world.p.seen() {
            let must = matches!(&*seen.branch_id, "ship" | "mail");
            assert_eq!(seen.must_succeed, must, "{}", seen.branch_id);
        }
    }
}

/// COMMIT is answered at the pivot's yes, and the steps after it go on through a crash.
#[tokio::test]
async fn s3_steps_after_the_pivot_go_on_after_a_restart() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let steps = vec![pivot("pay", "ok", &[]), after_pivot("ship", "gated", &["pay"])];
        let mut request = saga("g", steps);
        request.wait_for = WaitFor::Decided.into();
        let result = world.submit(request).await.unwrap();
        assert_eq!((result.outcome(), result.ended), (Outcome::Committed, false));
        called(&world, &result.tx_id, "ship", 1).await;
        let world = world.crash_and_restart().await;
        called(&world, &result.tx_id, "ship", 2).await;
        world.p.hold(false);
        let shown = ended(&world, "g").await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        assert_eq!(world.p.calls(&result.tx_id, "pay"), ["prepare"]);
    }
}

/// Returns what a participant is told of a branch that it asks about.
async fn inquire(world: &World, tx_id: &str, id: &str) -> Verdict {
    let branch = Some(inquired_branch::Branch::BranchId(id.into()));
    let request = InquireBranchesRequest {
        participant: "p".into(),
        branches: vec![InquiredBranch { tx_id: tx_id.into(), branch }],
        cluster_id: world.cluster_id().await,
        requires: Vec::new(),
        database_id: String::new(),
    };
    let answer = world.client().inquire_branches(request).await.unwrap().into_inner();
    answer.verdicts[0].verdict()
}

/// S1, S2, S11: an operator answers for a pivot that never does, after a crash as well. Its participant is
/// told the same as everybody else.
#[tokio::test]
async fn s2_an_operator_answers_for_a_pivot_that_never_does() {
    for mut world in [World::sqlite().await, World::postgres().await] {
        for (gid, word) in [("yes", Resolution::Committed), ("no", Resolution::RolledBack)] {
            let steps = vec![
                step("a", "ok", &[]),
                pivot("pay", "hang", &["a"]),
                after_pivot("ship", "ok", &["pay"]),
            ];
            let tx_id = accept(&world, saga(gid, steps)).await;
            called(&world, &tx_id, "pay", 1).await;
            world = world.crash_and_restart().await;
            called(&world, &tx_id, "pay", 2).await;
            let resolve = async |world: &World, word| {
                let resolved = world.operator().resolve_branch(resolve(&tx_id, "pay", word)).await;
                resolved.map(|resolved| resolved.into_inner().transaction.unwrap())
            };
            let status = resolve(&world, Resolution::Hazard).await.unwrap_err();
            assert_eq!(describe(&status).0, Code::InvalidArgument);
            assert_eq!(describe(&status).2, ["resolution"]);
            let resolved = resolve(&world, word).await.unwrap();
            assert!(resolved.decided_at.is_some());
            let shown = ended(&world, gid).await;
            resolve(&world, word).await.unwrap();
            assert!(shown.timeline.iter().any(|line| line.event == "resolved"));
            let calls = |id| world.p.calls(&tx_id, id);
            if word == Resolution::Committed {
                assert_eq!(shown.outcome(), Outcome::Committed);
                assert_eq!((shown.heuristic(), shown.attention), (Heuristic::Hazard, true));
                assert_eq!((calls("a"), calls("ship")), (vec!["prepare"], vec!["prepare"]));
                assert_eq!(calls("pay"), ["prepare"; 2], "it is not sent again");
                assert_eq!(inquire(&world, &tx_id, "pay").await, Verdict::Commit);
            } else {
                assert_eq!(shown.outcome(), Outcome::Aborted);
                assert_eq!((shown.heuristic(), shown.attention), (Heuristic::None, false));
                assert_eq!(shown.abort_cause(), AbortCause::Rollback);
                let detail = "the pivot was resolved as rolled back by ann: the bank is closed";
                assert_eq!(shown.abort_detail, detail);
                assert_eq!(calls("a"), ["prepare", "cancel"]);
                assert_eq!(calls("pay"), ["prepare", "prepare", "cancel"], "it is told");
                assert_eq!(calls("ship"), [""; 0]);
                assert_eq!(inquire(&world, &tx_id, "pay").await, Verdict::Cancel);
            }
        }
    }
}

/// L4: an output that a later step reads has room, which its participant is told. One that is too large all
/// the same raises an alarm, and an operator can end that.
#[tokio::test]
async fn l4_an_output_from_the_pivot_on_is_never_missed_for_ever() {
    for world in [World::sqlite().await, World::postgres().await] {
        let reads = |id: &str, action: &str, of: &str| BranchSpec {
            inputs: vec![super::input("it", of)],
            ..after_pivot(id, action, &[of])
        };
        let steps = vec![
            step("a", "output-1048576", &[]),
            pivot("pay", "output-200000", &["a"]),
            reads("ship", "output-200000", "pay"),
            reads("mail", "ok", "ship"),
        ];
        let result = world.submit(saga("fits", steps)).await.unwrap();
        assert_eq!((result.outcome(), result.ended), (Outcome::Committed, true));
        let seen = world.p.seen();
        let of = |id: &str| seen.iter().find(|seen| seen.branch_id == id).unwrap();
        assert_eq!(of("mail").inputs["it"].len(), 200_000);
        assert_eq!((of("a").output_bytes_max, of("mail").output_bytes_max), (None, None));
        let share = Some((3 << 19) / 2 - (1 << 19));
        assert_eq!((of("pay").output_bytes_max, of("ship").output_bytes_max), (share, share));

        let required = |id: &str| of(id).requires.iter().any(|name| name == "output_bytes_max");
        assert!(required("pay") && required("ship"), "who does not know it says no at once");
        assert!(!required("a") && !required("mail"));

        let steps = vec![pivot("pay", "output-1048577", &[]), reads("ship", "gated", "pay")];
        let tx_id = accept(&world, saga("large", steps)).await;
        called(&world, &tx_id, "pay", 3).await;
        let shown = world.get_until("large", "its alarm", |tx| tx.attention).await;
        let alarm = shown.timeline.iter().find(|line| line.event == "output_too_large").unwrap();
        assert!(alarm.detail.contains("1048577 bytes"), "{}", alarm.detail);
        assert_eq!(shown.outcome(), Outcome::NotDecided);
        // The step behind it must succeed, and could not without the output.
        let word = |output| ResolveBranchRequest {
            output,
            ..resolve(&tx_id, "pay", Resolution::Committed)
        };
        for (output, rule) in [
            (None, "must be given: it is read by ship"),
            (payload(vec![b'o'; 1_048_577]), "must be at most 1048576 bytes, has 1048577"),
        ] {
            let status = world.operator().resolve_branch(word(output)).await.unwrap_err();
            assert_eq!(describe(&status).2, ["output"]);
            assert!(status.message().contains(rule), "{}", status.message());
        }
        world.p.hold(true);
        world.operator().resolve_branch(word(payload("by hand"))).await.unwrap();
        called(&world, &tx_id, "ship", 1).await;
        let world = world.crash_and_restart().await;
        called(&world, &tx_id, "ship", 2).await;
        world.p.hold(false);
        let shown = ended(&world, "large").await;
        assert_eq!((shown.outcome(), shown.heuristic()), (Outcome::Committed, Heuristic::Hazard));
        assert_eq!(shown.branches[0].output, payload("by hand"));
        let seen = world.p.seen();
        let sent = seen.iter().filter(|seen| seen.tx_id == tx_id && seen.branch_id == "ship");
        assert!(sent.clone().all(|seen| &seen.inputs["it"][..] == b"by hand"));
        assert_eq!(world.p.calls(&tx_id, "ship"), ["prepare"; 2]);
    }
}
