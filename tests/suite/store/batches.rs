//! Batches that meet locks, timeouts and refusals: others wait for nothing of it (promise L3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};
use unanimo_coordinator::store::journal::{Completion, Ended};
use unanimo_coordinator::store::{Write, Written};
use unanimo_core::{Attempts, Gid, TxId, Version};
use unanimo_tests::wait::until;

use super::journal::Journal;
use super::unwell::{End, Unwell};
use super::{Fixture, a_write, execute, on_both_stores, rows};
use crate::fixtures::{Live, definition, new_gid, now, spec};

on_both_stores!(
    l3_what_is_never_written_in_time_delays_only_itself,
    a_batch_that_takes_too_long_is_halved,
    nobody_is_to_blame_for_a_server_that_takes_no_more,
    a_row_that_is_too_much_alone_is_refused,
    one_row_that_is_too_much_is_not_the_servers_trouble,
    one_row_on_a_server_that_takes_no_more_is_its_trouble,
    a_row_that_may_be_there_and_is_refused_waits_alone,
    l3_a_row_at_which_the_database_fails_delays_only_itself,
    a_database_that_fails_at_everything_is_the_trouble,
);

/// Begins transactions, and returns what is to become of them.
pub(super) fn begin(journal: &Journal, count: usize) -> Vec<(TxId, Version)> {
    let one = |_| {
        let (live, begin) = Live::begin(&new_gid());
        journal.submit(begin);
        (live.id(), Version(1))
    };
    (0..count).map(one).collect()
}

/// Holds a gid in a transaction that is not committed.
pub(super) async fn rival(fixture: &Fixture, gid: &Gid) -> PgConnection {
    let mut rival = PgConnection::connect(&fixture.url).await.unwrap();
    let insert = format!("BEGIN; {}", rows::begun(gid));
    rival.execute(sqlx::raw_sql(AssertSqlSafe(insert))).await.unwrap();
    rival
}

/// L3: a write that may have been made meets a lock. Later transactions do not wait for it, and it is
/// neither lost nor replaced.
#[tokio::test]
async fn l3_a_lost_answer_and_a_lock_delay_only_themselves() {
    let fixture = Fixture::postgres().await;
    let store =
        Unwell::new(&fixture.store, |count, _| if count == 0 { End::Lost } else { End::Well });
    let mut journal = Journal::start(store, fixture.me);
    let gid = new_gid();
    let mut rival = rival(&fixture, &gid).await;
    let (mut waits, transition) = Live::begin(&gid);
    journal.submit(transition);
    // Its answer is lost, and it has met the lock.
    tokio::time::sleep(Duration::from_millis(500)).await;
    journal.submit(waits.rollback());
    for _ in 0..50 {
        let started = Instant::now();
        let wanted = begin(&journal, 1);
        assert_eq!(journal.completed(&wanted).await, []);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    rival.execute("ROLLBACK").await.unwrap();
    assert_eq!(journal.completed(&[(waits.id(), Version(2))]).await, []);
    journal.end().await.unwrap();
}

/// A lock once met costs a few commits, and not one for each row.
#[tokio::test]
async fn a_lock_that_is_gone_costs_no_commit_a_row() {
    let fixture = Fixture::postgres().await;
    let store = Unwell::new(&fixture.store, |_, _| End::Well);
    let mut journal = Journal::start(Arc::clone(&store) as _, fixture.me);
    let gid = new_gid();
    let mut rival = rival(&fixture, &gid).await;
    let (waits, transition) = Live::begin(&gid);
    journal.submit(transition);
    let wanted = begin(&journal, 4_000);
    assert_eq!(journal.completed(&wanted).await, []);
    assert!(store.batches() < 200, "{} batches", store.batches());
    rival.execute("ROLLBACK").await.unwrap();
    assert_eq!(journal.completed(&[(waits.id(), Version(1))]).await, []);
    journal.end().await.unwrap();
}

/// L3: a write without which the batch would be in time.
async fn l3_what_is_never_written_in_time_delays_only_itself(fixture: Fixture) {
    for end in [End::TimedOut, End::Lost] {
        let (heavy, transition) = Live::begin(&new_gid());
        let (id, light) = (heavy.id(), Arc::new(AtomicBool::new(false)));
        let now_light = Arc::clone(&light);
        let has_it = move |batch: &[Write]| batch.iter().any(|write| write.transition.tx_id == id);
        let plan = move |_, batch: &[Write]| {
            if has_it(batch) && !light.load(Ordering::Relaxed) { end } else { End::Well }
        };
        let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
        let mut wanted = begin(&journal, 500);
        journal.submit(transition);
        wanted.extend(begin(&journal, 500));
        assert_eq!(journal.completed(&wanted).await, []);
        for _ in 0..20 {
            let started = Instant::now();
            let wanted = begin(&journal, 1);
            assert_eq!(journal.completed(&wanted).await, []);
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        }
        now_light.store(true, Ordering::Relaxed);
        assert_eq!(journal.completed(&[(heavy.id(), Version(1))]).await, []);
        journal.end().await.unwrap();
    }
}

async fn a_batch_that_takes_too_long_is_halved(fixture: Fixture) {
    for end in [End::TimedOut, End::Lost, End::Failed] {
        let plan = move |_, batch: &[Write]| if batch.len() > 100 { end } else { End::Well };
        let store = Unwell::new(&fixture.store, plan);
        let mut journal = Journal::start(Arc::clone(&store) as _, fixture.me);
        let wanted = begin(&journal, 900);
        let completed = journal.completed(&wanted);
        let others = tokio::time::timeout(Duration::from_secs(20), completed).await.unwrap();
        assert_eq!(others, []);
        assert!(store.batches() < 60, "{} batches", store.batches());
        journal.end().await.unwrap();
    }
}

/// L3: the database fails at one row, whatever it calls that, and takes all others. The node is well.
async fn l3_a_row_at_which_the_database_fails_delays_only_itself(fixture: Fixture) {
    let (stuck, transition) = Live::begin(&new_gid());
    let (id, failing) = (stuck.id(), Arc::new(AtomicBool::new(true)));
    let is_failing = Arc::clone(&failing);
    let has_it = move |batch: &[Write]| batch.iter().any(|write| write.transition.tx_id == id);
    let plan = move |_, batch: &[Write]| {
        if has_it(batch) && is_failing.load(Ordering::Relaxed) { End::Failed } else { End::Well }
    };
    let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
    let mut wanted = begin(&journal, 500);
    journal.submit(transition);
    wanted.extend(begin(&journal, 500));
    assert_eq!(completed_in_time(&mut journal, &wanted).await, []);
    for _ in 0..20 {
        let started = Instant::now();
        let wanted = begin(&journal, 1);
        assert_eq!(completed_in_time(&mut journal, &wanted).await, []);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(journal.handle.trouble(), None);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It is never refused: nobody knows that it will fail the next time.
    let told = journal.results.try_recv();
    assert!(told.is_err(), "{told:?}");
    failing.store(false, Ordering::Relaxed);
    assert_eq!(completed_in_time(&mut journal, &[(id, Version(1))]).await, []);
    journal.end().await.unwrap();
}

async fn completed_in_time(journal: &mut Journal, wanted: &[(TxId, Version)]) -> Vec<Completion> {
    let completed = journal.completed(wanted);
    tokio::time::timeout(Duration::from_secs(20), completed).await.expect("they are written")
}

/// The database fails at everything: that is its trouble, and no row's, and all is written once it is over.
async fn a_database_that_fails_at_everything_is_the_trouble(fixture: Fixture) {
    for count in [1, 10] {
        let failing = Arc::new(AtomicBool::new(true));
        let is_failing = Arc::clone(&failing);
        let plan = move |_, _: &[Write]| {
            if is_failing.load(Ordering::Relaxed) { End::Failed } else { End::Well }
        };
        let store = Unwell::new(&fixture.store, plan);
        let mut journal = Journal::start(Arc::clone(&store) as _, fixture.me);
        let wanted = begin(&journal, count);
        until("some attempts", async || (store.batches() >= 8).then_some(())).await;
        for _ in 0..20 {
            let why = journal.handle.trouble().expect("it is in trouble");
            assert!(why.contains("out of memory"), "{why}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        failing.store(false, Ordering::Relaxed);
        assert_eq!(completed_in_time(&mut journal, &wanted).await, []);
        assert_eq!(journal.handle.trouble(), None);
        journal.end().await.unwrap();
    }
}

/// L3: the same on PostgreSQL itself, with an error that tells nothing of a row.
#[tokio::test]
async fn l3_an_internal_error_at_one_row_delays_only_itself() {
    let fixture = Fixture::postgres().await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (stuck, transition) = Live::begin(&new_gid());
    let refuse = format!(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'invalid memory alloc request size' USING ERRCODE = 'XX000'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON log FOR EACH ROW
             WHEN (NEW.tx_id = '{}') EXECUTE FUNCTION fail()",
        stuck.id()
    );
    execute(&fixture.url, &refuse).await;
    journal.submit(transition);
    // Nobody else writes: the node is not unwell because of one row.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..20 {
        assert_eq!(journal.handle.trouble(), None);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..10 {
        let wanted = begin(&journal, 100);
        assert_eq!(completed_in_time(&mut journal, &wanted).await, []);
    }
    execute(&fixture.url, "DROP TRIGGER fail ON log").await;
    let stuck = [(stuck.id(), Version(1))];
    assert_eq!(completed_in_time(&mut journal, &stuck).await, []);
    journal.end().await.unwrap();
}

/// The server refuses everything as more than it takes: no row is to blame.
async fn nobody_is_to_blame_for_a_server_that_takes_no_more(fixture: Fixture) {
    let full = Arc::new(AtomicBool::new(true));
    let is_full = Arc::clone(&full);
    let plan = move |_, _: &[Write]| {
        if is_full.load(Ordering::Relaxed) { End::TooMuch } else { End::Well }
    };
    let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
    let wanted = begin(&journal, 10);
    let why = until("its trouble", async || journal.handle.trouble()).await;
    assert!(why.contains("takes no more"), "{why}");
    let told = journal.results.try_recv();
    assert!(told.is_err(), "{told:?}");
    full.store(false, Ordering::Relaxed);
    assert_eq!(journal.completed(&wanted).await, []);
    journal.end().await.unwrap();
}

async fn a_row_that_is_too_much_alone_is_refused(fixture: Fixture) {
    let (huge, transition) = Live::begin(&new_gid());
    let id = huge.id();
    let has_it = move |batch: &[Write]| batch.iter().any(|write| write.transition.tx_id == id);
    let plan = move |_, batch: &[Write]| if has_it(batch) { End::TooMuch } else { End::Well };
    let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
    // Others are written beside it, and nothing comes later.
    let mut wanted = begin(&journal, 100);
    journal.submit(transition);
    wanted.push((id, Version(1)));
    let others = journal.completed(&wanted).await;
    assert!(
        matches!(&others[..], [Completion { tx_id, ended: Ended::Refused(_), .. }] if *tx_id == id),
        "{others:?}"
    );
    journal.end().await.unwrap();
}

/// The only row that there is, on a server that takes others: the node is not unwell for that, and the row is refused
/// once another one is written.
async fn one_row_that_is_too_much_is_not_the_servers_trouble(fixture: Fixture) {
    let (huge, transition) = Live::begin(&new_gid());
    let id = huge.id();
    let has_it = move |batch: &[Write]| batch.iter().any(|write| write.transition.tx_id == id);
    let plan = move |_, batch: &[Write]| if has_it(batch) { End::TooMuch } else { End::Well };
    let store = Unwell::new(&fixture.store, plan);
    let mut journal = Journal::start(Arc::clone(&store) as _, fixture.me);
    journal.submit(transition);
    until("four attempts", async || (store.batches() >= 4).then_some(())).await;
    assert_eq!(journal.handle.trouble(), None);
    let told = journal.results.try_recv();
    assert!(told.is_err(), "{told:?}");
    let mut wanted = begin(&journal, 1);
    wanted.push((id, Version(1)));
    let others = journal.completed(&wanted).await;
    assert!(
        matches!(&others[..], [Completion { tx_id, ended: Ended::Refused(_), .. }] if *tx_id == id),
        "{others:?}"
    );
    journal.end().await.unwrap();
}

/// A server that takes nothing has one row to write: that is its trouble, too.
async fn one_row_on_a_server_that_takes_no_more_is_its_trouble(fixture: Fixture) {
    let full = Arc::new(AtomicBool::new(true));
    let is_full = Arc::clone(&full);
    let plan = move |_, _: &[Write]| {
        if is_full.load(Ordering::Relaxed) { End::TooMuch } else { End::Well }
    };
    let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
    let wanted = begin(&journal, 1);
    let why = until("its trouble", async || journal.handle.trouble()).await;
    assert!(why.contains("takes no more"), "{why}");
    full.store(false, Ordering::Relaxed);
    assert_eq!(journal.completed(&wanted).await, []);
    assert_eq!(journal.handle.trouble(), None);
    journal.end().await.unwrap();
}

/// L3: the page that PostgreSQL gives a new row is damaged, and not one that the row needs: it is not refused for that.
#[tokio::test]
async fn l3_a_row_that_needs_no_damaged_page_waits_for_another_one() {
    let fixture = Fixture::postgres().await;
    let (held, transition) = Live::begin(&new_gid());
    let (id, well) = (held.id(), Arc::new(AtomicBool::new(false)));
    let is_well = Arc::clone(&well);
    let plan = move |_, batch: &[Write]| {
        let has_it = batch.iter().any(|write| write.transition.tx_id == id);
        if has_it && !is_well.load(Ordering::Relaxed) { End::Damaged } else { End::Well }
    };
    let store = Unwell::new(&fixture.store, plan);
    let mut journal = Journal::start(Arc::clone(&store) as _, fixture.me);
    journal.submit(transition);
    let wanted = begin(&journal, 20);
    assert_eq!(journal.completed(&wanted).await, []);
    let from = store.batches();
    until("four attempts", async || (store.batches() >= from + 4).then_some(())).await;
    assert_eq!(journal.handle.trouble(), None);
    let told = journal.results.try_recv();
    assert!(told.is_err(), "{told:?}");
    well.store(true, Ordering::Relaxed);
    assert_eq!(journal.completed(&[(id, Version(1))]).await, []);
    journal.end().await.unwrap();
}

/// A row that may have been written is refused ever since, and others are written: it is neither given up nor the
/// server's trouble.
async fn a_row_that_may_be_there_and_is_refused_waits_alone(fixture: Fixture) {
    let (held, transition) = Live::begin(&new_gid());
    let (id, attempts) = (held.id(), Arc::new(AtomicU32::new(0)));
    let (counted, well) = (Arc::clone(&attempts), Arc::new(AtomicBool::new(false)));
    let is_well = Arc::clone(&well);
    let plan = move |_, batch: &[Write]| {
        let has_it = batch.iter().any(|write| write.transition.tx_id == id);
        if !has_it || is_well.load(Ordering::Relaxed) {
            return End::Well;
        }
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => End::Lost,
            _ => End::TooMuch,
        }
    };
    let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
    let more = async |count: u32| {
        let from = attempts.load(Ordering::Relaxed);
        let is_there = async || (attempts.load(Ordering::Relaxed) >= from + count).then_some(());
        until("more attempts", is_there).await;
    };
    journal.submit(transition);
    more(2).await;
    let wanted = begin(&journal, 1);
    assert_eq!(journal.completed(&wanted).await, []);
    more(3).await;
    assert_eq!(journal.handle.trouble(), None);
    let told = journal.results.try_recv();
    assert!(told.is_err(), "{told:?}");
    well.store(true, Ordering::Relaxed);
    assert_eq!(journal.completed(&[(id, Version(1))]).await, []);
    journal.end().await.unwrap();
}

/// A write that is found is as durable as a commit of one's own that came later.
#[tokio::test]
async fn a_found_write_is_affirmed() {
    let fixture = Fixture::postgres().await;
    let mut commits = fixture.writer().await;
    let mut finds = fixture.writer().await;
    // What each of them has asked last: the one that affirms does so at the end.
    let affirmed = async || {
        let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
        let when = "SELECT query_start::text FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE '%SELECT txid_current() FROM fence'";
        let mut when: Vec<String> = sqlx::query_scalar(when).fetch_all(&mut raw).await.unwrap();
        assert!(when.len() <= 1, "{when:?}");
        when.pop()
    };
    let (_, transition) = Live::begin(&new_gid());
    let write = [a_write(transition)];
    assert_eq!(commits.write(&write).await.unwrap(), [Written::Applied]);
    let opened = affirmed().await.expect("it began with a write of its own");
    assert_eq!(finds.write(&write).await.unwrap(), [Written::Applied]);
    let first = affirmed().await.expect("it is affirmed");
    assert_ne!(first, opened);
    let (_, reused) = Live::begin(&write[0].transition.begins.as_ref().unwrap().gid);
    let written = finds.write(&[a_write(reused)]).await.unwrap();
    assert!(matches!(written[..], [Written::GidHeld(_)]), "{written:?}");
    assert_ne!(affirmed().await.expect("it is affirmed"), first);
    // Beside a new one it is left for later: the new one does not wait for that.
    let (_, reused) = Live::begin(&write[0].transition.begins.as_ref().unwrap().gid);
    let mixed = [a_write(reused), a_write(Live::begin(&new_gid()).1)];
    assert_eq!(finds.write(&mixed).await.unwrap(), [Written::Busy, Written::Applied]);
    assert_eq!(affirmed().await, None);
    let [held, _] = mixed;
    let mixed = [held, a_write(Live::begin(&new_gid()).1)];
    let written = finds.write(&mixed).await.unwrap();
    assert!(matches!(written[..], [Written::GidHeld(_), Written::Applied]), "{written:?}");
    assert!(affirmed().await.is_some());
}

/// A transition is counted as what it takes: error texts of 64 branches come again with each.
#[tokio::test]
async fn l5_a_batch_is_counted_as_it_is_written() {
    let fixture = Fixture::sqlite().await;
    let mut definition = definition(&new_gid());
    definition.branches = (0..64).map(|n| spec(&format!("b{n}"))).collect();
    let (_, mut begin) = Live::begin_with(definition, now());
    for branch in &mut begin.state.branches {
        let [first_error, last_error] = ["a", "b"].map(|text| Some(text.repeat(1_000)));
        branch.prepare_attempts =
            Attempts { count: 2, first_error, last_error, ..Attempts::default() };
    }
    let counted = begin.size();
    fixture.write([begin]).await;
    let path = fixture.url.strip_prefix("sqlite:").unwrap();
    let mut raw = SqliteConnection::connect(path).await.unwrap();
    let real: i64 = sqlx::query_scalar("SELECT length(body) + length(data) FROM log")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    let real = usize::try_from(real).unwrap();
    assert!(real > 64 * 2_000, "{real}");
    assert!(counted >= real && counted < 2 * real, "{counted} for {real}");
}

/// S9: a client's name that is there costs one batch that is sent twice. Names are looked for from then on.
#[tokio::test]
async fn s9_names_that_are_there_are_looked_for_from_then_on() {
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let counter = "CREATE SEQUENCE tries;
        CREATE FUNCTION tried() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN PERFORM nextval(TG_TABLE_SCHEMA || '.tries'); RETURN new; END$$;
        CREATE TRIGGER tried BEFORE INSERT ON gids FOR EACH ROW EXECUTE FUNCTION tried()";
    raw.execute(sqlx::raw_sql(counter)).await.unwrap();
    let mut writer = fixture.writer().await;
    let gid = new_gid();
    let (first, begin) = Live::begin(&gid);
    assert_eq!(writer.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
    for tries in [3, 4, 5] {
        let written = writer.write(&[a_write(Live::begin(&gid).1)]).await.unwrap();
        let [Written::GidHeld(holder)] = &written[..] else { panic!("{written:?}") };
        assert_eq!(holder.tx_id, first.id());
        let tried = sqlx::query_scalar("SELECT last_value FROM tries");
        let tried: i64 = tried.fetch_one(&mut raw).await.unwrap();
        assert_eq!(tried, tries);
    }
}
