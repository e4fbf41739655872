//! Rows that the database never takes, whatever it says of them: each harms itself alone (promise L3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use unanimo_coordinator::store::journal::Completion;
use unanimo_coordinator::store::{PostgresOptions, Write, open};
use unanimo_core::{Transition, TxId, Version};
use unanimo_tests::wait::until;

use super::batches::begin;
use super::journal::Journal;
use super::unwell::{End, TAKES_LONG, Unwell};
use super::{Fixture, create, execute, on_both_stores};
use crate::fixtures::{Live, new_gid};

on_both_stores!(
    l3_a_row_that_takes_too_long_keeps_others_waiting_for_a_few_timeouts,
    l3_no_row_that_waits_alone_keeps_a_lost_answer_waiting,
);

pub(super) async fn completed_within(
    time: Duration,
    journal: &mut Journal,
    wanted: &[(TxId, Version)],
) -> Vec<Completion> {
    let completed = tokio::time::timeout(time, journal.completed(wanted)).await;
    completed.unwrap_or_else(|_| panic!("{} are written within {time:?}", wanted.len()))
}

/// A journal at which one row ends so until it may be written, and the first large batch of others so.
fn stuck(fixture: &Fixture, end: End, others: End) -> (Journal, Transition, TxId, Arc<AtomicBool>) {
    let (live, transition) = Live::begin(&new_gid());
    let (id, free) = (live.id(), Arc::new(AtomicBool::new(false)));
    let is_free = Arc::clone(&free);
    let had_others = AtomicBool::new(false);
    let plan = move |_, batch: &[Write]| {
        if batch.iter().any(|write| write.transition.tx_id == id) {
            return if is_free.load(Ordering::Relaxed) { End::Well } else { end };
        }
        let is_first = batch.len() >= 10 && !had_others.swap(true, Ordering::Relaxed);
        if is_first { others } else { End::Well }
    };
    (Journal::start(Unwell::new(&fixture.store, plan), fixture.me), transition, id, free)
}

/// A row that is in a batch with it waits for one timeout of the fast lane, and some of the slow one; what comes then, for none.
async fn l3_a_row_that_takes_too_long_keeps_others_waiting_for_a_few_timeouts(fixture: Fixture) {
    let (mut journal, transition, id, free) = stuck(&fixture, End::TakesLong, End::Well);
    let started = Instant::now();
    begin(&journal, 500);
    journal.submit(transition);
    begin(&journal, 500);
    // They are in one batch of the fast lane.
    tokio::time::sleep(TAKES_LONG / 2).await;
    let later = begin(&journal, 10);
    assert_eq!(completed_within(TAKES_LONG * 3 / 2, &mut journal, &later).await, []);
    until("all others to be written", async || (journal.handle.backlog() == 1).then_some(())).await;
    assert!(started.elapsed() < TAKES_LONG * 5, "{:?}", started.elapsed());
    free.store(true, Ordering::Relaxed);
    assert_eq!(completed_within(TAKES_LONG * 5, &mut journal, &[(id, Version(1))]).await, []);
    journal.end().await.unwrap();
}

/// A row that goes alone for ever, and a batch whose answer is lost meanwhile.
async fn l3_no_row_that_waits_alone_keeps_a_lost_answer_waiting(fixture: Fixture) {
    for end in [End::TakesLong, End::Failed, End::Lost] {
        let (mut journal, transition, id, free) = stuck(&fixture, end, End::Lost);
        journal.submit(transition);
        // By now its attempts have the longest pauses between them.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let wanted = begin(&journal, 50);
        assert_eq!(completed_within(Duration::from_secs(5), &mut journal, &wanted).await, []);
        free.store(true, Ordering::Relaxed);
        assert_eq!(
            completed_within(Duration::from_secs(5), &mut journal, &[(id, Version(1))]).await,
            []
        );
        journal.end().await.unwrap();
    }
}

/// The same on PostgreSQL itself, with whatever an error at one row may call itself: a wrong server, one that ends, a
/// conflict, a lock, damage, too much.
#[tokio::test]
async fn l3_whatever_an_error_at_one_row_calls_itself_it_delays_only_itself() {
    for code in
        ["0A000", "25006", "57P01", "08006", "40001", "40P01", "55P03", "57014", "XX002", "53200"]
    {
        let fixture = Fixture::postgres().await;
        let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
        let (live, transition) = Live::begin(&new_gid());
        let refuse = format!(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'it fails' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER fail BEFORE INSERT ON log FOR EACH ROW
                 WHEN (NEW.tx_id = '{}') EXECUTE FUNCTION fail()",
            live.id()
        );
        execute(&fixture.url, &refuse).await;
        let wanted = begin(&journal, 100);
        journal.submit(transition);
        let others = begin(&journal, 100);
        let all = [wanted, others].concat();
        assert_eq!(
            completed_within(Duration::from_secs(10), &mut journal, &all).await,
            [],
            "{code}"
        );
        for _ in 0..20 {
            let wanted = begin(&journal, 1);
            let in_time = Duration::from_secs(2);
            assert_eq!(completed_within(in_time, &mut journal, &wanted).await, [], "{code}");
        }
        execute(&fixture.url, "DROP TRIGGER fail ON log").await;
        let stuck = [(live.id(), Version(1))];
        assert_eq!(
            completed_within(Duration::from_secs(10), &mut journal, &stuck).await,
            [],
            "{code}"
        );
        journal.end().await.unwrap();
    }
}

/// A row at which a statement takes longer than it may.
#[tokio::test]
async fn l3_a_row_beyond_the_time_of_statements_delays_only_itself() {
    let mut fixture = Fixture::postgres().await;
    let statement_timeout = Duration::from_secs(1);
    let options = PostgresOptions { statement_timeout, ..PostgresOptions::default() };
    fixture.store = open(&fixture.url, &options).await.unwrap();
    fixture.me = create(&fixture.store, "two").await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (live, transition) = Live::begin(&new_gid());
    let wait = format!(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
         CREATE TRIGGER wait BEFORE INSERT ON log FOR EACH ROW
             WHEN (NEW.tx_id = '{}') EXECUTE FUNCTION wait()",
        live.id()
    );
    execute(&fixture.url, &wait).await;
    let wanted = begin(&journal, 300);
    journal.submit(transition);
    let all = [wanted, begin(&journal, 300)].concat();
    assert_eq!(completed_within(Duration::from_secs(6), &mut journal, &all).await, []);
    for _ in 0..20 {
        let wanted = begin(&journal, 1);
        assert_eq!(completed_within(Duration::from_secs(1), &mut journal, &wanted).await, []);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    execute(&fixture.url, "DROP TRIGGER wait ON log").await;
    let stuck = [(live.id(), Version(1))];
    assert_eq!(completed_within(Duration::from_secs(10), &mut journal, &stuck).await, []);
    journal.end().await.unwrap();
}
