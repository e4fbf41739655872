//! Damaged pages of the log on PostgreSQL: whoever goes through many transactions goes on in parts.

use std::collections::BTreeSet;

use unanimo_coordinator::store::{Claim, PostgresOptions, Store};
use unanimo_core::{Incarnation, TxId};
use uuid::Uuid;

use super::damaged::{Disk, damage_pages_of, write_at};
use super::{Fixture, count, create, execute};
use crate::fixtures::now;

/// Transactions: more than a page takes.
const EACH: usize = 24;

type Ids = BTreeSet<Uuid>;

/// Claims what fenced ones left until there is nothing, and returns what was read and what was not.
async fn claim(store: &dyn Store, me: Incarnation) -> (Ids, Ids) {
    let (mut read, mut failed) = (Ids::new(), Ids::new());
    loop {
        let claimed = store.transactions().claim(me, Claim::OfFenced(10)).await.unwrap();
        if claimed.records.is_empty() && claimed.unreadable.is_empty() {
            return (read, failed);
        }
        for record in claimed.records {
            assert!(read.insert(record.identity.tx_id.0), "it is claimed once");
        }
        for unreadable in claimed.unreadable {
            assert!(failed.insert(unreadable.tx_id.0), "it is told once");
        }
    }
}

/// L2, L3: what a fenced incarnation left open beside a damaged page is parked, and adopted as far as it can be read.
#[tokio::test]
async fn l3_parking_goes_on_beside_a_damaged_page() {
    let (disk, url) = Disk::start().await;
    let fixture = Fixture::open(url.clone()).await;
    let mut ids = Ids::new();
    for _ in 0..EACH {
        ids.insert(write_at(&fixture, "", now(), false).await.id().0);
    }
    fixture.store.close().await;
    let bad = TxId(*ids.first().unwrap());
    damage_pages_of(&disk, &url, &[bad]).await;
    // All that was begun is to be parked now.
    let marks = "UPDATE unanimo.fences SET parks_before = 'ffffffff-0000-0000-0000-000000000000',
        parks_from = 'ffffffff-0000-0000-0000-000000000000'";
    execute(&url, marks).await;
    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "two").await;
    store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let (read, failed) = claim(&*store, me).await;
    assert!(failed.contains(&bad.0));
    assert_eq!(&read | &failed, ids);
    let fixture = Fixture { store, url, me };
    let done = "fences WHERE all_parked";
    assert_eq!(count(&fixture, done).await, 1);
}
