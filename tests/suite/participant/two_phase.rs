//! Two-phase commit on PostgreSQL, where handlers, servers and connections misbehave.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use unanimo_proto::v1::{HeuristicKind, Mode, cancel_response, commit_response, prepare_response};
use unanimo_sdk::{
    Call, Isolation, Participant, PhaseTwoError, PostgresOptions, PrepareError, Service, Tcc,
    TwoPhase, refuse,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::direct::{Branch, branch, refused};
use super::over::{self, Then};
use super::prepared::Database;

#[path = "two_phase/conditions.rs"]
mod conditions;
#[path = "two_phase/doubt.rs"]
mod doubt;
#[path = "two_phase/handlers.rs"]
mod handlers;
#[path = "two_phase/limits.rs"]
mod limits;
#[path = "two_phase/lost.rs"]
mod lost;
#[path = "two_phase/reading.rs"]
mod reading;

/// Runs its payload as SQL, and then does what is special about it.
#[derive(Clone)]
enum Sql {
    /// Passes errors on.
    Plain,
    /// The same as `Plain` in another isolation.
    RepeatableRead,
    /// Takes errors for success.
    Swallow,
    /// Votes no at the end.
    Refuse,
    /// Works in a transaction inside its own, and then commits, drops or forgets that.
    Nested(Then),
    /// Only reads, by its own word; it may swallow errors.
    Read { swallow: bool },
    /// Only reads, by its own word, and votes no at the end.
    ReadRefuse,
    /// Votes no, and tells the settings that it finds.
    Settings,
    /// Waits until it may go on.
    Gate(Arc<Semaphore>),
    /// Gives its statement up after a moment; it may only read, by its own word.
    GiveUp { reads: bool },
}

impl Sql {
    async fn run(&self, db: &mut over::Connection, sql: &[u8]) -> Result<(), PrepareError> {
        let sql = std::str::from_utf8(sql)?;
        match self {
            Self::Plain | Self::RepeatableRead | Self::Read { swallow: false } => {
                over::run(db, sql).await?;
            }
            Self::Swallow | Self::Read { swallow: true } => drop(over::run(db, sql).await),
            Self::Refuse | Self::ReadRefuse => {
                over::run(db, sql).await?;
                return refuse("NO", "as it was told");
            }
            Self::Nested(then) => over::nested(db, sql, *then).await?,
            Self::Settings => return refuse("SETTINGS", over::text(db, SETTINGS).await?),
            Self::GiveUp { .. } => {
                drop(tokio::time::timeout(MOMENT, over::run(db, sql)).await);
            }
            Self::Gate(gate) => {
                over::run(db, sql).await?;
                gate.acquire().await?.forget();
            }
        }
        Ok(())
    }
}

/// Everything that a handler could have left behind on its connection.
const SETTINGS: &str = "
    SELECT concat_ws(' ', current_user = session_user, current_setting('lock_timeout'),
        current_setting('statement_timeout'), current_setting('synchronous_commit'),
        current_setting('search_path'), current_setting('default_transaction_isolation'),
        (SELECT count(*) FROM pg_class WHERE relpersistence = 't'),
        (SELECT count(*) FROM pg_listening_channels()),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_cursors WHERE is_holdable))";

const CLEAN: &str = r#"t 1s 7s on "$user", public read committed 0 0 0 0"#;

impl TwoPhase<over::Database> for Sql {
    type Payload = Bytes;

    async fn prepare(
        &self,
        db: &mut over::Connection,
        call: &Call<Bytes>,
    ) -> Result<(), PrepareError> {
        self.run(db, &call.payload).await
    }

    fn read_only(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::ReadRefuse | Self::GiveUp { reads: true })
    }

    fn isolation(&self) -> Isolation {
        match self {
            Self::RepeatableRead | Self::Nested(_) => Isolation::RepeatableRead,
            _ => Isolation::ReadCommitted,
        }
    }
}

/// The same as TCC: confirm and cancel run the payload, too.
struct TccSql(Sql);

impl Tcc<over::Database> for TccSql {
    type Payload = Bytes;
    type Output = ();

    async fn try_(
        &self,
        db: &mut over::Connection,
        call: &Call<Bytes>,
    ) -> Result<(), PrepareError> {
        self.0.run(db, &call.payload).await
    }

    async fn confirm(
        &self,
        db: &mut over::Connection,
        call: &Call<Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        self.0.run(db, &call.payload).await.map_err(|_| PhaseTwoError::Failed("it failed".into()))
    }

    async fn cancel(
        &self,
        _: &mut over::Connection,
        _: &Call<Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// A database of participant `p`.
pub(crate) struct Bank {
    pool: PgPool,
    url: String,
    service: Service<over::Database>,
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
        let pool = PgPool::connect(&url).await.unwrap();
        let tables = "CREATE TABLE IF NOT EXISTS effect (n integer);
                      CREATE TABLE IF NOT EXISTS parent (n integer PRIMARY KEY);
                      CREATE TABLE IF NOT EXISTS child (
                          n integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED)";
        pool.execute(tables).await.unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let options = PostgresOptions::default()
            .prepare_connections(1)
            .phase_two_connections(1)
            .lock_timeout(Duration::from_secs(1))
            .statement_timeout(Duration::from_secs(7));
        let service = serve(over::connect(options, by).await.unwrap(), &gate);
        Self { pool, url, service, gate }
    }

    /// Another process of the same participant.
    async fn twin(&self) -> Service<over::Database> {
        let database = over::connect(PostgresOptions::default(), &self.url).await.unwrap();
        serve(database, &self.gate)
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

    async fn prepared(&self) -> Vec<String> {
        let list = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
        sqlx::query_scalar(list).fetch_all(&self.pool).await.unwrap()
    }

    /// Tells whether there is such a session in this database.
    async fn there_is(&self, what: &str) -> bool {
        let sessions =
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()";
        let question = AssertSqlSafe(format!("{sessions} AND {what})"));
        sqlx::query_scalar(question).fetch_one(&self.pool).await.unwrap()
    }

    /// State of the branch's row, if there is one.
    async fn state(&self, branch: &Branch) -> Option<String> {
        sqlx::query_scalar("SELECT state FROM unanimo_barrier WHERE tx_id = $1")
            .bind(branch.tx_id())
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
}

async fn behind_a_proxy() -> (Bank, Proxy) {
    let server = Server::shared();
    let url = server.database().await;
    let proxy = Proxy::start(server.socket()).await;
    let by = proxy.url(&url);
    (Bank::at(url, &by).await, proxy)
}

impl Database for Bank {
    type Resource = over::Database;

    const PREPARE: &'static str = "PREPARE TRANSACTION";
    const COMMIT: &'static str = "COMMIT PREPARED";
    const ROLLBACK: &'static str = "ROLLBACK PREPARED";
    const KILL: &'static str = "SELECT pg_terminate_backend(pg_backend_pid())";

    async fn open() -> Self {
        Self::on(Server::shared()).await
    }

    async fn behind_a_proxy() -> (Self, Proxy) {
        behind_a_proxy().await
    }

    fn service(&self) -> &Service<over::Database> {
        &self.service
    }

    async fn twin(&self) -> Service<over::Database> {
        self.twin().await
    }

    fn gate(&self) -> &Arc<Semaphore> {
        &self.gate
    }

    async fn effects(&self) -> i64 {
        self.effects().await
    }

    async fn is_prepared(&self, branch: &Branch) -> bool {
        self.prepared().await.contains(&branch.name())
    }

    async fn state(&self, branch: &Branch) -> Option<String> {
        self.state(branch).await
    }

    async fn end_by_hand(&self, branch: &Branch, commits: bool) {
        let operation = if commits { "COMMIT PREPARED" } else { "ROLLBACK PREPARED" };
        let end = AssertSqlSafe(format!("{operation} '{}'", branch.name()));
        self.pool.execute(end).await.unwrap();
    }

    async fn is_at_work(&self) -> bool {
        self.there_is("state = 'idle in transaction' AND query = 'INSERT INTO effect VALUES (1)'")
            .await
    }

    async fn is_waiting(&self) -> bool {
        self.there_is("wait_event_type = 'Lock'").await
    }

    async fn is_clean(&self) {
        self.is_clean().await;
    }

    fn keeps_beside(_: &Branch) -> String {
        format!("ROLLBACK; BEGIN READ WRITE; {INSERT}; COMMIT")
    }

    async fn run_outside(&self, sql: &str) {
        self.pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }
}

fn serve(database: over::Database, gate: &Arc<Semaphore>) -> Service<over::Database> {
    let participant = Participant::new("p", database)
        .two_phase("plain", Sql::Plain)
        .two_phase("repeatable-read", Sql::RepeatableRead)
        .two_phase("swallow", Sql::Swallow)
        .two_phase("refuse", Sql::Refuse)
        .two_phase("nested-commit", Sql::Nested(Then::Commit))
        .two_phase("nested-drop", Sql::Nested(Then::Drop))
        .two_phase("nested-forget", Sql::Nested(Then::Forget))
        .two_phase("nested-abandon", Sql::Nested(Then::Abandon))
        .two_phase("read", Sql::Read { swallow: false })
        .two_phase("read-swallow", Sql::Read { swallow: true })
        .two_phase("read-refuse", Sql::ReadRefuse)
        .two_phase("settings", Sql::Settings)
        .two_phase("gate", Sql::Gate(Arc::clone(gate)))
        .two_phase("give-up", Sql::GiveUp { reads: false })
        .two_phase("read-give-up", Sql::GiveUp { reads: true })
        .tcc("tcc", TccSql(Sql::Plain))
        .tcc("tcc-swallow", TccSql(Sql::Swallow))
        .tcc("tcc-abandon", TccSql(Sql::Nested(Then::Abandon)))
        .tcc("tcc-forget", TccSql(Sql::Nested(Then::Forget)));
    participant.service().unwrap()
}

const INSERT: &str = "INSERT INTO effect VALUES (1)";

/// Time in which a statement reaches the server.
const MOMENT: Duration = Duration::from_millis(50);

/// A branch of an action that runs this.
fn sql(action: &str, sql: &str) -> Branch {
    let mode = if action.starts_with("tcc") { Mode::Tcc } else { Mode::TwoPhaseCommit };
    Branch { payload: Bytes::copy_from_slice(sql.as_bytes()), ..branch(mode, action) }
}

#[track_caller]
fn heuristic(answer: commit_response::Answer) -> HeuristicKind {
    match answer {
        commit_response::Answer::Heuristic(outcome) => outcome.kind(),
        other => panic!("{other:?}"),
    }
}
