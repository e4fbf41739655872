//! A bank of the examples, with a database server of its own.

use sqlx::PgPool;
use unanimo_examples::{accounts, tcc, two_phase};
use unanimo_sdk::{Postgres, Service};
use unanimo_tests::postgres::Server;
use unanimo_tests::recorder::Recorder;

use super::Mode;

/// What each bank's accounts hold at first.
pub(crate) const CAPITAL: i64 = ACCOUNTS as i64 * RICH;

/// Accounts of each bank. Enough for transfers in opposite directions to meet now and then, and not
/// all the time: in two-phase commit only a deadline ends such a deadlock.
pub(crate) const ACCOUNTS: usize = 24;

/// What each account holds at first. Nobody can spend more.
pub(crate) const RICH: i64 = 1_000_000;

pub(crate) struct Bank {
    pub(crate) name: String,
    pub(crate) recorder: Recorder<Service<Postgres>>,
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
        pool.close().await;
        let database = Postgres::connect(&url).await.unwrap();
        let participant = match mode {
            Mode::Tcc => tcc::bank(name, database),
            Mode::TwoPhase => two_phase::bank(name, database),
        };
        let recorder = Recorder::new(participant.service().unwrap());
        let endpoint = recorder.serve().await;
        Self { name: name.to_owned(), recorder, endpoint, server, url }
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

    pub(crate) async fn in_doubt(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM pg_prepared_xacts")
            .fetch_one(&self.connect().await)
            .await
            .unwrap()
    }

    /// The barrier's rows: gid, branch, state.
    pub(crate) async fn barrier(&self) -> Vec<(String, String, String)> {
        sqlx::query_as("SELECT gid, branch_id, state FROM unanimo_barrier")
            .fetch_all(&self.connect().await)
            .await
            .unwrap()
    }
}
