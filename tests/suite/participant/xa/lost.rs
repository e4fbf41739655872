//! Answers of the database that are lost.

use super::*;

async fn unknown<T: std::fmt::Debug>(answer: Result<T, Status>, proxy: &Proxy) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "neither yes nor no: {status:?}");
    assert_eq!(proxy.lost(), 1);
}

#[tokio::test]
async fn s7_a_lost_answer_to_xa_start_leaves_nothing_behind() {
    let (bank, proxy) = behind_a_proxy().await;
    let branch = sql("plain", INSERT);
    proxy.lose_answer_to("XA START");
    unknown(bank.prepare(&branch).await, &proxy).await;
    assert_eq!(bank.state(&branch).await, None);
    Bank::yes(bank.prepare(&branch).await);
    bank.commit(&branch).await;
    assert_eq!(bank.effects().await, 1);
}

/// A no is kept without preparing it.
#[tokio::test]
async fn s7_a_lost_answer_to_the_commit_of_a_no_is_found() {
    let (bank, proxy) = behind_a_proxy().await;
    let branch = sql("refuse", INSERT);
    proxy.lose_answer_to("ONE PHASE");
    unknown(bank.prepare(&branch).await, &proxy).await;
    assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "NO");
    assert_eq!(bank.effects().await, 0);
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
    assert_eq!(bank.effects().await, 1);
    // What was rolled back stays so.
    tokio::task::block_in_place(|| {
        server.kill();
        server.launch();
    });
    until("the pool to come back", async || bank.prepare(&committed).await.ok()).await;
    until("the test's own, too", async || sqlx::query("SELECT 1").execute(&bank.pool).await.ok())
        .await;
    assert!(!bank.is_prepared(&cancelled).await);
    assert_eq!(
        (bank.effects().await, bank.state(&cancelled).await.as_deref()),
        (1, Some("cancelled"))
    );
}
