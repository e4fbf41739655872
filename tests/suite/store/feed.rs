//! The feed of events: what is new in the log, and the place up to which it was taken.

use std::sync::Arc;
use std::time::Duration;

use unanimo_coordinator::store::{
    Claim, Error, FeedCursor, FeedPage, Key, NewEvent, News, NewsOf, Purged, Retention, Write,
    Written,
};
use unanimo_core::{
    HeuristicKind, Incarnation, PhaseTwoAnswer, PhaseTwoOperation, Timestamp, Transition, TxId,
};
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::{Fixture, a_write, count, create, execute, on_both_stores};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now};

on_both_stores!(
    what_is_new_is_found_in_the_order_of_its_writes,
    s5_events_and_their_place_are_written_together_or_not_at_all,
    s4_what_the_feed_lacks_is_not_purged,
    an_end_without_its_details_is_news_but_what_the_purge_keeps_is_not,
    old_events_go_from_the_first_on,
    l5_events_from_later_than_now_do_not_stop_the_purge,
);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RETENTION: Retention = Retention { details: DAY, gids: Duration::from_secs(2 * 24 * 3600) };

/// Writes a transition as the journal does, under this number.
async fn write(fixture: &Fixture, number: u64, transition: Transition) {
    let write_id = Uuid::from_u64_pair(fixture.me.0.cast_unsigned(), number);
    let write = Write { write_id, ..a_write(transition) };
    let written = fixture.writer().await.write(&[write]).await.unwrap();
    assert_eq!(written, [Written::Applied]);
}

/// A transaction that ends with this answer, and whose last write has this number.
pub(super) async fn ended(fixture: &Fixture, number: u64, answer: &PhaseTwoAnswer) -> Live {
    let (mut live, begin) = Live::begin_with(definition(&new_gid()), LONG_AGO);
    write(fixture, number - 2, begin).await;
    write(fixture, number - 1, live.commit()).await;
    let mut transitions = live.phase_two(PhaseTwoOperation::Commit, answer).into_iter();
    let mut end = transitions.next().unwrap();
    let base = end.version;
    transitions.for_each(|transition| end.fold(transition));
    let write_id = Uuid::from_u64_pair(fixture.me.0.cast_unsigned(), number);
    let mut write = Write { write_id, ..a_write(end) };
    write.base.0 = base.0 - 1;
    assert_eq!(fixture.writer().await.write(&[write]).await.unwrap(), [Written::Applied]);
    live
}

fn of(me: Incarnation, number: u64) -> Uuid {
    Uuid::from_u64_pair(me.0.cast_unsigned(), number)
}

async fn what_is_new_is_found_in_the_order_of_its_writes(fixture: Fixture) {
    let me = fixture.me;
    let mixed = PhaseTwoAnswer::Heuristic { kind: HeuristicKind::Rollback, note: "no".into() };
    // The one that ended later has a lower number.
    let second = ended(&fixture, 20, &mixed).await;
    let first = ended(&fixture, 10, &PhaseTwoAnswer::Done).await;
    let (tombstone, begin) = Live::tombstone(&new_gid(), LONG_AGO);
    write(&fixture, 30, begin).await;
    let feed = fixture.store.feed();
    let told = |news: &News| {
        let number = news.write_id.as_u64_pair().1;
        (number, news.tx_id, news.row.is_held, news.before.map(|row| row.has_ended()))
    };
    let found = async |of, limit| {
        let found = feed.news(of, limit).await.unwrap().news;
        assert!(found.iter().all(|news| news.row.has_ended() && news.found.is_ok()));
        found.iter().map(told).collect::<Vec<_>>()
    };
    let all = [
        (10, first.id(), false, Some(false)),
        (20, second.id(), true, Some(false)),
        (30, tombstone.id(), false, None),
    ];
    let cursor = FeedCursor::of(me, false);
    assert_eq!(found(NewsOf::Range(cursor.next, cursor.end()), 9).await, all);
    assert_eq!(found(NewsOf::Range(cursor.next, cursor.end()), 2).await, all[..2]);
    assert_eq!(found(NewsOf::Range(of(me, 10), of(me, 30)), 9).await, all[..2]);
    assert!(found(NewsOf::Range(of(me, 11), of(me, 20)), 9).await.is_empty());
    let reached = async |limit| {
        let found = feed.news(NewsOf::Range(cursor.next, of(me, 30)), limit).await.unwrap();
        found.reached.as_u64_pair().1
    };
    assert_eq!((reached(1).await, reached(2).await, reached(3).await), (11, 21, 30));
    let named = NewsOf::Writes(vec![of(me, 30), of(me, 10), of(me, 11)]);
    let mut named = found(named, 9).await;
    named.sort_unstable_by_key(|row| row.0);
    assert_eq!(named, [all[0], all[2]]);
}

fn event(number: u8) -> NewEvent {
    NewEvent { tx_id: TxId(Uuid::from_u128(number.into())), body: vec![number] }
}

/// Revisions and bodies.
fn told(page: &FeedPage) -> Vec<(u64, u8)> {
    page.events.iter().map(|row| (row.revision, row.body[0])).collect()
}

async fn s5_events_and_their_place_are_written_together_or_not_at_all(fixture: Fixture) {
    let (feed, me) = (fixture.store.feed(), fixture.me);
    let empty = FeedCursor::of(me, false);
    assert_eq!(feed.cursors(me).await.unwrap(), std::slice::from_ref(&empty));
    let open = vec![of(me, 3), of(me, 7)];
    let first = FeedCursor { next: of(me, 9), open, ..empty.clone() };
    let at = Timestamp(5);
    let added = feed.advance(me, first.clone(), at, 0, vec![event(1), event(2)]).await.unwrap();
    assert_eq!(added, Some(2));
    let stored = FeedCursor { step: 1, ..first.clone() };
    assert_eq!(feed.cursors(me).await.unwrap(), std::slice::from_ref(&stored));
    // Whoever has not seen that writes nothing.
    assert_eq!(feed.advance(me, first, at, 0, vec![event(3)]).await.unwrap(), None);
    let later = FeedCursor { step: 2, next: of(me, 50), ..empty.clone() };
    assert_eq!(feed.advance(me, later, at, 0, vec![event(3)]).await.unwrap(), None);
    assert_eq!(feed.cursors(me).await.unwrap(), std::slice::from_ref(&stored));
    assert_eq!(told(&feed.page(0, 9).await.unwrap()), [(1, 1), (2, 2)]);
    // A database that has gone back gives no revision twice.
    let next = FeedCursor { next: of(me, 60), open: Vec::new(), ..stored };
    assert_eq!(feed.advance(me, next, at, 40, vec![event(4)]).await.unwrap(), Some(41));
    assert_eq!(told(&feed.page(1, 9).await.unwrap()), [(2, 2), (41, 4)]);
    assert_eq!(told(&feed.page(0, 1).await.unwrap()), [(1, 1)]);

    // An incarnation that lives is not done; a fenced one is, and its successor begins.
    feed.finish(me, me).await.unwrap();
    assert_eq!(feed.cursors(me).await.unwrap().len(), 1);
    let successor = create(&fixture.store, "two").await;
    fixture.store.incarnations().fence(me, "a test").await.unwrap();
    let cursors = feed.cursors(successor).await.unwrap();
    let of_cursors = cursors.iter().map(|cursor| (cursor.incarnation, cursor.is_fenced));
    assert_eq!(of_cursors.collect::<Vec<_>>(), [(me, true), (successor, false)]);
    let mine = FeedCursor { next: of(me, 70), ..cursors[0].clone() };
    let written = feed.advance(me, mine.clone(), at, 0, vec![event(5)]).await;
    assert!(matches!(written, Err(Error::Fenced(_))), "{written:?}");
    let purged = feed.purge(me, Duration::ZERO, now().after(DAY)).await;
    assert!(matches!(purged, Err(Error::Fenced(_))), "{purged:?}");
    assert!(matches!(feed.finish(me, me).await, Err(Error::Fenced(_))));
    let added = feed.advance(successor, mine, at, 0, vec![event(6)]).await.unwrap();
    assert_eq!(added, Some(42), "the successor goes on in its place");
    feed.finish(successor, me).await.unwrap();
    assert_eq!(feed.cursors(successor).await.unwrap(), [cursors[1].clone()]);
}

async fn s4_what_the_feed_lacks_is_not_purged(fixture: Fixture) {
    let (feed, me) = (fixture.store.feed(), fixture.me);
    let live = ended(&fixture, 10, &PhaseTwoAnswer::Done).await;
    let purge = async || fixture.store.purge().run(me, RETENTION, now()).await.unwrap();
    let moved = async |number, open: &[u64]| {
        let cursor = feed.cursors(me).await.unwrap().remove(0);
        let open = open.iter().map(|number| of(me, *number)).collect();
        let to = FeedCursor { next: of(me, number), open, ..cursor };
        feed.advance(me, to, now(), 0, Vec::new()).await.unwrap().expect("it is the only one");
    };
    assert_eq!(purge().await, Purged::default(), "there is no place yet");
    moved(10, &[]).await;
    assert_eq!(purge().await, Purged::default(), "it comes next");
    moved(12, &[3, 10]).await;
    assert_eq!(purge().await, Purged::default(), "it is open");
    let found = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap();
    assert!(!found.unwrap().stripped);
    moved(12, &[3]).await;
    assert_eq!(purge().await, Purged { stripped: 1, deleted: 0 });

    // Whoever has claimed it since has the last row.
    let live = ended(&fixture, 20, &PhaseTwoAnswer::Done).await;
    let found = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    let version = found.record.version;
    let claim = Claim::One(live.id(), me, version);
    let claimed = fixture.store.transactions().claim(me, claim).await.unwrap();
    assert_eq!(claimed.records.len(), 1);
    assert_eq!(purge().await, Purged::default(), "the row before the last one is not there yet");
    moved(21, &[]).await;
    assert_eq!(purge().await, Purged { stripped: 1, deleted: 0 });
}

/// After a failover the journal writes an end again, of which only the name and the outcome are known.
async fn an_end_without_its_details_is_news_but_what_the_purge_keeps_is_not(fixture: Fixture) {
    let me = fixture.me;
    let (tombstone, begin) = Live::tombstone(&new_gid(), LONG_AGO);
    let again = Transition { stripped_at: Some(now()), ..begin };
    write(&fixture, 5, again).await;
    let feed = fixture.store.feed();
    let cursor = FeedCursor::of(me, false);
    let news = async || {
        let of = NewsOf::Range(cursor.next, Uuid::max());
        let news = feed.news(of, 9).await.unwrap().news;
        news.iter().map(|news| (news.tx_id, news.found.is_ok())).collect::<Vec<_>>()
    };
    assert_eq!(news().await, [(tombstone.id(), true)]);
    let live = ended(&fixture, 10, &PhaseTwoAnswer::Done).await;
    assert_eq!(news().await.len(), 2);
    let to = FeedCursor { next: of(me, 11), ..cursor.clone() };
    feed.advance(me, to, now(), 0, Vec::new()).await.unwrap().unwrap();
    let purged = fixture.store.purge().run(me, RETENTION, now()).await.unwrap();
    assert_eq!(purged.stripped, 1);
    assert_eq!(news().await, [(tombstone.id(), true)], "{}", live.id());
}

async fn old_events_go_from_the_first_on(fixture: Fixture) {
    const KEPT: Duration = Duration::from_millis(50);
    let (feed, me) = (fixture.store.feed(), fixture.me);
    // The third clock was wrong by far, and the fifth one by a little.
    for (step, at) in [10, 90, 1_i64 << 50, 20, 160, 100].into_iter().enumerate() {
        let step = i64::try_from(step).unwrap();
        let to = FeedCursor { step, ..FeedCursor::of(me, false) };
        feed.advance(me, to, now(), 0, vec![event(1)]).await.unwrap().unwrap();
        let set = format!("UPDATE feed_events SET added_ms = {at} WHERE revision = {}", step + 1);
        execute(&fixture.url, &set).await;
    }
    let kept = async || {
        let page = feed.page(0, 9).await.unwrap();
        (page.events.first().map(|row| row.revision), page.ends.purged, page.ends.last)
    };
    let purge = async |now| feed.purge(me, KEPT, Timestamp(now)).await.unwrap();
    assert_eq!(purge(60).await, 0);
    assert_eq!(kept().await, (Some(1), 0, 6));
    assert_eq!(purge(100).await, 1);
    assert_eq!(kept().await, (Some(2), 1, 6), "what comes behind a young one stays");
    assert_eq!(purge(145).await, 3, "one of a wrong clock goes with that behind it");
    assert_eq!(kept().await, (Some(5), 4, 6));
    assert_eq!(purge(151).await, 2, "it seems to come from later than now");
    assert_eq!(kept().await, (None, 6, 6));
    assert_eq!(purge(1_000).await, 0);
}

/// More of them than are looked at once.
async fn l5_events_from_later_than_now_do_not_stop_the_purge(fixture: Fixture) {
    const KEPT: Duration = Duration::from_millis(50);
    let (feed, me) = (fixture.store.feed(), fixture.me);
    let add = async |step: i64, events: Vec<NewEvent>, at: i64| {
        let to = FeedCursor { step, ..FeedCursor::of(me, false) };
        let first = feed.page(0, 1).await.unwrap().ends.last + 1;
        feed.advance(me, to, now(), 0, events).await.unwrap().unwrap();
        let set = format!("UPDATE feed_events SET added_ms = {at} WHERE revision >= {first}");
        execute(&fixture.url, &set).await;
    };
    let purge = async |now| feed.purge(me, KEPT, Timestamp(now)).await.unwrap();
    add(0, (0..2_005).map(|_| event(1)).collect(), 1 << 50).await;
    assert_eq!(purge(100).await, 0, "nothing tells that they are old");
    add(1, vec![event(1)], 90).await;
    assert_eq!(purge(100).await, 0, "what they are before is young");
    assert_eq!((purge(200).await, purge(200).await, purge(200).await), (2_000, 6, 0));
}

/// The purge goes by one clock, that of the database: a coordinator whose clock is wrong keeps events neither for less time
/// nor for more.
#[tokio::test]
async fn events_have_the_time_of_the_database() {
    let fixture = Fixture::postgres().await;
    let (feed, me) = (fixture.store.feed(), fixture.me);
    for (step, at) in [Timestamp(5), now().after(1_000 * DAY)].into_iter().enumerate() {
        let to = FeedCursor { step: i64::try_from(step).unwrap(), ..FeedCursor::of(me, false) };
        feed.advance(me, to, at, 0, vec![event(1)]).await.unwrap().unwrap();
    }
    let new =
        "feed_events WHERE abs(added_ms - extract(epoch FROM clock_timestamp()) * 1000) < 600000";
    assert_eq!(count(&fixture, new).await, 2);
    assert_eq!(feed.purge(me, DAY, now()).await.unwrap(), 0);
    assert_eq!(feed.purge(me, DAY, now().after(2 * DAY)).await.unwrap(), 2);
}

/// L3: a purge that takes its time to delete old events holds up nobody who adds new ones.
#[tokio::test]
async fn l3_a_slow_purge_holds_up_no_new_event() {
    let fixture = Fixture::postgres().await;
    let (feed, me) = (fixture.store.feed(), fixture.me);
    let to = |step| FeedCursor { step, ..FeedCursor::of(me, false) };
    feed.advance(me, to(0), now(), 0, vec![event(1)]).await.unwrap().unwrap();
    let slowly = "
        CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(5); RETURN OLD; END $$;
        CREATE TRIGGER slowly BEFORE DELETE ON feed_events FOR EACH ROW EXECUTE FUNCTION slowly();";
    execute(&fixture.url, slowly).await;
    let store = Arc::clone(&fixture.store);
    let tomorrow = now().after(DAY);
    let purging =
        tokio::spawn(async move { store.feed().purge(me, Duration::ZERO, tomorrow).await });
    let deleting = "pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    until("it to delete", async || (count(&fixture, deleting).await > 0).then_some(())).await;
    let added = feed.advance(me, to(1), now(), 0, vec![event(2)]).await.unwrap();
    assert_eq!(added, Some(2));
    assert!(!purging.is_finished(), "it deletes still");
    assert_eq!(purging.await.unwrap().unwrap(), 1);
    let page = feed.page(0, 9).await.unwrap();
    assert_eq!((told(&page), page.ends.purged, page.ends.last), (vec![(2, 2)], 1, 2));
}
