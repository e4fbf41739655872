//! Calls that go well, fail, get lost, and are sent again.

use std::time::Duration;

use http::StatusCode;
use tonic::Code;
use unanimo_sdk::client::Executed;
use unanimo_sdk::propagation::ClientLayer;

use super::{AbortCause, Mode, Outcome, RICH, World, order};

#[tokio::test]
async fn s7_both_services_commit_what_they_joined_with() {
    for mode in [Mode::Tcc, Mode::TwoPhase] {
        let world = World::start(mode).await;
        let tx = world.begin().await;
        world.order(&tx, "debit/x/100/ok credit/y/100/ok").await.unwrap();
        let Outcome::Committed(committed) = world.ended(&tx).await else { panic!("{mode:?}") };
        let branches: Vec<_> = committed.branches.iter().map(|b| &b.branch_id[..2]).collect();
        assert_eq!(branches, ["a:", "b:"], "one below is listed, too");
        assert_eq!(world.a.ended_balances().await, [RICH - 100, RICH, RICH]);
        assert_eq!(world.b.ended_balances().await, [RICH, RICH + 100, RICH]);
        assert_eq!((world.a.states().await, world.b.states().await), committed_rows());
    }
}

fn committed_rows() -> (Vec<String>, Vec<String>) {
    (vec!["committed".into()], vec!["committed".into()])
}

/// The error's reply names the branches, too: the coordinator hears the no, and not only that a
/// branch is missing.
#[tokio::test]
async fn s2_a_refusal_below_aborts_all() {
    for mode in [Mode::Tcc, Mode::TwoPhase] {
        let world = World::start(mode).await;
        let tx = world.begin().await;
        let error = world.order(&tx, "debit/x/100/ok credit/nobody/100/ok").await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().starts_with("NO_SUCH_ACCOUNT"), "{error}");
        let aborted = world.aborted(&tx).await;
        let branch = aborted.branch_id.unwrap();
        // Whichever the coordinator looks at first: a failed call's yes is no vote.
        match aborted.cause {
            AbortCause::NoVote => assert!(branch.starts_with("a:"), "{branch}"),
            cause => assert_eq!((cause, &branch[..2]), (AbortCause::Refused, "b:")),
        }
        assert_eq!(aborted.branches.len(), 2);
        world.untouched().await;
    }
}

#[tokio::test]
async fn s2_a_refusal_aborts_though_its_caller_goes_on() {
    let world = World::start(Mode::Tcc).await;
    let tx = world.begin().await;
    world.order(&tx, "debit/x/100/ok").await.unwrap();
    let (status, text) = world.order_at_b(&tx, "debit/y/5000/ok", None).await.unwrap();
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text.starts_with("INSUFFICIENT_FUNDS"), "{text}");
    let aborted = world.aborted(&tx).await;
    assert_eq!(aborted.cause, AbortCause::Refused);
    assert!(aborted.branch_id.unwrap().starts_with("b:"));
    world.untouched().await;
}

/// Each way for an answer to get lost after the work is prepared. Whoever sends the call again, and
/// hears that it went well, must not have it done twice.
#[tokio::test]
async fn s7_a_call_that_failed_and_is_sent_again_has_its_effect_at_most_once() {
    for mode in [Mode::Tcc, Mode::TwoPhase] {
        let world = World::start(mode).await;
        for then in ["lost", "half", "error"] {
            let tx = world.begin().await;
            let failed = world.order_at_b(&tx, &format!("credit/y/100/{then}"), None).await;
            assert!(!matches!(&failed, Ok((StatusCode::OK, _))), "{then}: {failed:?}");
            // At another account: by two-phase commit the first one is locked.
            let (status, _) = world.order_at_b(&tx, "credit/z/100/ok", None).await.unwrap();
            assert_eq!(status, StatusCode::OK);
            let aborted = world.aborted(&tx).await;
            let causes = [AbortCause::Unlisted, AbortCause::NoVote];
            assert!(causes.contains(&aborted.cause), "{then}: {:?}", aborted.cause);
            assert_eq!(aborted.branches.len(), 2, "{then}");
            world.untouched().await;
        }
        // The same over gRPC, and with an order below that went well.
        for then in ["lost", "error"] {
            let tx = world.begin().await;
            let orders = format!("debit/x/100/{then} credit/y/100/ok");
            world.order(&tx, &orders).await.unwrap_err();
            world.order(&tx, "debit/z/100/ok credit/z/100/ok").await.unwrap();
            assert_eq!(world.aborted(&tx).await.branches.len(), 4, "{then}");
            world.untouched().await;
        }
    }
}

/// With a name of its caller's the second call is the same branch.
#[tokio::test]
async fn s7_a_call_that_is_sent_again_under_its_own_name_has_its_effect_once() {
    for mode in [Mode::Tcc, Mode::TwoPhase] {
        let world = World::start(mode).await;
        for (n, then) in ["lost", "half", "error", "ok"].into_iter().enumerate() {
            let tx = world.begin().await;
            let key = Some("order-1");
            let _ = world.order_at_b(&tx, &format!("credit/y/100/{then}"), key).await;
            let (status, _) = world.order_at_b(&tx, "credit/y/100/ok", key).await.unwrap();
            assert_eq!(status, StatusCode::OK);
            let (status, text) = world.order_at_b(&tx, "credit/y/101/ok", key).await.unwrap();
            assert_eq!(status, StatusCode::CONFLICT, "other content: {text}");
            assert!(world.ended(&tx).await.is_committed(), "{then}");
            let credited = 100 * (i64::try_from(n).unwrap() + 1);
            assert_eq!(world.b.ended_balances().await, [RICH, RICH + credited, RICH]);
        }
    }
}

/// One that is lost and not sent again is unlisted.
#[tokio::test]
async fn s2_a_lost_reply_aborts_and_cancels_what_was_prepared() {
    for mode in [Mode::Tcc, Mode::TwoPhase] {
        let world = World::start(mode).await;
        let tx = world.begin().await;
        let (status, _) = world.order_at_b(&tx, "debit/z/1/ok", None).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        world.order(&tx, "debit/x/100/lost credit/y/100/ok").await.unwrap_err();
        let aborted = world.aborted(&tx).await;
        assert_eq!((aborted.cause, aborted.branches.len()), (AbortCause::Unlisted, 3));
        world.untouched().await;
        let cancelled = |rows: usize| vec!["cancelled".to_owned(); rows];
        assert_eq!(world.a.states().await, cancelled(1));
        assert_eq!(world.b.states().await, cancelled(2));
    }
}

/// A call that never reached anybody has nothing to be undone.
#[tokio::test]
async fn a_call_that_reached_nobody_may_be_sent_elsewhere() {
    let world = World::start(Mode::Tcc).await;
    let tx = world.begin().await;
    let client = unanimo_tests::joining::client(&tx.propagation().layer());
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let url = format!("http://{address}/credit/y/100/ok");
    unanimo_tests::joining::send(&client, &url, None).await.unwrap_err();
    let (status, _) = world.order_at_b(&tx, "credit/y/100/ok", None).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(world.ended(&tx).await.is_committed());
    assert_eq!(world.b.ended_balances().await, [RICH, RICH + 100, RICH]);
}

/// Of many calls at once, from the scope's own clients, none is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_every_branch_of_calls_at_once_is_listed() {
    const CALLS: usize = 12;
    let world = World::start(Mode::Tcc).await;
    let tx = world.begin().await;
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let calling = world.order_of(ClientLayer::new(), order("debit/x/1/ok credit/y/1/ok"));
            tx.scope(calling)
        })
        .collect();
    for done in futures_of(calls).await {
        done.unwrap();
    }
    let Outcome::Committed(committed) = world.ended(&tx).await else { panic!("it is not") };
    assert_eq!(committed.branches.len(), 2 * CALLS);
    assert_eq!(world.a.ended_balances().await, [RICH - 12, RICH, RICH]);
    assert_eq!(world.b.ended_balances().await, [RICH, RICH + 12, RICH]);
}

/// All at once, in one task.
async fn futures_of<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut running {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        match running.iter().all(|(_, done)| done.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    running.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn executed_and_joined_branches_commit_together() {
    let world = World::start(Mode::Tcc).await;
    let mut tx = world.begin().await;
    world.order(&tx, "debit/x/100/ok").await.unwrap();
    let executed = tx.execute("mine", "p", "ok", ()).await.unwrap();
    assert!(matches!(executed, Executed::Prepared(_)), "{executed:?}");
    let Outcome::Committed(committed) = world.ended(&tx).await else { panic!("it is not") };
    assert_eq!(committed.branches.len(), 2);
    assert_eq!(world.coordinator.p.calls(tx.tx_id(), "mine"), ["prepare", "commit"]);
    assert_eq!(world.a.ended_balances().await, [RICH - 100, RICH, RICH]);
}

/// Without the coordinator's word that the branch is durable, nothing is done.
#[tokio::test]
async fn s6_nothing_is_done_while_the_coordinator_is_away() {
    for mode in [Mode::Tcc, Mode::TwoPhase] {
        let world = World::start(mode).await;
        let tx = world.begin().await;
        // Connections that are open stay so: banks that have just registered have one. Those of the
        // joiners are made at the first call.
        world.relay.point_to(None);
        let error = world.order(&tx, "debit/x/100/ok credit/y/100/ok").await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(error.message().contains("is not enlisted"), "{error}");
        assert!(world.a.barrier().await.is_empty() && world.b.barrier().await.is_empty());
        world.untouched().await;
        world.relay.point_to(world.coordinator.running.grpc_address());
        world.order(&tx, "debit/x/100/ok credit/y/100/ok").await.unwrap();
        assert!(world.ended(&tx).await.is_committed());
        assert_eq!(world.b.ended_balances().await, [RICH, RICH + 100, RICH]);
    }
}

/// A branch that has joined is durable, and the rest joins the coordinator's next life.
#[tokio::test]
async fn s6_a_coordinator_that_crashes_between_two_calls_forgets_no_branch() {
    for (mode, is_listed) in [(Mode::Tcc, true), (Mode::TwoPhase, true), (Mode::TwoPhase, false)] {
        let mut world = World::start(mode).await;
        let tx = world.begin().await;
        if is_listed {
            world.order(&tx, "debit/x/100/ok").await.unwrap();
        } else {
            world.order(&tx, "debit/x/100/lost").await.unwrap_err();
        }
        world.relay.point_to(None);
        world.coordinator = world.coordinator.crash_and_restart().await;
        world.relay.point_to(world.coordinator.running.grpc_address());
        let (status, text) = world.order_at_b(&tx, "credit/y/100/ok", None).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        assert_eq!(world.ended(&tx).await.is_committed(), is_listed);
        let moved = if is_listed { 100 } else { 0 };
        assert_eq!(world.a.ended_balances().await, [RICH - moved, RICH, RICH]);
        assert_eq!(world.b.ended_balances().await, [RICH, RICH + moved, RICH]);
    }
}

/// After the decision nobody joins.
#[tokio::test]
async fn s4_a_call_that_comes_after_the_decision_has_no_effect() {
    let world = World::start(Mode::Tcc).await;
    for commit in [true, false] {
        let tx = world.begin().await;
        let outcome = if commit { tx.commit().await } else { tx.rollback().await };
        assert_eq!(outcome.unwrap().is_committed(), commit);
        let error = world.order(&tx, "debit/x/100/ok").await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("TRANSACTION_CLOSED"), "{error}");
    }
    assert!(world.a.barrier().await.is_empty());
    world.untouched().await;
}

/// An initiator that goes away leaves nothing behind.
#[tokio::test]
async fn s7_what_an_abandoned_initiator_called_is_cancelled_at_the_deadline() {
    let world = World::start(Mode::TwoPhase).await;
    let draft = world.client.two_phase("abandoned").timeout(Duration::from_millis(1_500));
    let tx = draft.begin().await.unwrap();
    world.order(&tx, "debit/x/100/ok credit/y/100/ok").await.unwrap();
    drop(tx);
    let ended = |t: &unanimo_proto::v1::Transaction| t.ended_at.is_some();
    world.coordinator.get_until("abandoned", "its end", ended).await;
    world.untouched().await;
}
