//! Answers that are found on a server of which a standby is promoted meanwhile: they are affirmed where they were found, and
//! nothing is answered that the promoted server lacks (promise S3).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use tonic::Status;
use unanimo_proto::v1::{Mode, cancel_response, commit_response};
use unanimo_sdk::{Call, Participant, PostgresOptions, PrepareError, Service, TwoPhase};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::affirmed::wait_for_a_standby;
use super::direct::{Branch, branch, refused};
use super::over::{self, Database};
use super::promoted::{apart, one, pair, promote};
use super::sweeper::{Refuse, Reserve, Write};

/// Sessions of participants that wait for a lock, or for a standby.
const AT_THE_LOCK: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'unanimo-participant' AND wait_event_type = 'Lock'";
const AT_THE_STANDBY: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'unanimo-participant' AND wait_event = 'SyncRep'";

/// Ends the sessions of participants that nobody uses: the next ones are opened on the other server.
const END_IDLE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'unanimo-participant' AND state = 'idle'";

/// A finder of a prepared transaction waits for a lock that a test may hold.
const PAUSE: &str = "CREATE SCHEMA mine;
    CREATE FUNCTION mine.paused() RETURNS boolean LANGUAGE sql AS
        'SELECT pg_advisory_lock_shared(7); SELECT pg_advisory_unlock_shared(7)';
    CREATE VIEW mine.pg_prepared_xacts AS SELECT * FROM pg_catalog.pg_prepared_xacts WHERE mine.paused();
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, mine, pg_catalog',
                               current_database()); END $$";

/// Only reads.
struct Look;

impl TwoPhase<Database> for Look {
    type Payload = bytes::Bytes;

    fn read_only(&self) -> bool {
        true
    }

    async fn prepare(
        &self,
        _: &mut over::Connection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        Ok(())
    }
}

async fn service(proxied: &str) -> Service<Database> {
    let long = Duration::from_secs(120);
    let options = PostgresOptions::default().lock_timeout(long).statement_timeout(long);
    let options = options.prepare_connections(8).phase_two_connections(8);
    let participant = Participant::new("p", over::connect(options, proxied).await.unwrap());
    let participant = participant.tcc("ok", Reserve).two_phase("write", Write);
    participant.two_phase("refuse", Refuse).two_phase("look", Look).service().unwrap()
}

fn of(mode: Mode, action: &str) -> Branch {
    Branch { payload: "x".into(), ..branch(mode, action) }
}

/// A call whose answer is found.
#[derive(Clone, Copy, Debug)]
enum Again {
    Prepare,
    Commit,
    Cancel,
}

impl Again {
    async fn call(self, service: &Service<Database>, branch: &Branch) -> Result<(), Status> {
        match self {
            Self::Prepare => branch.prepare(service).await.map(drop),
            Self::Commit => branch.commit(service).await.map(drop),
            Self::Cancel => branch.cancel(service).await.map(drop),
        }
    }
}

/// Branches that have voted or ended, and what is called again of each.
async fn answered(service: &Service<Database>) -> Vec<(Branch, Again)> {
    use Again::{Cancel, Commit, Prepare};
    let (tcc, two_phase) = (Mode::Tcc, Mode::TwoPhaseCommit);
    let mut all = Vec::new();
    for (mode, action, ends, again) in [
        (tcc, "ok", None, Prepare),
        (tcc, "ok", Some(Commit), Commit),
        (tcc, "ok", Some(Cancel), Cancel),
        (two_phase, "refuse", None, Prepare),
        (two_phase, "look", None, Prepare),
        (two_phase, "write", Some(Commit), Commit),
    ] {
        let branch = of(mode, action);
        let vote = branch.prepare(service).await.unwrap();
        if action == "refuse" {
            assert_eq!(refused(vote), "NO");
        }
        match ends {
            Some(Commit) => {
                let end = branch.commit(service).await.unwrap();
                assert!(matches!(end, commit_response::Answer::Done(_)), "{end:?}");
            }
            Some(Cancel) => {
                let end = branch.cancel(service).await.unwrap();
                assert!(matches!(end, cancel_response::Answer::Done(_)), "{end:?}");
            }
            _ => {}
        }
        all.push((branch, again));
    }
    all
}

/// Lets nothing more come to the standby, which goes on.
async fn cut_off(standby: &str, primary: &str) {
    let mut raw = PgConnection::connect(standby).await.unwrap();
    raw.execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    raw.execute("SELECT pg_reload_conf()").await.unwrap();
    let streams = "SELECT count(*) FROM pg_stat_replication";
    until("it to be cut off", async || (one(primary, streams).await == 0).then_some(())).await;
}

/// Answers of calls that run.
type Answers = Arc<Mutex<Vec<(Again, Result<(), Status>)>>>;

/// Calls again, and notes the answer.
fn call(service: &Service<Database>, (branch, again): &(Branch, Again), answers: &Answers) {
    let (service, branch, again) = (service.clone(), branch.clone(), *again);
    let answers = Arc::clone(answers);
    tokio::spawn(async move {
        let answer = again.call(&service, &branch).await;
        answers.lock().unwrap().push((again, answer));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_is_found_is_not_affirmed_by_a_server_that_was_promoted_meanwhile() {
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let of_rows = service(&proxy.url(&url)).await;
    // What is prepared holds the table, whose lock pauses the others: it has a database of its own.
    let url_2 = primary.database().await;
    let there_2 = standby.url(url_2.rsplit('/').next().unwrap());
    let mut admin = PgConnection::connect(&url_2).await.unwrap();
    admin.execute(sqlx::raw_sql(PAUSE)).await.unwrap();
    admin.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let of_prepared = service(&proxy.url(&url_2)).await;
    let made = "SELECT count(*) FROM pg_tables WHERE tablename = 'unanimo_barrier_timeline'";
    for there in [&there, &there_2] {
        let is_there = async || sqlx::PgConnection::connect(there).await.ok();
        until("the standby to have the database", is_there).await;
        until("the standby to have it all", async || (one(there, made).await == 1).then_some(()))
            .await;
    }
    cut_off(&there, &url).await;

    let rows = answered(&of_rows).await;
    let prepared = (of(Mode::TwoPhaseCommit, "write"), Again::Prepare);
    prepared.0.prepare(&of_prepared).await.unwrap();
    // All come to what they look for, and no further.
    let mut holds = PgConnection::connect(&url).await.unwrap();
    holds.execute("BEGIN").await.unwrap();
    holds.execute("LOCK TABLE unanimo_barrier IN ACCESS EXCLUSIVE MODE").await.unwrap();
    admin.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let answers = Answers::default();
    rows.iter().for_each(|row| call(&of_rows, row, &answers));
    call(&of_prepared, &prepared, &answers);
    let expected = i64::try_from(rows.len()).unwrap() + 1;
    until("them to look", async || (one(&url, AT_THE_LOCK).await == expected).then_some(())).await;

    promote(&there).await;
    proxy.lead_to(standby.socket());
    wait_for_a_standby(&url, true).await;
    admin.execute(END_IDLE).await.unwrap();
    holds.execute("ROLLBACK").await.unwrap();
    admin.execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    until("each to wait for a standby, or to be answered", async || {
        let answered = i64::try_from(answers.lock().unwrap().len()).unwrap();
        (one(&url, AT_THE_STANDBY).await + answered >= expected).then_some(())
    })
    .await;
    apart(&primary, Server::stop_immediately).await;
    until("all answers", async || (answers.lock().unwrap().len() > rows.len()).then_some(())).await;
    for (again, answer) in answers.lock().unwrap().iter() {
        assert!(answer.is_err(), "S3: {again:?} of what the other server lacks: {answer:?}");
    }
    tells_by_itself(&of_rows, &rows).await;
    tells_by_itself(&of_prepared, &[prepared]).await;
    assert_eq!(one(&there_2, "SELECT count(*) FROM pg_catalog.pg_prepared_xacts").await, 1);
}

/// The promoted server votes for itself, and a Commit of what it lacks is a hazard.
async fn tells_by_itself(service: &Service<Database>, rows: &[(Branch, Again)]) {
    for (branch, again) in rows {
        match again {
            Again::Prepare => {
                until("a vote", async || branch.prepare(service).await.ok()).await;
            }
            Again::Commit => {
                let end = until("an end", async || branch.commit(service).await.ok()).await;
                let is_hazard = matches!(end, commit_response::Answer::Heuristic(_));
                assert!(is_hazard, "S11: {end:?}");
            }
            Again::Cancel => {
                let end = until("an end", async || branch.cancel(service).await.ok()).await;
                assert!(matches!(end, cancel_response::Answer::Done(_)), "{end:?}");
            }
        }
    }
}
