//! A bank of the examples: a process of its own, with a database server of its own.

use sqlx::PgPool;
use unanimo_examples::accounts;
use unanimo_tests::forward::Forward;
use unanimo_tests::postgres::Server;
use unanimo_tests::recorder::Recorder;

use super::Mode;
use super::process::Process;

/// What each bank's accounts hold at first.
pub(crate) const CAPITAL: i64 = ACCOUNTS as i64 * RICH;

/// Accounts of each bank. Enough for transfers in opposite directions to meet now and then, and not
/// all the time: in two-phase commit only a deadline ends such a deadlock.
pub(crate) const ACCOUNTS: usize = 24;

/// What each account holds at first. Nobody can spend more.
pub(crate) const RICH: i64 = 1_000_000;

/// A transaction that some other program has prepared in the same database.
const OTHERS: &str = "some other program's";

const OTHERS_WORK: &str =
    "BEGIN; CREATE TABLE others (); PREPARE TRANSACTION 'some other program''s'";

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
        let server = Server::start();
        let url = server.database().await;
        let pool = PgPool::connect(&url).await.unwrap();
        let opened: Vec<_> = (0..ACCOUNTS).map(|number| (format!("a{number}"), RICH)).collect();
        accounts::create(&pool, &opened).await.unwrap();
        sqlx::raw_sql(OTHERS_WORK).execute(&pool).await.unwrap();
        pool.close().await;
        let mode = match mode {
            Mode::Tcc => "tcc",
            Mode::TwoPhase => "two-phase",
        };
        let arguments = [mode, name, &url].map(str::to_owned).to_vec();
        let process = Process::start(env!("CARGO_BIN_EXE_bank-under-test"), arguments).await;
        let recorder = Recorder::new(Forward::to(process.url()));
        let endpoint = recorder.serve().await;
        Self { name: name.to_owned(), process, recorder, endpoint, server, url }
    }

    async fn connect(&self) -> PgPool {
        PgPool::connect(&self.url).await.unwrap()
    }

    /// Money that is there, that is held, and that is coming in.
    pub(crate) async fn total(&self) -> (i64, i64, i64) {
        let all = accounts::balances(&self.connect().await).await.unwrap();
        all.iter().fold((0, 0, 0), |sum, (_, cents, held, incoming)| {
            (sum.0 + cents, sum.1 + held, sum.2 + incoming)
        })
    }

    /// Names of what is left prepared, but for what others prepared.
    pub(crate) async fn in_doubt(&self) -> Vec<String> {
        let all: Vec<String> = sqlx::query_scalar("SELECT gid FROM pg_prepared_xacts")
            .fetch_all(&self.connect().await)
            .await
            .unwrap();
        let (others, ours): (Vec<_>, Vec<_>) = all.into_iter().partition(|gid| gid == OTHERS);
        assert_eq!(others, [OTHERS], "S12: what others prepared is untouched");
        ours
    }

    /// The barrier's rows: gid, branch, state.
    pub(crate) async fn barrier(&self) -> Vec<(String, String, String)> {
        sqlx::query_as("SELECT gid, branch_id, state FROM unanimo_barrier")
            .fetch_all(&self.connect().await)
            .await
            .unwrap()
    }
}
