//! Participant of sagas, in a process and with a database of its own.

use sqlx::{PgPool, SqlitePool};
use unanimo_tests::relay::Relay;
use unanimo_tests::{postgres, reaper};
use uuid::Uuid;

use super::super::process::Process;

/// Effect that a participant has recorded, in the local transaction that made it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Effect {
    pub(crate) gid: String,
    pub(crate) step: String,
    /// Either `did`, `undid` or `confirmed`.
    pub(crate) what: String,
    /// When its handler began, and came to its end, by the machine's clock.
    pub(crate) began_us: i64,
    pub(crate) ended_us: i64,
    /// Inputs that the handler got: `NAME=VALUE NAME=VALUE`.
    pub(crate) inputs: String,
    /// Output that the handler returned in phase one, and got in phase two.
    pub(crate) output: String,
}

const CREATE: &str = "CREATE TABLE effect (gid text NOT NULL, step text NOT NULL, what text NOT NULL,
     began_us bigint NOT NULL, ended_us bigint NOT NULL, inputs text NOT NULL, output text NOT NULL)";

const EFFECTS: &str = "SELECT gid, step, what, began_us, ended_us, inputs, output FROM effect";

const IN_DOUBT: &str =
    "SELECT gid || ' ' || branch_id FROM unanimo_barrier WHERE state = 'prepared' ORDER BY 1";

enum Data {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

pub(crate) struct Worker {
    pub(crate) process: Process,
    data: Data,
}

impl Worker {
    pub(crate) async fn on_postgres(name: &str, coordinator: &str) -> Self {
        let url = postgres::Server::shared().database().await;
        let pool = PgPool::connect(&url).await.unwrap();
        sqlx::raw_sql(CREATE).execute(&pool).await.unwrap();
        Self { process: serve(name, &url, coordinator).await, data: Data::Postgres(pool) }
    }

    pub(crate) async fn on_sqlite(name: &str, coordinator: &str) -> Self {
        let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
        let file = file.display().to_string();
        let pool = SqlitePool::connect(&format!("sqlite:{file}?mode=rwc")).await.unwrap();
        // The participant keeps it in this journal mode, too: nobody changes it under the other.
        sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&pool).await.unwrap();
        sqlx::raw_sql(CREATE).execute(&pool).await.unwrap();
        Self { process: serve(name, &file, coordinator).await, data: Data::Sqlite(pool) }
    }

    /// Returns what it has recorded.
    pub(crate) async fn effects(&self) -> Vec<Effect> {
        let found = match &self.data {
            Data::Postgres(pool) => sqlx::query_as(EFFECTS).fetch_all(pool).await,
            Data::Sqlite(pool) => sqlx::query_as(EFFECTS).fetch_all(pool).await,
        };
        found.unwrap()
    }

    /// Returns the steps that are prepared, and not known to be over.
    pub(crate) async fn in_doubt(&self) -> Vec<String> {
        let found = match &self.data {
            Data::Postgres(pool) => sqlx::query_scalar(IN_DOUBT).fetch_all(pool).await,
            Data::Sqlite(pool) => sqlx::query_scalar(IN_DOUBT).fetch_all(pool).await,
        };
        found.unwrap()
    }
}

async fn serve(name: &str, database: &str, coordinator: &str) -> Process {
    let relay = Relay::start().await;
    let endpoint = relay.url();
    let arguments = [name, database, coordinator, &endpoint].map(str::to_owned).to_vec();
    Process::start_behind(relay, env!("CARGO_BIN_EXE_steps-under-test"), arguments)
}
