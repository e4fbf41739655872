//! Commits that wait for a standby which is away: what another server says tells nothing of them, and those that are
//! given up leave nothing behind.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tonic::Code;
use unanimo_proto::v1::{Mode, commit_response, prepare_response};
use unanimo_sdk::{Participant, PostgresOptions, Service};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::affirmed::{end_waits, wait_for_a_standby};
use super::direct::{Branch, branch};
use super::over::{self, Database};
use super::overtime;
use super::promoted::{one, pair, participant, promote};
use super::sweeper::{Reserve, Write, eager};

/// Sessions of participants that wait for a standby.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE wait_event = 'SyncRep' AND application_name = 'unanimo-participant'";

/// Begins a Prepare, which waits for a standby.
async fn waits(
    service: &Service<Database>,
    url: &str,
    (mode, action): (Mode, &'static str),
) -> tokio::task::JoinHandle<Result<prepare_response::Answer, tonic::Status>> {
    let (service, before) = (service.clone(), one(url, WAITING).await);
    let waits = tokio::spawn(async move { branch(mode, action).prepare(&service).await });
    until("it to wait", async || (one(url, WAITING).await > before).then_some(())).await;
    waits
}

/// Behind a proxy sessions of two servers live side by side for a while. The promoted one has no standbys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_another_server_says_of_standbys_tells_nothing_of_a_commit() {
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let service = participant(&proxy.url(&url)).await.service().unwrap();
    let made = "SELECT count(*) FROM pg_tables WHERE tablename = 'unanimo_barrier_timeline'";
    until("the standby to have it all", async || (one(&there, made).await == 1).then_some(()))
        .await;
    promote(&there).await;
    wait_for_a_standby(&url, true).await;
    let by_tcc = waits(&service, &url, (Mode::Tcc, "ok")).await;
    let by_two_phase = waits(&service, &url, (Mode::TwoPhaseCommit, "write")).await;
    proxy.lead_to(standby.socket());
    // What is idle goes; the next session is opened on the other server.
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let idle = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'unanimo-participant' AND state = 'idle'";
    admin.execute(idle).await.unwrap();
    until("votes on the other server", async || {
        let vote = branch(Mode::Tcc, "ok").prepare(&service).await;
        matches!(vote, Ok(prepare_response::Answer::Prepared(_))).then_some(())
    })
    .await;
    let ended = end_waits(&url);
    let (by_tcc, by_two_phase) = (by_tcc.await.unwrap(), by_two_phase.await.unwrap());
    assert!(by_tcc.is_err(), "S3: {by_tcc:?}");
    assert!(by_two_phase.is_err(), "S3: {by_two_phase:?}");
    ended.abort();
}

/// Login of a participant.
#[derive(Clone, Copy, Debug)]
enum Login {
    /// Its role may see the standbys.
    Owner,
    /// Its role may not.
    Plain,
    /// It works as another role, which may not end what its login has begun.
    AsRole,
}

async fn bank(server: &Server, login: Login) -> (String, Service<Database>) {
    let url = server.database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    admin.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let mut options = PostgresOptions::default().prepare_connections(3).phase_two_connections(3);
    let (login, role) = match login {
        Login::Owner => (None, None),
        Login::Plain => (Some("plain"), None),
        Login::AsRole => (Some("member"), Some("shared")),
    };
    let mut address = url.clone();
    if let Some(login) = login {
        let mut made = format!(
            "CREATE ROLE {login} LOGIN; GRANT ALL ON SCHEMA public TO {login};
             GRANT ALL ON effect TO {login}"
        );
        if let Some(role) = role {
            made = format!(
                "CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}; GRANT ALL ON effect TO {role};
                 CREATE ROLE {login} LOGIN; GRANT {role} TO {login}"
            );
            options = options.as_role(role);
        }
        admin.execute(sqlx::raw_sql(AssertSqlSafe(made))).await.unwrap();
        address = format!("postgres://{login}@{}", url.split_once('@').unwrap().1);
    }
    let database = over::connect(options, &address).await.unwrap();
    let participant = Participant::new("p", database).overtime(Duration::from_millis(300));
    let participant = participant.tcc("ok", Reserve).two_phase("write", Write);
    (url, participant.service().unwrap())
}

/// Waits until a commit waits indeed: the server hears of its settings by and by.
async fn commits_wait(url: &str) {
    until("commits to wait", async || {
        let mut raw = PgConnection::connect(url).await.unwrap();
        let message = "SELECT pg_logical_emit_message(true, 'test', '')";
        let commits = tokio::time::timeout(Duration::from_millis(500), raw.execute(message));
        commits.await.is_err().then_some(())
    })
    .await;
}

/// L5: of what is given up, again and again, nothing stays at the server, which takes a hundred sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_commits_that_are_given_up_while_a_standby_is_away_leave_no_session() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    for login in [Login::Owner, Login::Plain, Login::AsRole] {
        let (url, service) = bank(&server, login).await;
        let of = |mode, action| move |_: ()| Branch { payload: "x".into(), ..branch(mode, action) };
        let by_tcc = [(); 3].map(of(Mode::Tcc, "ok"));
        let by_two_phase = [(); 3].map(of(Mode::TwoPhaseCommit, "write"));
        let owed: Vec<Branch> = by_tcc.into_iter().chain(by_two_phase).collect();
        for branch in &owed {
            branch.prepare(&service).await.unwrap();
        }
        wait_for_a_standby(&url, true).await;
        commits_wait(&url).await;
        let short = Duration::from_millis(50);
        for round in 0..3 {
            for branch in &owed {
                let end = overtime::commit(&service, branch, short).await;
                assert_ne!(end, Code::Ok, "S3: round {round}");
            }
            for (mode, action) in [(Mode::Tcc, "ok"), (Mode::TwoPhaseCommit, "write")] {
                let new = branch(mode, action);
                for _ in 0..2 {
                    let vote = overtime::prepare(&service, &new, short).await;
                    assert_ne!(vote, Code::Ok, "S3: round {round}");
                }
            }
            until("nobody to wait any more", async || {
                (one(&url, WAITING).await == 0).then_some(())
            })
            .await;
        }
        wait_for_a_standby(&url, false).await;
        for branch in &owed {
            let end = until("its end", async || branch.commit(&service).await.ok()).await;
            assert!(matches!(end, commit_response::Answer::Done(_)), "{end:?}");
        }
        let pool = PgPool::connect(&url).await.unwrap();
        let ids: Vec<_> = owed.iter().map(Branch::tx_id).collect();
        let effects: i64 = sqlx::query_scalar("SELECT count(*) FROM effect WHERE tx_id = ANY($1)")
            .bind(ids)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(effects, 3, "S7");
    }
}

/// L5: commits of the sweeper, too, which works as a role that may not end what its login has begun. It goes on when a
/// standby is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_commit_of_the_sweeper_that_is_given_up_leaves_no_session() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let (url, service) = bank(&server, Login::AsRole).await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    admin
        .execute(
            "INSERT INTO unanimo_barrier
                (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, prepare_until)
             VALUES (gen_random_uuid(), 'a', 'none', 'p', 'g', 'ok', 'tcc', 'refused', now() - interval '2 hours')",
        )
        .await
        .unwrap();
    wait_for_a_standby(&url, true).await;
    commits_wait(&url).await;
    let purging = eager().retention(Duration::from_secs(3600));
    let sweeper = service.sweep(["http://127.0.0.1:9"], purging).unwrap();
    let first = "SELECT pid::bigint FROM pg_stat_activity
                 WHERE wait_event = 'SyncRep' AND application_name = 'unanimo-participant'";
    let first: i64 = until("a commit of the sweeper to wait", async || {
        sqlx::query_scalar(first).fetch_optional(&mut admin).await.unwrap()
    })
    .await;
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {first}");
    until("its session to be ended", async || (one(&url, &there).await == 0).then_some(())).await;
    wait_for_a_standby(&url, false).await;
    let left = "SELECT count(*) FROM unanimo_barrier";
    until("the purge", async || (one(&url, left).await == 0).then_some(())).await;
    sweeper.stop().await;
}

/// Functions by which a test sees that a session is about to be ended. They keep that waiting by lock 8, and a commit by
/// lock 7, and make the server another one.
const WATCHED: &str = "CREATE SCHEMA mine;
    CREATE TABLE mine.started AS SELECT pg_postmaster_start_time() AS at;
    CREATE FUNCTION mine.pass(number bigint) RETURNS void LANGUAGE sql AS
        'SELECT pg_advisory_lock_shared(number); SELECT pg_advisory_unlock_shared(number); SELECT';
    CREATE FUNCTION mine.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE plpgsql AS
        $$ BEGIN PERFORM mine.pass(8); RETURN (SELECT at FROM mine.started); END $$;
    CREATE FUNCTION mine.pg_logical_emit_message(boolean, text, text) RETURNS pg_lsn LANGUAGE plpgsql AS
        $$ BEGIN PERFORM mine.pass(7); RETURN pg_catalog.pg_logical_emit_message($1, $2, $3); END $$;
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = mine, pg_catalog, public',
                               current_database()); END $$";

/// Only a session that waits for a standby is ended, and only on the server where its commit is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_ended_that_does_something_else_or_is_another_servers() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let url = server.database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    admin.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    admin.execute(sqlx::raw_sql(WATCHED)).await.unwrap();
    admin.execute("SET synchronous_commit = local").await.unwrap();
    let long = Duration::from_secs(120);
    let options = PostgresOptions::default().lock_timeout(long).statement_timeout(long);
    let database = over::connect(options, &url).await.unwrap();
    let participant = Participant::new("p", database).overtime(Duration::from_millis(300));
    let service = participant.two_phase("write", Write).service().unwrap();
    let prepared = branch(Mode::TwoPhaseCommit, "write");
    prepared.prepare(&service).await.unwrap();
    wait_for_a_standby(&url, true).await;

    // It is found, and the commit behind it comes as far as lock 7 when it is given up.
    let at = |lock: u8| {
        format!(
            "SELECT pid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objid = {lock} AND NOT granted"
        )
    };
    let waiting = async |lock: u8| {
        let mut raw = PgConnection::connect(&url).await.unwrap();
        let waiting = async || {
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(at(lock)))
                .fetch_optional(&mut raw)
                .await
                .unwrap()
        };
        until("one to wait for the lock", waiting).await
    };
    admin.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let vote = tokio::spawn({
        let (service, prepared) = (service.clone(), prepared.clone());
        async move { overtime::prepare(&service, &prepared, Duration::from_millis(50)).await }
    });
    let session = waiting(7).await;
    admin.execute("SELECT pg_advisory_lock(8)").await.unwrap();
    assert_ne!(vote.await.unwrap(), Code::Ok);
    waiting(8).await;
    // One attempt passes. There is another one, because it found the session at something else.
    admin.execute("SELECT pg_advisory_unlock(8)").await.unwrap();
    admin.execute("SELECT pg_advisory_lock(8)").await.unwrap();
    waiting(8).await;
    let is_there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {session}");
    assert_eq!(one(&url, &is_there).await, 1, "it does not wait for a standby");

    // It does now, on a server that was started at another time.
    admin.execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    until("it to wait", async || (one(&url, WAITING).await == 1).then_some(())).await;
    admin.execute("UPDATE mine.started SET at = at - interval '1 hour'").await.unwrap();
    admin.execute("SELECT pg_advisory_unlock(8)").await.unwrap();
    let others = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE application_name = 'unanimo-participant' AND state <> 'idle' AND pid <> {session}"
    );
    until("the attempt to be over", async || (one(&url, &others).await == 0).then_some(())).await;
    let still = format!("{is_there} AND wait_event = 'SyncRep'");
    assert_eq!(one(&url, &still).await, 1, "it is of another server");
    wait_for_a_standby(&url, false).await;
}
