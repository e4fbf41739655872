//! The same on MariaDB, where semi-synchronous replication keeps a commit waiting.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use tonic::Status;
use unanimo_proto::v1::{Mode, prepare_response};
use unanimo_sdk::{
    Call, MySql, MySqlOptions, Participant, PrepareError, Service, TwoPhase, refuse,
};
use unanimo_tests::mariadb::MYSQLD;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::direct::{Branch, branch};
use super::promoted_replica::{beside, one, pair, run};
use super::sweeper::Reserve;

/// Commits that nobody has acknowledged wait for ever.
const WAIT: &str = "SET GLOBAL rpl_semi_sync_master_timeout = 1000000;
    SET GLOBAL rpl_semi_sync_master_wait_no_slave = 1;
    SET GLOBAL rpl_semi_sync_master_enabled = 1";

const AT_THE_LOCK: &str =
    "SELECT count(*) FROM information_schema.processlist WHERE state LIKE '%table metadata lock%'";
const AT_THE_REPLICA: &str =
    "SELECT count(*) FROM information_schema.processlist WHERE state LIKE '%semi-sync%'";

struct Refuse;

impl TwoPhase<MySql> for Refuse {
    type Payload = bytes::Bytes;

    async fn prepare(
        &self,
        _: &mut MySqlConnection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        refuse("NO", "never")
    }
}

/// Only reads.
struct Look;

impl TwoPhase<MySql> for Look {
    type Payload = bytes::Bytes;

    fn read_only(&self) -> bool {
        true
    }

    async fn prepare(
        &self,
        _: &mut MySqlConnection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Again {
    Prepare,
    Commit,
    Cancel,
}

async fn call(service: &Service<MySql>, branch: &Branch, again: Again) -> Result<(), Status> {
    match again {
        Again::Prepare => branch.prepare(service).await.map(drop),
        Again::Commit => branch.commit(service).await.map(drop),
        Again::Cancel => branch.cancel(service).await.map(drop),
    }
}

/// Branches that have voted or ended, and what is called again of each.
async fn answered(service: &Service<MySql>) -> Vec<(Branch, Again)> {
    let of = |mode, action| Branch { payload: "x".into(), ..branch(mode, action) };
    let all = [
        (of(Mode::Tcc, "ok"), Again::Prepare),
        (of(Mode::Tcc, "ok"), Again::Commit),
        (of(Mode::Tcc, "ok"), Again::Cancel),
        (of(Mode::TwoPhaseCommit, "refuse"), Again::Prepare),
        (of(Mode::TwoPhaseCommit, "look"), Again::Prepare),
    ];
    for (branch, again) in &all {
        call(service, branch, Again::Prepare).await.unwrap();
        call(service, branch, *again).await.unwrap();
    }
    all.into()
}

/// Ends the sessions that nobody uses, but this one: the next ones are opened on the other server.
async fn end_idle(url: &str, but: i64) {
    let end = format!(
        "BEGIN NOT ATOMIC
           FOR one IN (SELECT id FROM information_schema.processlist
                       WHERE id NOT IN (CONNECTION_ID(), {but}) AND command = 'Sleep' AND db = DATABASE()) DO
             EXECUTE IMMEDIATE CONCAT('KILL ', one.id);
           END FOR;
         END"
    );
    run(url, &end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_is_found_is_not_affirmed_by_a_replica_that_was_promoted_meanwhile() {
    if std::env::var_os(MYSQLD).is_some() {
        // Its statements of replication are others.
        return;
    }
    let (primary, replica, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let options = MySqlOptions::default().lock_timeout(Duration::from_secs(120));
    let options = options.statement_timeout(Duration::from_secs(120));
    let database = options.connect(&proxy.mariadb_url(&url)).await.unwrap();
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let participant = participant.two_phase("refuse", Refuse).two_phase("look", Look);
    let service = participant.service().unwrap();
    let made = "SELECT count(*) FROM unanimo_barrier_timeline";
    until("the replica to have it all", async || one(&there, made).await).await;
    run(&there, "STOP SLAVE").await;
    let rows = answered(&service).await;
    let mut holds = MySqlConnection::connect(&url).await.unwrap();
    let id: i64 = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS signed)")
        .fetch_one(&mut holds)
        .await
        .unwrap();
    holds.execute("LOCK TABLES unanimo_barrier WRITE").await.unwrap();
    let answers = Arc::new(Mutex::new(Vec::new()));
    for (branch, again) in rows.clone() {
        let (service, answers) = (service.clone(), Arc::clone(&answers));
        tokio::spawn(async move {
            let answer = call(&service, &branch, again).await;
            answers.lock().unwrap().push((again, answer));
        });
    }
    let expected = i64::try_from(rows.len()).unwrap();
    until("them to look", async || one(&url, AT_THE_LOCK).await.filter(|n| *n == expected)).await;
    run(&there, "RESET SLAVE ALL").await;
    proxy.lead_to(replica.socket());
    run(&url, WAIT).await;
    end_idle(&url, id).await;
    holds.execute(AssertSqlSafe("UNLOCK TABLES")).await.unwrap();
    until("each to wait for a replica, or to be answered", async || {
        let answered = i64::try_from(answers.lock().unwrap().len()).unwrap();
        one(&url, AT_THE_REPLICA).await.filter(|waiting| waiting + answered >= expected)
    })
    .await;
    beside(move || primary.kill()).await;
    until("all answers", async || (answers.lock().unwrap().len() == rows.len()).then_some(()))
        .await;
    for (again, answer) in answers.lock().unwrap().iter() {
        assert!(answer.is_err(), "S3: {again:?} of what the other server lacks: {answer:?}");
    }
    let vote = until("a vote", async || rows[0].0.prepare(&service).await.ok()).await;
    assert!(matches!(vote, prepare_response::Answer::Prepared(_)), "{vote:?}");
    assert_eq!(one(&there, "SELECT count(*) FROM unanimo_barrier").await, Some(1));
}
