//! Operations of one branch that meet.

use super::*;

async fn at_work(bank: &Bank) {
    until("the handler to be at work", async || {
        let waiting: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
                AND state = 'idle in transaction' AND query = 'INSERT INTO effect VALUES (1)')",
        )
        .fetch_one(&bank.pool)
        .await
        .unwrap();
        waiting.then_some(())
    })
    .await;
}

#[tokio::test]
async fn s7_a_prepare_that_comes_again_does_not_wait_for_its_prepared_transaction() {
    let bank = Bank::open().await;
    let branch = sql("plain", INSERT);
    Bank::yes(bank.prepare(&branch).await);
    let twin = bank.twin().await;
    let started = Instant::now();
    for service in [&bank.service, &twin] {
        for _ in 0..5 {
            Bank::yes(branch.prepare(service).await);
        }
    }
    assert!(started.elapsed() < Duration::from_secs(1), "below the lock timeout");
    bank.commit(&branch).await;
    // Committed: still the same answer.
    Bank::yes(bank.prepare(&branch).await);
    Bank::yes(branch.prepare(&twin).await);
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test]
async fn s7_a_prepare_that_meets_its_twin_at_work_is_working_and_then_the_same() {
    let bank = Bank::open().await;
    let branch = sql("gate", INSERT);
    let first = tokio::spawn({
        let (branch, service) = (branch.clone(), bank.service.clone());
        async move { branch.prepare(&service).await }
    });
    at_work(&bank).await;
    let twin = bank.twin().await;
    let answer = branch.prepare(&twin).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::Working(_)), "never a no: {answer:?}");
    bank.gate.add_permits(1);
    Bank::yes(first.await.unwrap());
    Bank::yes(branch.prepare(&twin).await);
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test]
async fn s8_a_cancel_that_meets_its_prepare_at_work_wins_in_the_end() {
    let bank = Bank::open().await;
    let branch = sql("gate", INSERT);
    let prepare = tokio::spawn({
        let (branch, service) = (branch.clone(), bank.service.clone());
        async move { branch.prepare(&service).await }
    });
    at_work(&bank).await;
    let answer = branch.cancel(&bank.service).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Working(_)), "{answer:?}");
    bank.gate.add_permits(1);
    Bank::yes(prepare.await.unwrap());
    bank.cancel(&branch).await;
    assert!(bank.prepared().await.is_empty());
    assert_eq!(bank.state(&branch).await.as_deref(), Some("cancelled"));
    assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "ALREADY_ENDED");
    assert_eq!(bank.effects().await, 0);
}

/// Cancel holds on while its Prepare ends: it is done in one call.
#[tokio::test]
async fn s8_a_cancel_rolls_back_a_prepare_that_ends_while_it_waits() {
    let bank = Bank::open().await;
    let branch = sql("gate", INSERT);
    let prepare = tokio::spawn({
        let (branch, service) = (branch.clone(), bank.service.clone());
        async move { branch.prepare(&service).await }
    });
    at_work(&bank).await;
    let cancel = tokio::spawn({
        let (branch, service) = (branch.clone(), bank.service.clone());
        async move { branch.cancel(&service).await }
    });
    until("the cancel to wait", async || {
        let waiting: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
                AND wait_event_type = 'Lock')",
        )
        .fetch_one(&bank.pool)
        .await
        .unwrap();
        waiting.then_some(())
    })
    .await;
    bank.gate.add_permits(1);
    Bank::yes(prepare.await.unwrap());
    let answer = cancel.await.unwrap().unwrap();
    assert!(matches!(answer, cancel_response::Answer::Done(_)), "{answer:?}");
    assert!(bank.prepared().await.is_empty());
    assert_eq!(bank.effects().await, 0);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s8_prepares_and_cancels_at_once_leave_nothing() {
    let bank = Bank::open().await;
    let twin = bank.twin().await;
    for _ in 0..20 {
        let branch = sql("plain", INSERT);
        let mut cancels = tokio::task::JoinSet::new();
        let mut prepares = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (of, service) = (branch.clone(), twin.clone());
            cancels.spawn(async move { of.cancel(&service).await });
            let (of, service) = (branch.clone(), twin.clone());
            prepares.spawn(async move { of.prepare(&service).await });
        }
        let done = |answer: &Result<cancel_response::Answer, _>| {
            matches!(answer, Ok(cancel_response::Answer::Done(_)))
        };
        let cancelled = cancels.join_all().await.iter().any(done);
        prepares.join_all().await;
        if cancelled {
            assert!(bank.prepared().await.is_empty(), "done means that nothing comes after it");
        }
        bank.cancel(&branch).await;
        assert_eq!(bank.state(&branch).await.as_deref(), Some("cancelled"));
    }
    assert!(bank.prepared().await.is_empty());
    assert_eq!(bank.effects().await, 0);
}
