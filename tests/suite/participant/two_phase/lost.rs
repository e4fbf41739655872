//! Answers of the database that are lost.

use super::*;

async fn unknown<T: std::fmt::Debug>(answer: Result<T, Status>, proxy: &Proxy, times: u64) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "neither yes nor no: {status:?}");
    assert_eq!(proxy.lost(), times);
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
