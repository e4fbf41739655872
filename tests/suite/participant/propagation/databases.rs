//! A second process of a bank, with a database of its own, that is called with a transaction.

use http::StatusCode;
use sqlx::PgPool;
use unanimo_examples::{accounts, tcc, two_phase};
use unanimo_sdk::{Client, Postgres};
use unanimo_tests::joining::{self, Bank};
use unanimo_tests::postgres::Server;

use super::{Mode, RICH, World};

#[tokio::test]
async fn s2_a_process_with_another_database_does_not_join() {
    for mode in [Mode::Tcc, Mode::TwoPhase] {
        let world = World::start(mode).await;
        let url = Server::shared().database().await;
        let pool = PgPool::connect(&url).await.unwrap();
        accounts::create(&pool, &[("y".to_owned(), RICH)]).await.unwrap();
        let database = Postgres::connect(&url).await.unwrap();
        let participant = match mode {
            Mode::Tcc => tcc::bank("b", database),
            Mode::TwoPhase => two_phase::bank("b", database),
        };
        let client = Client::new(world.relay.url()).unwrap();
        // Its registration is refused, and a caller knows its address all the same.
        let other = Bank::open(participant, &client, &world.relay.url()).await;
        let tx = world.begin().await;
        let http = joining::client(&tx.propagation().layer());
        let (status, text) =
            joining::send(&http, &format!("{}/credit/y/100/ok", other.http), None).await.unwrap();
        assert_ne!(status, StatusCode::OK, "{text}");
        assert!(text.contains("database"), "{text}");
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM unanimo_barrier")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(rows, 0, "S2: no work was done");
        world.untouched().await;
        // The right one joins another transaction, and commits it.
        let tx = world.begin().await;
        let (status, text) = world.order_at_b(&tx, "credit/y/100/ok", None).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        assert!(world.ended(&tx).await.is_committed());
        assert_eq!(world.b.ended_balances().await, [RICH, RICH + 100, RICH]);
    }
}
