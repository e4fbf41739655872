//! A participant whose handlers do as each call's payload says, on a database of every kind.

use std::time::Duration;

use sqlx::{MySqlConnection, MySqlPool, PgConnection, PgPool, SqliteConnection, SqlitePool};
use tonic::Request;
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CommitRequest, HeuristicKind, Mode as WireMode, PrepareRequest,
    cancel_response, commit_response, prepare_response,
};
use unanimo_sdk::{
    Isolation, MySqlOptions, Participant as Making, PhaseTwoError, PostgresOptions, PrepareError,
    Sqlite, Tcc, TokioConnection, TokioPostgres, TwoPhase, refuse,
};
use unanimo_tests::mariadb;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::reaper::run_folder;

use super::Participant;
use super::rules::Heard;
use super::schedule::{Call, Fault, Operation, Schedule};
use crate::participant::databases::OverTokio;

const TABLE: &str = "CREATE TABLE effect (tx_id varchar(36), what varchar(10))";

/// Short: calls that wait for one another are part of many schedules.
const LOCK_TIMEOUT: Duration = Duration::from_millis(300);

/// The same where it is counted in whole seconds.
const MARIADB_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections of each phase, so that those who wait keep out nobody who does not.
const MARIADB_CONNECTIONS: u32 = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Tcc,
    TwoPhase,
}

/// Number of times that each operation of a branch has had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Effects {
    pub(super) prepared: i64,
    pub(super) committed: i64,
    pub(super) cancelled: i64,
}

enum Pool {
    MariaDb(MySqlPool),
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

pub(super) struct Lab {
    name: &'static str,
    mode: Mode,
    participant: Participant,
    pool: Pool,
}

impl Lab {
    pub(super) async fn tcc_on_postgres() -> Self {
        let (pool, database) = postgres().await;
        let making = Making::new("p", database)
            .tcc("act", Handler(Isolation::ReadCommitted))
            .tcc("act-rr", Handler(Isolation::RepeatableRead));
        let participant = Box::new(making.service().unwrap());
        Self { name: "PostgreSQL", mode: Mode::Tcc, participant, pool: Pool::Postgres(pool) }
    }

    pub(super) async fn two_phase_on_postgres() -> Self {
        let (pool, database) = postgres().await;
        let making = Making::new("p", database)
            .two_phase("act", Handler(Isolation::ReadCommitted))
            .two_phase("act-rr", Handler(Isolation::RepeatableRead));
        let participant = Box::new(making.service().unwrap());
        Self { name: "PostgreSQL", mode: Mode::TwoPhase, participant, pool: Pool::Postgres(pool) }
    }

    pub(super) async fn tcc_over_tokio() -> Self {
        let (pool, database) = over_tokio().await;
        let making = Making::new("p", database)
            .tcc("act", Handler(Isolation::ReadCommitted))
            .tcc("act-rr", Handler(Isolation::RepeatableRead));
        let participant = Box::new(making.service().unwrap());
        Self { name: "tokio-postgres", mode: Mode::Tcc, participant, pool: Pool::Postgres(pool) }
    }

    pub(super) async fn two_phase_over_tokio() -> Self {
        let (pool, database) = over_tokio().await;
        let making = Making::new("p", database)
            .two_phase("act", Handler(Isolation::ReadCommitted))
            .two_phase("act-rr", Handler(Isolation::RepeatableRead));
        let participant = Box::new(making.service().unwrap());
        let (name, mode) = ("tokio-postgres", Mode::TwoPhase);
        Self { name, mode, participant, pool: Pool::Postgres(pool) }
    }

    pub(super) async fn two_phase_on_mariadb() -> Self {
        Self::two_phase_on(mariadb().await)
    }

    /// Through a proxy that keeps `pseudo_slave_mode` from the server.
    pub(super) async fn two_phase_on_mariadb_whose_sessions_keep_transactions() -> Self {
        let server = mariadb::Server::shared();
        let proxy = Proxy::start(server.socket()).await;
        proxy.rewrite("pseudo_slave_mode", "pseudo_slave_none");
        let url = server.database().await;
        Self::two_phase_on(mariadb_by(&url, &proxy.mariadb_url(&url)).await)
    }

    fn two_phase_on((pool, database): (MySqlPool, unanimo_sdk::MySql)) -> Self {
        let making = Making::new("p", database)
            .two_phase("act", Handler(Isolation::ReadCommitted))
            .two_phase("act-rr", Handler(Isolation::RepeatableRead));
        let participant = Box::new(making.service().unwrap());
        Self { name: "MariaDB", mode: Mode::TwoPhase, participant, pool: Pool::MariaDb(pool) }
    }

    pub(super) async fn tcc_on_mariadb() -> Self {
        let (pool, database) = mariadb().await;
        let making = Making::new("p", database)
            .tcc("act", Handler(Isolation::ReadCommitted))
            .tcc("act-rr", Handler(Isolation::RepeatableRead));
        let participant = Box::new(making.service().unwrap());
        Self { name: "MariaDB", mode: Mode::Tcc, participant, pool: Pool::MariaDb(pool) }
    }

    pub(super) async fn tcc_on_sqlite() -> Self {
        let file = run_folder().join(format!("{}.db", uuid::Uuid::new_v4()));
        let pool =
            SqlitePool::connect(&format!("sqlite:{}?mode=rwc", file.display())).await.unwrap();
        sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
        let database = Sqlite::open(&file).await.unwrap();
        let making = Making::new("p", database)
            .tcc("act", Handler(Isolation::ReadCommitted))
            .tcc("act-rr", Handler(Isolation::RepeatableRead));
        let participant = Box::new(making.service().unwrap());
        Self { name: "SQLite", mode: Mode::Tcc, participant, pool: Pool::Sqlite(pool) }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Calls the participant. An error, and an answer that it is at work, tell nothing.
    pub(super) async fn call(&self, schedule: &Schedule, call: Call) -> Heard {
        let heard = match call.operation {
            Operation::Prepare => self.prepare(schedule, call).await,
            Operation::Commit => self.commit(schedule, call).await,
            Operation::Cancel => self.cancel(schedule, call).await,
        };
        if call.fault == Fault::AnswerLost { Heard::Nothing } else { heard }
    }

    fn context(&self, schedule: &Schedule) -> Option<BranchContext> {
        let mode = match self.mode {
            Mode::Tcc => WireMode::Tcc,
            Mode::TwoPhase => WireMode::TwoPhaseCommit,
        };
        Some(BranchContext {
            tx_id: schedule.tx_id.to_string(),
            gid: "g".into(),
            branch_id: "b".into(),
            branch_number: 1,
            cluster_id: "c".into(),
            participant: "p".into(),
            mode: mode.into(),
            database_id: String::new(),
            database_place: String::new(),
        })
    }

    async fn prepare(&self, schedule: &Schedule, call: Call) -> Heard {
        use prepare_response::Answer;
        let request = PrepareRequest {
            context: self.context(schedule),
            action: action(schedule).into(),
            payload: unanimo_tests::payload(payload(call)),
            prepare_until: Some(until(call.fault == Fault::Late)),
            ..Default::default()
        };
        match self.participant.prepare(Request::new(request)).await {
            Ok(response) => match response.into_inner().answer {
                Some(Answer::Prepared(_)) => Heard::Yes,
                Some(Answer::Refused(_)) => Heard::No,
                Some(Answer::Working(_)) => Heard::Nothing,
                other => panic!("{other:?} is no answer to this"),
            },
            Err(_) => Heard::Nothing,
        }
    }

    async fn commit(&self, schedule: &Schedule, call: Call) -> Heard {
        use commit_response::Answer;
        let request = CommitRequest {
            context: self.context(schedule),
            action: action(schedule).into(),
            payload: unanimo_tests::payload(payload(call)),
            ..Default::default()
        };
        match self.participant.commit(Request::new(request)).await {
            Ok(response) => match response.into_inner().answer {
                Some(Answer::Done(_)) => Heard::Done,
                Some(Answer::Heuristic(outcome)) => heuristic(outcome.kind()),
                Some(Answer::Working(_)) => Heard::Nothing,
                None => panic!("nothing is no answer"),
            },
            Err(_) => Heard::Nothing,
        }
    }

    async fn cancel(&self, schedule: &Schedule, call: Call) -> Heard {
        use cancel_response::Answer;
        // As the branch's Prepare had it.
        let is_late = schedule.groups.iter().flatten().any(|call| call.fault == Fault::Late);
        let request = CancelRequest {
            context: self.context(schedule),
            action: action(schedule).into(),
            payload: unanimo_tests::payload(payload(call)),
            prepare_until: Some(until(is_late)),
            ..Default::default()
        };
        match self.participant.cancel(Request::new(request)).await {
            Ok(response) => match response.into_inner().answer {
                Some(Answer::Done(_)) => Heard::Done,
                Some(Answer::Heuristic(outcome)) => heuristic(outcome.kind()),
                Some(Answer::Working(_)) => Heard::Nothing,
                None => panic!("nothing is no answer"),
            },
            Err(_) => Heard::Nothing,
        }
    }

    pub(super) async fn effects(&self, schedule: &Schedule) -> Effects {
        const COUNT: &str = "SELECT what FROM effect WHERE tx_id = $1";
        const COUNT_MARIADB: &str = "SELECT what FROM effect WHERE tx_id = ?";
        let tx_id = schedule.tx_id.to_string();
        let effects: Vec<String> = match &self.pool {
            Pool::MariaDb(pool) => {
                sqlx::query_scalar(COUNT_MARIADB).bind(tx_id).fetch_all(pool).await
            }
            Pool::Postgres(pool) => sqlx::query_scalar(COUNT).bind(tx_id).fetch_all(pool).await,
            Pool::Sqlite(pool) => sqlx::query_scalar(COUNT).bind(tx_id).fetch_all(pool).await,
        }
        .unwrap();
        let count =
            |what| i64::try_from(effects.iter().filter(|effect| *effect == what).count()).unwrap();
        Effects {
            prepared: count("prepare"),
            committed: count("commit"),
            cancelled: count("cancel"),
        }
    }

    /// No prepared transaction, and no row that somebody forgot.
    pub(super) async fn check_nothing_is_left(&self) {
        const RUNNING: &str =
            "SELECT count(*) FROM unanimo_barrier WHERE state IN ('running', 'prepared')";
        let left: i64 = match &self.pool {
            Pool::Postgres(pool) => {
                let prepared: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()",
                )
                .fetch_one(pool)
                .await
                .unwrap();
                assert_eq!(prepared, 0, "nothing is left prepared");
                sqlx::query_scalar(RUNNING).fetch_one(pool).await.unwrap()
            }
            Pool::MariaDb(pool) => {
                // The server's list has no database: rows in doubt are those that only a dirty read sees.
                let dirty =
                    pool.begin_with("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; BEGIN");
                let mut dirty = dirty.await.unwrap();
                let all: i64 = sqlx::query_scalar("SELECT count(*) FROM unanimo_barrier")
                    .fetch_one(&mut *dirty)
                    .await
                    .unwrap();
                dirty.rollback().await.unwrap();
                let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM unanimo_barrier")
                    .fetch_one(pool)
                    .await
                    .unwrap();
                assert_eq!(all, seen, "nothing is left prepared");
                sqlx::query_scalar(RUNNING).fetch_one(pool).await.unwrap()
            }
            Pool::Sqlite(pool) => sqlx::query_scalar(RUNNING).fetch_one(pool).await.unwrap(),
        };
        assert_eq!(left, 0, "every branch has ended");
    }
}

async fn postgres() -> (PgPool, unanimo_sdk::Postgres) {
    let (pool, url) = database().await;
    let options = PostgresOptions::default().lock_timeout(LOCK_TIMEOUT);
    (pool, options.connect(&url).await.unwrap())
}

async fn over_tokio() -> (PgPool, OverTokio) {
    let (pool, url) = database().await;
    let options = PostgresOptions::default().lock_timeout(LOCK_TIMEOUT);
    (pool, options.over(TokioPostgres::new(url.parse().unwrap())).await.unwrap())
}

async fn database() -> (PgPool, String) {
    let url = Server::shared().database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
    (pool, url)
}

async fn mariadb() -> (MySqlPool, unanimo_sdk::MySql) {
    let url = mariadb::Server::shared().database().await;
    mariadb_by(&url, &url).await
}

/// The participant reaches it by another address.
async fn mariadb_by(url: &str, by: &str) -> (MySqlPool, unanimo_sdk::MySql) {
    let pool = MySqlPool::connect(url).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
    let options = MySqlOptions::default()
        .prepare_connections(MARIADB_CONNECTIONS)
        .phase_two_connections(MARIADB_CONNECTIONS)
        .lock_timeout(MARIADB_LOCK_TIMEOUT);
    (pool, options.connect(by).await.unwrap())
}

fn action(schedule: &Schedule) -> &'static str {
    if schedule.repeatable_read { "act-rr" } else { "act" }
}

/// Returns a bound that is long past, or far away.
fn until(past: bool) -> prost_types::Timestamp {
    let away = std::time::SystemTime::now() + Duration::from_secs(3600);
    if past { prost_types::Timestamp { seconds: 1, nanos: 0 } } else { away.into() }
}

fn payload(call: Call) -> bytes::Bytes {
    let fault = match call.fault {
        Fault::Refuses => "refuses",
        Fault::Fails => "fails",
        Fault::Dies => "dies",
        Fault::None | Fault::AnswerLost | Fault::Late => "",
    };
    bytes::Bytes::from_static(fault.as_bytes())
}

fn heuristic(kind: HeuristicKind) -> Heard {
    match kind {
        HeuristicKind::Commit => Heard::HeuristicCommit,
        HeuristicKind::Rollback => Heard::HeuristicRollback,
        HeuristicKind::Unspecified | HeuristicKind::Hazard => Heard::Hazard,
    }
}

/// Writes down that it was there, and then does as its payload says.
struct Handler(Isolation);

type Asked = unanimo_sdk::Call<bytes::Bytes>;

/// The handlers' work on each database.
trait Work {
    type Error: std::error::Error + Send + Sync + 'static;

    async fn note(&mut self, call: &Asked, what: &'static str) -> Result<(), Self::Error>;
    async fn die(&mut self) -> Result<(), Self::Error>;
}

const NOTE: &str = "INSERT INTO effect (tx_id, what) VALUES ($1, $2)";

impl Work for PgConnection {
    type Error = sqlx::Error;

    async fn note(&mut self, call: &Asked, what: &'static str) -> sqlx::Result<()> {
        let note = sqlx::query(NOTE).bind(call.branch.tx_id.to_string()).bind(what);
        note.execute(self).await.map(drop)
    }

    async fn die(&mut self) -> sqlx::Result<()> {
        sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())").execute(self).await.map(drop)
    }
}

impl Work for TokioConnection {
    type Error = tokio_postgres::Error;

    async fn note(&mut self, call: &Asked, what: &'static str) -> Result<(), Self::Error> {
        self.execute(NOTE, &[&call.branch.tx_id.to_string(), &what]).await.map(drop)
    }

    async fn die(&mut self) -> Result<(), Self::Error> {
        self.batch_execute("SELECT pg_terminate_backend(pg_backend_pid())").await
    }
}

impl Work for MySqlConnection {
    type Error = sqlx::Error;

    async fn note(&mut self, call: &Asked, what: &'static str) -> sqlx::Result<()> {
        let note = sqlx::query("INSERT INTO effect (tx_id, what) VALUES (?, ?)");
        note.bind(call.branch.tx_id.to_string()).bind(what).execute(self).await.map(drop)
    }

    async fn die(&mut self) -> sqlx::Result<()> {
        sqlx::query("KILL CONNECTION_ID()").execute(self).await.map(drop)
    }
}

impl Work for SqliteConnection {
    type Error = sqlx::Error;

    async fn note(&mut self, call: &Asked, what: &'static str) -> sqlx::Result<()> {
        let note = sqlx::query(NOTE).bind(call.branch.tx_id.to_string()).bind(what);
        note.execute(self).await.map(drop)
    }

    /// There is no connection that could die without its process.
    async fn die(&mut self) -> sqlx::Result<()> {
        Err(sqlx::Error::WorkerCrashed)
    }
}

async fn phase_one<W: Work>(db: &mut W, call: &Asked) -> Result<(), PrepareError> {
    db.note(call, "prepare").await?;
    match call.payload.as_ref() {
        b"refuses" => refuse("NO", "as asked"),
        b"fails" => Err(sqlx::Error::RowNotFound.into()),
        b"dies" => Ok(db.die().await?),
        _ => Ok(()),
    }
}

async fn phase_two<W: Work>(
    db: &mut W,
    call: &Asked,
    what: &'static str,
) -> Result<(), PhaseTwoError> {
    db.note(call, what).await?;
    match call.payload.as_ref() {
        b"fails" => Err(sqlx::Error::RowNotFound.into()),
        b"dies" => Ok(db.die().await?),
        _ => Ok(()),
    }
}

macro_rules! tcc_handler {
    ($resource:ty, $connection:ty) => {
        impl Tcc<$resource> for Handler {
            type Payload = bytes::Bytes;
            type Output = ();

            async fn try_(&self, db: &mut $connection, call: &Asked) -> Result<(), PrepareError> {
                phase_one(db, call).await
            }

            async fn confirm(
                &self,
                db: &mut $connection,
                call: &Asked,
                (): (),
            ) -> Result<(), PhaseTwoError> {
                phase_two(db, call, "commit").await
            }

            async fn cancel(
                &self,
                db: &mut $connection,
                call: &Asked,
                (): (),
            ) -> Result<(), PhaseTwoError> {
                phase_two(db, call, "cancel").await
            }

            fn isolation(&self) -> Isolation {
                self.0
            }
        }
    };
}

tcc_handler!(unanimo_sdk::Postgres, PgConnection);
tcc_handler!(OverTokio, TokioConnection);
tcc_handler!(unanimo_sdk::MySql, MySqlConnection);
tcc_handler!(Sqlite, SqliteConnection);

macro_rules! two_phase_handler {
    ($resource:ty, $connection:ty) => {
        impl TwoPhase<$resource> for Handler {
            type Payload = bytes::Bytes;

            async fn prepare(
                &self,
                db: &mut $connection,
                call: &Asked,
            ) -> Result<(), PrepareError> {
                phase_one(db, call).await
            }

            fn isolation(&self) -> Isolation {
                self.0
            }
        }
    };
}

two_phase_handler!(unanimo_sdk::Postgres, PgConnection);
two_phase_handler!(OverTokio, TokioConnection);
two_phase_handler!(unanimo_sdk::MySql, MySqlConnection);
