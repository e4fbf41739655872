//! Stuck and heuristic transactions, and what operators do to them.

use tonic::Code;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    BranchState, ForgetTransactionRequest, Heuristic, ListTransactionsRequest, Outcome, Resolution,
    ResolveBranchRequest, RetryTransactionRequest, Transaction, TransactionState,
};

use super::{World, config, describe, sqlite_url, tcc};

pub(super) fn resolve(tx_id: &str, branch: &str, resolution: Resolution) -> ResolveBranchRequest {
    ResolveBranchRequest {
        tx_id: tx_id.into(),
        branch_id: branch.into(),
        resolution: resolution.into(),
        operator: "ann".into(),
        note: "the bank is closed".into(),
        ..Default::default()
    }
}

fn forget(tx_id: &str) -> ForgetTransactionRequest {
    ForgetTransactionRequest {
        tx_id: tx_id.into(),
        operator: "ann".into(),
        note: "paid by hand".into(),
        ..Default::default()
    }
}

async fn attention(world: &World) -> Vec<String> {
    let request = ListTransactionsRequest { attention: true, ..Default::default() };
    let listed = world.client().list_transactions(request).await.unwrap().into_inner().transactions;
    assert!(listed.iter().all(|listed| {
        listed.attention && (listed.stalled || listed.heuristic() != Heuristic::None)
    }));
    listed.into_iter().map(|transaction| transaction.gid).collect()
}

/// S11: heuristic outcomes stay until they are forgotten, through crashes too.
#[tokio::test]
async fn s11_a_heuristic_outcome_is_shown_until_it_is_forgotten() {
    let world = World::sqlite().await;
    let result = world.submit(tcc("g", &["commit-heuristic", "ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    let shown = world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(shown.heuristic(), Heuristic::Mixed);
    assert!(shown.attention);
    assert_eq!(shown.branches[0].state(), BranchState::HeuristicRollback);
    assert_eq!(shown.branches[0].heuristic_note, "an administrator rolled it back");
    assert_eq!(shown.branches[1].state(), BranchState::Committed);
    assert_eq!(attention(&world).await, ["g"]);

    let world = world.crash_and_restart().await;
    assert_eq!(attention(&world).await, ["g"]);
    let without_note = ForgetTransactionRequest { note: String::new(), ..forget(&shown.tx_id) };
    let status = world.operator().forget_transaction(without_note).await.unwrap_err();
    assert_eq!(describe(&status).2, ["note"]);
    // No operator has resolved a branch: nobody is asked whether its participant holds something.
    let request = ForgetTransactionRequest { released: Some(false), ..forget(&shown.tx_id) };
    let forgotten = world.operator().forget_transaction(request).await.unwrap().into_inner();
    assert!(!forgotten.transaction.unwrap().attention);
    assert!(attention(&world).await.is_empty());
    let shown = world.get("g").await;
    assert_eq!(shown.heuristic(), Heuristic::Mixed, "what happened is not forgotten");
    let last = shown.timeline.last().unwrap();
    assert_eq!((&*last.event, &*last.detail), ("forgotten", "by ann: paid by hand"));
    let result = world.submit(tcc("g", &["commit-heuristic", "ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
}

#[tokio::test]
async fn a_hazard_after_a_cancel_is_told() {
    let world = World::sqlite().await;
    let result = world.submit(tcc("g", &["cancel-hazard", "refuse"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    let shown = world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(shown.heuristic(), Heuristic::Hazard);
    assert_eq!(shown.branches[0].state(), BranchState::HeuristicHazard);
    assert_eq!(attention(&world).await, ["g"]);
}

#[tokio::test]
async fn a_stalled_transaction_is_shown_retried_and_resolved() {
    let mut config = config(&sqlite_url());
    config.stalled_after = Period::millis(100);
    config.call_timeout = Period::millis(50);
    config.phase_two_backoff = Period::secs(1000);
    config.phase_two_backoff_max = Period::secs(1000);
    let world = World::start(config).await;
    let result = world.submit(tcc("g", &["commit-hang", "ok"])).await.unwrap();
    let tx_id = result.tx_id.as_str();
    // The history follows the state: nothing waits until an alarm's event is durable.
    let told = |t: &Transaction| t.timeline.iter().any(|entry| entry.event == "stalled");
    let shown = world.get_until("g", "its alarm", |t| t.stalled && told(t)).await;
    assert_eq!(shown.state(), TransactionState::Committing);
    assert!(shown.attention);
    let event = shown.timeline.iter().find(|entry| entry.event == "stalled").unwrap();
    assert_eq!(event.detail, "waiting for a");
    super::until("the list", async || (attention(&world).await == ["g"]).then_some(())).await;

    let before = world.p.calls(tx_id, "a").len();
    let retry = |branch: &str| RetryTransactionRequest {
        tx_id: tx_id.into(),
        branch_id: branch.into(),
        operator: "ann".into(),
        ..Default::default()
    };
    world.operator().retry_transaction(retry("")).await.unwrap();
    super::until("the retry", async || (world.p.calls(tx_id, "a").len() > before).then_some(()))
        .await;
    let status = world.operator().retry_transaction(retry("x")).await.unwrap_err();
    assert_eq!(
        describe(&status),
        (Code::InvalidArgument, "BRANCH_UNKNOWN".into(), vec!["branch_id".into()])
    );

    let status = world.operator().forget_transaction(forget(tx_id)).await.unwrap_err();
    assert_eq!(describe(&status).1, "NOTHING_TO_FORGET", "it has not ended");
    let guarded = ForgetTransactionRequest { released: Some(false), ..forget(tx_id) };
    let status = world.operator().forget_transaction(guarded).await.unwrap_err();
    assert_eq!(describe(&status).1, "NOTHING_TO_FORGET", "it has not ended");
    let status = world.operator().resolve_branch(resolve(tx_id, "b", Resolution::Committed)).await;
    assert_eq!(
        describe(&status.unwrap_err()),
        (Code::FailedPrecondition, "NOTHING_TO_RESOLVE".into(), vec![])
    );
    let status =
        world.operator().resolve_branch(resolve(tx_id, "a", Resolution::Unspecified)).await;
    assert_eq!(describe(&status.unwrap_err()).2, ["resolution"]);
    let resolved = world
        .operator()
        .resolve_branch(resolve(tx_id, "a", Resolution::RolledBack))
        .await
        .unwrap()
        .into_inner()
        .transaction
        .unwrap();
    assert_eq!(resolved.state(), TransactionState::Committed, "never the decision");
    assert_eq!(resolved.heuristic(), Heuristic::Mixed);
    assert_eq!(resolved.branches[0].heuristic_note, "ann: the bank is closed");
    let asked = |released| ForgetTransactionRequest { released, ..forget(tx_id) };
    let status = world.operator().forget_transaction(asked(Some(false))).await.unwrap_err();
    assert_eq!(describe(&status), (Code::FailedPrecondition, "STILL_HELD".into(), vec![]));
    assert!(status.message().contains("a of p"), "{}", status.message());
    assert_eq!(attention(&world).await, ["g"], "nothing was forgotten");
    // One that says nothing of it is not asked.
    world.operator().forget_transaction(asked(None)).await.unwrap();
    // It is forgotten, and stays so.
    for released in [Some(false), Some(true)] {
        world.operator().forget_transaction(asked(released)).await.unwrap();
    }
    let timeline = world.get("g").await.timeline;
    let acts: Vec<&str> = timeline.iter().map(|entry| entry.event.as_str()).collect();
    for act in ["stalled", "retried", "resolved", "forgotten"] {
        assert!(acts.contains(&act), "{act} in {acts:?}");
    }
}

/// A retry of a transaction that has ended changes nothing, and the revision that it tells is one
/// that is stored.
#[tokio::test]
async fn a_retry_of_an_ended_transaction_changes_nothing() {
    let world = World::sqlite().await;
    let result = world.submit(tcc("g", &["ok"])).await.unwrap();
    let ended = world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    let request = RetryTransactionRequest {
        tx_id: result.tx_id,
        operator: "ann".into(),
        ..Default::default()
    };
    let retried = world.operator().retry_transaction(request).await.unwrap().into_inner();
    assert_eq!(retried.transaction.unwrap().revision, ended.revision);
    assert_eq!(world.get("g").await, ended);
}
