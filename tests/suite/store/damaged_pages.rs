//! Damaged pages of the log on PostgreSQL: whoever goes through many transactions goes on in parts.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use unanimo_coordinator::store::{
    Claim, FeedCursor, Key, News, NewsOf, PhaseName, PostgresOptions, Purged, Store,
};
use unanimo_core::{Incarnation, PhaseTwoAnswer, Timestamp, TxId, Version};
use uuid::Uuid;

use super::damaged::{Disk, RETENTION, damage_index, damage_pages_of, write_at};
use super::feed::ended;
use super::{Fixture, count, create, execute};
use crate::fixtures::{LONG_AGO, now};

/// Transactions: more than a page takes.
const EACH: usize = 24;

/// Writes of ends: the first one is on the first page, and the others are not.
const NEWS: [u64; 4] = [10, 20, 30, 40];

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

/// Identifier before all that are begun at this time, or so many milliseconds later.
fn mark(at: Timestamp, more: u64) -> Uuid {
    Uuid::from_u128(u128::from(at.0 + more) << 80)
}

/// Returns those of which all can be read.
async fn readable(store: &dyn Store, ids: &Ids) -> Ids {
    let mut readable = Ids::new();
    for id in ids {
        if let Ok(found) = store.transactions().find(&Key::Tx(TxId(*id))).await {
            assert!(found.is_some(), "{id} is not found");
            readable.insert(*id);
        }
    }
    readable
}

/// L1, L2, L3: of two owners, who began in the same milliseconds, what can be read beside a damaged page is parked for the
/// right one, and what the fenced one left is adopted. What cannot be read is told once, and to one node.
#[tokio::test]
async fn l3_parking_goes_on_beside_a_damaged_page() {
    let (disk, url) = Disk::start().await;
    let fixture = Fixture::open(url.clone()).await;
    let at = now();
    ended(&fixture, NEWS[0], &PhaseTwoAnswer::Done).await;
    // It is on the first page, and what is written later is not.
    let bad = write_at(&fixture, "", at, false).await.id();
    let mut ids = Ids::from([bad.0]);
    for _ in 1..EACH {
        ids.insert(write_at(&fixture, "", at, false).await.id().0);
    }
    for number in &NEWS[1..] {
        ended(&fixture, *number, &PhaseTwoAnswer::Done).await;
    }
    fixture.store.close().await;
    damage_pages_of(&disk, &url, &[bad]).await;
    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    news_beside_it_is_found(&*store, fixture.me).await;
    let counted = store.transactions().count(Timestamp(0)).await.expect("it hides no number");
    let ended = counted.iter().find(|count| count.phase == PhaseName::Committed).unwrap();
    assert!(ended.at_least, "what cannot be read is not among them: {ended:?}");
    let sound = readable(&*store, &ids).await;
    assert!(!sound.is_empty() && !sound.contains(&bad.0));
    let heir = Fixture { me: create(&store, "two").await, url, store };
    let own = write_at(&heir, "", at, false).await.id();
    let later = write_at(&heir, "", at.after(Duration::from_millis(1)), false).await.id();
    // All of these milliseconds is to be parked now.
    let (from, to) = (mark(at, 0), mark(at, 2));
    let marks = format!(
        "UPDATE unanimo.fences SET parked_before = '{from}', parks_before = '{to}', parks_from = '{to}'"
    );
    execute(&heir.url, &marks).await;
    names_that_cannot_be_read_cost_nothing_else(&heir, later).await;
    let transactions = heir.store.transactions();
    let open = transactions.open_of(heir.me).await.unwrap();
    assert!(open.contains(&(own, Version(2))) && open.contains(&(later, Version(2))), "{open:?}");
    let own = format!("parked WHERE owner = {} AND tx_id IN ('{own}', '{later}')", heir.me.0);
    assert_eq!(count(&heir, &own).await, 2);
    assert!(ids.iter().all(|id| !sound.contains(id) || !open.iter().any(|open| open.0.0 == *id)));

    heir.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let (read, failed) = claim(&*heir.store, heir.me).await;
    assert_eq!((read, failed), (sound.clone(), &ids - &sound));
    assert_eq!(count(&heir, "fences WHERE all_parked").await, 1);
    let third = create(&heir.store, "three").await;
    assert_eq!(claim(&*heir.store, third).await, (Ids::new(), Ids::new()));
}

/// Checks that the feed gets what can be read, and is told which write cannot.
async fn news_beside_it_is_found(store: &dyn Store, me: Incarnation) {
    let cursor = FeedCursor::of(me, false);
    let numbers = |news: &[News]| -> Vec<u64> {
        news.iter().map(|news| news.write_id.as_u64_pair().1).collect()
    };
    let range = |from| NewsOf::Range(from, cursor.end());
    let all = store.feed().news(range(cursor.next), 9).await.unwrap();
    assert_eq!(numbers(&all.news), NEWS[1..]);
    let bad = Uuid::from_u64_pair(me.0.cast_unsigned(), NEWS[0]);
    assert_eq!((all.reached, all.unreadable), (cursor.end(), vec![bad]));
    let first = store.feed().news(range(cursor.next), 1).await.unwrap();
    assert_eq!(numbers(&first.news), [NEWS[1]]);
    let rest = store.feed().news(range(first.reached), 9).await.unwrap();
    assert_eq!(numbers(&rest.news), NEWS[2..]);
    let ids = NEWS.map(|number| Uuid::from_u64_pair(me.0.cast_unsigned(), number));
    let mut named = store.feed().news(NewsOf::Writes(ids.to_vec()), 9).await.unwrap();
    named.news.sort_unstable_by_key(|news| news.write_id);
    assert_eq!((numbers(&named.news), named.unreadable), (NEWS[1..].to_vec(), vec![bad]));
}

/// A damaged page of the index through which the feed finds its rows: none of them is taken for one that cannot be read, and
/// all are found once the index is made again.
#[tokio::test]
async fn l3_a_damaged_index_of_news_hides_no_row() {
    let (disk, url) = Disk::start().await;
    let fixture = Fixture::open(url.clone()).await;
    for number in NEWS {
        ended(&fixture, number, &PhaseTwoAnswer::Done).await;
    }
    fixture.store.close().await;
    // A small table would be read as a whole.
    let through_indexes = "DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$";
    execute(&url, through_indexes).await;
    damage_index(&disk, &url, "unanimo.log_news").await;
    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    let cursor = FeedCursor::of(fixture.me, false);
    let ids = NEWS.map(|number| Uuid::from_u64_pair(fixture.me.0.cast_unsigned(), number));
    let range = NewsOf::Range(cursor.next, cursor.end());
    for of in [range.clone(), NewsOf::Writes(ids.to_vec()), NewsOf::Writes(vec![ids[0]])] {
        let found = store.feed().news(of.clone(), 9).await;
        assert!(found.is_err(), "{of:?}: {found:?}");
    }
    execute(&url, "REINDEX INDEX unanimo.log_news").await;
    let found = store.feed().news(range, 9).await.unwrap();
    assert_eq!(found.news.iter().map(|news| news.write_id).collect::<Vec<_>>(), ids);
    assert!(found.unreadable.is_empty(), "{:?}", found.unreadable);
}

/// Checks that what is in the log alone is found while nobody may read the names.
async fn names_that_cannot_be_read_cost_nothing_else(fixture: &Fixture, young: TxId) {
    let store = super::store::open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let mut holder = PgConnection::connect(&fixture.url).await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    holder.execute("LOCK TABLE unanimo.gids IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let open = store.transactions().open_of(fixture.me).await.unwrap();
    assert!(open.contains(&(young, Version(2))), "{open:?}");
    holder.execute("ROLLBACK").await.unwrap();
    store.close().await;
}

/// L2: the marks go on where nobody can read whether anything was begun.
#[tokio::test]
async fn l2_marks_are_raised_past_a_damaged_page() {
    let (disk, url) = Disk::start().await;
    let fixture = Fixture::open(url.clone()).await;
    let bad = write_at(&fixture, "", now(), false).await.id();
    fixture.store.close().await;
    damage_pages_of(&disk, &url, &[bad]).await;
    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "two").await;
    let fixture = Fixture { store, url, me };
    let nil = Uuid::nil();
    let back = format!(
        "UPDATE unanimo.fences SET parked_before = '{nil}', parks_before = '{nil}', parks_from = '{nil}'"
    );
    execute(&fixture.url, &back).await;
    fixture.store.transactions().open_of(me).await.unwrap();
    let raised = format!("fences WHERE incarnation = {} AND parks_before > '{nil}'", me.0);
    assert_eq!(count(&fixture, &raised).await, 1);
}

/// Makes the database refuse rows of the log that fulfil a condition, with a code.
async fn refuse(url: &str, condition: &str, code: &str) {
    let refuse = format!(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'it is damaged' USING ERRCODE = '{code}'; END $$;
         DROP TRIGGER IF EXISTS refuse ON log;
         CREATE TRIGGER refuse BEFORE INSERT ON log FOR EACH ROW
             WHEN ({condition}) EXECUTE FUNCTION refuse()"
    );
    execute(url, &refuse).await;
}

/// L1, L3: what a claim or the purge cannot write is left as it is where it can be read, and is not set aside for good.
#[tokio::test]
async fn l3_what_can_be_read_is_not_set_aside_for_a_page_that_is_written() {
    let fixture = Fixture::postgres().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(write_at(&fixture, "", now(), false).await.id().0);
    }
    let stuck = write_at(&fixture, "", LONG_AGO, true).await.id().0;
    write_at(&fixture, "", LONG_AGO, true).await;
    let me = create(&fixture.store, "two").await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let transactions = fixture.store.transactions();
    for code in ["XX000", "XX001"] {
        refuse(&fixture.url, "true", code).await;
        transactions.claim(me, Claim::OfFenced(10)).await.unwrap_err();
    }
    let condition = format!("NEW.tx_id IN ('{}', '{stuck}')", open[0]);
    refuse(&fixture.url, &condition, "XX001").await;
    let claimed = transactions.claim(me, Claim::OfFenced(10)).await.unwrap();
    let read: Ids = claimed.records.iter().map(|record| record.identity.tx_id.0).collect();
    assert_eq!((read, claimed.unreadable.len()), (open[1..].iter().copied().collect(), 0));
    let purged = fixture.store.purge().run(me, RETENTION, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 });
    fixture.store.purge().run(me, RETENTION, now()).await.unwrap_err();
    assert_eq!(transactions.all_set_aside(None, 9).await.unwrap(), []);
    execute(&fixture.url, "DROP TRIGGER refuse ON log").await;
    let (read, _) = claim(&*fixture.store, me).await;
    assert_eq!(read, Ids::from([open[0]]));
    let purged = fixture.store.purge().run(me, RETENTION, now()).await.unwrap();
    assert_eq!(purged.stripped, 1);
}
