//! Answers of the database that are lost.

use super::*;

async fn behind_a_proxy() -> (Bank, Proxy) {
    let server = Server::shared();
    let url = server.database().await;
    let proxy = Proxy::start(server.socket()).await;
    let by = proxy.url(&url);
    (Bank::at(url, &by).await, proxy)
}

async fn unknown<T: std::fmt::Debug>(answer: Result<T, Status>, proxy: &Proxy, times: u64) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "neither yes nor no: {status:?}");
    assert_eq!(proxy.lost(), times);
}

#[tokio::test]
async fn s7_a_lost_answer_to_prepare_is_no_vote_until_it_is_asked_again() {
    let (bank, proxy) = behind_a_proxy().await;
    let branch = sql("plain", INSERT);
    proxy.lose_answer_to("PREPARE TRANSACTION");
    unknown(bank.prepare(&branch).await, &proxy, 1).await;
    until("it to be prepared", async || (bank.prepared().await.len() == 1).then_some(())).await;
    Bank::yes(bank.prepare(&branch).await);
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test]
async fn s7_a_lost_answer_to_commit_prepared_is_found_done() {
    let (bank, proxy) = behind_a_proxy().await;
    let branch = sql("plain", INSERT);
    Bank::yes(bank.prepare(&branch).await);
    proxy.lose_answer_to("COMMIT PREPARED");
    unknown(branch.commit(&bank.service).await, &proxy, 1).await;
    until("it to be committed", async || bank.prepared().await.is_empty().then_some(())).await;
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test]
async fn s7_a_lost_answer_to_rollback_prepared_leaves_its_tombstone_in_the_end() {
    let (bank, proxy) = behind_a_proxy().await;
    let branch = sql("plain", INSERT);
    Bank::yes(bank.prepare(&branch).await);
    proxy.lose_answer_to("ROLLBACK PREPARED");
    unknown(branch.cancel(&bank.service).await, &proxy, 1).await;
    bank.cancel(&branch).await;
    assert_eq!(bank.state(&branch).await.as_deref(), Some("cancelled"));
    assert_eq!((bank.effects().await, bank.prepared().await.len()), (0, 0));
}

#[tokio::test]
async fn s7_a_lost_answer_to_a_commit_of_tcc_is_found_done() {
    let (bank, proxy) = behind_a_proxy().await;
    let branch = sql("tcc", INSERT);
    proxy.lose_answer_to("COMMIT");
    unknown(bank.prepare(&branch).await, &proxy, 1).await;
    Bank::yes(bank.prepare(&branch).await);
    proxy.lose_answer_to("COMMIT");
    unknown(branch.commit(&bank.service).await, &proxy, 2).await;
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 2, "one for each phase");
}

/// The session is ended by an administrator: FATAL 57P01.
#[tokio::test]
async fn s7_a_session_that_is_ended_is_no_vote() {
    let bank = Bank::open().await;
    let branch = sql("plain", &format!("{INSERT}; SELECT pg_terminate_backend(pg_backend_pid())"));
    let status = bank.prepare(&branch).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    assert_eq!(bank.state(&branch).await, None);
    let again = Branch { payload: INSERT.into(), ..branch };
    Bank::yes(bank.prepare(&again).await);
    bank.commit(&again).await;
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_prepared_branch_survives_its_server() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let bank = Bank::on(&server).await;
    let (committed, cancelled) = (sql("plain", INSERT), sql("plain", INSERT));
    for branch in [&committed, &cancelled] {
        Bank::yes(bank.prepare(branch).await);
    }
    tokio::task::block_in_place(|| {
        server.kill();
        server.launch();
    });
    until("the pool to come back", async || bank.prepare(&committed).await.ok()).await;
    Bank::yes(bank.prepare(&cancelled).await);
    until("the commit", async || committed.commit(&bank.service).await.ok()).await;
    bank.cancel(&cancelled).await;
    assert_eq!((bank.effects().await, bank.prepared().await.len()), (1, 0));
}
