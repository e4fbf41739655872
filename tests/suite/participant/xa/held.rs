//! Transactions that a session holds.

use super::*;

/// The server says the same of it as of one that never was.
#[tokio::test]
async fn s7_a_transaction_that_its_session_still_holds_is_not_taken_for_lost() {
    let bank = Bank::open().await;
    for commits in [true, false] {
        let branch = sql("plain", INSERT);
        let mut session = MySqlConnection::connect(&bank.url).await.unwrap();
        if is_mysql() {
            // It would let go of it by itself.
            run(&mut session, "SET SESSION xa_detach_on_prepare = OFF").await.unwrap();
        }
        bank.work_by_hand(&mut session, &branch).await;
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
        end(session).await;
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
    end(session).await;
    Bank::yes(bank.prepare(&branch).await);
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}

/// L1: a replica that vanishes in the middle of a Commit holds the branch's lock. The server ends its session soon,
/// and another replica commits.
#[tokio::test]
async fn l1_a_replica_that_vanishes_in_a_commit_keeps_others_out_for_seconds() {
    let (bank, proxy) = behind_a_proxy().await;
    let branch = sql("plain", INSERT);
    Bank::yes(bank.prepare(&branch).await);
    let twin = bank.twin().await;
    proxy.hang_at("XA COMMIT");
    let hangs = tokio::spawn({
        let (branch, service) = (branch.clone(), bank.service.clone());
        async move { branch.commit(&service).await }
    });
    until("it to hang", async || proxy.has_hung().then_some(())).await;
    let working = branch.commit(&twin).await.unwrap();
    assert!(matches!(working, commit_response::Answer::Working(_)), "it has the lock: {working:?}");
    let started = std::time::Instant::now();
    until("the commit", async || {
        let answer = branch.commit(&twin).await;
        matches!(answer, Ok(commit_response::Answer::Done(_))).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(15), "L1: {:?}", started.elapsed());
    assert_eq!(bank.effects().await, 1);
    hangs.abort();
}

/// S7: a yes that is found is answered behind a commit of one's own: another session's may not be as durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_yes_that_is_found_follows_a_commit() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let bank = Bank::on(&server).await;
    let branch = sql("plain", INSERT);
    Bank::yes(bank.prepare(&branch).await);
    let mut backup = bank.pool.acquire().await.unwrap();
    hold_commits(&mut backup).await;
    let answer = bank.prepare(&branch).await;
    assert!(!matches!(answer, Ok(prepare_response::Answer::Prepared(_))), "S7: {answer:?}");
    let_commits_go(&mut backup).await;
    drop(backup);
    Bank::yes(bank.prepare(&branch).await);
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}
