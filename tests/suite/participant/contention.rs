//! Calls that wait for one another: what they cost.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor};
use unanimo_proto::v1::{Mode, commit_response, prepare_response};
use unanimo_sdk::{Isolation, MySql, MySqlOptions, Participant, PostgresOptions, TokioPostgres};
use unanimo_tests::{mariadb, postgres};

use super::calls::{Branch, End, Vote, World};
use super::databases::Database;
use super::direct;
use super::handler::Job;
use super::sweeper::Reserve;

const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Inserts a row of the branch, as a twin does that is at work.
fn hold(branch: &Branch) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!(
        "INSERT INTO unanimo_barrier
            (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, output, reason,
             message, created_at, changed_at)
         VALUES ('{}', '{}', 'c', 'bank', 'g', 'work', 'tcc', 'running', '', '', '',
             CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
        branch.tx_id, branch.branch_id
    ))
}

/// Names of the participant's sessions.
async fn sessions<'e>(pool: impl Executor<'e, Database = sqlx::Postgres>) -> BTreeSet<i32> {
    let found: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity
         WHERE application_name = 'unanimo-participant' AND datname = current_database()",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    found.into_iter().collect()
}

fn narrow() -> PostgresOptions {
    let options = PostgresOptions::default().prepare_connections(1).phase_two_connections(1);
    options.lock_timeout(LOCK_TIMEOUT)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_call_that_waits_in_vain_keeps_its_session() {
    let url = postgres::Server::shared().database().await;
    waits_in_vain(narrow().connect(&url).await.unwrap(), &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_call_that_waits_in_vain_keeps_its_session_over_tokio() {
    let url = postgres::Server::shared().database().await;
    let driver = TokioPostgres::new(url.parse().unwrap());
    waits_in_vain(narrow().over(driver).await.unwrap(), &url).await;
}

/// A call that waits in vain gives its session back: a new one for each would cost more than the call.
async fn waits_in_vain<D: Database<Pool = sqlx::PgPool>>(resource: D, url: &str) {
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    let world = World::<D>::with(resource, pool, Isolation::ReadCommitted).await;
    let work = Branch::tcc(&Job::default());
    assert!(world.prepare(&work).await.is_prepared());
    assert_eq!(world.commit(&work).await, End::Done);
    let before = sessions(&world.pool).await;
    assert_eq!(before.len(), 2);
    let held = Branch::tcc(&Job::default());
    let mut twin = world.pool.begin().await.unwrap();
    twin.execute(hold(&held)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(world.prepare(&held).await, Vote::Working);
        assert_eq!(world.cancel(&held).await, End::Working);
    }
    twin.rollback().await.unwrap();
    assert!(world.prepare(&held).await.is_prepared());
    // Phase two meets the row that somebody holds.
    let mut twin = world.pool.begin().await.unwrap();
    let lock = format!("SELECT 1 FROM unanimo_barrier WHERE tx_id = '{}' FOR UPDATE", held.tx_id);
    twin.execute(AssertSqlSafe(lock)).await.unwrap();
    assert_eq!(world.commit(&held).await, End::Working);
    twin.rollback().await.unwrap();
    assert_eq!(world.committed(&held).await, End::Done);
    assert_eq!(sessions(&world.pool).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_call_that_waits_in_vain_keeps_its_session_on_mariadb() {
    let url = mariadb::Server::shared().database().await;
    let options = MySqlOptions::default().prepare_connections(1).phase_two_connections(1);
    let resource = options.lock_timeout(LOCK_TIMEOUT).connect(&url).await.unwrap();
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    let world = World::<MySql>::with(resource, pool, Isolation::ReadCommitted).await;
    let work = Branch::tcc(&Job::default());
    assert!(world.prepare(&work).await.is_prepared());
    assert_eq!(world.commit(&work).await, End::Done);
    let sessions = async || -> BTreeSet<i64> {
        let found: Vec<i64> = sqlx::query_scalar(
            "SELECT CAST(id AS signed) FROM information_schema.processlist WHERE db = DATABASE()",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap();
        found.into_iter().collect()
    };
    let held = Branch::tcc(&Job::default());
    let mut twin = world.pool.begin().await.unwrap();
    twin.execute(hold(&held)).await.unwrap();
    let before = sessions().await;
    for _ in 0..2 {
        assert_eq!(world.prepare(&held).await, Vote::Working);
        assert_eq!(world.cancel(&held).await, End::Working);
    }
    twin.rollback().await.unwrap();
    assert!(world.vote(&held).await.is_prepared());
    let mut twin = world.pool.begin().await.unwrap();
    let lock = format!("SELECT 1 FROM unanimo_barrier WHERE tx_id = '{}' FOR UPDATE", held.tx_id);
    twin.execute(AssertSqlSafe(lock)).await.unwrap();
    assert_eq!(world.commit(&held).await, End::Working);
    twin.rollback().await.unwrap();
    assert_eq!(world.committed(&held).await, End::Done);
    let after = sessions().await;
    assert!(before.is_subset(&after), "{before:?} {after:?}");
}

/// A lock may be held for as long as a person needs to free it: the pauses of calls that meet it grow.
#[tokio::test]
async fn l3_pauses_of_calls_that_wait_in_vain_grow() {
    let url = postgres::Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let participant = Participant::new("p", narrow().connect(&url).await.unwrap());
    let service = participant.tcc("ok", Reserve).service().unwrap();
    let [mut new, mut prepared] = [(); 2].map(|()| direct::branch(Mode::Tcc, "ok"));
    prepared.prepare(&service).await.unwrap();
    let mut twin = pool.begin().await.unwrap();
    let hold = format!(
        "SELECT FROM unanimo_barrier FOR UPDATE;
         INSERT INTO unanimo_barrier
             (tx_id, branch_id, cluster_id, participant, gid, action, mode, state)
         VALUES ('{}', 'a', 'test-cluster', 'p', 'g', 'ok', 'tcc', 'running')",
        new.tx_id()
    );
    twin.execute(sqlx::raw_sql(AssertSqlSafe(hold))).await.unwrap();
    for (attempt, expected) in [(1, Duration::from_millis(200)), (4, Duration::from_millis(1600))] {
        (new.attempt, prepared.attempt) = (attempt, attempt);
        let voted = new.prepare(&service).await.unwrap();
        let prepare_response::Answer::Working(voted) = voted else { panic!("{voted:?}") };
        let ended = prepared.commit(&service).await.unwrap();
        let commit_response::Answer::Working(ended) = ended else { panic!("{ended:?}") };
        for working in [voted, ended] {
            let pause = Duration::try_from(working.retry_after.unwrap()).unwrap();
            assert_eq!(pause, expected, "attempt {attempt}");
        }
    }
    twin.rollback().await.unwrap();
}
