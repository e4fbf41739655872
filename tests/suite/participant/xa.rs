//! Two-phase commit on MariaDB, where handlers, servers and connections misbehave.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, MySqlPool};
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use unanimo_proto::v1::{HeuristicKind, Mode, cancel_response, commit_response, prepare_response};
use unanimo_sdk::{
    Call, Isolation, MySql, MySqlOptions, Participant, PrepareError, Service, TwoPhase, refuse,
};
use unanimo_tests::mariadb::{Server, end, hold_commits, is_mysql, let_commits_go};
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::databases;
use super::direct::{Branch, branch, refused};
use super::prepared::Database;

mod handlers;
mod held;
mod lost;
mod names;
mod race;
mod reading;
mod set_up;
pub(super) mod sweeper;

/// Runs its payload as SQL, and then does what is special about it.
#[derive(Clone)]
enum Sql {
    /// Passes errors on.
    Plain,
    /// Takes errors for success.
    Swallow,
    /// Drops the begin of a transaction inside its own at this step, and goes on.
    Abandon(usize),
    /// Votes no at the end.
    Refuse,
    /// The same as `Plain` in another isolation.
    RepeatableRead,
    /// Only reads, by its own word.
    Read,
    /// The same, and votes no at the end.
    ReadRefuse,
    /// Votes no, and tells the settings that it finds.
    Settings,
    /// Waits until it may go on, between the statements before and behind `|`.
    Gate(Arc<Semaphore>),
    /// The same, and takes errors for success.
    GateSwallow(Arc<Semaphore>),
    /// Gives its statement up after a moment; it may only read, by its own word.
    GiveUp { reads: bool },
}

async fn run(db: &mut MySqlConnection, sql: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.map(drop)
}

impl TwoPhase<MySql> for Sql {
    type Payload = Bytes;

    async fn prepare(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Bytes>,
    ) -> Result<(), PrepareError> {
        let sql = String::from_utf8(call.payload.to_vec()).unwrap();
        match self {
            Self::Plain | Self::RepeatableRead | Self::Read => run(db, &sql).await?,
            Self::Abandon(steps) => {
                <MySql as databases::Database>::abandon(db, *steps).await;
                run(db, &sql).await?;
            }
            Self::Swallow => drop(run(db, &sql).await),
            Self::Refuse | Self::ReadRefuse => {
                run(db, &sql).await?;
                return refuse("NO", "as it was told");
            }
            Self::Settings => {
                let settings: String = sqlx::query_scalar(SETTINGS).fetch_one(db).await?;
                return refuse("SETTINGS", settings);
            }
            Self::GiveUp { .. } => {
                drop(tokio::time::timeout(MOMENT, run(db, &sql)).await);
            }
            Self::Gate(gate) | Self::GateSwallow(gate) => {
                let (before, behind) = sql.split_once('|').unwrap_or((&sql, "DO 0"));
                run(db, before).await?;
                gate.acquire().await?.forget();
                match run(db, behind).await {
                    Err(_) if matches!(self, Self::GateSwallow(_)) => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    fn read_only(&self) -> bool {
        matches!(self, Self::Read | Self::ReadRefuse | Self::GiveUp { reads: true })
    }

    fn isolation(&self) -> Isolation {
        match self {
            Self::RepeatableRead => Isolation::RepeatableRead,
            _ => Isolation::ReadCommitted,
        }
    }
}

/// Everything that a handler could have left behind on its connection, but for the database.
const SETTINGS: &str =
    "SELECT CONCAT_WS(' ', @@autocommit = 1, @@time_zone, @@foreign_key_checks = 1,
    @@innodb_lock_wait_timeout,
    /*M! @@tx_isolation, @@tx_read_only = 1 */
    /*!80000 @@transaction_isolation, @@transaction_read_only = 1 */,
    @@sql_mode LIKE '%STRICT_ALL_TABLES%')";

const CLEAN: &str = "0 +00:00 1 1 READ-COMMITTED 1 1";

/// A database of participant `p`.
pub(super) struct Bank {
    pool: MySqlPool,
    url: String,
    service: Service<MySql>,
    gate: Arc<Semaphore>,
}

impl Bank {
    async fn open() -> Self {
        Self::on(Server::shared()).await
    }

    async fn on(server: &Server) -> Self {
        let url = server.database().await;
        Self::at(url.clone(), &url).await
    }

    /// With one connection for each phase, so that whoever comes next meets what was left behind.
    async fn at(url: String, by: &str) -> Self {
        let pool = MySqlPool::connect(&url).await.unwrap();
        let tables = "CREATE TABLE effect (n int);
                      CREATE TABLE pair (id int PRIMARY KEY, n int NOT NULL);
                      INSERT INTO pair WITH RECURSIVE seq (n) AS
                          (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 64) SELECT n, 0 FROM seq;
                      CREATE TABLE child (n int, FOREIGN KEY (n) REFERENCES pair (id))";
        sqlx::raw_sql(tables).execute(&pool).await.unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let options = MySqlOptions::default()
            .prepare_connections(1)
            .phase_two_connections(1)
            .lock_timeout(Duration::from_secs(1));
        let service = serve("p", options.connect(by).await.unwrap(), &gate);
        Self { pool, url, service, gate }
    }

    /// Another process of the same participant.
    async fn twin(&self) -> Service<MySql> {
        serve("p", MySql::connect(&self.url).await.unwrap(), &self.gate)
    }

    async fn prepare(&self, branch: &Branch) -> Result<prepare_response::Answer, Status> {
        branch.prepare(&self.service).await
    }

    #[track_caller]
    fn yes(answer: Result<prepare_response::Answer, Status>) {
        let answer = answer.unwrap();
        assert!(matches!(answer, prepare_response::Answer::Prepared(_)), "{answer:?}");
    }

    async fn commit(&self, branch: &Branch) {
        let answer = branch.commit(&self.service).await.unwrap();
        assert!(matches!(answer, commit_response::Answer::Done(_)), "{answer:?}");
    }

    async fn cancel(&self, branch: &Branch) {
        let answer = branch.cancel(&self.service).await.unwrap();
        assert!(matches!(answer, cancel_response::Answer::Done(_)), "{answer:?}");
    }

    async fn effects(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM effect").fetch_one(&self.pool).await.unwrap()
    }

    /// Tells whether the branch's transaction is prepared.
    async fn is_prepared(&self, branch: &Branch) -> bool {
        prepared(&self.pool).await.contains(&xid(branch))
    }

    /// State of the branch's row, if there is one.
    async fn state(&self, branch: &Branch) -> Option<String> {
        sqlx::query_scalar("SELECT state FROM unanimo_barrier WHERE tx_id = ?")
            .bind(branch.tx_id().to_string())
            .fetch_optional(&self.pool)
            .await
            .unwrap()
    }

    /// A connection is as it was, and goes on working.
    async fn is_clean(&self) {
        let answer = self.prepare(&sql("settings", "")).await.unwrap();
        match answer {
            prepare_response::Answer::Refused(refusal) => assert_eq!(refusal.message, CLEAN),
            other => panic!("{other:?}"),
        }
        let next = sql("plain", INSERT);
        Self::yes(self.prepare(&next).await);
        self.cancel(&next).await;
    }

    /// Counts the rows of handlers whose transactions have not ended.
    async fn uncommitted(&self) -> i64 {
        let dirty = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; BEGIN";
        let mut dirty = self.pool.begin_with(dirty).await.unwrap();
        let all: i64 =
            sqlx::query_scalar("SELECT count(*) FROM effect").fetch_one(&mut *dirty).await.unwrap();
        dirty.rollback().await.unwrap();
        all - self.effects().await
    }

    /// A session of the test's own that has begun the branch's XA transaction, with its row.
    async fn by_hand(&self, branch: &Branch) -> MySqlConnection {
        let mut session = MySqlConnection::connect(&self.url).await.unwrap();
        self.work_by_hand(&mut session, branch).await;
        session
    }

    async fn work_by_hand(&self, session: &mut MySqlConnection, branch: &Branch) {
        let xid = xid(branch);
        let work = format!(
            "XA START {xid}; INSERT INTO unanimo_barrier (tx_id, branch_id, cluster_id, participant, gid, \
             action, mode, state, output, reason, message, created_at, changed_at) VALUES ('{}', 'a', \
             'test-cluster', 'p', 'g', 'plain', '2pc', 'committed', '', '', '', utc_timestamp(6), \
             utc_timestamp(6)); {INSERT}; XA END {xid}",
            branch.tx_id()
        );
        run(session, &work).await.unwrap();
    }
}

async fn behind_a_proxy() -> (Bank, Proxy) {
    let server = Server::shared();
    let url = server.database().await;
    let proxy = Proxy::start(server.socket()).await;
    let by = proxy.mariadb_url(&url);
    (Bank::at(url, &by).await, proxy)
}

impl Database for Bank {
    type Resource = MySql;

    const PREPARE: &'static str = "XA PREPARE";
    const COMMIT: &'static str = "XA COMMIT";
    const ROLLBACK: &'static str = "XA ROLLBACK";
    const KILL: &'static str = "KILL CONNECTION_ID()";

    async fn open() -> Self {
        Self::on(Server::shared()).await
    }

    async fn behind_a_proxy() -> (Self, Proxy) {
        behind_a_proxy().await
    }

    fn service(&self) -> &Service<MySql> {
        &self.service
    }

    async fn twin(&self) -> Service<MySql> {
        self.twin().await
    }

    fn gate(&self) -> &Arc<Semaphore> {
        &self.gate
    }

    async fn effects(&self) -> i64 {
        self.effects().await
    }

    async fn is_prepared(&self, branch: &Branch) -> bool {
        self.is_prepared(branch).await
    }

    async fn state(&self, branch: &Branch) -> Option<String> {
        self.state(branch).await
    }

    async fn end_by_hand(&self, branch: &Branch, commits: bool) {
        let operation = if commits { "XA COMMIT" } else { "XA ROLLBACK" };
        let end = AssertSqlSafe(format!("{operation} {}", xid(branch)));
        sqlx::raw_sql(end).execute(&self.pool).await.unwrap();
    }

    async fn is_at_work(&self) -> bool {
        self.uncommitted().await > 0
    }

    async fn is_waiting(&self) -> bool {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM information_schema.processlist
             WHERE db = DATABASE() AND info LIKE '%INSERT INTO%unanimo_barrier%' AND id <> connection_id()",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        waiting > 0
    }

    async fn is_clean(&self) {
        self.is_clean().await;
    }

    fn keeps_beside(branch: &Branch) -> String {
        let xid = xid(branch);
        format!("XA END {xid}; XA ROLLBACK {xid}; START TRANSACTION READ WRITE; {INSERT}; COMMIT")
    }

    async fn run_outside(&self, sql: &str) {
        run(&mut self.pool.acquire().await.unwrap(), sql).await.unwrap();
    }
}

/// Every prepared transaction of the server, in SQL.
async fn prepared(pool: &MySqlPool) -> Vec<String> {
    unanimo_tests::mariadb::prepared(pool).await
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Name of a branch's prepared transaction, in SQL.
fn xid(branch: &Branch) -> String {
    let context = &branch.context;
    let (number, cluster) = (context.branch_number, hex(&context.cluster_id));
    let participant = hex(&context.participant);
    format!("X'{}{number:04x}{cluster}',X'{participant}',1431191886", branch.tx_id().simple())
}

fn serve(name: &str, mysql: MySql, gate: &Arc<Semaphore>) -> Service<MySql> {
    let participant = Participant::new(name, mysql)
        .two_phase("plain", Sql::Plain)
        .two_phase("swallow", Sql::Swallow)
        .two_phase("abandon-1", Sql::Abandon(1))
        .two_phase("abandon-2", Sql::Abandon(2))
        .two_phase("refuse", Sql::Refuse)
        .two_phase("repeatable-read", Sql::RepeatableRead)
        .two_phase("read", Sql::Read)
        .two_phase("read-refuse", Sql::ReadRefuse)
        .two_phase("settings", Sql::Settings)
        .two_phase("gate", Sql::Gate(Arc::clone(gate)))
        .two_phase("give-up", Sql::GiveUp { reads: false })
        .two_phase("read-give-up", Sql::GiveUp { reads: true })
        .two_phase("gate-swallow", Sql::GateSwallow(Arc::clone(gate)));
    participant.service().unwrap()
}

const INSERT: &str = "INSERT INTO effect VALUES (1)";

/// Time in which a statement reaches the server.
const MOMENT: Duration = Duration::from_millis(50);

/// A branch of an action that runs this.
fn sql(action: &str, sql: &str) -> Branch {
    let payload = Bytes::copy_from_slice(sql.as_bytes());
    Branch { payload, ..branch(Mode::TwoPhaseCommit, action) }
}

#[track_caller]
fn heuristic(answer: commit_response::Answer) -> HeuristicKind {
    match answer {
        commit_response::Answer::Heuristic(outcome) => outcome.kind(),
        other => panic!("{other:?}"),
    }
}
