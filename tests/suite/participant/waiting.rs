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
use super::sweeper::{Reserve, Write};

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

/// A participant whose role may see the standbys, or may not.
async fn bank(server: &Server, role: Option<&str>) -> (String, Service<Database>) {
    let url = server.database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    admin.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let mut login = url.clone();
    if let Some(role) = role {
        let made = format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role};
             GRANT ALL ON effect TO {role}"
        );
        admin.execute(sqlx::raw_sql(AssertSqlSafe(made))).await.unwrap();
        login = format!("postgres://{role}@{}", url.split_once('@').unwrap().1);
    }
    let options = PostgresOptions::default().prepare_connections(3).phase_two_connections(3);
    let database = over::connect(options, &login).await.unwrap();
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
    for role in [None, Some("plain")] {
        let (url, service) = bank(&server, role).await;
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
