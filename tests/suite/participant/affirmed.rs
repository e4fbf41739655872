//! Answers that are read from a row that was found: they wait for a synchronous standby, too.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use unanimo_sdk::{Isolation, PostgresOptions};
use unanimo_tests::postgres::Server;

use super::calls::{Branch, End, Vote, World};
use super::handler::{Deed, Job};
use super::over;

/// Makes every commit of others wait for a standby that is not there, or stops that.
async fn wait_for_a_standby(url: &str, wait: bool) {
    let mut admin = PgConnection::connect(url).await.unwrap();
    let names = if wait { "nobody" } else { "" };
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
    admin.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    unanimo_tests::wait::until("the setting to be there", async || {
        let set: String = sqlx::query_scalar("SHOW synchronous_standby_names")
            .fetch_one(&mut PgConnection::connect(url).await.unwrap())
            .await
            .unwrap();
        (set == names).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_an_answer_from_a_row_that_was_found_waits_for_a_standby() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let url = server.database().await;
    let resource = over::connect(PostgresOptions::default(), &url).await.unwrap();
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let world = World::with(resource, pool, Isolation::ReadCommitted).await;
    let work = Job::default();
    let [prepared, committed, cancelled] = [(); 3].map(|()| Branch::tcc(&work));
    let refused = Branch::tcc(&Job { prepare: Deed::Refuse, phase_two: Deed::Work });
    for branch in [&prepared, &committed, &cancelled, &refused] {
        world.prepare(branch).await;
    }
    assert_eq!(world.commit(&committed).await, End::Done);
    assert_eq!(world.cancel(&cancelled).await, End::Done);

    wait_for_a_standby(&url, true).await;
    // The backends in use hear of it at their next statement.
    let mut waiting = tokio::task::JoinSet::new();
    for (index, branch) in [prepared, committed, cancelled, refused].into_iter().enumerate() {
        let world = world.clone();
        waiting.spawn(async move {
            match index {
                0 => assert_eq!(world.prepare(&branch).await, Vote::Prepared("0".into())),
                1 => assert_eq!(world.commit(&branch).await, End::Done),
                2 => assert_eq!(world.cancel(&branch).await, End::Done),
                _ => assert_eq!(world.prepare(&branch).await, Vote::refused("NO")),
            }
        });
    }
    let early = tokio::time::timeout(Duration::from_secs(1), waiting.join_next()).await;
    assert!(early.is_err(), "answered without the standby: {early:?}");
    let synced = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    unanimo_tests::wait::until("all of them to wait", async || {
        let count: i64 = sqlx::query_scalar(synced).fetch_one(&world.pool).await.unwrap();
        (count == 4).then_some(())
    })
    .await;
    wait_for_a_standby(&url, false).await;
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
}
