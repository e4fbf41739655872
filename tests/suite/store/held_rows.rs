//! Rows that another session of PostgreSQL holds locked: whoever purges leaves them, and goes on with the others.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use unanimo_coordinator::store::{FeedCursor, NewEvent, Purge, Retention, WebhookPlace, Write};
use unanimo_core::{Incarnation, TxId};
use uuid::Uuid;

use super::purge::write_all;
use super::store::{PostgresOptions, open};
use super::webhooks::letter;
use super::{Fixture, a_write, count, create, execute};
use crate::fixtures::{LONG_AGO, Live, new_gid, now};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RETENTION: Retention = Retention { details: DAY, gids: Duration::from_secs(2 * 24 * 3600) };

/// Writes transactions that are due, each with an end of its own, in the order of their names.
async fn due(fixture: &Fixture, number: usize) -> Vec<TxId> {
    let (mut lives, mut writes): (Vec<TxId>, Vec<Write>) = Default::default();
    for _ in 0..number {
        let (live, begin) = Live::tombstone(&new_gid(), LONG_AGO);
        lives.push(live.id());
        writes.push(a_write(begin));
    }
    write_all(&mut *fixture.writer().await, &writes).await;
    lives.sort();
    let spread = "UPDATE log SET ended_ms = ended_ms + number FROM (
            SELECT tx_id, row_number() OVER (ORDER BY tx_id) AS number FROM gids) AS numbered
        WHERE log.tx_id = numbered.tx_id";
    execute(&fixture.url, spread).await;
    lives
}

/// A session in a transaction, after these statements.
async fn holder(fixture: &Fixture, statements: &str) -> PgConnection {
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    raw.execute("BEGIN").await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut raw).await.unwrap();
    raw
}

fn lock(table: &str, TxId(id): TxId) -> String {
    format!("SELECT 1 FROM {table} WHERE tx_id = '{id}' FOR UPDATE")
}

/// Purges until nothing comes of it, and returns how many. A run takes no time to speak of beside what it waits for.
async fn all(purge: &dyn Purge, me: Incarnation, is_strip: bool) -> u64 {
    let (mut sum, mut is_over) = (0, false);
    while !is_over {
        let purged = match is_strip {
            true => purge.strip(me, RETENTION, now()).await,
            false => purge.delete(me, RETENTION, now().after(DAY)).await,
        };
        let purged = purged.expect("what is held is left");
        (sum, is_over) = (sum + purged, purged == 0);
    }
    sum
}

/// L3: the oldest of all have a row that is held, in each table that the purge takes rows from.
#[tokio::test]
async fn l3_what_somebody_holds_is_left_and_the_others_are_purged() {
    const NUMBER: usize = 40;
    let fixture = Fixture::postgres().await;
    let ids = due(&fixture, NUMBER).await;
    let [TxId(parked), TxId(locks), TxId(waits)] = [ids[1], ids[2], ids[3]];
    let more = [
        format!("INSERT INTO parked (tx_id, owner, reasons) VALUES ('{parked}', 1, 1)"),
        format!("INSERT INTO locks VALUES ('a', '{locks}', '{locks}', true, true)"),
        format!("INSERT INTO waits VALUES ('{waits}', 'bank', 1)"),
    ];
    for statement in more {
        execute(&fixture.url, &statement).await;
    }
    let mut holders = Vec::new();
    for (table, id) in ["log", "parked", "locks", "waits"].into_iter().zip(&ids) {
        holders.push(holder(&fixture, &lock(table, *id)).await);
    }
    // Nobody sees this row yet, and its key is that of the row which would be left.
    let rival = format!(
        "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, body)
         SELECT tx_id, version, version + 1, owner, gen_random_uuid(), kind, body FROM log WHERE tx_id = '{}'",
        ids[4].0
    );
    holders.push(holder(&fixture, &rival).await);
    let purge = fixture.store.purge();
    assert_eq!(all(purge, fixture.me, true).await, NUMBER as u64 - 5);
    for mut holder in holders {
        holder.execute("ROLLBACK").await.unwrap();
    }
    let heir = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let me = create(&heir, "heir").await;
    assert_eq!(all(heir.purge(), me, true).await, 5, "they are due as before");
    assert_eq!(count(&fixture, "aside").await, 0);

    let mark = format!("INSERT INTO parked (tx_id, owner) VALUES ('{parked}', 1)");
    execute(&fixture.url, &mark).await;
    let mut holders = Vec::new();
    for (table, id) in ["log", "parked", "gids"].into_iter().zip(&ids) {
        holders.push(holder(&fixture, &lock(table, *id)).await);
    }
    // The first one passes over what it has met a moment ago.
    assert_eq!(all(heir.purge(), me, false).await, NUMBER as u64 - 3);
    assert_eq!(count(&fixture, "gids").await, 3, "neither goes without the other");
    assert_eq!(count(&fixture, "log").await, 3);
    assert_eq!(count(&fixture, "aside").await, 0, "nothing is wrong with them");
    for mut holder in holders {
        holder.execute("ROLLBACK").await.unwrap();
    }
    let last = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let me = create(&last, "last").await;
    assert_eq!(all(last.purge(), me, false).await, 3);
    for store in [heir, last] {
        store.close().await;
    }
}

/// L3: more than a run takes are held, and all of them are older than the others.
#[tokio::test]
async fn l3_however_many_are_held_they_are_in_nobodys_way() {
    const HELD: usize = 4_500;
    const FREE: usize = 50;
    let fixture = Fixture::postgres().await;
    let ids = due(&fixture, HELD + FREE).await;
    let first = ids[HELD].0;
    let lock = format!("SELECT 1 FROM log WHERE tx_id < '{first}' FOR UPDATE");
    let mut holding = holder(&fixture, &lock).await;
    let purge = fixture.store.purge();
    let stripped = purge.strip(fixture.me, RETENTION, now()).await.unwrap();
    assert_eq!(stripped, FREE as u64, "one run comes to them");
    holding.execute("ROLLBACK").await.unwrap();
}

/// A table that takes no writes is nobody's fault whose rows are in it: none is passed over for that later.
#[tokio::test]
async fn a_table_that_takes_no_writes_is_not_taken_for_rows_that_are_held() {
    let fixture = Fixture::postgres().await;
    due(&fixture, 40).await;
    let mut holding = holder(&fixture, "LOCK TABLE log IN SHARE MODE").await;
    let purge = fixture.store.purge();
    let error = purge.strip(fixture.me, RETENTION, now()).await.unwrap_err();
    assert!(error.is_busy(), "{error:?}");
    holding.execute("ROLLBACK").await.unwrap();
    assert_eq!(purge.strip(fixture.me, RETENTION, now()).await.unwrap(), 40);
    // So it is with the row by which the run has its right.
    let fence = format!("SELECT 1 FROM fences WHERE incarnation = {} FOR UPDATE", fixture.me.0);
    due(&fixture, 40).await;
    let mut holding = holder(&fixture, &fence).await;
    let error = purge.strip(fixture.me, RETENTION, now()).await.unwrap_err();
    assert!(error.is_busy(), "{error:?}");
    holding.execute("ROLLBACK").await.unwrap();
    assert_eq!(purge.strip(fixture.me, RETENTION, now()).await.unwrap(), 40);
}

/// Marks of what has ended, events and letters that nobody took: one that is held stays, and goes with a later run.
#[tokio::test]
async fn l3_marks_events_and_letters_go_beside_one_that_is_held() {
    let fixture = Fixture::postgres().await;
    let (store, me) = (&fixture.store, fixture.me);
    let ids = due(&fixture, 3).await;
    for TxId(id) in &ids {
        let mark = format!("INSERT INTO parked (tx_id, owner) VALUES ('{id}', {})", me.0);
        execute(&fixture.url, &mark).await;
    }
    let (feed, webhooks) = (store.feed(), store.webhooks());
    for step in 0..3 {
        let to = FeedCursor { step, ..FeedCursor::of(me, false) };
        let event = NewEvent { tx_id: TxId(Uuid::from_u128(1)), body: vec![1] };
        feed.advance(me, to, now(), 0, vec![event]).await.unwrap().unwrap();
        let revision = u64::try_from(step).unwrap() + 1;
        let place =
            WebhookPlace { name: "a".to_owned(), after: revision, step, ..Default::default() };
        assert!(webhooks.advance(me, place, Some(letter(revision))).await.unwrap());
    }
    let held = "SELECT 1 FROM feed_events WHERE revision = 2 FOR UPDATE;
        SELECT 1 FROM webhook_dead_letters WHERE revision = 2 FOR UPDATE";
    let mut holding = holder(&fixture, &format!("{}; {held}", lock("parked", ids[1]))).await;
    let run = async || {
        store.transactions().open_of(me).await.unwrap();
        feed.purge(me, Duration::ZERO, now().after(DAY)).await.unwrap();
        webhooks.purge_dead(me, now().after(DAY)).await.unwrap();
        let (marks, events) =
            (count(&fixture, "parked").await, count(&fixture, "feed_events").await);
        (marks, events, count(&fixture, "webhook_dead_letters").await)
    };
    assert_eq!(run().await, (1, 1, 1));
    let page = feed.page(0, 9).await.unwrap();
    assert_eq!((page.events.len(), page.ends.purged), (0, 3), "it is shown to nobody");
    holding.execute("ROLLBACK").await.unwrap();
    // Events go with the next ones that are due.
    let to = FeedCursor { step: 3, ..FeedCursor::of(me, false) };
    let event = NewEvent { tx_id: TxId(Uuid::from_u128(1)), body: vec![1] };
    feed.advance(me, to, now(), 0, vec![event]).await.unwrap().unwrap();
    assert_eq!(run().await, (0, 0, 0));
}
