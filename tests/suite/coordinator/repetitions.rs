//! A call that is sent again, as it was or otherwise.

use std::time::Duration;

use sqlx::Connection;
use tonic::{Code, Request, Status};
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    CommitBranch, CommitTransactionRequest, ExecuteBranchRequest, ForgetTransactionRequest,
    Heuristic, Mode, Outcome, Resolution, ResolveBranchRequest, Transaction, TransactionState,
    Vote, WaitFor,
};
use unanimo_tests::scripted::Scripted;

use super::participants::register;
use super::{World, branch, config, describe, sqlite_url, tcc, until};

pub(super) const NONE: Vote = Vote::Unspecified;

/// A transaction whose branch `out` has not voted and votes after some failures more, and whose
/// branch `mine` the initiator calls itself.
pub(super) async fn begun_with_a_vote_out(world: &World, gid: &str) -> String {
    let tx_id = world.begin(gid, Mode::Tcc).await.unwrap().tx_id;
    world.enlist(&tx_id, branch("mine", "ok")).await.unwrap();
    let request = ExecuteBranchRequest {
        tx_id: tx_id.clone(),
        branch: Some(branch("out", "fail-11")),
        ..Default::default()
    };
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_millis(500));
    let executed = world.client().execute_branch(request).await.unwrap().into_inner();
    assert_eq!((executed.vote(), executed.outcome()), (NONE, Outcome::NotDecided));
    tx_id
}

pub(super) fn commit(
    tx_id: &str,
    branches: &[(&str, Vote)],
    wait_for: WaitFor,
) -> CommitTransactionRequest {
    let branches = branches
        .iter()
        .map(|(id, vote)| CommitBranch { branch_id: (*id).into(), vote: (*vote).into() });
    CommitTransactionRequest {
        tx_id: tx_id.into(),
        branches: branches.collect(),
        wait_for: wait_for.into(),
        ..Default::default()
    }
}

async fn commit_with(
    world: &World,
    tx_id: &str,
    branches: &[(&str, Vote)],
    wait_for: WaitFor,
) -> Result<Outcome, Status> {
    let committed = world.client().commit_transaction(commit(tx_id, branches, wait_for)).await?;
    Ok(committed.into_inner().result.unwrap().outcome())
}

/// The first list stands, before a crash and after it.
#[tokio::test]
async fn another_commit_is_refused_while_the_first_one_waits() {
    let mut world = World::sqlite().await;
    let tx_id = begun_with_a_vote_out(&world, "g").await;
    let listed = [("mine", Vote::Prepared), ("out", NONE)];
    let first = commit_with(&world, &tx_id, &listed, WaitFor::Accepted).await.unwrap();
    assert_eq!(first, Outcome::NotDecided);
    for restarted in [false, true] {
        if restarted {
            world = world.crash_and_restart().await;
        }
        for other in [
            &[("mine", Vote::Refused), ("out", NONE)][..],
            &[("mine", NONE), ("out", NONE)],
            &[("mine", Vote::Prepared)],
            &[],
        ] {
            let status = commit_with(&world, &tx_id, other, WaitFor::Decided).await.unwrap_err();
            let expected = (Code::AlreadyExists, "COMMIT_REUSED".to_owned(), vec![]);
            assert_eq!(describe(&status), expected, "restarted: {restarted}, {other:?}");
        }
    }
    // In any order, and whatever vote is listed for a branch that was executed.
    let same = [("out", Vote::Refused), ("mine", Vote::Prepared)];
    let outcome = commit_with(&world, &tx_id, &same, WaitFor::Decided).await.unwrap();
    assert_eq!(outcome, Outcome::Committed);
    let outcome = commit_with(&world, &tx_id, &[], WaitFor::Decided).await.unwrap();
    assert_eq!(outcome, Outcome::Committed, "it hears what won");
}

fn resolve(tx_id: &str, resolution: Resolution) -> ResolveBranchRequest {
    ResolveBranchRequest {
        tx_id: tx_id.into(),
        branch_id: "a".into(),
        resolution: resolution.into(),
        operator: "ann".into(),
        note: "by hand".into(),
        ..Default::default()
    }
}

/// An operator's act that is sent again is answered as the first time, after a restart too.
#[tokio::test]
async fn an_operators_act_that_is_sent_again_is_answered_as_the_first_time() {
    let mut config = config(&sqlite_url());
    config.call_timeout = Period::millis(50);
    config.phase_two_backoff = Period::secs(1000);
    config.phase_two_backoff_max = Period::secs(1000);
    let mut world = World::start(config).await;
    let tx_id = world.submit(tcc("g", &["commit-hang", "ok"])).await.unwrap().tx_id;
    let forget = ForgetTransactionRequest {
        tx_id: tx_id.clone(),
        operator: "ann".into(),
        note: "repaired".into(),
        ..Default::default()
    };
    let (mut resolved, mut forgotten): (Option<Transaction>, Option<Transaction>) = (None, None);
    for restarted in [false, true] {
        if restarted {
            world = world.crash_and_restart().await;
        }
        for _ in 0..2 {
            let request = resolve(&tx_id, Resolution::RolledBack);
            let told = world.operator().resolve_branch(request).await.unwrap().into_inner();
            let told = told.transaction.unwrap();
            assert_eq!(told.state(), TransactionState::Committed);
            assert_eq!(told.heuristic(), Heuristic::Mixed);
            let first = resolved.get_or_insert_with(|| told.clone());
            assert_eq!(told.branches, first.branches);
        }
        let request = resolve(&tx_id, Resolution::Hazard);
        let status = world.operator().resolve_branch(request).await.unwrap_err();
        let expected = (Code::FailedPrecondition, "NOTHING_TO_RESOLVE".to_owned(), vec![]);
        assert_eq!(describe(&status), expected);
        assert!(status.message().contains("resolved as rolled back"), "{}", status.message());
        for _ in 0..2 {
            let told = world.operator().forget_transaction(forget.clone()).await.unwrap();
            let told = told.into_inner().transaction.unwrap();
            assert!(!told.attention);
            assert_eq!(&told, forgotten.get_or_insert_with(|| told.clone()));
        }
    }
    let timeline = world.get("g").await.timeline;
    let count = |event: &str| timeline.iter().filter(|entry| entry.event == event).count();
    assert_eq!((count("resolved"), count("forgotten")), (1, 1), "each act took place once");
}

/// A branch that is known is answered where nobody knows its participant's name any more.
#[tokio::test]
async fn a_known_branch_of_an_unknown_participant_is_answered() {
    let mut config = config(&sqlite_url());
    config.keep_alive_interval = Period::millis(500);
    let file = config.database_url.expose().trim_start_matches("sqlite:").to_owned();
    let world = World::start(config).await;
    let remote = Scripted::default();
    register(&world, "remote", &remote.serve().await).await;
    let tx_id = world.begin("g", Mode::Tcc).await.unwrap().tx_id;
    let mut spec = branch("a", "ok");
    spec.participant = "remote".into();
    let first = world.enlist(&tx_id, spec.clone()).await.unwrap();

    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let forget = "DELETE FROM endpoints; DELETE FROM participants;";
    sqlx::raw_sql(forget).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let world = world.crash_and_restart().await;
    let mut other = spec.clone();
    other.branch_id = "b".into();
    until("the name to be unknown", async || {
        let status = world.execute(&tx_id, other.clone()).await.unwrap_err();
        (describe(&status).1 == "PARTICIPANT_UNKNOWN").then_some(())
    })
    .await;
    assert_eq!(world.enlist(&tx_id, spec).await.unwrap().context, first.context);
}
