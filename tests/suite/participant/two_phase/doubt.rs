//! Phase two that finds something else than it expects.

use super::*;

#[tokio::test]
async fn s11_a_commit_that_finds_nothing_is_a_hazard() {
    let bank = Bank::open().await;
    let branch = sql("plain", INSERT);
    for _ in 0..2 {
        let answer = branch.commit(&bank.service).await.unwrap();
        assert_eq!(heuristic(answer), HeuristicKind::Hazard);
    }
    assert_eq!(bank.state(&branch).await.as_deref(), Some("lost"));
    assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "ALREADY_ENDED");
}

#[tokio::test]
async fn s11_what_was_ended_by_hand_is_told_by_its_row() {
    let bank = Bank::open().await;
    let committed = sql("plain", INSERT);
    Bank::yes(bank.prepare(&committed).await);
    let by_hand = format!("COMMIT PREPARED '{}'", committed.name());
    bank.pool.execute(AssertSqlSafe(by_hand)).await.unwrap();
    bank.commit(&committed).await;
    match committed.cancel(&bank.service).await.unwrap() {
        cancel_response::Answer::Heuristic(told) => {
            assert_eq!(told.kind(), HeuristicKind::Commit);
        }
        other => panic!("{other:?}"),
    }
    let rolled_back = sql("plain", INSERT);
    Bank::yes(bank.prepare(&rolled_back).await);
    let by_hand = format!("ROLLBACK PREPARED '{}'", rolled_back.name());
    bank.pool.execute(AssertSqlSafe(by_hand)).await.unwrap();
    let answer = rolled_back.commit(&bank.service).await.unwrap();
    assert_eq!(heuristic(answer), HeuristicKind::Hazard);
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test]
async fn s8_a_cancel_that_comes_first_is_done_and_the_prepare_is_refused() {
    let bank = Bank::open().await;
    let branch = sql("plain", INSERT);
    bank.cancel(&branch).await;
    bank.cancel(&branch).await;
    assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "ALREADY_ENDED");
    assert_eq!(heuristic(branch.commit(&bank.service).await.unwrap()), HeuristicKind::Rollback);
    assert_eq!((bank.effects().await, bank.prepared().await.len()), (0, 0));
}

#[tokio::test]
async fn s8_a_prepare_that_comes_too_late_is_refused() {
    let bank = Bank::open().await;
    for action in ["plain", "read", "tcc"] {
        let past = std::time::SystemTime::now() - Duration::from_secs(1);
        let branch = Branch { prepare_until: Some(past.into()), ..sql(action, "SELECT 1") };
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "TOO_LATE", "{action}");
        let in_time = Branch { prepare_until: None, ..branch };
        assert_eq!(refused(bank.prepare(&in_time).await.unwrap()), "TOO_LATE", "{action}: stored");
    }
}

#[tokio::test]
async fn s12_commits_and_cancels_touch_their_own_transaction_only() {
    let bank = Bank::open().await;
    let (committed, cancelled) = (sql("plain", INSERT), sql("plain", INSERT));
    let mut others = vec!["backup".to_owned()];
    for branch in [&committed, &cancelled] {
        Bank::yes(bank.prepare(branch).await);
        for (cluster, participant) in [("other", "p"), (super::super::direct::CLUSTER, "q")] {
            let mut other = branch.clone();
            other.context.cluster_id = cluster.into();
            other.context.participant = participant.into();
            others.push(other.name());
        }
        let mut second = branch.clone();
        second.context.branch_number = 11;
        others.push(second.name());
    }
    for name in &others {
        let mut connection = PgConnection::connect(&bank.url).await.unwrap();
        let prepare = format!("BEGIN; {INSERT}; PREPARE TRANSACTION '{name}'");
        connection.execute(AssertSqlSafe(prepare)).await.unwrap();
    }
    bank.commit(&committed).await;
    bank.cancel(&cancelled).await;
    let mut left = bank.prepared().await;
    left.sort();
    others.sort();
    assert_eq!(left, others);
    for name in others {
        bank.pool.execute(AssertSqlSafe(format!("ROLLBACK PREPARED '{name}'"))).await.unwrap();
    }
    assert_eq!(bank.effects().await, 1);
}
