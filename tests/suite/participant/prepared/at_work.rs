//! Operations of one branch that meet.

use super::*;

type Answered = tokio::task::JoinHandle<Result<prepare_response::Answer, Status>>;

/// Sends a Prepare whose handler has done its work, and waits.
async fn prepare_at_work<D: Database>(database: &D, branch: &Branch) -> Answered {
    let prepare = spawn_prepare(branch, database.service().clone());
    until("the handler to be at work", async || database.is_at_work().await.then_some(())).await;
    prepare
}

fn spawn_prepare<R: TwoPhaseResource>(branch: &Branch, service: Service<R>) -> Answered {
    let branch = branch.clone();
    tokio::spawn(async move { branch.prepare(&service).await })
}

/// Returns the pause that an answer asks for.
fn pause(working: &unanimo_proto::v1::Working) -> (i64, i32) {
    let pause = working.retry_after.unwrap();
    (pause.seconds, pause.nanos)
}

pub(super) async fn s7_a_prepare_that_comes_again_does_not_wait_for_its_prepared_transaction<
    D: Database,
>() {
    let database = D::open().await;
    for action in ["plain", "repeatable-read"] {
        let branch = sql(action, INSERT);
        yes(&database, &branch).await;
        let twin = database.twin().await;
        let started = Instant::now();
        for service in [database.service(), &twin] {
            for _ in 0..5 {
                is_yes(branch.prepare(service).await);
            }
        }
        assert!(started.elapsed() < Duration::from_secs(1), "below the lock timeout");
        assert_eq!(database.state(&branch).await, None, "nobody sees the proof before it is one");
        commit(&database, &branch).await;
        // Committed: still the same answer.
        yes(&database, &branch).await;
        is_yes(branch.prepare(&twin).await);
    }
    assert_eq!(database.effects().await, 2);
}

pub(super) async fn s7_a_prepare_that_meets_its_twin_at_work_is_working_and_then_the_same<
    D: Database,
>() {
    let database = D::open().await;
    let branch = sql("gate", INSERT);
    let first = prepare_at_work(&database, &branch).await;
    let twin = database.twin().await;
    let mut pauses = Vec::new();
    for attempt in [1, 4] {
        let again = Branch { attempt, ..branch.clone() };
        match again.prepare(&twin).await.unwrap() {
            prepare_response::Answer::Working(working) => pauses.push(pause(&working)),
            answer => panic!("never a no: {answer:?}"),
        }
    }
    assert!(pauses[0] < pauses[1], "L3: it grows with each attempt: {pauses:?}");
    // One that still waits when it is prepared says yes.
    let second = spawn_prepare(&branch, twin);
    tokio::task::yield_now().await;
    database.gate().add_permits(1);
    is_yes(first.await.unwrap());
    is_yes(second.await.unwrap());
    commit(&database, &branch).await;
    assert_eq!(database.effects().await, 1);
}

pub(super) async fn s8_a_cancel_that_meets_its_prepare_at_work_wins_in_the_end<D: Database>() {
    let database = D::open().await;
    let branch = sql("gate", INSERT);
    let prepare = prepare_at_work(&database, &branch).await;
    let answer = branch.cancel(database.service()).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Working(_)), "{answer:?}");
    database.gate().add_permits(1);
    is_yes(prepare.await.unwrap());
    cancel(&database, &branch).await;
    assert!(!database.is_prepared(&branch).await);
    assert_eq!(database.state(&branch).await.as_deref(), Some("cancelled"));
    is_refused(&database, &branch, "ALREADY_ENDED").await;
    assert_eq!(database.effects().await, 0);
}

/// Cancel holds on while its Prepare ends: it is done in one call.
pub(super) async fn s8_a_cancel_rolls_back_a_prepare_that_ends_while_it_waits<D: Database>() {
    let database = D::open().await;
    let branch = sql("gate", INSERT);
    let prepare = prepare_at_work(&database, &branch).await;
    let cancel = tokio::spawn({
        let (branch, service) = (branch.clone(), database.service().clone());
        async move { branch.cancel(&service).await }
    });
    until("the cancel to wait", async || database.is_waiting().await.then_some(())).await;
    database.gate().add_permits(1);
    is_yes(prepare.await.unwrap());
    let answer = cancel.await.unwrap().unwrap();
    assert!(matches!(answer, cancel_response::Answer::Done(_)), "{answer:?}");
    assert!(!database.is_prepared(&branch).await);
    assert_eq!(database.effects().await, 0);
}

/// No coordinator sends it, and it is never taken for a loss.
pub(super) async fn s11_a_commit_that_meets_its_prepare_at_work_is_working<D: Database>() {
    let database = D::open().await;
    let branch = sql("gate", INSERT);
    let prepare = prepare_at_work(&database, &branch).await;
    let mut pauses = Vec::new();
    for attempt in [1, 4] {
        let again = Branch { attempt, ..branch.clone() };
        match again.commit(database.service()).await.unwrap() {
            commit_response::Answer::Working(working) => pauses.push(pause(&working)),
            answer => panic!("never a loss: {answer:?}"),
        }
    }
    assert!(pauses[0] < pauses[1], "L3: it grows with each attempt: {pauses:?}");
    database.gate().add_permits(1);
    is_yes(prepare.await.unwrap());
    commit(&database, &branch).await;
    assert_eq!(database.effects().await, 1);
}

pub(super) async fn s7_many_commits_at_once_commit_once<D: Database>() {
    let database = D::open().await;
    let twin = database.twin().await;
    for _ in 0..20 {
        let branch = sql("plain", INSERT);
        yes(&database, &branch).await;
        let mut commits = JoinSet::new();
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
        commit(&database, &branch).await;
    }
    assert_eq!(database.effects().await, 20);
}

pub(super) async fn s8_prepares_and_cancels_at_once_leave_nothing<D: Database>() {
    let database = D::open().await;
    let twin = database.twin().await;
    for _ in 0..20 {
        let branch = sql("plain", INSERT);
        let mut cancels = JoinSet::new();
        let mut prepares = JoinSet::new();
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
            let is_prepared = database.is_prepared(&branch).await;
            assert!(!is_prepared, "done means that nothing comes after it");
        }
        cancel(&database, &branch).await;
        assert_eq!(database.state(&branch).await.as_deref(), Some("cancelled"));
        assert!(!database.is_prepared(&branch).await);
    }
    assert_eq!(database.effects().await, 0);
}
