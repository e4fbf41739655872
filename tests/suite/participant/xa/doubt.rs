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
    by_hand(&bank, "XA COMMIT", &committed).await;
    bank.commit(&committed).await;
    match committed.cancel(&bank.service).await.unwrap() {
        cancel_response::Answer::Heuristic(told) => {
            assert_eq!(told.kind(), HeuristicKind::Commit);
        }
        other => panic!("{other:?}"),
    }
    let rolled_back = sql("plain", INSERT);
    Bank::yes(bank.prepare(&rolled_back).await);
    by_hand(&bank, "XA ROLLBACK", &rolled_back).await;
    let answer = rolled_back.commit(&bank.service).await.unwrap();
    assert_eq!(heuristic(answer), HeuristicKind::Hazard);
    assert_eq!(bank.effects().await, 1);
}

/// The server lets go of a transaction a little after its session has ended.
async fn by_hand(bank: &Bank, operation: &str, branch: &Branch) {
    until("the session to let go of it", async || {
        let statement = AssertSqlSafe(format!("{operation} {}", xid(branch)));
        sqlx::raw_sql(statement).execute(&bank.pool).await.ok()
    })
    .await;
}

#[tokio::test]
async fn s8_a_cancel_that_comes_first_is_done_and_the_prepare_is_refused() {
    let bank = Bank::open().await;
    let branch = sql("plain", INSERT);
    bank.cancel(&branch).await;
    bank.cancel(&branch).await;
    assert_eq!(bank.state(&branch).await.as_deref(), Some("cancelled"));
    assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "ALREADY_ENDED");
    assert_eq!(heuristic(branch.commit(&bank.service).await.unwrap()), HeuristicKind::Rollback);
    assert_eq!((bank.effects().await, bank.is_prepared(&branch).await), (0, false));
    bank.is_clean().await;
}

#[tokio::test]
async fn s8_a_prepare_that_comes_too_late_is_refused() {
    let bank = Bank::open().await;
    for action in ["plain", "read"] {
        let past = std::time::SystemTime::now() - Duration::from_secs(1);
        let branch = Branch { prepare_until: Some(past.into()), ..sql(action, "SELECT 1") };
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "TOO_LATE", "{action}");
        let in_time = Branch { prepare_until: None, ..branch };
        assert_eq!(refused(bank.prepare(&in_time).await.unwrap()), "TOO_LATE", "{action}: stored");
    }
}
