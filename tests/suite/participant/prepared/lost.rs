//! Answers of the database that are lost.

use super::*;

async fn unknown<T: std::fmt::Debug>(answer: Result<T, Status>, proxy: &Proxy) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "neither yes nor no: {status:?}");
    assert_eq!(proxy.lost(), 1);
}

async fn until_ended<D: Database>(database: &D, branch: &Branch) {
    until("it to be ended", async || (!database.is_prepared(branch).await).then_some(())).await;
}

pub(super) async fn s7_a_lost_answer_to_prepare_is_no_vote_until_it_is_asked_again<D: Database>() {
    let (database, proxy) = D::behind_a_proxy().await;
    let branch = sql("plain", INSERT);
    proxy.lose_answer_to(D::PREPARE);
    unknown(branch.prepare(database.service()).await, &proxy).await;
    until("it to be prepared", async || database.is_prepared(&branch).await.then_some(())).await;
    yes(&database, &branch).await;
    commit(&database, &branch).await;
    assert_eq!(database.effects().await, 1);
}

pub(super) async fn s7_a_lost_answer_to_commit_is_found_done<D: Database>() {
    let (database, proxy) = D::behind_a_proxy().await;
    let branch = sql("plain", INSERT);
    yes(&database, &branch).await;
    proxy.lose_answer_to(D::COMMIT);
    unknown(branch.commit(database.service()).await, &proxy).await;
    until_ended(&database, &branch).await;
    commit(&database, &branch).await;
    assert_eq!(database.effects().await, 1);
}

pub(super) async fn s7_a_lost_answer_to_rollback_leaves_its_tombstone_in_the_end<D: Database>() {
    let (database, proxy) = D::behind_a_proxy().await;
    let branch = sql("plain", INSERT);
    yes(&database, &branch).await;
    proxy.lose_answer_to(D::ROLLBACK);
    unknown(branch.cancel(database.service()).await, &proxy).await;
    until_ended(&database, &branch).await;
    cancel(&database, &branch).await;
    assert_eq!(database.state(&branch).await.as_deref(), Some("cancelled"));
    assert_eq!((database.effects().await, database.is_prepared(&branch).await), (0, false));
}

/// The session is ended by an administrator.
pub(super) async fn s7_a_session_that_is_ended_is_no_vote<D: Database>() {
    let database = D::open().await;
    for action in ["plain", "swallow"] {
        let branch = sql(action, &format!("{INSERT}; {}", D::KILL));
        let status = branch.prepare(database.service()).await.unwrap_err();
        assert_ne!(status.code(), Code::Ok);
        assert_eq!(database.state(&branch).await, None);
        let again = Branch { payload: INSERT.into(), ..branch };
        yes(&database, &again).await;
        commit(&database, &again).await;
    }
    assert_eq!(database.effects().await, 2);
}
