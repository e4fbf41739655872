//! Submit: all branches at once.

use unanimo_proto::v1::{
    AbortCause, BranchState, Heuristic, Mode, Outcome, TransactionState, Vote, WaitFor,
};

use super::{World, millis, tcc};

#[tokio::test]
async fn yes_from_all_commits_on_both_stores() {
    for world in [World::sqlite().await, World::postgres().await] {
        let mut request = tcc("g", &["ok", "output-3"]);
        request.metadata.insert("tenant".into(), "blue".into());
        request.wait_for = WaitFor::Ended.into();
        let mut traced = tonic::Request::new(request);
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        traced.metadata_mut().insert("traceparent", trace.parse().unwrap());
        let result =
            world.client().submit_transaction(traced).await.unwrap().into_inner().result.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        assert!(result.ended);
        assert_eq!(result.heuristic(), Heuristic::None);
        assert_eq!(unanimo_tests::bytes_of(result.branches[1].output.as_ref()), b"ooo"[..]);
        for (id, output) in [("a", &b""[..]), ("b", b"ooo")] {
            assert_eq!(world.p.calls(&result.tx_id, id), ["prepare", "commit"]);
            let seen = world.p.seen();
            let commit =
                seen.iter().find(|s| s.operation == "commit" && s.branch_id == id).unwrap();
            assert_eq!(commit.output.as_ref(), output);
            assert_eq!(commit.payload, format!("payload of {id}"));
            assert_eq!(commit.traceparent, trace);
            assert_eq!(commit.metadata["tenant"], "blue");
        }
        let shown = world.get("g").await;
        assert_eq!(shown.state(), TransactionState::Committed);
        assert_eq!(shown.branches[0].state(), BranchState::Committed);
        let events: Vec<&str> = shown.timeline.iter().map(|e| e.event.as_str()).collect();
        assert_eq!(events[0], "begun");
        assert!(events.contains(&"decided") && events.contains(&"ended"), "{events:?}");
        world.running.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_aborts_and_says_why() {
    let world = World::sqlite().await;
    let mut request = tcc("g", &["ok", "refuse"]);
    request.wait_for = WaitFor::Ended.into();
    let result = world.submit(request).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    assert_eq!(result.abort_cause(), AbortCause::Refused);
    assert_eq!(result.abort_branch_id, "b");
    assert_eq!(result.branches[1].vote(), Vote::Refused);
    let refusal = result.branches[1].refusal.clone().unwrap();
    assert_eq!((&*refusal.reason, &*refusal.message), ("NO_MONEY", "the account is empty"));
    assert_eq!(world.p.calls(&result.tx_id, "a"), ["prepare", "cancel"]);
    assert_eq!(world.p.calls(&result.tx_id, "b"), ["prepare"]);
}

#[tokio::test]
async fn read_only_is_asked_for_nothing_more() {
    let world = World::sqlite().await;
    let mut request = tcc("g", &["read-only", "ok"]);
    request.mode = Mode::TwoPhaseCommit.into();
    request.wait_for = WaitFor::Ended.into();
    let result = world.submit(request).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    assert_eq!(world.p.calls(&result.tx_id, "a"), ["prepare"]);
    assert_eq!(world.p.calls(&result.tx_id, "b"), ["prepare", "commit"]);
}

/// A participant that answers late, wrongly, or asks for patience is asked again.
#[tokio::test]
async fn what_is_no_vote_is_asked_for_again() {
    let world = World::sqlite().await;
    let mut request = tcc("g", &["fail-3", "working-2", "commit-fail-3"]);
    request.wait_for = WaitFor::Ended.into();
    let result = world.submit(request).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    let calls = |id| world.p.calls(&result.tx_id, id);
    assert_eq!(calls("a"), ["prepare", "prepare", "prepare", "prepare", "commit"]);
    assert_eq!(calls("b"), ["prepare", "prepare", "prepare", "commit"]);
    assert_eq!(calls("c"), ["prepare", "commit", "commit", "commit", "commit"]);
    let shown = world.get("g").await;
    let prepare = shown.branches[0].prepare_attempts.clone().unwrap();
    assert_eq!(prepare.count, 4);
    assert_eq!(prepare.first_error, "Unavailable: not now");
    let line = shown.timeline.iter().find(|e| e.event == "commit" && e.branch_id == "c").unwrap();
    assert!(line.detail.starts_with("4 attempts: Unavailable: not now"), "{}", line.detail);
}

/// A participant that never votes: the deadline decides, and it is cancelled.
#[tokio::test]
async fn the_deadline_aborts() {
    let world = World::sqlite().await;
    for (gid, action) in [("silent", "hang"), ("mute", "empty"), ("wrong", "read-only")] {
        let mut request = tcc(gid, &["ok", action]);
        request.timeout = millis(300);
        request.wait_for = WaitFor::Ended.into();
        let result = world.submit(request).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
        assert_eq!(result.abort_cause(), AbortCause::Deadline);
        for id in ["a", "b"] {
            assert_eq!(world.p.calls(&result.tx_id, id).last(), Some(&"cancel"), "{gid} {id}");
        }
        let error = &result.branches[1].last_error;
        let expected = match action {
            "empty" => "no answer that this version knows",
            "read-only" => "READ_ONLY, which is no vote in mode tcc",
            _ => "",
        };
        assert!(error.contains(expected), "{error}");
    }
}

/// An output over the limit is dropped, the vote stands.
#[tokio::test]
async fn a_large_output_is_dropped_and_the_vote_stands() {
    let world = World::sqlite().await;
    let result = world.submit(tcc("g", &["output-1048577", "output-1048576"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    let [large, fits] = &result.branches[..] else { panic!("two branches") };
    assert!(large.output_dropped && large.output.is_none());
    assert!(!fits.output_dropped && unanimo_tests::bytes_of(fits.output.as_ref()).len() == 1 << 20);
}

/// S9, S10: the same gid is the same transaction, while it runs and after it has ended.
#[tokio::test]
async fn s9_the_same_request_is_the_same_transaction() {
    for world in [World::sqlite().await, World::postgres().await] {
        let submits = (0..20).map(|_| world.submit(tcc("g", &["fail-1", "ok"])));
        let mut results = Vec::new();
        for submit in submits {
            results.push(submit.await.unwrap());
        }
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let mut client = world.client();
            tasks
                .spawn(async move { client.submit_transaction(tcc("h", &["fail-1", "ok"])).await });
        }
        for result in tasks.join_all().await {
            results.push(result.unwrap().into_inner().result.unwrap());
        }
        world.get_until("h", "its end", |t| t.ended_at.is_some()).await;
        results.push(world.submit(tcc("h", &["fail-1", "ok"])).await.unwrap());
        let ids: std::collections::BTreeSet<_> =
            results.iter().map(|result| result.tx_id.clone()).collect();
        assert_eq!(ids.len(), 2, "two gids, two transactions");
        for result in &results {
            assert_eq!(result.outcome(), Outcome::Committed);
            assert_eq!(result.branches.len(), 2, "the same answer");
            assert_eq!(world.p.calls(&result.tx_id, "a"), ["prepare", "prepare", "commit"]);
            assert_eq!(world.p.calls(&result.tx_id, "b"), ["prepare", "commit"]);
        }
    }
}

/// S10: a wait that runs out is answered in time, with what may be said; the transaction goes on.
#[tokio::test]
async fn s10_a_wait_that_runs_out_says_not_decided() {
    let world = World::sqlite().await;
    let mut request = tonic::Request::new(tcc("g", &["ok", "fail-8"]));
    request.set_timeout(std::time::Duration::from_millis(400));
    let result =
        world.client().submit_transaction(request).await.unwrap().into_inner().result.unwrap();
    assert_eq!(result.outcome(), Outcome::NotDecided);
    let shown = world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(shown.tx_id, result.tx_id);
    assert_eq!(shown.outcome(), Outcome::Committed);

    // Decided and not finished is committed.
    world.p.hold(true);
    let mut request = tcc("h", &["ok"]);
    request.wait_for = WaitFor::Ended.into();
    let mut request = tonic::Request::new(request);
    request.set_timeout(std::time::Duration::from_millis(500));
    let result =
        world.client().submit_transaction(request).await.unwrap().into_inner().result.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    assert!(!result.ended);
    world.p.hold(false);
    world.get_until("h", "its end", |t| t.ended_at.is_some()).await;
}

/// A client that goes away ends nothing.
#[tokio::test]
async fn a_client_that_hangs_up_ends_nothing() {
    let world = World::sqlite().await;
    for round in 0..50_u64 {
        let gid = format!("g{round}");
        let submit = world.submit(tcc(&gid, &["ok", "ok"]));
        let patience = std::time::Duration::from_micros(round * 100);
        let _ = tokio::time::timeout(patience, submit).await;
    }
    // What reached the coordinator ends; what did not is never seen, and can be submitted.
    for round in 0..50 {
        let gid = format!("g{round}");
        let result = world.submit(tcc(&gid, &["ok", "ok"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
        for id in ["a", "b"] {
            assert_eq!(world.p.calls(&result.tx_id, id), ["prepare", "commit"]);
        }
    }
}
