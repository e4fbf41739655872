//! Purge of transactions, and the answers about them afterwards.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use unanimo_coordinator::store::{
    BatchWriter, Key, LockTake, LockTaken, Purged, Retention, Write, Written,
};
use unanimo_core::{
    BranchNumber, Event, EventKind, HeuristicKind, Input, Lock, LockMode, LockName, Mode, Parent,
    PhaseTwoAnswer, PhaseTwoOperation, Timestamp, Version,
};

use super::names::scans;
use super::store::{PostgresOptions, open};
use super::{Fixture, a_write, count, create, execute, on_both_stores};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now};

on_both_stores!(
    s4_s11_only_ended_transactions_that_need_nobody_are_purged,
    s9_a_gid_outlives_its_details_whatever_clock_stored_its_end,
    s10_the_watermark_is_raised_before_a_gid_is_deleted,
    what_is_young_stays,
    a_forgotten_transaction_leaves_its_audit_behind,
    s9_a_stripped_tombstone_holds_its_gid_for_the_gid_retention,
    what_a_saga_left_goes_with_the_details,
    s12_a_saga_stays_until_its_participants_have_asked,
    a_part_of_the_purge_that_fails_does_not_hold_up_the_other,
);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RETENTION: Retention = Retention { details: DAY, gids: Duration::from_secs(2 * 24 * 3600) };

/// Transaction that began at a given time, in the state that it has reached.
async fn transaction(fixture: &Fixture, at: Timestamp, answer: Option<&PhaseTwoAnswer>) -> Live {
    let (mut live, begin) = Live::begin_with(definition(&new_gid()), at);
    fixture.write([begin]).await;
    fixture.write([live.commit()]).await;
    if let Some(answer) = answer {
        let end = live.phase_two(PhaseTwoOperation::Commit, answer);
        fixture.write(end).await;
    }
    live
}

async fn s4_s11_only_ended_transactions_that_need_nobody_are_purged(fixture: Fixture) {
    let mixed = PhaseTwoAnswer::Heuristic { kind: HeuristicKind::Rollback, note: "no".into() };
    let running = transaction(&fixture, LONG_AGO, None).await;
    let heuristic = transaction(&fixture, LONG_AGO, Some(&mixed)).await;
    let ended = transaction(&fixture, LONG_AGO, Some(&PhaseTwoAnswer::Done)).await;

    let purged = fixture.store.purge().run(fixture.me, RETENTION, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 }, "first its details go");
    // However long ago it is said to have ended, the gid stays for the rest of its retention.
    let purge = fixture.store.purge();
    let later = now().after(DAY - Duration::from_secs(60));
    let purged = purge.run(fixture.me, RETENTION, later).await.unwrap();
    assert_eq!(purged, Purged::default());
    let purged = purge.run(fixture.me, RETENTION, now().after(DAY)).await.unwrap();
    assert_eq!(purged, Purged { stripped: 0, deleted: 1 });
    assert_eq!(fixture.store.transactions().find(&Key::Tx(ended.id())).await.unwrap(), None);
    for kept in [running, heuristic] {
        let stored = fixture.store.transactions().find(&Key::Tx(kept.id())).await.unwrap().unwrap();
        assert_eq!(stored.record, kept.tx.record());
    }
}

/// The end was stored by a clock that was behind for years, and details and gids are kept for the same time.
async fn s9_a_gid_outlives_its_details_whatever_clock_stored_its_end(fixture: Fixture) {
    let retention = Retention { details: DAY, gids: DAY };
    let ended = transaction(&fixture, LONG_AGO, Some(&PhaseTwoAnswer::Done)).await;
    let gid = ended.tx.identity().gid.clone();
    let (at, purge) = (now(), fixture.store.purge());
    let purged = purge.run(fixture.me, retention, at).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 });
    let almost = at.after(DAY / 2 - Duration::from_secs(1));
    assert_eq!(purge.run(fixture.me, retention, almost).await.unwrap(), Purged::default());
    let found = fixture.store.transactions().find(&Key::Gid(gid)).await.unwrap();
    assert!(found.unwrap().stripped, "the gid is not new");
    let purged = purge.run(fixture.me, retention, at.after(DAY / 2)).await.unwrap();
    assert_eq!(purged, Purged { stripped: 0, deleted: 1 });
}

async fn s10_the_watermark_is_raised_before_a_gid_is_deleted(fixture: Fixture) {
    let ended = transaction(&fixture, LONG_AGO, Some(&PhaseTwoAnswer::Done)).await;
    assert_eq!(fixture.store.purge().watermark().await.unwrap(), Timestamp(0));
    let keep_gids = Retention { gids: Duration::from_secs(100 * 365 * 24 * 3600), ..RETENTION };
    let purged = fixture.store.purge().run(fixture.me, keep_gids, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 });
    let stored = fixture.store.transactions().find(&Key::Tx(ended.id())).await.unwrap().unwrap();
    assert!(stored.stripped);
    assert_eq!(stored.record.identity.gid, ended.tx.identity().gid);
    assert_eq!(stored.record.identity.digest, ended.tx.identity().digest);
    assert_eq!(stored.record.state.phase, ended.tx.phase());
    assert_eq!(stored.record.branches, []);
    assert_eq!(stored.record.outputs, []);
    assert!(fixture.store.transactions().events(ended.id()).await.unwrap().is_empty());

    let at = now().after(DAY);
    let purged = fixture.store.purge().run(fixture.me, RETENTION, at).await.unwrap();
    assert_eq!(purged, Purged { stripped: 0, deleted: 1 });
    let watermark = fixture.store.purge().watermark().await.unwrap();
    assert_eq!(watermark.after(RETENTION.gids), at, "it is the purge's time, and no other");
    assert_eq!(fixture.store.purge().times().await.unwrap().last, Some(at));
    // It never goes back, and neither does what was purged come back.
    fixture.store.purge().run(fixture.me, RETENTION, LONG_AGO.after(DAY)).await.unwrap();
    assert_eq!(fixture.store.purge().watermark().await.unwrap(), watermark);
    assert!(ended.id().created_ms() < watermark.0, "it is told from one that was never seen");
    assert!(watermark < now());
}

async fn what_is_young_stays(fixture: Fixture) {
    let at = now();
    let live = transaction(&fixture, at, Some(&PhaseTwoAnswer::Done)).await;
    // The id's time is far ahead of the database's clock, and the end is long past by it.
    let ahead = at.after(DAY * 30);
    let (mut odd, begin) = Live::begin_with(definition(&new_gid()), ahead);
    fixture.write([begin]).await;
    odd.now = LONG_AGO;
    fixture.write([odd.commit()]).await;
    fixture.write(odd.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done)).await;

    let purged = fixture.store.purge().run(fixture.me, RETENTION, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 }, "the odd one's details");
    let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(stored.record, live.tx.record());
    assert!(fixture.store.transactions().find(&Key::Tx(odd.id())).await.unwrap().is_some());
}

async fn s9_a_stripped_tombstone_holds_its_gid_for_the_gid_retention(fixture: Fixture) {
    let gid = new_gid();
    let (tombstone, begin) = Live::tombstone(&gid, LONG_AGO);
    fixture.write([begin]).await;
    let keep_gids = Retention { gids: Duration::from_secs(100 * 365 * 24 * 3600), ..RETENTION };
    let purged = fixture.store.purge().run(fixture.me, keep_gids, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 });
    let stored = fixture.store.transactions().find(&Key::Gid(gid.clone())).await.unwrap().unwrap();
    assert!(stored.stripped);
    assert_eq!(stored.record.identity, *tombstone.tx.identity());
    assert_eq!(stored.record.state.phase, tombstone.tx.phase());
    let (_, later) = Live::begin(&gid);
    let written = fixture.writer().await.write(&[a_write(later)]).await.unwrap();
    assert!(matches!(&written[..], [Written::GidHeld(holder)] if holder.tx_id == tombstone.id()));

    let later = now().after(DAY);
    let purged = fixture.store.purge().run(fixture.me, RETENTION, later).await.unwrap();
    assert_eq!(purged, Purged { stripped: 0, deleted: 1 });
}

async fn a_forgotten_transaction_leaves_its_audit_behind(fixture: Fixture) {
    let mixed = PhaseTwoAnswer::Heuristic { kind: HeuristicKind::Rollback, note: "no".into() };
    let mut live = transaction(&fixture, LONG_AGO, Some(&mixed)).await;
    assert_eq!(fixture.store.transactions().attention().await.unwrap().heuristic, 1);
    let forget = Input::Forget { operator: "ann".into(), note: "paid by hand".into() };
    let forgotten = live.apply(forget).transition.unwrap();
    fixture.write([forgotten]).await;
    assert_eq!(fixture.store.transactions().attention().await.unwrap().heuristic, 0);

    let purged = fixture.store.purge().run(fixture.me, RETENTION, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 });
    let later = now().after(DAY);
    let purged = fixture.store.purge().run(fixture.me, RETENTION, later).await.unwrap();
    assert_eq!(purged, Purged { stripped: 0, deleted: 1 });
    let audit = Event {
        at: LONG_AGO,
        kind: EventKind::Forgotten,
        number: None,
        detail: "by ann: paid by hand".into(),
    };
    assert_eq!(fixture.store.transactions().events(live.id()).await.unwrap(), [audit]);
}

/// History, and lock rows that the end of a transaction has missed.
async fn what_a_saga_left_goes_with_the_details(fixture: Fixture) {
    let saga = async |at, name| {
        let name = LockName::new(name).unwrap();
        let mut definition = definition(&new_gid());
        definition.mode = Mode::Saga;
        definition.branches.iter_mut().for_each(|branch| branch.mode = Mode::Saga);
        let root = crate::fixtures::tx_id(LONG_AGO);
        definition.parent = Some(Parent { tx_id: root, number: BranchNumber::from_index(1), root });
        let wait_max = Duration::ZERO;
        definition.locks = vec![Lock { name: name.clone(), mode: LockMode::Shared, wait_max }];
        let (mut live, begin) = Live::begin_with(definition, at);
        assert_eq!(begin.history.len(), 1, "it is recorded");
        fixture.write([begin]).await;
        let locks = vec![(name.clone(), LockMode::Shared)];
        let take = LockTake { tx_id: live.id(), family: live.id(), locks };
        let taken = fixture.store.locks().take(fixture.me, &take).await.unwrap();
        assert_eq!(taken, LockTaken::Granted);
        let mut end = live.rollback();
        end.releases_locks = false;
        fixture.write([end]).await;
        live
    };
    let (old, young) = (saga(LONG_AGO, "a").await, saga(now(), "b").await);
    let keep_gids = Retention { gids: Duration::from_secs(100 * 365 * 24 * 3600), ..RETENTION };
    let histories = async || {
        let transactions = fixture.store.transactions();
        let old = transactions.history(old.id(), Version::default()).await.unwrap().len();
        old + transactions.history(young.id(), Version::default()).await.unwrap().len()
    };
    assert_eq!((count(&fixture, "locks").await, histories().await), (2, 4));
    let purged = fixture.store.purge().run(fixture.me, keep_gids, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 });
    assert_eq!((count(&fixture, "locks").await, histories().await), (1, 2));
    let transactions = fixture.store.transactions();
    assert!(transactions.history(old.id(), Default::default()).await.unwrap().is_empty());
    assert_eq!(transactions.history(young.id(), Default::default()).await.unwrap().len(), 2);
    let stripped = transactions.find(&Key::Tx(old.id())).await.unwrap().unwrap().record;
    assert_eq!(stripped.state.phase, old.tx.phase());
    // By the part that never changes a child is known as its parent's, whose decision may come again.
    assert_eq!(stripped.identity.locks, old.tx.identity().locks);
    assert_eq!(stripped.identity.parent, old.tx.identity().parent);
    assert!(stripped.identity.parent.is_some());
}

/// A participant asks about a step again after half of what the step has lived, at most an hour: until then a
/// saga is there, whatever the retention.
async fn s12_a_saga_stays_until_its_participants_have_asked(fixture: Fixture) {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let ago = |back: Duration| Timestamp(now().0 - u64::try_from(back.as_millis()).unwrap());
    let ended = async |mode, began_ago: Duration, ended_ago: Duration| {
        let mut definition = definition(&new_gid());
        definition.mode = mode;
        definition.branches.iter_mut().for_each(|branch| branch.mode = mode);
        let (mut live, begin) = Live::begin_with(definition, ago(began_ago));
        fixture.write([begin]).await;
        live.now = ago(ended_ago);
        fixture.write([live.rollback()]).await;
        fixture.write(live.phase_two(PhaseTwoOperation::Cancel, &PhaseTwoAnswer::Done)).await;
        assert!(live.tx.phase().ended_at().is_some());
        live
    };
    let short = ended(Mode::Saga, minutes(4), minutes(3)).await;
    let long = ended(Mode::Saga, minutes(60 * 24), minutes(61)).await;
    let middle = ended(Mode::Saga, minutes(60), minutes(20)).await;
    let over = ended(Mode::Saga, minutes(60 * 24), minutes(64)).await;
    let tcc = ended(Mode::Tcc, minutes(60 * 24), minutes(1)).await;
    let none = Retention { details: Duration::ZERO, ..RETENTION };
    fixture.store.purge().run(fixture.me, none, now()).await.unwrap();
    for (live, stripped) in
        [(short, false), (long, false), (middle, false), (over, true), (tcc, true)]
    {
        let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
        assert_eq!(stored.stripped, stripped, "{:?}", live.tx.phase());
    }
}

/// One transaction cannot be stripped; the gid of another one goes all the same. The cause says which statement
/// has failed.
async fn a_part_of_the_purge_that_fails_does_not_hold_up_the_other(fixture: Fixture) {
    let gone = transaction(&fixture, LONG_AGO, Some(&PhaseTwoAnswer::Done)).await;
    let purge = fixture.store.purge();
    let purged = purge.run(fixture.me, RETENTION, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 });
    let kept = transaction(&fixture, LONG_AGO, Some(&PhaseTwoAnswer::Done)).await;
    let refuse = match fixture.url.starts_with("sqlite:") {
        true => {
            "CREATE TRIGGER refuse BEFORE INSERT ON log WHEN NEW.stripped_ms IS NOT NULL
             BEGIN SELECT RAISE(ABORT, 'a row that is stuck'); END"
        }
        false => {
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'a row that is stuck'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON log
                 FOR EACH ROW WHEN (NEW.stripped_ms IS NOT NULL) EXECUTE FUNCTION refuse()"
        }
    };
    execute(&fixture.url, refuse).await;
    let error = purge.run(fixture.me, RETENTION, now().after(DAY)).await.unwrap_err();
    let text = unanimo_coordinator::store::in_full(&error);
    for part in ["details of ended transactions (STRIP)", "a row that is stuck"] {
        assert!(text.contains(part), "{text}");
    }
    let transactions = fixture.store.transactions();
    assert_eq!(transactions.find(&Key::Tx(gone.id())).await.unwrap(), None);
    let stored = transactions.find(&Key::Tx(kept.id())).await.unwrap().unwrap();
    assert!(!stored.stripped);
}

/// The purge reads the rows of what is due, and no index of all that was written lately, whatever the planner takes the
/// log's rows for.
#[tokio::test]
async fn the_purge_reads_nothing_of_what_was_written_lately() {
    const DUE: i64 = 100;
    const LATELY: i64 = 2_000;
    let fixture = Fixture::postgres().await;
    for _ in 0..DUE {
        let (mut live, begin) = Live::begin_with(definition(&new_gid()), LONG_AGO);
        fixture.write([begin, live.commit()]).await;
        let end = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
        fixture.write(end).await;
    }
    // News of a journal beside many rows, and statistics as a sample of very many rows gives them: hardly any are news, and
    // there are many of each transaction.
    let lately = format!(
        "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, body)
         SELECT gen_random_uuid(), 0, 1, 1, gen_random_uuid(), 1, '' FROM generate_series(1, 200000);
         ALTER TABLE log ALTER COLUMN tx_id SET (n_distinct = 4000);
         ALTER TABLE log ALTER COLUMN write_id SET STATISTICS 10;
         ANALYZE log;
         INSERT INTO log (tx_id, follows, version, owner, write_id, kind, body)
         SELECT gen_random_uuid(), 0, 1, 1, lpad(to_hex(i), 32, '0')::uuid, 128, ''
         FROM generate_series(1, {LATELY}) AS i"
    );
    execute(&fixture.url, &lately).await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let retention = Retention { details: DAY, gids: 2 * DAY };
    let purged = fixture.store.purge().run(fixture.me, retention, now()).await.unwrap();
    assert_eq!(purged.stripped, DUE.unsigned_abs());
    fixture.store.close().await;
    let (_, read) = scans(&mut raw, "log_news").await;
    assert!(read < LATELY, "{read} entries of the feed's index for {DUE} that are due");
}

/// A database that does a few in time, and not as many as a run takes at most, is asked for a few.
#[tokio::test]
async fn the_purge_takes_fewer_where_the_database_is_slow() {
    const DUE: usize = 400;
    let fixture = Fixture::postgres().await;
    let mut writer = fixture.writer().await;
    let tombstones: Vec<Write> =
        (0..DUE).map(|_| a_write(Live::tombstone(&new_gid(), LONG_AGO).1)).collect();
    write_all(&mut *writer, &tombstones).await;
    drop(writer);
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(0.005); RETURN OLD; END';
        CREATE TRIGGER slow BEFORE DELETE ON log FOR EACH ROW EXECUTE FUNCTION slow()";
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    sqlx::raw_sql(slow).execute(&mut raw).await.unwrap();
    let statement_timeout = Duration::from_secs(1);
    let options = PostgresOptions { statement_timeout, ..PostgresOptions::default() };
    let store = open(&fixture.url, &options).await.unwrap();
    let (me, purge) = (create(&store, "slow").await, store.purge());
    let (mut stripped, mut deleted) = (0, 0);
    for _ in 0..40 {
        stripped += purge.strip(me, RETENTION, now()).await.unwrap_or_default();
        deleted += purge.delete(me, RETENTION, now().after(DAY)).await.unwrap_or_default();
        if deleted == DUE as u64 {
            break;
        }
    }
    assert_eq!((stripped, deleted), (DUE as u64, DUE as u64));
    store.close().await;
}

/// Deletions that a snapshot keeps in the index are passed over once, and not by each run.
#[tokio::test]
async fn the_purge_goes_on_where_it_was_beside_a_snapshot() {
    const RUNS: i64 = 3;
    const EACH: i64 = 2_000;
    let fixture = Fixture::postgres().await;
    let (mut begins, mut decisions, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS * EACH {
        let (mut live, begin) = Live::begin_with(definition(&new_gid()), LONG_AGO);
        begins.push(a_write(begin));
        decisions.push(a_write(live.commit()));
        ends.push(live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done));
    }
    let mut writer = fixture.writer().await;
    write_all(&mut *writer, &begins).await;
    write_all(&mut *writer, &decisions).await;
    for at in 0..ends.iter().map(Vec::len).max().unwrap_or_default() {
        let next = ends.iter().filter_map(|ends| Some(a_write(ends.get(at)?.clone())));
        write_all(&mut *writer, &next.collect::<Vec<_>>()).await;
    }
    drop(writer);
    // Each ended at a time of its own.
    let spread = "UPDATE log SET ended_ms = ended_ms + number FROM (
            SELECT tx_id, row_number() OVER () AS number FROM gids) AS numbered
        WHERE log.tx_id = numbered.tx_id AND ended_ms IS NOT NULL;
        VACUUM ANALYZE log";
    for statement in spread.split(';') {
        execute(&fixture.url, statement).await;
    }
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let mut holder = PgConnection::connect(&fixture.url).await.unwrap();
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    holder.execute("SELECT 1 FROM cluster").await.unwrap();
    let purge = fixture.store.purge();
    let retention = Retention { details: DAY, gids: 2 * DAY };
    // The first search waits: it is one that takes long. If it waits for too long, it fails, and is made again.
    let mut stripped = loop {
        let mut lock = PgConnection::connect(&fixture.url).await.unwrap();
        lock.execute("BEGIN").await.unwrap();
        lock.execute("LOCK TABLE log").await.unwrap();
        let release = async {
            tokio::time::sleep(Duration::from_millis(120)).await;
            lock.execute("COMMIT").await.unwrap();
        };
        let (stripped, ()) = tokio::join!(purge.strip(fixture.me, retention, now()), release);
        lock.close().await.unwrap();
        if let Ok(stripped) = stripped {
            break vec![stripped];
        }
    };
    for _ in 1..RUNS {
        stripped.push(purge.strip(fixture.me, retention, now()).await.unwrap());
    }
    assert_eq!(stripped, [EACH.unsigned_abs(); 3]);
    holder.execute("COMMIT").await.unwrap();
    holder.close().await.unwrap();
    // Beside many others the planner takes those that are due for fewer than are wanted.
    let others = "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, ended_ms, body)
        SELECT gen_random_uuid(), 0, 1, 1, gen_random_uuid(), 1, (1e14 * (1 + random()))::int8, ''
        FROM generate_series(1, 50000);
        ANALYZE log";
    execute(&fixture.url, others).await;
    for _ in 0..RUNS {
        let deleted = purge.delete(fixture.me, retention, now().after(DAY)).await.unwrap();
        assert_eq!(deleted, EACH.unsigned_abs());
    }
    fixture.store.close().await;
    // All that were found, and once more those of the run before.
    for index in ["log_ended", "log_stripped"] {
        let (_, read) = scans(&mut raw, index).await;
        assert!(read <= RUNS * EACH * 2, "{index}: {read} entries for {}", RUNS * EACH);
    }
}

/// The feed's one row has as many versions as it was written since a snapshot that is held open.
#[tokio::test]
async fn the_purge_reads_the_feed_once_in_a_run() {
    const DUE: i64 = 200;
    let fixture = Fixture::postgres().await;
    for _ in 0..DUE {
        let (mut live, begin) = Live::begin_with(definition(&new_gid()), LONG_AGO);
        fixture.write([begin, live.commit()]).await;
        let end = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
        fixture.write(end).await;
    }
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let mut holder = PgConnection::connect(&fixture.url).await.unwrap();
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    holder.execute("SELECT 1 FROM feed").await.unwrap();
    let versions = "DO $$ BEGIN FOR n IN 1 .. 5000 LOOP UPDATE feed SET done_before = done_before; END LOOP; END $$";
    raw.execute(versions).await.unwrap();
    raw.execute("ANALYZE feed").await.unwrap();
    raw.close().await.unwrap();
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    scans(&mut raw, "log_ended").await;
    let before = pages_of_the_feed(&mut raw).await.0;
    let stripped = fixture.store.purge().strip(fixture.me, RETENTION, now()).await.unwrap();
    assert_eq!(stripped, DUE.unsigned_abs());
    holder.execute("COMMIT").await.unwrap();
    holder.close().await.unwrap();
    fixture.store.close().await;
    scans(&mut raw, "log_ended").await;
    let (after, size) = pages_of_the_feed(&mut raw).await;
    assert!(size > 20, "{size} pages");
    assert!(after - before < 10 * size, "{} pages were read of {size}", after - before);
}

/// Reads how many pages of the feed's one row were read by sessions that have ended, and how many there are.
async fn pages_of_the_feed(raw: &mut PgConnection) -> (i64, i64) {
    let pages = "SELECT heap_blks_hit + heap_blks_read, pg_relation_size('feed') / 8192
        FROM pg_statio_user_tables WHERE relname = 'feed'";
    sqlx::query_as(pages).fetch_one(raw).await.unwrap()
}

/// The close of an epoch of names locks the row about the group first, and then those of the incarnations. If the purge had
/// them in the other order, each would wait for the other.
#[tokio::test]
async fn the_purge_and_the_close_of_an_epoch_do_not_wait_for_each_other() {
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let mut look = PgConnection::connect(&fixture.url).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%purge_watermark_ms%'";
    for _ in 0..100 {
        raw.execute("BEGIN; UPDATE cluster SET epoch = epoch").await.unwrap();
        let (store, me) = (std::sync::Arc::clone(&fixture.store), fixture.me);
        let purge = tokio::spawn(async move { store.purge().delete(me, RETENTION, now()).await });
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut look).await.unwrap() < 1
            && !purge.is_finished()
        {}
        let marks = "SET LOCAL lock_timeout = '100ms'; UPDATE fences SET epoch = epoch; COMMIT";
        raw.execute(marks).await.expect("the purge has no lock that this waits for");
        // A wait that was too long for the busy machine is made again.
        if purge.await.unwrap().is_ok() {
            return;
        }
    }
    panic!("no round was fast enough");
}

pub(super) async fn write_all(writer: &mut dyn BatchWriter, writes: &[Write]) {
    for batch in writes.chunks(500) {
        let written = writer.write(batch).await.unwrap();
        assert!(written.iter().all(|written| *written == Written::Applied), "{written:?}");
    }
}

/// Where details are kept for as long as gids, half of what is stripped is not due to be deleted: it is not read for that.
#[tokio::test]
async fn the_purge_does_not_look_at_what_cannot_be_due() {
    const HALF: Duration = Duration::from_secs(12 * 60 * 60);
    let fixture = Fixture::postgres().await;
    let retention = Retention { details: 2 * DAY, gids: 2 * DAY };
    let at = Timestamp(now().0 - u64::try_from((2 * DAY + HALF).as_millis()).unwrap());
    for _ in 0..40 {
        transaction(&fixture, at, Some(&PhaseTwoAnswer::Done)).await;
    }
    // A small table would be read as a whole.
    let through_indexes = "DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$";
    execute(&fixture.url, through_indexes).await;
    fixture.store.close().await;
    let store = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let (me, purge) = (create(&store, "two").await, store.purge());
    assert_eq!(purge.strip(me, retention, now()).await.unwrap(), 40);
    for _ in 0..5 {
        assert_eq!(purge.delete(me, retention, now()).await.unwrap(), 0);
    }
    assert_eq!(purge.delete(me, retention, now().after(DAY)).await.unwrap(), 40);
    store.close().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let (_, read) = scans(&mut raw, "log_stripped").await;
    assert!(read <= 2 * 40, "{read} entries for 40 that were due once");
}
