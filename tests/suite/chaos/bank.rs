//! Bank in a process of its own, with a database server of its own.

use rustix::process::Pid;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, MySqlPool, PgPool};
use unanimo_examples::accounts;
use unanimo_tests::forward::Forward;
use unanimo_tests::recorder::Recorder;
use unanimo_tests::{bank, mariadb, postgres};

use super::Mode;
use super::process::Process;

/// Sum of a bank's accounts at the start, in cents.
pub(crate) const CAPITAL: i64 = ACCOUNTS as i64 * RICH;

/// Accounts of each bank. Enough for transfers in opposite directions to meet now and then, and not
/// all the time: in two-phase commit only a deadline ends such a deadlock.
pub(crate) const ACCOUNTS: usize = 24;

/// Money of an account at the start, in cents. A transfer of more is refused.
pub(crate) const RICH: i64 = 1_000_000;

/// Name of a transaction that another program has prepared in the same database.
const OTHERS: &str = "some other program's";

const OTHERS_WORK: &str =
    "BEGIN; CREATE TABLE others (); PREPARE TRANSACTION 'some other program''s'";

/// The same on MariaDB. One has a name of our format that no participant would give.
const OTHERS_ON_MARIADB: [&str; 2] = ["'some other program',''", "X'7878',X'7878',1431191886"];

/// Database server of a bank.
pub(crate) enum Server {
    Postgres(postgres::Server),
    MariaDb(mariadb::Server),
}

impl Server {
    pub(crate) fn kill(&self) {
        match self {
            Self::Postgres(server) => server.kill(),
            Self::MariaDb(server) => server.kill(),
        }
    }

    /// Stops the server at once; MariaDB only by a kill.
    pub(crate) fn stop_immediately(&self) {
        match self {
            Self::Postgres(server) => server.stop_immediately(),
            Self::MariaDb(server) => server.kill(),
        }
    }

    pub(crate) fn launch(&self) {
        match self {
            Self::Postgres(server) => server.launch(),
            Self::MariaDb(server) => server.launch(),
        }
    }

    /// Starts the server again if its process has ended.
    pub(crate) fn launch_if_dead(&self) {
        match self {
            Self::Postgres(server) => server.launch_if_dead(),
            Self::MariaDb(server) => server.launch_if_dead(),
        }
    }

    /// Returns the id of its main process.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self {
            Self::Postgres(server) => server.pid(),
            Self::MariaDb(server) => server.pid(),
        }
    }
}

pub(crate) struct Bank {
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) recorder: Recorder<Forward>,
    pub(crate) endpoint: String,
    pub(crate) server: Server,
    url: String,
}

impl Bank {
    pub(crate) async fn open(name: &str, mode: Mode) -> Self {
        let kind = match mode {
            Mode::Tcc => "tcc",
            Mode::TwoPhase => "two-phase",
        };
        Self::open_kind(name, kind).await
    }

    /// Opens a bank whose driver is `tokio-postgres`.
    pub(crate) async fn open_over_tokio(name: &str, mode: Mode) -> Self {
        let kind = match mode {
            Mode::Tcc => "tcc-over-tokio",
            Mode::TwoPhase => "two-phase-over-tokio",
        };
        Self::open_kind(name, kind).await
    }

    async fn open_kind(name: &str, kind: &str) -> Self {
        let server = postgres::Server::start();
        let url = server.database().await;
        let pool = PgPool::connect(&url).await.unwrap();
        accounts::create(&pool, &opened()).await.unwrap();
        sqlx::raw_sql(OTHERS_WORK).execute(&pool).await.unwrap();
        pool.close().await;
        Self::serve(kind, name, Server::Postgres(server), url).await
    }

    /// Opens a bank on MariaDB.
    pub(crate) async fn open_on_mariadb(name: &str, mode: Mode) -> Self {
        let server = mariadb::Server::start();
        let url = server.database().await;
        let pool = MySqlPool::connect(&url).await.unwrap();
        bank::mariadb::create(&pool, &opened()).await.unwrap();
        sqlx::raw_sql("CREATE TABLE others (n int)").execute(&pool).await.unwrap();
        for other in OTHERS_ON_MARIADB {
            let work = format!(
                "XA START {other}; INSERT INTO others VALUES (1); XA END {other}; XA PREPARE {other}"
            );
            let mut session = MySqlConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(work)).execute(&mut session).await.unwrap();
            session.close().await.unwrap();
        }
        pool.close().await;
        let mode = match mode {
            Mode::Tcc => "tcc-on-mariadb",
            Mode::TwoPhase => "two-phase-on-mariadb",
        };
        Self::serve(mode, name, Server::MariaDb(server), url).await
    }

    async fn serve(kind: &str, name: &str, server: Server, url: String) -> Self {
        let arguments = [kind, name, &url].map(str::to_owned).to_vec();
        let process = Process::start(env!("CARGO_BIN_EXE_bank-under-test"), arguments).await;
        let recorder = Recorder::new(Forward::to(process.url()));
        let endpoint = recorder.serve().await;
        Self { name: name.to_owned(), process, recorder, endpoint, server, url }
    }

    async fn postgres(&self) -> PgPool {
        PgPool::connect(&self.url).await.unwrap()
    }

    async fn mariadb(&self) -> MySqlPool {
        MySqlPool::connect(&self.url).await.unwrap()
    }

    /// Returns the sums of all accounts: cents, held, incoming.
    pub(crate) async fn total(&self) -> (i64, i64, i64) {
        let all = match self.server {
            Server::Postgres(_) => accounts::balances(&self.postgres().await).await,
            Server::MariaDb(_) => bank::mariadb::balances(&self.mariadb().await).await,
        };
        all.unwrap().iter().fold((0, 0, 0), |sum, (_, cents, held, incoming)| {
            (sum.0 + cents, sum.1 + held, sum.2 + incoming)
        })
    }

    /// Returns the names of branches that are still prepared, without those of other programs.
    pub(crate) async fn in_doubt(&self) -> Vec<String> {
        match self.server {
            Server::Postgres(_) => {
                let all: Vec<String> = sqlx::query_scalar("SELECT gid FROM pg_prepared_xacts")
                    .fetch_all(&self.postgres().await)
                    .await
                    .unwrap();
                let (others, ours): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|gid| gid == OTHERS);
                assert_eq!(others, [OTHERS], "S12: what others prepared is untouched");
                ours
            }
            Server::MariaDb(_) => {
                let pool = self.mariadb().await;
                let rows = "SELECT gid FROM unanimo_barrier WHERE state = 'prepared'";
                let mut all: Vec<String> = sqlx::query_scalar(rows).fetch_all(&pool).await.unwrap();
                let listed = unanimo_tests::mariadb::prepared(&pool).await.into_iter();
                let (others, ours): (Vec<_>, Vec<_>) = listed.partition(|name| {
                    name.contains("some other program") || name.starts_with("'xx'")
                });
                assert_eq!(others.len(), 2, "S12: what others prepared is untouched: {ours:?}");
                all.extend(ours);
                all
            }
        }
    }

    /// Returns the barrier's rows: gid, branch id, state.
    pub(crate) async fn barrier(&self) -> Vec<(String, String, String)> {
        let rows = "SELECT gid, branch_id, state FROM unanimo_barrier";
        let found = match self.server {
            Server::Postgres(_) => sqlx::query_as(rows).fetch_all(&self.postgres().await).await,
            Server::MariaDb(_) => sqlx::query_as(rows).fetch_all(&self.mariadb().await).await,
        };
        found.unwrap()
    }
}

/// Returns the accounts at the start.
fn opened() -> Vec<(String, i64)> {
    (0..ACCOUNTS).map(|number| (format!("a{number}"), RICH)).collect()
}
