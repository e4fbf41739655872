//! A watch ends in OK only after the ended transaction, and goes on from a revision.

use std::time::Duration;

use sqlx::Connection;
use tonic::{Code, Status, Streaming};
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    ListTransactionsRequest, Mode, Transaction, TransactionState, WatchTransactionRequest,
    WatchTransactionResponse, watch_transaction_request,
};
use unanimo_tests::postgres::Server;

use super::{World, branch, config, describe, sqlite_url, tcc};

/// A watch that must not be silent for ever.
struct Watch(Streaming<WatchTransactionResponse>);

impl Watch {
    async fn start(world: &World, gid: &str, after_revision: u64) -> Self {
        let request = WatchTransactionRequest {
            key: Some(watch_transaction_request::Key::Gid(gid.into())),
            after_revision,
            include_outputs: false,
            ..Default::default()
        };
        Self(world.client().watch_transaction(request).await.unwrap().into_inner())
    }

    async fn next(&mut self) -> Result<Option<Transaction>, Status> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.0.message()).await;
        let next = next.expect("the watch is silent")?;
        Ok(next.map(|response| response.transaction.unwrap()))
    }

    /// Tells whether nothing comes for a while.
    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.0.message()).await.is_err()
    }

    /// Reads until there is an error.
    async fn error(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(shown)) => assert_eq!(shown.ended_at, None),
                Ok(None) => panic!("the watch ended in OK, and the transaction has not"),
                Err(status) => return status,
            }
        }
    }
}

/// A transaction that is decided, and whose Commit is not answered.
async fn committing(world: &World, gid: &str) {
    world.p.hold(true);
    world.submit(tcc(gid, &["ok"])).await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_a_watch_with_its_reason() {
    let mut config = config(&sqlite_url());
    config.drain_timeout = Period::millis(100);
    let world = World::start(config).await;
    committing(&world, "g").await;
    let mut watch = Watch::start(&world, "g", 0).await;
    assert_eq!(watch.next().await.unwrap().unwrap().state(), TransactionState::Committing);
    let stopping = tokio::spawn(world.running.stop());
    let status = watch.error().await;
    assert_eq!(describe(&status), (Code::Unavailable, "STOPPED".into(), vec![]));
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_crash_ends_a_watch_with_an_error() {
    let world = World::sqlite().await;
    committing(&world, "g").await;
    let mut watch = Watch::start(&world, "g", 0).await;
    assert_eq!(watch.next().await.unwrap().unwrap().state(), TransactionState::Committing);
    drop(world.running);
    assert_eq!(watch.error().await.code(), Code::Unavailable);
}

/// Somebody else has changed the stored transaction: it leaves memory, and whoever follows it is told
/// to ask again.
#[tokio::test]
async fn an_eviction_ends_a_watch_with_its_reason() {
    let url = Server::shared().database().await;
    let world = World::start(config(&url)).await;
    let tx_id = world.begin("g", Mode::Tcc).await.unwrap().tx_id;
    let mut watch = Watch::start(&world, "g", 0).await;
    let seen = watch.next().await.unwrap().unwrap().revision;
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let change = sqlx::query(
        "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, body)
         SELECT tx_id, version, version + 1, owner, gen_random_uuid(), kind, '' FROM log",
    );
    assert_eq!(change.execute(&mut connection).await.unwrap().rows_affected(), 1);
    // The next write finds out.
    let world = &world;
    let execute = world.execute(&tx_id, branch("a", "ok"));
    let (status, executed) = tokio::join!(watch.error(), execute);
    assert_eq!(describe(&status), (Code::Unavailable, "TRANSACTION_MOVING".into(), vec![]));
    executed.unwrap();
    // It goes on where it was.
    let mut watch = Watch::start(world, "g", seen).await;
    assert!(watch.next().await.unwrap().unwrap().revision > seen);
    world.rollback(&tx_id).await.unwrap();
    let mut last = None;
    while let Some(shown) = watch.next().await.unwrap() {
        last = Some(shown.state());
    }
    assert_eq!(last, Some(TransactionState::Aborted));
}

/// Revisions only grow, through a crash and an adoption too, and are the same wherever they are
/// shown.
#[tokio::test]
async fn a_watch_goes_on_from_its_revision_over_a_restart() {
    let world = World::sqlite().await;
    committing(&world, "g").await;
    let mut watch = Watch::start(&world, "g", 0).await;
    let first = watch.next().await.unwrap().unwrap();
    assert!(first.revision > 0);
    assert_eq!(world.get("g").await.revision, first.revision);
    let listed = world.client().list_transactions(ListTransactionsRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().transactions[0].revision, first.revision);
    let mut again = Watch::start(&world, "g", first.revision).await;
    assert!(again.is_silent().await, "the present state was seen");
    let mut before = Watch::start(&world, "g", first.revision - 1).await;
    assert_eq!(before.next().await.unwrap().unwrap().revision, first.revision);

    let world = world.crash_and_restart().await;
    let mut watch = Watch::start(&world, "g", first.revision).await;
    let mut revision = first.revision;
    let adopted = watch.next().await.unwrap().unwrap();
    assert!(adopted.revision > revision, "adoption is a change");
    revision = adopted.revision;
    world.p.hold(false);
    let mut last = adopted;
    while let Some(shown) = watch.next().await.unwrap() {
        assert!(shown.revision > revision, "each state is a later one");
        revision = shown.revision;
        last = shown;
    }
    assert_eq!(last.state(), TransactionState::Committed);

    // The end is told to whoever asks, whatever was seen.
    let mut late = Watch::start(&world, "g", u64::MAX).await;
    assert_eq!(late.next().await.unwrap().unwrap().state(), TransactionState::Committed);
    assert!(late.next().await.unwrap().is_none());
}
