//! Transactions that travel with an initiator's own calls: to a bank over gRPC, from there to another
//! one over HTTP, and back with the votes of both.

mod calls;
mod contexts;
mod databases;
mod full;
mod handlers;
mod kills;
mod random;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::StatusCode;
use sqlx::PgPool;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::Layer;
use unanimo_examples::{accounts, tcc, two_phase};
use unanimo_sdk::client::{AbortCause, Aborted, Transaction};
use unanimo_sdk::propagation::ClientLayer;
use unanimo_sdk::{BoxError, Client, Outcome, Postgres};
use unanimo_tests::joining::{self, Bank};
use unanimo_tests::postgres::Server;
use unanimo_tests::relay::Relay;
use unanimo_tests::wait::until;

use crate::coordinator;

/// Money of each bank's accounts at first.
const RICH: i64 = 1_000;

const ACCOUNTS: [&str; 3] = ["x", "y", "z"];

/// More accounts, named `r0` and so on.
const RANDOM_ACCOUNTS: usize = 192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Tcc,
    TwoPhase,
}

/// A bank with its database.
struct Till {
    bank: Bank<Postgres>,
    pool: PgPool,
}

impl Till {
    async fn open(name: &str, mode: Mode, client: &Client, coordinator: &str) -> Self {
        let url = Server::shared().database().await;
        let pool = PgPool::connect(&url).await.unwrap();
        let random = (0..RANDOM_ACCOUNTS).map(|number| format!("r{number}"));
        let all = ACCOUNTS.into_iter().map(str::to_owned).chain(random);
        accounts::create(&pool, &all.map(|id| (id, RICH)).collect::<Vec<_>>()).await.unwrap();
        let database = Postgres::connect(&url).await.unwrap();
        let participant = match mode {
            Mode::Tcc => tcc::bank(name, database),
            Mode::TwoPhase => two_phase::bank(name, database),
        };
        let mut bank = Bank::open(participant, client, coordinator).await;
        bank.serving.registered().await.unwrap();
        Self { bank, pool }
    }

    /// Money of `x`, `y` and `z`. Nothing may be held or on its way.
    async fn ended_balances(&self) -> [i64; 3] {
        self.balances().await.0
    }

    /// Money of all accounts.
    async fn total(&self) -> i64 {
        self.balances().await.1
    }

    async fn balances(&self) -> ([i64; 3], i64) {
        let all = accounts::balances(&self.pool).await.unwrap();
        let half_done: i64 = all.iter().map(|account| account.2 + account.3).sum();
        assert_eq!(half_done, 0, "S7: nothing is left half done: {all:?}");
        let database: String =
            sqlx::query_scalar("SELECT current_database()").fetch_one(&self.pool).await.unwrap();
        let prepared: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_prepared_xacts WHERE database = $1")
                .bind(database)
                .fetch_one(&self.pool)
                .await
                .unwrap();
        assert_eq!(prepared, 0, "S7: nothing is left prepared");
        let of = |id: &str| all.iter().find(|account| account.0 == id).unwrap().1;
        (ACCOUNTS.map(of), all.iter().map(|account| account.1).sum())
    }

    /// The barrier's rows: branch and state.
    async fn barrier(&self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT branch_id, state FROM unanimo_barrier ORDER BY branch_id")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    async fn states(&self) -> Vec<String> {
        let mut states: Vec<_> = self.barrier().await.into_iter().map(|row| row.1).collect();
        states.sort_unstable();
        states
    }
}

/// A coordinator, bank `a`, which speaks gRPC too and passes orders on, and bank `b`.
struct World {
    coordinator: coordinator::World,
    /// Between the banks and the coordinator.
    relay: Relay,
    a: Till,
    b: Till,
    front: String,
    client: Client,
    mode: Mode,
}

impl World {
    async fn start(mode: Mode) -> Self {
        let coordinator = coordinator::World::sqlite().await;
        let address = coordinator.running.grpc_address().unwrap();
        let relay = Relay::start().await;
        relay.point_to(Some(address));
        let banks = Client::new(relay.url()).unwrap().wait_at_most(Duration::from_secs(5));
        let a = Till::open("a", mode, &banks, &relay.url()).await;
        let b = Till::open("b", mode, &banks, &relay.url()).await;
        let front = a.bank.front(&b.bank.http).await;
        let client = Client::new(relay.url()).unwrap();
        Self { coordinator, relay, a, b, front, client, mode }
    }

    async fn begin(&self) -> Transaction {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let gid = format!("propagated-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let draft = match self.mode {
            Mode::Tcc => self.client.tcc(gid),
            Mode::TwoPhase => self.client.two_phase(gid),
        };
        draft.timeout(Duration::from_secs(20)).begin().await.unwrap()
    }

    /// Orders over gRPC; with a space between, the second one is for bank `b`.
    async fn order_of(
        &self,
        layer: ClientLayer,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        HealthClient::new(layer.layer(self.channel())).check(request).await
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.front.clone()).unwrap().tcp_nodelay(true).connect_lazy()
    }

    async fn order(&self, tx: &Transaction, orders: &str) -> Result<(), Status> {
        self.order_of(tx.propagation().layer(), order(orders)).await.map(drop)
    }

    /// Orders at bank `b`.
    async fn order_at_b(
        &self,
        tx: &Transaction,
        order: &str,
        key: Option<&str>,
    ) -> Result<(StatusCode, String), BoxError> {
        let client = joining::client(&tx.propagation().layer());
        joining::send(&client, &format!("{}/{order}", self.b.bank.http), key).await
    }

    /// Waits until every branch has ended.
    async fn ended(&self, tx: &Transaction) -> Outcome {
        until("a transaction's end", async || match tx.commit().await.unwrap() {
            Outcome::Committed(committed) if committed.ended => Some(Outcome::Committed(committed)),
            Outcome::Aborted(aborted) if aborted.ended => Some(Outcome::Aborted(aborted)),
            _ => None,
        })
        .await
    }

    async fn aborted(&self, tx: &Transaction) -> Aborted {
        match self.ended(tx).await {
            Outcome::Aborted(aborted) => aborted,
            other => panic!("it is {other}"),
        }
    }

    /// Nothing has moved.
    async fn untouched(&self) {
        assert_eq!(self.a.ended_balances().await, [RICH; 3]);
        assert_eq!(self.b.ended_balances().await, [RICH; 3]);
    }
}

fn order(orders: &str) -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest { service: orders.to_owned() })
}
