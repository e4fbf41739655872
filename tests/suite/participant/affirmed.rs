//! Answers and synchronous standbys: none is given before a standby has what it tells.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::sync::Semaphore;
use unanimo_proto::v1::{Mode, cancel_response, commit_response, prepare_response};
use unanimo_sdk::{
    Call, Isolation, Participant, PhaseTwoError, PostgresOptions, PrepareError, Resource,
    TccOutside,
};
use unanimo_tests::postgres::Server;

use super::calls::{Branch, End, Vote, World};
use super::direct;
use super::handler::{Deed, Job};
use super::over;
use super::sweeper::Write;

/// Makes every commit of others wait for a standby that is not there, or stops that.
pub(super) async fn wait_for_a_standby(url: &str, wait: bool) {
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

/// Ends each wait for a standby as soon as it is seen, as `pg_cancel_backend` by hand does: the commit succeeds then.
pub(super) fn end_waits(url: &str) -> tokio::task::JoinHandle<()> {
    const END: &str =
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let url = url.to_owned();
    tokio::spawn(async move {
        let mut admin = PgConnection::connect(&url).await.unwrap();
        loop {
            admin.execute(END).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// A commit whose wait was ended is where no standby has it: a failover would take it away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_nothing_is_answered_whose_wait_for_a_standby_was_ended() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let url = server.database().await;
    let resource = over::connect(PostgresOptions::default(), &url).await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    let world = World::with(resource, pool, Isolation::ReadCommitted).await;
    let work = Job::default();
    let [found, new, step, confirmed, cancelled, unseen] = [(); 6].map(|()| Branch::tcc(&work));
    let step = Branch { branch_id: step.branch_id, ..Branch::step(&work) };
    let refused = Branch::tcc(&Job { prepare: Deed::Refuse, phase_two: Deed::Work });
    for branch in [&found, &confirmed, &cancelled] {
        assert!(world.prepare(branch).await.is_prepared());
    }
    wait_for_a_standby(&url, true).await;
    let waits = end_waits(&url);
    let (votes, ends) = tokio::join!(
        async {
            tokio::join!(
                world.prepare(&found),
                world.prepare(&new),
                world.prepare(&step),
                world.prepare(&refused)
            )
        },
        async {
            tokio::join!(world.commit(&confirmed), world.cancel(&cancelled), world.cancel(&unseen))
        }
    );
    let none = || Vote::Unanswered;
    assert_eq!(votes, (none(), none(), none(), none()), "S3");
    assert_eq!(ends, (End::Unanswered, End::Unanswered, End::Unanswered), "S3");
    waits.abort();
    wait_for_a_standby(&url, false).await;
    // Each was committed all the same, and that is found.
    assert!(world.vote(&new).await.is_prepared());
    assert_eq!(world.vote(&refused).await, Vote::refused("NO"));
    assert_eq!(world.effects(&new, "try").await, 1, "S7");
    assert_eq!(world.committed(&confirmed).await, End::Done);
    assert_eq!(world.cancelled(&cancelled).await, End::Done);
    assert_eq!(world.effects(&confirmed, "confirm").await, 1, "S7");
}

/// The same of prepared transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_no_yes_and_no_end_of_two_phase_commit_is_answered_whose_wait_was_ended() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let url = server.database().await;
    let database = over::connect(PostgresOptions::default(), &url).await.unwrap();
    let service = Participant::new("p", database).two_phase("write", Write).service().unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    pool.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let [new, found, owed] = [(); 3].map(|()| direct::branch(Mode::TwoPhaseCommit, "write"));
    for branch in [&found, &owed] {
        branch.prepare(&service).await.unwrap();
    }
    wait_for_a_standby(&url, true).await;
    let waits = end_waits(&url);
    let (new_vote, found_vote, end) =
        tokio::join!(new.prepare(&service), found.prepare(&service), owed.commit(&service));
    assert!(new_vote.is_err() && found_vote.is_err(), "S3: {new_vote:?} {found_vote:?}");
    assert!(end.is_err(), "S3: {end:?}");
    let again = owed.commit(&service).await;
    assert!(again.is_err(), "S3: its row is found, and is no more durable: {again:?}");
    waits.abort();
    wait_for_a_standby(&url, false).await;
    let vote = unanimo_tests::wait::until("a vote", async || new.prepare(&service).await.ok());
    assert!(matches!(vote.await, prepare_response::Answer::Prepared(_)));
    for branch in [&new, &found, &owed] {
        let end = unanimo_tests::wait::until("an end", async || branch.commit(&service).await.ok());
        assert!(matches!(end.await, commit_response::Answer::Done(_)));
    }
    let effects: i64 =
        sqlx::query_scalar("SELECT count(*) FROM effect").fetch_one(&pool).await.unwrap();
    assert_eq!(effects, 3, "S7");
}

/// The longest time of a statement ends no wait of COMMIT PREPARED, also of a role that may not see the standbys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_a_statements_longest_time_ends_no_wait_for_a_standby() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let url = server.database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    let plain = "CREATE TABLE effect (tx_id uuid, branch_id text);
         CREATE ROLE plain LOGIN; GRANT ALL ON SCHEMA public TO plain;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO plain";
    pool.execute(sqlx::raw_sql(plain)).await.unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let options = PostgresOptions::default().statement_timeout(Duration::from_millis(200));
    let database = over::connect(options, &format!("postgres://plain@{host}")).await.unwrap();
    let service = Participant::new("p", database).two_phase("write", Write).service().unwrap();
    let branch = direct::branch(Mode::TwoPhaseCommit, "write");
    branch.prepare(&service).await.unwrap();
    wait_for_a_standby(&url, true).await;
    // Sessions in use hear of it at their next statement.
    let hears = tokio::time::timeout(Duration::from_secs(1), branch.prepare(&service)).await;
    assert!(hears.is_err(), "{hears:?}");
    let commit = tokio::spawn(async move { branch.commit(&service).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!commit.is_finished(), "S3: {:?}", commit.await);
    wait_for_a_standby(&url, false).await;
    let end = commit.await.unwrap().unwrap();
    assert!(matches!(end, commit_response::Answer::Done(_)), "{end:?}");
}

/// Works outside only, and waits in each Cancel.
#[derive(Clone)]
struct Outside {
    at_work: Arc<Semaphore>,
    goes_on: Arc<Semaphore>,
}

impl<R: Resource> TccOutside<R> for Outside {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn try_(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
        _: Option<()>,
    ) -> Result<(), PhaseTwoError> {
        self.at_work.add_permits(1);
        self.goes_on.acquire().await.unwrap().forget();
        Ok(())
    }
}

/// The row of a Cancel that found none, found by its twin: a server that is promoted may not have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_a_tombstone_of_work_outside_that_a_twin_has_left_waits_for_a_standby() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let url = server.database().await;
    let options = PostgresOptions::default().lock_timeout(Duration::from_secs(60));
    let database = over::connect(options, &url).await.unwrap();
    let outside =
        Outside { at_work: Arc::new(Semaphore::new(0)), goes_on: Arc::new(Semaphore::new(0)) };
    let participant = Participant::new("p", database).tcc_outside("pay", outside.clone());
    let service = participant.service().unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    let count = async |kind: &str| -> i64 {
        let count = format!("SELECT count(*) FROM pg_stat_activity WHERE {kind}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&pool).await.unwrap()
    };
    let one_waits = async |kind: &str| {
        unanimo_tests::wait::until("one to wait", async || (count(kind).await == 1).then_some(()))
            .await;
    };
    let end_the_wait = async || {
        let of = "pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        pool.execute(sqlx::AssertSqlSafe(format!("SELECT {of}"))).await.unwrap();
    };

    let branch = direct::branch(Mode::Tcc, "pay");
    let cancel = || {
        let (branch, service) = (branch.clone(), service.clone());
        tokio::spawn(async move { branch.cancel(&service).await })
    };
    let first = cancel();
    outside.at_work.acquire().await.unwrap().forget();
    let mut second = cancel();
    one_waits("wait_event_type = 'Lock'").await;
    wait_for_a_standby(&url, true).await;
    // The setting is there a moment before a commit waits by it.
    unanimo_tests::wait::until("commits to wait", async || {
        let pool = pool.clone();
        let write =
            tokio::spawn(async move { pool.execute("CREATE TABLE a (); DROP TABLE a").await });
        while !write.is_finished() {
            if count("wait_event = 'SyncRep'").await == 1 {
                end_the_wait().await;
                write.await.unwrap().unwrap();
                return Some(());
            }
        }
        None
    })
    .await;
    outside.goes_on.add_permits(1);
    one_waits("wait_event = 'SyncRep'").await;
    end_the_wait().await;
    // Its session was taken before there was a standby, so that it may believe its commit.
    let _ = first.await.unwrap();
    // Its row is there for all to see, and on no standby.
    let early = tokio::time::timeout(Duration::from_secs(1), &mut second).await;
    assert!(early.is_err(), "S3: answered without the standby: {early:?}");
    one_waits("wait_event = 'SyncRep'").await;
    wait_for_a_standby(&url, false).await;
    let end = second.await.unwrap().unwrap();
    assert!(matches!(end, cancel_response::Answer::Done(_)), "{end:?}");
    assert_eq!(outside.at_work.available_permits(), 0, "S8: one of them has called the handler");
}
