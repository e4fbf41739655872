//! A bank with a database server of its own.

mod on_mariadb;

use std::collections::BTreeMap;

use sqlx::{MySqlPool, PgPool};
use unanimo_examples::{accounts, tcc, two_phase};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_sdk::{MySql, Postgres};
use unanimo_tests::recorder::{Recorder, Told};
use unanimo_tests::{mariadb, postgres};

use super::Mode;

/// What each bank's accounts hold at first.
pub(crate) const CAPITAL: i64 = ACCOUNTS as i64 * RICH;

/// Accounts of each bank. Enough for transfers in opposite directions to meet now and then, and not
/// all the time: in two-phase commit only a deadline ends such a deadlock.
pub(crate) const ACCOUNTS: usize = 24;

/// What each account holds at first. Nobody can spend more.
pub(crate) const RICH: i64 = 1_000_000;

/// A bank's database server.
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

    /// As hard as the database can be stopped without a kill.
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
}

type Tell = dyn Fn() -> BTreeMap<(String, String), Told> + Send + Sync;

pub(crate) struct Bank {
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) server: Server,
    url: String,
    told: Box<Tell>,
}

impl Bank {
    pub(crate) async fn open(name: &str, mode: Mode) -> Self {
        let server = postgres::Server::start();
        let url = server.database().await;
        let pool = PgPool::connect(&url).await.unwrap();
        accounts::create(&pool, &opened()).await.unwrap();
        pool.close().await;
        let database = Postgres::connect(&url).await.unwrap();
        let participant = match mode {
            Mode::Tcc => tcc::bank(name, database),
            Mode::TwoPhase => two_phase::bank(name, database),
        };
        Self::serve(name, Server::Postgres(server), url, participant.service().unwrap()).await
    }

    /// One of TCC on MariaDB.
    pub(crate) async fn open_on_mariadb(name: &str) -> Self {
        let server = mariadb::Server::start();
        let url = server.database().await;
        let pool = MySqlPool::connect(&url).await.unwrap();
        on_mariadb::create(&pool, &opened()).await.unwrap();
        pool.close().await;
        let participant = on_mariadb::bank(name, MySql::connect(&url).await.unwrap());
        Self::serve(name, Server::MariaDb(server), url, participant.service().unwrap()).await
    }

    async fn serve<S>(name: &str, server: Server, url: String, service: S) -> Self
    where
        S: ParticipantService + Clone,
    {
        let recorder = Recorder::new(service);
        let endpoint = recorder.serve().await;
        let told = Box::new(move || recorder.told());
        Self { name: name.to_owned(), endpoint, server, url, told }
    }

    /// What each branch, by transaction and branch id, was told.
    pub(crate) fn told(&self) -> BTreeMap<(String, String), Told> {
        (self.told)()
    }

    async fn postgres(&self) -> PgPool {
        PgPool::connect(&self.url).await.unwrap()
    }

    async fn mariadb(&self) -> MySqlPool {
        MySqlPool::connect(&self.url).await.unwrap()
    }

    /// Money that is there, that is held, and that is coming in.
    pub(crate) async fn total(&self) -> (i64, i64, i64) {
        let all = match self.server {
            Server::Postgres(_) => accounts::balances(&self.postgres().await).await,
            Server::MariaDb(_) => on_mariadb::balances(&self.mariadb().await).await,
        };
        all.unwrap().iter().fold((0, 0, 0), |sum, (_, cents, held, incoming)| {
            (sum.0 + cents, sum.1 + held, sum.2 + incoming)
        })
    }

    /// Branches that are neither committed nor cancelled.
    pub(crate) async fn in_doubt(&self) -> i64 {
        let query = match self.server {
            Server::Postgres(_) => {
                let prepared = sqlx::query_scalar("SELECT count(*) FROM pg_prepared_xacts");
                return prepared.fetch_one(&self.postgres().await).await.unwrap();
            }
            Server::MariaDb(_) => "SELECT count(*) FROM unanimo_barrier WHERE state = 'prepared'",
        };
        sqlx::query_scalar(query).fetch_one(&self.mariadb().await).await.unwrap()
    }

    /// The barrier's rows: gid, branch, state.
    pub(crate) async fn barrier(&self) -> Vec<(String, String, String)> {
        let rows = "SELECT gid, branch_id, state FROM unanimo_barrier";
        let found = match self.server {
            Server::Postgres(_) => sqlx::query_as(rows).fetch_all(&self.postgres().await).await,
            Server::MariaDb(_) => sqlx::query_as(rows).fetch_all(&self.mariadb().await).await,
        };
        found.unwrap()
    }
}

/// The accounts at first.
fn opened() -> Vec<(String, i64)> {
    (0..ACCOUNTS).map(|number| (format!("a{number}"), RICH)).collect()
}
