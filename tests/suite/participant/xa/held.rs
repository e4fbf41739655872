//! Transactions that a session holds.

use super::*;

/// The server says the same of it as of one that never was.
#[tokio::test]
async fn s7_a_transaction_that_its_session_still_holds_is_not_taken_for_lost() {
    let bank = Bank::open().await;
    for commits in [true, false] {
        let branch = sql("plain", INSERT);
        let mut session = bank.by_hand(&branch).await;
        run(&mut session, &format!("XA PREPARE {}", xid(&branch))).await.unwrap();
        Bank::yes(bank.prepare(&branch).await);
        if commits {
            let answer = branch.commit(&bank.service).await.unwrap();
            assert!(matches!(answer, commit_response::Answer::Working(_)), "{answer:?}");
        } else {
            let answer = branch.cancel(&bank.service).await.unwrap();
            assert!(matches!(answer, cancel_response::Answer::Working(_)), "{answer:?}");
        }
        assert!(bank.is_prepared(&branch).await && bank.state(&branch).await.is_none());
        session.close().await.unwrap();
        if commits { bank.commit(&branch).await } else { bank.cancel(&branch).await }
    }
    assert_eq!(bank.effects().await, 1);
}

/// A participant that dies between XA END and XA PREPARE.
#[tokio::test]
async fn s7_what_was_not_prepared_when_its_session_ended_is_done_again() {
    let bank = Bank::open().await;
    let branch = sql("plain", INSERT);
    let session = bank.by_hand(&branch).await;
    let answer = bank.prepare(&branch).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::Working(_)), "{answer:?}");
    session.close().await.unwrap();
    Bank::yes(bank.prepare(&branch).await);
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}
