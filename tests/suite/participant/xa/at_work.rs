//! Operations of one branch that meet.

use super::*;

/// The handler has done its work, and waits.
async fn at_work(bank: &Bank) {
    until("the handler to be at work", async || {
        let dirty = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; BEGIN";
        let mut dirty = bank.pool.begin_with(dirty).await.unwrap();
        let written: i64 =
            sqlx::query_scalar("SELECT count(*) FROM effect").fetch_one(&mut *dirty).await.unwrap();
        (written > 0).then_some(())
    })
    .await;
}

type Answered = tokio::task::JoinHandle<Result<prepare_response::Answer, Status>>;

/// A Prepare whose handler is at work.
async fn prepare_at_work(bank: &Bank, branch: &Branch) -> Answered {
    let prepare = tokio::spawn({
        let (branch, service) = (branch.clone(), bank.service.clone());
        async move { branch.prepare(&service).await }
    });
    at_work(bank).await;
    prepare
}

#[tokio::test]
async fn s7_a_prepare_that_comes_again_does_not_wait_for_its_prepared_transaction() {
    let bank = Bank::open().await;
    for action in ["plain", "repeatable-read"] {
        let branch = sql(action, INSERT);
        Bank::yes(bank.prepare(&branch).await);
        let twin = bank.twin().await;
        let started = Instant::now();
        for service in [&bank.service, &twin] {
            for _ in 0..5 {
                Bank::yes(branch.prepare(service).await);
            }
        }
        assert!(started.elapsed() < Duration::from_secs(1), "below the lock timeout");
        assert_eq!(bank.state(&branch).await, None, "nobody sees the proof before it is one");
        bank.commit(&branch).await;
        // Committed: still the same answer.
        Bank::yes(bank.prepare(&branch).await);
        Bank::yes(branch.prepare(&twin).await);
    }
    assert_eq!(bank.effects().await, 2);
}

#[tokio::test]
async fn s7_a_prepare_that_meets_its_twin_at_work_is_working_and_then_the_same() {
    let bank = Bank::open().await;
    let branch = sql("gate", INSERT);
    let first = prepare_at_work(&bank, &branch).await;
    let twin = bank.twin().await;
    let answer = branch.prepare(&twin).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::Working(_)), "never a no: {answer:?}");
    // One that still waits when it is prepared says yes.
    let second = tokio::spawn({
        let (branch, twin) = (branch.clone(), twin.clone());
        async move { branch.prepare(&twin).await }
    });
    tokio::task::yield_now().await;
    bank.gate.add_permits(1);
    Bank::yes(first.await.unwrap());
    Bank::yes(second.await.unwrap());
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test]
async fn s8_a_cancel_that_meets_its_prepare_at_work_wins_in_the_end() {
    let bank = Bank::open().await;
    let branch = sql("gate", INSERT);
    let prepare = prepare_at_work(&bank, &branch).await;
    let answer = branch.cancel(&bank.service).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Working(_)), "{answer:?}");
    bank.gate.add_permits(1);
    Bank::yes(prepare.await.unwrap());
    bank.cancel(&branch).await;
    assert!(!bank.is_prepared(&branch).await);
    assert_eq!(bank.state(&branch).await.as_deref(), Some("cancelled"));
    assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "ALREADY_ENDED");
    assert_eq!(bank.effects().await, 0);
}

/// Cancel holds on while its Prepare ends: it is done in one call.
#[tokio::test]
async fn s8_a_cancel_rolls_back_a_prepare_that_ends_while_it_waits() {
    let bank = Bank::open().await;
    let branch = sql("gate", INSERT);
    let prepare = prepare_at_work(&bank, &branch).await;
    let cancel = tokio::spawn({
        let (branch, service) = (branch.clone(), bank.service.clone());
        async move { branch.cancel(&service).await }
    });
    until("the cancel to wait", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM information_schema.processlist
             WHERE db = DATABASE() AND info LIKE '%INSERT INTO%unanimo_barrier%' AND id <> connection_id()",
        )
        .fetch_one(&bank.pool)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    bank.gate.add_permits(1);
    Bank::yes(prepare.await.unwrap());
    let answer = cancel.await.unwrap().unwrap();
    assert!(matches!(answer, cancel_response::Answer::Done(_)), "{answer:?}");
    assert!(!bank.is_prepared(&branch).await);
    assert_eq!(bank.effects().await, 0);
}

/// No coordinator sends it, and it is never taken for a loss.
#[tokio::test]
async fn s11_a_commit_that_meets_its_prepare_at_work_is_working() {
    let bank = Bank::open().await;
    let branch = sql("gate", INSERT);
    let prepare = prepare_at_work(&bank, &branch).await;
    let answer = branch.commit(&bank.service).await.unwrap();
    assert!(matches!(answer, commit_response::Answer::Working(_)), "{answer:?}");
    bank.gate.add_permits(1);
    Bank::yes(prepare.await.unwrap());
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_many_commits_at_once_commit_once() {
    let bank = Bank::open().await;
    let twin = bank.twin().await;
    for _ in 0..20 {
        let branch = sql("plain", INSERT);
        Bank::yes(bank.prepare(&branch).await);
        let mut commits = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (branch, service) = (branch.clone(), twin.clone());
            commits.spawn(async move { branch.commit(&service).await });
        }
        for answer in commits.join_all().await {
            let answer = answer.unwrap();
            // Never taken for lost, and never for an error.
            let fits = matches!(
                answer,
                commit_response::Answer::Done(_) | commit_response::Answer::Working(_)
            );
            assert!(fits, "{answer:?}");
        }
        bank.commit(&branch).await;
    }
    assert_eq!(bank.effects().await, 20);
}

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
