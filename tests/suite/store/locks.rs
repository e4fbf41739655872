//! Locks of other sessions, on PostgreSQL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_coordinator::store::Key;
use unanimo_coordinator::store::journal::{Completion, Ended};
use unanimo_core::Version;

use super::journal::Journal;
use super::{Fixture, rows};
use crate::fixtures::{Live, new_gid};

async fn raw(fixture: &Fixture) -> PgConnection {
    PgConnection::connect(&fixture.url).await.unwrap()
}

/// L3: a lock on one row does not delay the writes of other rows.
#[tokio::test]
async fn l3_a_locked_row_delays_only_itself() {
    let fixture = Fixture::postgres().await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let mut lives = Vec::new();
    for _ in 0..200 {
        let (live, begin) = Live::begin(&new_gid());
        journal.submit(begin);
        lives.push(live);
    }
    let all: Vec<_> = lives.iter().map(|live| (live.id(), Version(1))).collect();
    journal.completed(&all).await;

    let mut locker = raw(&fixture).await;
    let locked = lives[17].id();
    let lock = format!("BEGIN; {}", rows::next_on_postgres(locked));
    locker.execute(sqlx::raw_sql(AssertSqlSafe(lock))).await.unwrap();

    let started = Instant::now();
    for live in &mut lives {
        journal.submit(live.commit());
    }
    let others: Vec<_> = lives
        .iter()
        .filter(|live| live.id() != locked)
        .map(|live| (live.id(), Version(2)))
        .collect();
    assert_eq!(journal.completed(&others).await, []);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let waiting = fixture.store.transactions().find(&Key::Tx(locked)).await.unwrap().unwrap();
    assert_eq!(waiting.record.version, Version(1), "it is locked");

    // Later transitions join the write that waits, and all are written in the end.
    locker.execute("ROLLBACK").await.unwrap();
    assert_eq!(journal.completed(&[(locked, Version(2))]).await, []);
    journal.end().await.unwrap();
}

/// A gid that another session has not committed delays its own transaction, and no other.
#[tokio::test]
async fn l3_an_uncommitted_gid_delays_only_itself() {
    for rival_commits in [false, true] {
        let fixture = Fixture::postgres().await;
        let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
        let gid = new_gid();
        let mut rival = raw(&fixture).await;
        let insert = format!("BEGIN; {}", rows::begun(&gid));
        rival.execute(sqlx::raw_sql(AssertSqlSafe(insert))).await.unwrap();

        let (waits, begin) = Live::begin(&gid);
        journal.submit(begin);
        let mut others = Vec::new();
        for _ in 0..100 {
            let (live, begin) = Live::begin(&new_gid());
            journal.submit(begin);
            others.push(live);
        }
        let wanted: Vec<_> = others.iter().map(|live| (live.id(), Version(1))).collect();
        assert_eq!(journal.completed(&wanted).await, []);
        // A later transaction does not wait for it.
        let started = Instant::now();
        for live in &mut others {
            journal.submit(live.commit());
        }
        let (late, begin) = Live::begin(&new_gid());
        journal.submit(begin);
        let mut wanted: Vec<_> = others.iter().map(|live| (live.id(), Version(2))).collect();
        wanted.push((late.id(), Version(1)));
        assert_eq!(journal.completed(&wanted).await, []);
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());

        let end = if rival_commits { "COMMIT" } else { "ROLLBACK" };
        rival.execute(end).await.unwrap();
        let completions = journal.completed(&[(waits.id(), Version(1))]).await;
        match (rival_commits, &completions[..]) {
            (true, [Completion { tx_id, ended: Ended::GidHeld(_), .. }]) => {
                assert_eq!(*tx_id, waits.id());
            }
            (false, []) => {}
            other => panic!("{other:?}"),
        }
        journal.end().await.unwrap();
    }
}

/// S5: another incarnation that fences locks the fence's row for a moment. No write fails for that;
/// once it has committed, nothing more is written.
#[tokio::test]
async fn s5_a_batch_waits_for_a_rival_that_fences() {
    let fixture = Fixture::postgres().await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (mut live, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    journal.completed(&[(live.id(), Version(1))]).await;

    let fence =
        format!("BEGIN; UPDATE fences SET fenced = true WHERE incarnation = {}", fixture.me);
    let mut rival = raw(&fixture).await;
    rival.execute(sqlx::raw_sql(AssertSqlSafe(fence.clone()))).await.unwrap();
    journal.submit(live.commit());
    let (other, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    // Longer than the lock timeout: no write may fail for it.
    let nothing = tokio::time::timeout(Duration::from_millis(700), journal.results.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    rival.execute("ROLLBACK").await.unwrap();
    let wanted = [(live.id(), Version(2)), (other.id(), Version(1))];
    assert_eq!(journal.completed(&wanted).await, []);

    rival.execute(sqlx::raw_sql(AssertSqlSafe(fence))).await.unwrap();
    let (never, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    rival.execute("COMMIT").await.unwrap();
    assert!(journal.task.await.unwrap().is_err());
    assert_eq!(fixture.store.transactions().find(&Key::Tx(never.id())).await.unwrap(), None);
}
