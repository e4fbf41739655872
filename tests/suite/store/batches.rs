//! Batches that meet locks, timeouts and refusals: others wait for nothing of it (promise L3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_coordinator::store::journal::{Completion, Ended};
use unanimo_coordinator::store::{Write, Written};
use unanimo_core::{Gid, Input, PrepareAnswer, TxId, Version};

use super::journal::Journal;
use super::unwell::{End, Unwell};
use super::{Fixture, a_write, on_both_stores, rows};
use crate::fixtures::{Live, definition, new_gid, now, spec};

on_both_stores!(
    l3_what_is_never_written_in_time_delays_only_itself,
    a_batch_that_takes_too_long_is_halved,
    nobody_is_to_blame_for_a_server_that_takes_no_more,
    a_row_that_is_too_much_alone_is_refused,
);

/// Begins transactions, and returns what is to become of them.
fn begin(journal: &Journal, count: usize) -> Vec<(TxId, Version)> {
    let one = |_| {
        let (live, begin) = Live::begin(&new_gid());
        journal.submit(begin);
        (live.id(), Version(1))
    };
    (0..count).map(one).collect()
}

/// Holds a gid in a transaction that is not committed.
async fn rival(fixture: &Fixture, gid: &Gid) -> PgConnection {
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

/// The server refuses everything as more than it takes: no row is to blame.
async fn nobody_is_to_blame_for_a_server_that_takes_no_more(fixture: Fixture) {
    let full = Arc::new(AtomicBool::new(true));
    let is_full = Arc::clone(&full);
    let plan = move |_, _: &[Write]| {
        if is_full.load(Ordering::Relaxed) { End::TooMuch } else { End::Well }
    };
    let mut journal = Journal::start(Unwell::new(&fixture.store, plan), fixture.me);
    let wanted = begin(&journal, 10);
    let told = tokio::time::timeout(Duration::from_secs(1), journal.results.recv()).await;
    assert!(told.is_err(), "{told:?}");
    assert!(journal.handle.trouble().is_some_and(|why| why.contains("takes no more")));
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

/// A write that is found is as durable as a commit of one's own that came later.
#[tokio::test]
async fn a_found_write_is_affirmed() {
    let fixture = Fixture::postgres().await;
    let mut commits = fixture.writer().await;
    let mut finds = fixture.writer().await;
    let connections = async || {
        let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
        let count = sqlx::query_scalar::<_, i64>("SELECT connections FROM journals");
        count.fetch_one(&mut raw).await.unwrap()
    };
    let (_, transition) = Live::begin(&new_gid());
    let write = [a_write(transition)];
    assert_eq!(commits.write(&write).await.unwrap(), [Written::Applied]);
    let before = connections().await;
    assert_eq!(finds.write(&write).await.unwrap(), [Written::Applied]);
    assert_eq!(connections().await, before + 1);
    let (_, reused) = Live::begin(&write[0].transition.begins.as_ref().unwrap().gid);
    let written = finds.write(&[a_write(reused)]).await.unwrap();
    assert!(matches!(written[..], [Written::GidHeld(_)]), "{written:?}");
    assert_eq!(connections().await, before + 2);
    // Beside a new one it is left for later: the new one does not wait for that.
    let (_, reused) = Live::begin(&write[0].transition.begins.as_ref().unwrap().gid);
    let mixed = [a_write(reused), a_write(Live::begin(&new_gid()).1)];
    assert_eq!(finds.write(&mixed).await.unwrap(), [Written::Busy, Written::Applied]);
    assert_eq!(connections().await, before + 2);
    let [held, _] = mixed;
    let mixed = [held, a_write(Live::begin(&new_gid()).1)];
    let written = finds.write(&mixed).await.unwrap();
    assert!(matches!(written[..], [Written::GidHeld(_), Written::Applied]), "{written:?}");
    assert_eq!(connections().await, before + 3);
}

/// A transition is counted as what it takes: error texts of 64 branches come again with each.
#[tokio::test]
async fn l5_a_batch_is_counted_as_it_is_written() {
    let text = "\u{1}".repeat(1_000);
    let gid = new_gid();
    let mut definition = definition(&gid);
    definition.branches = (0..64).map(|n| spec(&format!("b{n}"))).collect();
    let (mut live, _) = Live::begin_with(definition, now());
    let mut last = None;
    for number in live.numbers() {
        let answer = PrepareAnswer::Failed(text.clone());
        let answered = Input::PrepareAnswered { number, attempt: 1, answer };
        last = live.apply(answered).transition.or(last);
    }
    let transition = last.unwrap_or_else(|| live.rollback());
    let real = serde_json::to_vec(&transition.state.branches).unwrap().len();
    assert!(real > 64 * 6_000, "{real}");
    let counted = transition.size();
    assert!(counted >= real && counted < 2 * real, "{counted} for {real}");
}
