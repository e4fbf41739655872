//! Whatever the journal itself needs beside rows: its fence, its connections, its turn. One that is held up holds up nothing else
//! (promise L3).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use unanimo_coordinator::store::journal::{Completion, Ended};
use unanimo_coordinator::store::{BatchError, Write, Written};
use unanimo_core::{PhaseTwoAnswer, PhaseTwoOperation, TxId, Version};
use unanimo_tests::wait::until;

use super::batches::{begin, rival};
use super::journal::Journal;
use super::stuck_rows::completed_within;
use super::unwell::{End, TAKES_LONG, Unwell};
use super::{Fixture, a_write, count, execute, on_both_stores};
use crate::fixtures::{Live, new_gid};

on_both_stores!(
    l3_what_begins_and_fails_keeps_no_decision_waiting,
    l3_what_takes_too_long_to_begin_keeps_decisions_waiting_once,
    each_lane_has_a_connection_from_the_start,
    l3_a_lane_without_a_connection_leaves_what_it_has,
    l3_a_lane_without_a_connection_keeps_what_takes_too_long,
    s3_what_goes_on_is_not_given_up_for_a_limit_that_comes_and_goes,
);

/// A session in a transaction, after these statements.
async fn holder(fixture: &Fixture, statements: &str) -> PgConnection {
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    raw.execute("BEGIN").await.unwrap();
    raw.execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))).await.unwrap();
    raw
}

/// L3: a new connection, and the proof of what was found, need a lock that all of them share, and nothing else.
#[tokio::test]
async fn l3_a_row_of_its_own_that_somebody_holds_keeps_no_journal_from_connecting() {
    let fixture = Fixture::postgres().await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let gid = new_gid();
    let (first, transition) = Live::begin(&gid);
    journal.submit(transition);
    assert_eq!(journal.completed(&[(first.id(), Version(1))]).await, []);
    // What the migrations made for it, and a fence that somebody else has as it has it.
    let held = "LOCK TABLE journals IN ACCESS EXCLUSIVE MODE; SELECT 1 FROM fences FOR SHARE";
    let mut holding = holder(&fixture, held).await;
    let (reused, transition) = Live::begin(&gid);
    journal.submit(transition);
    let wanted = [(reused.id(), Version(1))];
    let told = completed_within(Duration::from_secs(3), &mut journal, &wanted).await;
    assert!(matches!(&told[..], [Completion { ended: Ended::GidHeld(_), .. }]), "{told:?}");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    holding.execute(end).await.unwrap();
    let wanted = begin(&journal, 3);
    assert_eq!(completed_within(Duration::from_secs(4), &mut journal, &wanted).await, []);
    assert_eq!(journal.handle.trouble(), None);
    holding.execute("ROLLBACK").await.unwrap();
    journal.end().await.unwrap();
}

/// S3: a write of one's own flushes all that was committed before it, by whomever.
#[tokio::test]
async fn s3_a_write_of_ones_own_is_flushed_with_all_before_it() {
    let fixture = Fixture::postgres().await;
    let mut writer = fixture.writer().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let lazy = "SET synchronous_commit = off; CREATE TABLE lazily (number int)";
    raw.execute(sqlx::raw_sql(lazy)).await.unwrap();
    for number in 0..100 {
        raw.execute("INSERT INTO lazily VALUES (1)").await.unwrap();
        let end = sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text");
        let end: String = end.fetch_one(&mut raw).await.unwrap();
        writer.write_own().await.unwrap();
        let is_flushed = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn");
        let is_flushed: bool = is_flushed.bind(end).fetch_one(&mut raw).await.unwrap();
        assert!(is_flushed, "write {number}");
    }
}

/// S3: the write that proves what was found waits for the fence. The batch stays committed, its connection is kept, and the proof
/// is made later.
#[tokio::test]
async fn s3_what_was_found_waits_for_its_proof_on_the_same_connection() {
    let fixture = Fixture::postgres().await;
    let mut writer = fixture.writer().await;
    let (_, transition) = Live::begin(&new_gid());
    let gid = transition.begins.as_ref().unwrap().gid.clone();
    fixture.write([transition]).await;
    // From now on names are looked for first, and a batch that finds one is committed.
    let written = writer.write(&[a_write(Live::begin(&gid).1)]).await.unwrap();
    assert!(matches!(written[..], [Written::GidHeld(_)]), "{written:?}");
    for _ in 0..10 {
        let gid = new_gid();
        let mut rival = rival(&fixture, &gid).await;
        let batch = [a_write(Live::begin(&gid).1)];
        // It has the fence, and waits for the rival. Whoever asks for more of the fence gets that in front of its proof.
        let writing = tokio::spawn(async move {
            let told = writer.write(&batch).await;
            (writer, batch, told)
        });
        tokio::time::sleep(Duration::from_millis(40)).await;
        let mut locker = PgConnection::connect(&fixture.url).await.unwrap();
        let locking = tokio::spawn(async move {
            locker.execute(sqlx::raw_sql("BEGIN; SELECT 1 FROM fences FOR UPDATE")).await.unwrap();
            locker
        });
        tokio::time::sleep(Duration::from_millis(40)).await;
        rival.execute("COMMIT").await.unwrap();
        let (told, batch);
        (writer, batch, told) = writing.await.unwrap();
        locking.await.unwrap().execute("ROLLBACK").await.unwrap();
        match told {
            Err(BatchError::Unaffirmed(_)) => {
                let written = writer.write(&batch).await.unwrap();
                assert!(matches!(written[..], [Written::GidHeld(_)]), "{written:?}");
                return;
            }
            // The locker was too late, or the rival.
            Ok(_) | Err(BatchError::LockTimeout(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the fence was never locked in time");
}

/// A journal at which whatever begins a transaction of this set ends so, and transactions that wait for their decisions.
async fn with_bad(fixture: &Fixture, end: End) -> (Journal, Arc<Mutex<HashSet<TxId>>>, Vec<Live>) {
    let bad: Arc<Mutex<HashSet<TxId>>> = Arc::default();
    let is_bad = Arc::clone(&bad);
    let plan = move |_, batch: &[Write]| {
        let is_bad = is_bad.lock().unwrap();
        let has_bad = batch.iter().any(|write| is_bad.contains(&write.transition.tx_id));
        if has_bad { end } else { End::Well }
    };
    let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
    let mut lives = Vec::new();
    for _ in 0..24 {
        let (live, transition) = Live::begin(&new_gid());
        journal.submit(transition);
        lives.push(live);
    }
    let begun: Vec<_> = lives.iter().map(|live| (live.id(), Version(1))).collect();
    assert_eq!(journal.completed(&begun).await, []);
    (journal, bad, lives)
}

fn begin_bad(journal: &Journal, bad: &Mutex<HashSet<TxId>>) {
    let (live, transition) = Live::begin(&new_gid());
    bad.lock().unwrap().insert(live.id());
    journal.submit(transition);
}

/// Decides one after the other, and begins what is bad beside each.
async fn decide(
    journal: &Journal,
    bad: &Mutex<HashSet<TxId>>,
    lives: &mut [Live],
) -> Vec<(TxId, Version)> {
    let mut decided = Vec::new();
    for live in lives {
        begin_bad(journal, bad);
        journal.submit(live.commit());
        decided.push((live.id(), Version(2)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    decided
}

/// L3: transactions fail as they begin, for whatever reason, many at once and one after the other. Decisions of others are written
/// as ever.
async fn l3_what_begins_and_fails_keeps_no_decision_waiting(fixture: Fixture) {
    for end in [End::Failed, End::TooMuch, End::Damaged] {
        let (mut journal, bad, mut lives) = with_bad(&fixture, end).await;
        (0..60).for_each(|_| begin_bad(&journal, &bad));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let decided = decide(&journal, &bad, &mut lives).await;
        let told = completed_within(Duration::from_secs(1), &mut journal, &decided).await;
        // One that is too much may be refused meanwhile.
        assert!(told.iter().all(|told| matches!(told.ended, Ended::Refused(_))), "{told:?}");
        // What begins, and is well, waits for its parts only.
        let wanted = begin(&journal, 20);
        completed_within(Duration::from_secs(3), &mut journal, &wanted).await;
        bad.lock().unwrap().clear();
        until("all", async || (journal.handle.backlog() == 0).then_some(())).await;
        journal.end().await.unwrap();
    }
}

/// L3: beside what takes too long to begin decisions wait for one attempt, and go before the next one.
async fn l3_what_takes_too_long_to_begin_keeps_decisions_waiting_once(fixture: Fixture) {
    let (mut journal, bad, mut lives) = with_bad(&fixture, End::TakesLong).await;
    begin_bad(&journal, &bad);
    begin_bad(&journal, &bad);
    let started = Instant::now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let decided = decide(&journal, &bad, &mut lives).await;
    assert_eq!(completed_within(TAKES_LONG, &mut journal, &decided).await, []);
    assert!(started.elapsed() < TAKES_LONG * 7 / 4, "{:?}", started.elapsed());
    bad.lock().unwrap().clear();
    until("all", async || (journal.handle.backlog() == 0).then_some(())).await;
    journal.end().await.unwrap();
}

/// L3: a rival holds many gids. What begins in the same batches waits for its parts, each for a moment.
#[tokio::test]
async fn l3_many_locked_rows_cost_others_a_moment_each() {
    let fixture = Fixture::postgres().await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let gids: Vec<_> = (0..100).map(|_| new_gid()).collect();
    let mut rival = rival(&fixture, &gids[0]).await;
    for gid in &gids[1..] {
        let insert = super::rows::begun(gid);
        rival.execute(sqlx::raw_sql(AssertSqlSafe(insert))).await.unwrap();
    }
    let (mut locked, mut wanted) = (Vec::new(), Vec::new());
    for gid in &gids {
        let (live, transition) = Live::begin(gid);
        journal.submit(transition);
        locked.push((live.id(), Version(1)));
        wanted.extend(begin(&journal, 1));
    }
    assert_eq!(completed_within(Duration::from_secs(12), &mut journal, &wanted).await, []);
    rival.execute("ROLLBACK").await.unwrap();
    assert_eq!(completed_within(Duration::from_secs(20), &mut journal, &locked).await, []);
    journal.end().await.unwrap();
}

/// L3: somebody holds the mark of a transaction that is open for long. Its end waits for that only if the mark says more than
/// that it is open: nobody else would take it away.
#[tokio::test]
async fn l3_an_end_waits_for_no_mark_that_somebody_holds() {
    let fixture = Fixture::postgres().await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    for reasons in [0, 1] {
        let (mut live, transition) = Live::begin(&new_gid());
        let id = live.id();
        journal.submit(transition);
        assert_eq!(journal.completed(&[(id, Version(1))]).await, []);
        let owner = fixture.me.0;
        let mark = format!(
            "INSERT INTO parked (tx_id, owner, reasons) VALUES ('{id}', {owner}, {reasons})"
        );
        execute(&fixture.url, &mark).await;
        let lock = format!("SELECT 1 FROM parked WHERE tx_id = '{id}' FOR UPDATE");
        let mut holding = holder(&fixture, &lock).await;
        // Both are handed over before the journal can run.
        journal.submit(live.commit());
        journal.submit_all(live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done));
        let ended = [(id, Version(3))];
        if reasons == 0 {
            assert_eq!(completed_within(Duration::from_secs(2), &mut journal, &ended).await, []);
            assert_eq!(count(&fixture, "parked").await, 1);
            holding.execute("ROLLBACK").await.unwrap();
            fixture.store.transactions().open_of(fixture.me).await.unwrap();
        } else {
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert!(journal.results.try_recv().is_err(), "its mark would stay");
            holding.execute("ROLLBACK").await.unwrap();
            assert_eq!(completed_within(Duration::from_secs(5), &mut journal, &ended).await, []);
        }
        assert_eq!(count(&fixture, "parked").await, 0);
    }
    journal.end().await.unwrap();
}

/// Connections are there before a row needs one.
async fn each_lane_has_a_connection_from_the_start(fixture: Fixture) {
    let store = Unwell::new(&fixture.store, |_, _| End::Well);
    let journal = Journal::start(Arc::clone(&store) as _, fixture.me);
    until("its connections", async || (store.opened() == 3).then_some(())).await;
    journal.end().await.unwrap();
    assert_eq!((store.opened(), store.batches()), (3, 0));
}

/// A journal whose fast lane alone has a connection, and in which one row ends so as long as it is not free.
async fn cut_off(fixture: &Fixture, end: End) -> (Journal, Arc<Unwell>, TxId, Arc<AtomicBool>) {
    let (live, transition) = Live::begin(&new_gid());
    let (id, free) = (live.id(), Arc::new(AtomicBool::new(false)));
    let is_free = Arc::clone(&free);
    let plan = move |_, batch: &[Write]| {
        let has_it = batch.iter().any(|write| write.transition.tx_id == id);
        if has_it && !is_free.load(Ordering::Relaxed) { end } else { End::Well }
    };
    let store = Unwell::new(&fixture.store, plan);
    store.allow(1);
    let journal = Journal::start(Arc::clone(&store) as _, fixture.me);
    until("a connection", async || (store.opened() == 1).then_some(())).await;
    assert_eq!(journal.handle.trouble(), None, "nothing waits for another one");
    journal.submit(transition);
    (journal, store, id, free)
}

/// L3: connections of the seldom lanes cannot be had. What they would write is written by the fast lane, row by row, and what
/// waits for them is told.
async fn l3_a_lane_without_a_connection_leaves_what_it_has(fixture: Fixture) {
    for end in [End::Locked, End::Failed] {
        let (mut journal, store, id, free) = cut_off(&fixture, end).await;
        let wanted = begin(&journal, 20);
        assert_eq!(completed_within(Duration::from_secs(5), &mut journal, &wanted).await, []);
        let told = until("its trouble", async || journal.handle.trouble()).await;
        assert!(told.contains("no connection is left") || end == End::Failed, "{told}");
        for _ in 0..20 {
            let wanted = begin(&journal, 2);
            assert_eq!(completed_within(Duration::from_secs(1), &mut journal, &wanted).await, []);
        }
        free.store(true, Ordering::Relaxed);
        let stuck = [(id, Version(1))];
        assert_eq!(completed_within(Duration::from_secs(5), &mut journal, &stuck).await, []);
        until("its end", async || journal.handle.trouble().is_none().then_some(())).await;
        store.allow(3);
        until("its connections", async || (store.opened() == 3).then_some(())).await;
        journal.end().await.unwrap();
    }
}

/// L3: but for what takes too long: in the fast lane all would wait for that.
async fn l3_a_lane_without_a_connection_keeps_what_takes_too_long(fixture: Fixture) {
    let (mut journal, store, id, free) = cut_off(&fixture, End::TakesLong).await;
    // It goes alone from then on.
    tokio::time::sleep(TAKES_LONG + Duration::from_millis(500)).await;
    for _ in 0..30 {
        let wanted = begin(&journal, 2);
        assert_eq!(completed_within(Duration::from_secs(1), &mut journal, &wanted).await, []);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    free.store(true, Ordering::Relaxed);
    store.allow(3);
    let stuck = [(id, Version(1))];
    assert_eq!(completed_within(Duration::from_secs(5), &mut journal, &stuck).await, []);
    journal.end().await.unwrap();
}

/// Everything waits for a lock: that is told. One row that does is nobody's trouble.
#[tokio::test]
async fn a_journal_that_stands_still_behind_a_lock_says_so() {
    let fixture = Fixture::postgres().await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let gid = new_gid();
    let mut one = rival(&fixture, &gid).await;
    let (waits, transition) = Live::begin(&gid);
    journal.submit(transition);
    for _ in 0..50 {
        assert_eq!(journal.handle.trouble(), None);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    one.execute("ROLLBACK").await.unwrap();
    assert_eq!(journal.completed(&[(waits.id(), Version(1))]).await, []);
    for table in ["log", "parked"] {
        let lock = format!("LOCK TABLE {table} IN SHARE MODE");
        let mut all = holder(&fixture, &lock).await;
        let wanted = begin(&journal, 3);
        let told = until("its trouble", async || journal.handle.trouble()).await;
        assert!(told.contains("a lock was not had in time"), "{told}");
        all.execute("ROLLBACK").await.unwrap();
        assert_eq!(completed_within(Duration::from_secs(5), &mut journal, &wanted).await, []);
        assert_eq!(journal.handle.trouble(), None);
    }
    journal.end().await.unwrap();
}

/// S3: the server calls a decision more than it takes while it takes others, and takes it later.
async fn s3_what_goes_on_is_not_given_up_for_a_limit_that_comes_and_goes(fixture: Fixture) {
    let (mut live, transition) = Live::begin(&new_gid());
    let (id, free) = (live.id(), Arc::new(AtomicBool::new(false)));
    let is_free = Arc::clone(&free);
    let plan = move |_, batch: &[Write]| {
        let is_it =
            |write: &Write| write.transition.tx_id == id && write.transition.begins.is_none();
        let is_refused = batch.iter().any(is_it) && !is_free.load(Ordering::Relaxed);
        if is_refused { End::TooMuch } else { End::Well }
    };
    let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
    journal.submit(transition);
    assert_eq!(journal.completed(&[(id, Version(1))]).await, []);
    journal.submit(live.commit());
    for _ in 0..20 {
        let wanted = begin(&journal, 1);
        assert_eq!(journal.completed(&wanted).await, []);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    free.store(true, Ordering::Relaxed);
    let decided = [(id, Version(2))];
    assert_eq!(completed_within(Duration::from_secs(5), &mut journal, &decided).await, []);
    journal.end().await.unwrap();
}
