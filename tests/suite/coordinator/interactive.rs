//! Begin, Execute, Enlist, Commit, Rollback.

use std::time::Duration;

use tonic::{Code, Status};
use unanimo_proto::v1::{
    AbortCause, BeginTransactionRequest, BeginTransactionResponse, BranchSpec, CommitBranch,
    CommitTransactionRequest, EnlistBranchRequest, EnlistBranchResponse, ExecuteBranchRequest,
    ExecuteBranchResponse, Mode, Outcome, RollbackTransactionRequest, TransactionResult, Vote,
    WaitFor,
};

use super::{World, branch, describe, millis};

impl World {
    pub(super) async fn begin(
        &self,
        gid: &str,
        mode: Mode,
    ) -> Result<BeginTransactionResponse, Status> {
        let timeout = millis(20_000);
        let request = BeginTransactionRequest {
            gid: gid.into(),
            mode: mode.into(),
            timeout,
            ..Default::default()
        };
        Ok(self.client().begin_transaction(request).await?.into_inner())
    }

    pub(super) async fn execute(
        &self,
        tx_id: &str,
        branch: BranchSpec,
    ) -> Result<ExecuteBranchResponse, Status> {
        let request = ExecuteBranchRequest {
            tx_id: tx_id.into(),
            branch: Some(branch),
            ..Default::default()
        };
        Ok(self.client().execute_branch(request).await?.into_inner())
    }

    pub(super) async fn enlist(
        &self,
        tx_id: &str,
        branch: BranchSpec,
    ) -> Result<EnlistBranchResponse, Status> {
        let request =
            EnlistBranchRequest { tx_id: tx_id.into(), branch: Some(branch), ..Default::default() };
        Ok(self.client().enlist_branch(request).await?.into_inner())
    }

    pub(super) async fn commit(
        &self,
        tx_id: &str,
        branches: &[(&str, Vote)],
    ) -> Result<TransactionResult, Status> {
        let branches = branches
            .iter()
            .map(|(id, vote)| CommitBranch { branch_id: (*id).into(), vote: (*vote).into() });
        let request = CommitTransactionRequest {
            tx_id: tx_id.into(),
            branches: branches.collect(),
            wait_for: WaitFor::Ended.into(),
            ..Default::default()
        };
        Ok(self.client().commit_transaction(request).await?.into_inner().result.unwrap())
    }

    pub(super) async fn rollback(&self, tx_id: &str) -> Result<TransactionResult, Status> {
        let request = RollbackTransactionRequest {
            key: Some(unanimo_proto::v1::rollback_transaction_request::Key::TxId(tx_id.into())),
            wait_for: WaitFor::Ended.into(),
            ..Default::default()
        };
        Ok(self.client().rollback_transaction(request).await?.into_inner().result.unwrap())
    }
}

const NONE: Vote = Vote::Unspecified;

#[tokio::test]
async fn executed_branches_commit_on_both_stores() {
    for world in [World::sqlite().await, World::postgres().await] {
        let tx = world.begin("g", Mode::Tcc).await.unwrap();
        assert_eq!(tx.outcome(), Outcome::NotDecided);
        assert_eq!(world.begin("g", Mode::Tcc).await.unwrap().tx_id, tx.tx_id);
        let first = world.execute(&tx.tx_id, branch("a", "output-2")).await.unwrap();
        assert_eq!((first.vote(), first.branch_number), (Vote::Prepared, 1));
        assert_eq!(unanimo_tests::bytes_of(first.output.as_ref()), b"oo"[..]);
        let again = world.execute(&tx.tx_id, branch("a", "output-2")).await.unwrap();
        assert_eq!(again, first);
        let second = world.execute(&tx.tx_id, branch("b", "fail-2")).await.unwrap();
        assert_eq!((second.vote(), second.branch_number), (Vote::Prepared, 2));
        let result = world.commit(&tx.tx_id, &[("b", NONE), ("a", NONE)]).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        assert!(result.ended);
        assert_eq!(world.p.calls(&tx.tx_id, "a"), ["prepare", "commit"]);
        let again = world.commit(&tx.tx_id, &[("a", NONE), ("b", NONE)]).await.unwrap();
        assert_eq!(again, result);
        let late = world.rollback(&tx.tx_id).await.unwrap();
        assert_eq!(late.outcome(), Outcome::Committed, "it hears what won");
    }
}

#[tokio::test]
async fn a_refused_branch_aborts_at_once() {
    let world = World::sqlite().await;
    let tx = world.begin("g", Mode::TwoPhaseCommit).await.unwrap();
    world.execute(&tx.tx_id, branch("a", "ok")).await.unwrap();
    let refused = world.execute(&tx.tx_id, branch("b", "refuse")).await.unwrap();
    assert_eq!((refused.vote(), refused.outcome()), (Vote::Refused, Outcome::Aborted));
    assert_eq!(refused.refusal.unwrap().reason, "NO_MONEY");
    let result = world.commit(&tx.tx_id, &[("a", NONE), ("b", NONE)]).await.unwrap();
    assert_eq!((result.outcome(), result.abort_cause()), (Outcome::Aborted, AbortCause::Refused));
    assert_eq!(world.p.calls(&tx.tx_id, "a"), ["prepare", "cancel"]);
}

#[tokio::test]
async fn an_initiator_that_calls_participants_itself_tells_their_votes() {
    let world = World::sqlite().await;
    let tx = world.begin("g", Mode::Tcc).await.unwrap();
    let enlisted = world.enlist(&tx.tx_id, branch("mine", "ok")).await.unwrap();
    let context = enlisted.context.clone().unwrap();
    assert_eq!((&*context.tx_id, &*context.gid), (&*tx.tx_id, "g"));
    assert_eq!((&*context.branch_id, context.branch_number), ("mine", 1));
    assert_eq!((&*context.participant, context.mode()), ("p", Mode::Tcc));
    assert!(!context.cluster_id.is_empty() && context.cluster_id.len() <= 32);
    let (until, deadline) = (enlisted.prepare_until.unwrap(), tx.deadline.unwrap());
    assert_eq!(until.seconds, deadline.seconds + 5, "the deadline and the allowance for skew");
    assert_eq!(world.enlist(&tx.tx_id, branch("mine", "ok")).await.unwrap(), enlisted);
    world.execute(&tx.tx_id, branch("yours", "ok")).await.unwrap();
    let result =
        world.commit(&tx.tx_id, &[("mine", Vote::Prepared), ("yours", NONE)]).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    assert_eq!(world.p.calls(&tx.tx_id, "mine"), ["commit"], "its Prepare was the initiator's");
    assert_eq!(world.p.calls(&tx.tx_id, "yours"), ["prepare", "commit"]);
}

#[tokio::test]
async fn an_incomplete_commit_aborts_and_cancels() {
    let world = World::sqlite().await;
    for (gid, listed, cause) in [
        ("no-vote", &[("mine", NONE), ("yours", NONE)][..], AbortCause::NoVote),
        ("unlisted", &[("yours", NONE)][..], AbortCause::Unlisted),
        ("refused", &[("mine", Vote::Refused), ("yours", NONE)][..], AbortCause::Refused),
    ] {
        let tx = world.begin(gid, Mode::Tcc).await.unwrap();
        world.enlist(&tx.tx_id, branch("mine", "ok")).await.unwrap();
        world.execute(&tx.tx_id, branch("yours", "ok")).await.unwrap();
        let result = world.commit(&tx.tx_id, listed).await.unwrap();
        assert_eq!((result.outcome(), result.abort_cause()), (Outcome::Aborted, cause), "{gid}");
        assert_eq!(result.abort_branch_id, "mine");
        assert_eq!(world.p.calls(&tx.tx_id, "mine"), ["cancel"]);
        assert_eq!(world.p.calls(&tx.tx_id, "yours"), ["prepare", "cancel"]);
    }
}

/// Commit waits for votes that are out, and the deadline ends the wait.
#[tokio::test]
async fn commit_waits_for_votes_until_the_deadline() {
    let world = World::sqlite().await;
    for (gid, action, outcome) in
        [("slow", "fail-6", Outcome::Committed), ("silent", "hang", Outcome::Aborted)]
    {
        let request = BeginTransactionRequest {
            gid: gid.into(),
            mode: Mode::Tcc.into(),
            timeout: millis(2_500),
            ..Default::default()
        };
        let tx = world.client().begin_transaction(request).await.unwrap().into_inner();
        // Execute's own patience runs out first.
        let branch = Some(branch("a", action));
        let request =
            ExecuteBranchRequest { tx_id: tx.tx_id.clone(), branch, ..Default::default() };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_millis(100));
        let executed = world.client().execute_branch(request).await.unwrap().into_inner();
        assert_eq!((executed.vote(), executed.outcome()), (NONE, Outcome::NotDecided));
        let result = world.commit(&tx.tx_id, &[("a", NONE)]).await.unwrap();
        assert_eq!(result.outcome(), outcome, "{gid}");
    }
}

#[tokio::test]
async fn an_abandoned_transaction_is_aborted_at_its_deadline() {
    let world = World::sqlite().await;
    let request = BeginTransactionRequest {
        gid: "g".into(),
        mode: Mode::Tcc.into(),
        timeout: millis(300),
        ..Default::default()
    };
    let tx = world.client().begin_transaction(request).await.unwrap().into_inner();
    world.execute(&tx.tx_id, branch("a", "ok")).await.unwrap();
    let shown = world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(shown.abort_cause(), AbortCause::Deadline);
    assert_eq!(world.p.calls(&tx.tx_id, "a"), ["prepare", "cancel"]);
    let error = world.execute(&tx.tx_id, branch("b", "ok")).await.unwrap_err();
    assert_eq!(describe(&error).1, "TRANSACTION_CLOSED");
}

#[tokio::test]
async fn what_does_not_fit_is_told_and_changes_nothing() {
    let world = World::sqlite().await;
    let tx = world.begin("g", Mode::Tcc).await.unwrap();
    world.execute(&tx.tx_id, branch("a", "ok")).await.unwrap();
    let other = world.execute(&tx.tx_id, branch("a", "refuse")).await.unwrap_err();
    assert_eq!(describe(&other), (Code::AlreadyExists, "BRANCH_REUSED".into(), vec![]));
    let other = world.enlist(&tx.tx_id, branch("a", "ok")).await.unwrap_err();
    assert_eq!(describe(&other), (Code::AlreadyExists, "BRANCH_REUSED".into(), vec![]));
    let unknown = world.commit(&tx.tx_id, &[("a", NONE), ("x", NONE)]).await.unwrap_err();
    let field = vec!["branches[1].branch_id".to_owned()];
    assert_eq!(describe(&unknown), (Code::InvalidArgument, "BRANCH_UNKNOWN".into(), field));
    let other_mode = world.begin("g", Mode::TwoPhaseCommit).await.unwrap_err();
    assert_eq!(describe(&other_mode), (Code::AlreadyExists, "GID_REUSED".into(), vec![]));
    let submitted = world.submit(super::tcc("g", &["ok"])).await.unwrap_err();
    assert_eq!(describe(&submitted).1, "GID_REUSED");
    world.submit(super::tcc("declared", &["ok"])).await.unwrap();
    let declared = world.get("declared").await.tx_id;
    let error = world.commit(&declared, &[("a", NONE)]).await.unwrap_err();
    assert_eq!(
        describe(&error),
        (Code::FailedPrecondition, "TRANSACTION_NOT_INTERACTIVE".into(), vec![])
    );
    let error = world.execute(&declared, branch("b", "ok")).await.unwrap_err();
    assert_eq!(describe(&error).1, "TRANSACTION_NOT_INTERACTIVE");

    let result = world.commit(&tx.tx_id, &[("a", NONE)]).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed, "nothing of this changed it");
    let late = world.enlist(&tx.tx_id, branch("late", "ok")).await.unwrap_err();
    assert_eq!(describe(&late), (Code::FailedPrecondition, "TRANSACTION_CLOSED".into(), vec![]));
    let known = world.enlist(&tx.tx_id, branch("a", "ok")).await.unwrap_err();
    assert_eq!(describe(&known).1, "BRANCH_REUSED");
}

/// S1, S4: of Commit and Rollback at once one wins, and both are told which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_commit_and_rollback_at_once_have_one_outcome() {
    const PAIRS: usize = 2_000;
    let world = std::sync::Arc::new(World::postgres().await);
    let mut tasks = tokio::task::JoinSet::new();
    for pair in 0..PAIRS {
        let world = std::sync::Arc::clone(&world);
        tasks.spawn(async move {
            let tx = world.begin(&format!("g{pair}"), Mode::Tcc).await.unwrap();
            world.execute(&tx.tx_id, branch("a", "ok")).await.unwrap();
            let commit = world.commit(&tx.tx_id, &[("a", NONE)]);
            let rollback = world.rollback(&tx.tx_id);
            // Either order of arrival has its turn.
            let (commit, rollback) = match pair % 2 {
                0 => tokio::join!(commit, rollback),
                _ => {
                    let (rollback, commit) = tokio::join!(rollback, commit);
                    (commit, rollback)
                }
            };
            let (commit, rollback) = (commit.unwrap(), rollback.unwrap());
            assert_eq!(commit.outcome(), rollback.outcome(), "both are told the same");
            assert!(commit.ended && rollback.ended);
            let expected = match commit.outcome() {
                Outcome::Committed => "commit",
                _ => "cancel",
            };
            (tx.tx_id, expected)
        });
        if tasks.len() >= 64 {
            tasks.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut by_tx = std::collections::HashMap::<String, Vec<&str>>::new();
    for seen in world.p.seen() {
        by_tx.entry(seen.tx_id).or_default().push(seen.operation);
    }
    assert_eq!(by_tx.len(), PAIRS);
    let count = |calls: &[&str]| by_tx.values().filter(|seen| **seen == calls).count();
    let (committed, cancelled) = (count(&["prepare", "commit"]), count(&["prepare", "cancel"]));
    assert_eq!(committed + cancelled, PAIRS, "S1: each has exactly one phase two");
    assert!(committed > 0 && cancelled > 0, "both won at times: {committed}, {cancelled}");
}
