//! Purge of an SQLite file beside writers: while it has the file, the journal waits.

use std::sync::Arc;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use unanimo_coordinator::store::{Key, Retention};

use super::file::{held, new_folder, open};
use crate::fixtures::{LONG_AGO, Live, new_gid, now};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RETENTION: Retention = Retention { details: DAY, gids: Duration::from_secs(2 * 24 * 3600) };

/// L3: what is not due is passed over while others write, however much that is.
#[tokio::test]
async fn l3_the_search_for_what_is_due_waits_for_no_writer_and_none_for_it() {
    let folder = new_folder();
    let fixture = open(&folder.join("x.db")).await;
    let (_, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let mut raw = held(&folder.join("x.db")).await;
    let purging = fixture.store.purge().strip(fixture.me, RETENTION, now());
    let stripped = tokio::time::timeout(Duration::from_secs(2), purging).await;
    assert_eq!(stripped.expect("it waits for no writer").unwrap(), 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut raw).await.unwrap();
}

/// A transaction that was found may be another by the time it is purged.
#[tokio::test]
async fn what_was_written_since_it_was_found_is_not_purged() {
    let folder = new_folder();
    let fixture = open(&folder.join("x.db")).await;
    let (tombstone, begin) = Live::tombstone(&new_gid(), LONG_AGO);
    fixture.write([begin]).await;
    let mut raw = held(&folder.join("x.db")).await;
    let (store, me) = (Arc::clone(&fixture.store), fixture.me);
    let purging = tokio::spawn(async move { store.purge().strip(me, RETENTION, now()).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!purging.is_finished(), "it waits to write");
    let adopted = format!(
        "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, body)
         SELECT tx_id, version, version + 1, owner, randomblob(16), kind, created_ms, ended_ms, x'' FROM log
         WHERE tx_id = x'{}'",
        tombstone.id().0.simple()
    );
    for statement in [adopted, "COMMIT".to_owned()] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut raw).await.unwrap();
    }
    assert_eq!(purging.await.unwrap().unwrap(), 0);
    let find = async || {
        let found = fixture.store.transactions().find(&Key::Tx(tombstone.id())).await;
        found.unwrap().unwrap()
    };
    assert!(!find().await.stripped);
    let stripped = fixture.store.purge().strip(fixture.me, RETENTION, now()).await;
    assert_eq!(stripped.unwrap(), 1, "it is due as it is now");
    assert!(find().await.stripped);
}
