//! Losses of handlers that the database does not record at once: nothing is told as done beside what they have left.

use super::*;

/// Time after which the next attempt to record a loss is seconds away: the pauses between them grow.
const RECORDER_PAUSES: Duration = Duration::from_millis(3300);

async fn hide<D: Database>(database: &D) {
    database.run_outside("ALTER TABLE unanimo_barrier RENAME TO hidden").await;
}

async fn show<D: Database>(database: &D) {
    database.run_outside("ALTER TABLE hidden RENAME TO unanimo_barrier").await;
}

/// Has a handler keep an effect beside its transaction, and the database take no record of that.
async fn loses<D: Database>(database: &D) -> Branch {
    let (branch, effects) = (sql("gate", ""), database.effects().await);
    let branch = Branch { payload: D::keeps_beside(&branch).into(), ..branch };
    let (service, at_work) = (database.service().clone(), branch.clone());
    let first = tokio::spawn(async move { at_work.prepare(&service).await });
    until("the effect", async || (database.effects().await == effects + 1).then_some(())).await;
    hide(database).await;
    database.gate().add_permits(1);
    first.await.unwrap().unwrap_err();
    tokio::time::sleep(RECORDER_PAUSES).await;
    branch
}

fn of_cancel(answer: cancel_response::Answer) -> HeuristicKind {
    match answer {
        cancel_response::Answer::Heuristic(outcome) => outcome.kind(),
        other => panic!("S11: {other:?}"),
    }
}

async fn is_recorded<D: Database>(database: &D, branch: &Branch, effects: i64) {
    assert_eq!(database.effects().await, effects);
    assert!(!database.is_prepared(branch).await);
    assert_eq!(database.state(branch).await.as_deref(), Some("running"), "S11");
    for _ in 0..2 {
        let cancel = branch.cancel(database.service()).await.unwrap();
        assert_eq!(of_cancel(cancel), HeuristicKind::Hazard);
        let commit = branch.commit(database.service()).await.unwrap();
        assert_eq!(heuristic(commit), HeuristicKind::Hazard, "S11");
    }
}

/// The database is away, and then back: no Cancel is done.
pub(super) async fn s11_a_cancel_before_the_record_of_a_loss_is_a_hazard<D: Database>() {
    let database = D::open().await;
    let branch = loses(&database).await;
    let answer = branch.cancel(database.service()).await;
    assert!(answer.is_err(), "S11: {answer:?}");
    let answer = branch.commit(database.service()).await;
    assert!(answer.is_err(), "S11: {answer:?}");
    show(&database).await;
    let answer = branch.cancel(database.service()).await.unwrap();
    assert_eq!(of_cancel(answer), HeuristicKind::Hazard);
    is_recorded(&database, &branch, 1).await;
}

/// Another process, which knows nothing of the loss, prepares the branch. What is prepared holds its row, and is ended all the
/// same.
pub(super) async fn s11_a_yes_of_another_process_does_not_hide_a_loss<D: Database>() {
    let database = D::open().await;
    let twin = database.twin().await;
    let mut effects = 0;
    for commits in [true, false] {
        let branch = loses(&database).await;
        show(&database).await;
        let well = Branch { payload: INSERT.into(), action: "plain".into(), ..branch.clone() };
        is_yes(well.prepare(&twin).await);
        let answer = branch.prepare(database.service()).await;
        assert!(answer.is_err(), "S2: {answer:?}");
        let kind = match commits {
            true => heuristic(branch.commit(database.service()).await.unwrap()),
            false => of_cancel(branch.cancel(database.service()).await.unwrap()),
        };
        assert_eq!(kind, HeuristicKind::Hazard, "S11");
        effects += if commits { 2 } else { 1 };
        is_recorded(&database, &branch, effects).await;
    }
}

/// It has ended the branch before the loss is recorded. That is told as soon as it can be.
pub(super) async fn s11_a_loss_is_written_over_what_another_process_has_left<D: Database>() {
    let database = D::open().await;
    let twin = database.twin().await;
    let mut effects = 0;
    for (votes, commits) in [(false, false), (true, true), (true, false)] {
        let branch = loses(&database).await;
        show(&database).await;
        let well = Branch { payload: INSERT.into(), action: "plain".into(), ..branch.clone() };
        if votes {
            is_yes(well.prepare(&twin).await);
        }
        let is_done = match commits {
            true => matches!(well.commit(&twin).await.unwrap(), commit_response::Answer::Done(_)),
            false => matches!(well.cancel(&twin).await.unwrap(), cancel_response::Answer::Done(_)),
        };
        assert!(is_done, "it knows of no loss");
        effects += if commits { 2 } else { 1 };
        until("the record", async || {
            (database.state(&branch).await.as_deref() == Some("running")).then_some(())
        })
        .await;
        is_recorded(&database, &branch, effects).await;
    }
}
