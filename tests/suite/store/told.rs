//! Clients are told of transactions what the standbys have.

use std::time::Duration;

use unanimo_coordinator::store::{self, Filter, PostgresOptions};
use unanimo_tests::postgres::Server;

use super::standbys::{Canceller, wait_for};
use super::{Fixture, create};
use crate::fixtures::{Live, new_gid};

/// S3: a write whose wait for the standby was ended can be seen, and a failover undoes it: lists, timelines and
/// histories do not tell it.
#[tokio::test]
async fn s3_nothing_is_listed_that_no_standby_has() {
    let server = Server::start();
    let url = server.database().await;
    let statement_timeout = Duration::from_secs(1);
    let options = PostgresOptions { statement_timeout, ..PostgresOptions::default() };
    let store = store::open(&url, &options).await.unwrap();
    let me = create(&store, "one").await;
    let fixture = Fixture { store, url, me };
    let (live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let transactions = fixture.store.transactions();
    let filter = Filter { limit: 10, ..Filter::default() };
    assert_eq!(transactions.list(&filter).await.unwrap().found.len(), 1);

    wait_for(&server, "nobody").await;
    let canceller = Canceller::start(&server);
    for error in [
        transactions.list(&filter).await.map(drop).unwrap_err(),
        transactions.events(live.id()).await.map(drop).unwrap_err(),
        transactions.history(live.id(), Default::default()).await.map(drop).unwrap_err(),
    ] {
        let text = store::in_full(&error);
        assert!(text.contains("acknowledged before the synchronous standbys had it"), "{text}");
    }
    canceller.stop();
    // How many there are is for people, who can look all the time.
    transactions.attention().await.unwrap();

    wait_for(&server, "").await;
    assert_eq!(transactions.list(&filter).await.unwrap().found.len(), 1);
}
