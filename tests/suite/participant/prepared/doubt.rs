//! Phase two that finds something else than it expects, and branches that owe it nothing.

use super::*;

pub(super) async fn s11_a_commit_that_finds_nothing_is_a_hazard<D: Database>() {
    let database = D::open().await;
    let branch = sql("plain", INSERT);
    for _ in 0..2 {
        let answer = branch.commit(database.service()).await.unwrap();
        assert_eq!(heuristic(answer), HeuristicKind::Hazard);
    }
    assert_eq!(database.state(&branch).await.as_deref(), Some("lost"));
    is_refused(&database, &branch, "ALREADY_ENDED").await;
}

pub(super) async fn s11_what_was_ended_by_hand_is_told_by_its_row<D: Database>() {
    let database = D::open().await;
    let committed = sql("plain", INSERT);
    yes(&database, &committed).await;
    database.end_by_hand(&committed, true).await;
    commit(&database, &committed).await;
    match committed.cancel(database.service()).await.unwrap() {
        cancel_response::Answer::Heuristic(told) => {
            assert_eq!(told.kind(), HeuristicKind::Commit);
        }
        other => panic!("{other:?}"),
    }
    let rolled_back = sql("plain", INSERT);
    yes(&database, &rolled_back).await;
    database.end_by_hand(&rolled_back, false).await;
    let answer = rolled_back.commit(database.service()).await.unwrap();
    assert_eq!(heuristic(answer), HeuristicKind::Hazard);
    assert_eq!(database.effects().await, 1);
}

pub(super) async fn s8_a_cancel_that_comes_first_is_done_and_the_prepare_is_refused<D: Database>() {
    let database = D::open().await;
    let branch = sql("plain", INSERT);
    cancel(&database, &branch).await;
    cancel(&database, &branch).await;
    assert_eq!(database.state(&branch).await.as_deref(), Some("cancelled"));
    is_refused(&database, &branch, "ALREADY_ENDED").await;
    let answer = branch.commit(database.service()).await.unwrap();
    assert_eq!(heuristic(answer), HeuristicKind::Rollback);
    assert_eq!((database.effects().await, database.is_prepared(&branch).await), (0, false));
    database.is_clean().await;
}

pub(super) async fn s8_a_prepare_that_comes_too_late_is_refused<D: Database>() {
    let database = D::open().await;
    for action in ["plain", "read"] {
        let past = std::time::SystemTime::now() - Duration::from_secs(1);
        let branch = Branch { prepare_until: Some(past.into()), ..sql(action, "SELECT 1") };
        is_refused(&database, &branch, "TOO_LATE").await;
        // It is stored.
        let in_time = Branch { prepare_until: None, ..branch };
        is_refused(&database, &in_time, "TOO_LATE").await;
    }
}

pub(super) async fn s2_what_only_reads_votes_so_and_is_owed_nothing<D: Database>() {
    let database = D::open().await;
    let branch = sql("read", "SELECT count(*) FROM effect");
    for _ in 0..2 {
        let answer = branch.prepare(database.service()).await.unwrap();
        assert!(matches!(answer, prepare_response::Answer::ReadOnly(_)), "{answer:?}");
    }
    assert!(!database.is_prepared(&branch).await);
    assert_eq!(database.state(&branch).await.as_deref(), Some("read_only"));
    commit(&database, &branch).await;
    cancel(&database, &branch).await;
    database.is_clean().await;
}
