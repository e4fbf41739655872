//! Databases that have gone back, and give the number of an incarnation to another one.

use std::sync::Arc;

use sqlx::Connection;
use unanimo_coordinator::store::{
    self, BatchError, Claim, Claimed, Error, LockTake, PostgresOptions, Purged, Retention, Store,
};
use unanimo_core::{Incarnation, LockMode, LockName, ParticipantName, Timestamp};
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::migration::up_to;
use super::{Fixture, LEASE, a_write, count, create, execute};
use crate::fixtures::{Live, new_gid, now};

/// Takes the database back to before every birth, as a restore does, or a failover that has lost them.
const GO_BACK: &str = "
    DELETE FROM fences; DELETE FROM heartbeats; DELETE FROM journals;
    UPDATE cluster SET incarnations = 0";

/// Refused as fenced, or because the database is of an earlier time.
fn is_fenced<T: std::fmt::Debug>(result: Result<T, Error>, what: &str) {
    let error = result.expect_err(what);
    assert!(matches!(error, Error::Fenced(_)) || error.is_elsewhere(), "{what}: {error:?}");
}

fn is_refused(error: &BatchError) {
    let is_refused = matches!(error, BatchError::Fenced(_) | BatchError::Elsewhere(_));
    assert!(is_refused, "{error:?}");
}

/// S5: no statement of an incarnation has an effect in a database that does not know its birth. `reborn`, if
/// it is there, has the same number.
async fn writes_nothing(fixture: &Fixture, reborn: Option<&dyn Store>) {
    let Fixture { store, me, .. } = fixture;
    let me = *me;
    is_fenced(store.batch_writer(me).await, "batch_writer");
    is_fenced(store.incarnations().renew(me, LEASE).await, "renew");
    let bank = ParticipantName::new("bank").unwrap();
    let (places, url) = (store.endpoints(), "http://bank");
    is_fenced(places.register(me, &bank, url, "life", now()).await, "register");
    is_fenced(places.keep_database(me, &bank, url, "life", ("id", "here")).await, "keep_database");
    is_fenced(places.deregister(me, &bank, url, "life").await, "deregister");
    is_fenced(places.forget(me, &bank).await, "forget");
    let tx_id = Live::begin(&new_gid()).0.id();
    let locks = vec![(LockName::new("stock").unwrap(), LockMode::Exclusive)];
    is_fenced(store.locks().take(me, &LockTake { tx_id, family: tx_id, locks }).await, "locks");
    let row = super::audit::row(1, 1);
    let append = store.audit().append(me, super::audit::link(0, 0), vec![row], None);
    is_fenced(append.await, "append");
    let none = Retention { details: std::time::Duration::ZERO, gids: std::time::Duration::ZERO };
    is_fenced(store.purge().delete(me, none, now()).await, "delete");
    assert!(!matches!(store.purge().strip(me, none, now()).await, Ok(1..)), "strip");
    assert_eq!(store.purge().watermark().await.unwrap(), Timestamp(0));
    for claim in [Claim::OfFenced(9), Claim::Due { until: now(), limit: 9 }] {
        let claimed = store.transactions().claim(me, claim).await;
        assert!(
            matches!(&claimed, Err(Error::Fenced(_))) || claimed.unwrap() == Claimed::default()
        );
    }
    let by = store.incarnations().fenced_by(me).await.unwrap().expect("it is fenced");
    assert!(by.contains("went back to a time before its birth"), "{by}");

    // It ends itself, and not the one that has its number by now.
    store.incarnations().fence(me, "by itself").await.unwrap();
    let _ = store.incarnations().note_displaced(me).await;
    let live = store.incarnations().list().await.unwrap().live;
    assert_eq!(live.len(), usize::from(reborn.is_some()), "{live:?}");
    if let Some(reborn) = reborn {
        assert_eq!(reborn.incarnations().fenced_by(me).await.unwrap(), None);
    }
}

/// Two processes on PostgreSQL: the first one has outlived a failover, the second one was created after it.
#[tokio::test]
async fn s5_a_number_that_is_given_twice_lets_one_write() {
    let first = Fixture::postgres().await;
    let mut writer = first.writer().await;
    first.store.incarnations().renew(first.me, LEASE).await.unwrap();
    execute(&first.url, GO_BACK).await;
    writes_nothing(&first, None).await;

    let store = store::open(&first.url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "one").await;
    assert_eq!(me, first.me, "the number is given once more");
    let second = Fixture { store, url: first.url.clone(), me };
    // What the second one has in its tables is not the first one's either.
    let (mut live, begin) = Live::begin(&new_gid());
    second.write([begin]).await;
    for write in [live.rollback(), Live::begin(&new_gid()).1] {
        is_refused(&writer.write(&[a_write(write)]).await.unwrap_err());
    }
    let claim = Claim::One(live.id(), me, unanimo_core::Version(1));
    let claimed = first.store.transactions().claim(first.me, claim).await.unwrap();
    assert_eq!(claimed, Claimed::default());
    first.store.transactions().set_aside(first.me, &[live.id()], true).await.unwrap();
    assert_eq!(first.store.transactions().all_set_aside(None, 9).await.unwrap(), []);
    writes_nothing(&first, Some(&*second.store)).await;
    assert_eq!(count(&first, "gids").await, 1);
    second.store.incarnations().renew(me, LEASE).await.unwrap();
    second.store.incarnations().fence(me, "by itself").await.unwrap();
    let by = second.store.incarnations().fenced_by(me).await.unwrap();
    assert_eq!(by.as_deref(), Some("by itself"));
}

/// A backup that is restored into an SQLite file while it is open, and somebody with the same number in it.
#[tokio::test]
async fn s5_a_number_that_is_in_a_restored_file_lets_nobody_else_write() {
    let first = Fixture::sqlite().await;
    let mut writer = first.writer().await;
    execute(&first.url, GO_BACK).await;
    writes_nothing(&first, None).await;
    execute(
        &first.url,
        "INSERT INTO fences (incarnation, node, nonce) VALUES (1, 'two', randomblob(16));
         INSERT INTO heartbeats (incarnation, lease_ms) VALUES (1, 5000);
         UPDATE cluster SET incarnations = 1",
    )
    .await;
    is_refused(&writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err());
    let same = Arc::clone(&first.store);
    let by = same.incarnations().fenced_by(first.me).await.unwrap().expect("it is fenced");
    assert!(by.contains("went back"), "{by}");
    is_fenced(same.incarnations().renew(first.me, LEASE).await, "renew");
    same.incarnations().fence(first.me, "by itself").await.unwrap();
    assert_eq!(same.incarnations().list().await.unwrap().live.len(), 1);
    assert_eq!(count(&first, "gids").await, 0);
}

/// Tables of the version before: who was created there writes no more, and the next one is created with a nonce.
#[tokio::test]
async fn incarnations_of_the_version_before_have_no_nonce() {
    const OLD: &str = "UPDATE cluster SET incarnations = 1;
        INSERT INTO fences (incarnation, node) VALUES (1, 'old');
        INSERT INTO heartbeats (incarnation, lease_ms) VALUES (1, 5000);";
    let postgres = Server::shared().database().await;
    let mut raw = sqlx::PgConnection::connect(&postgres).await.unwrap();
    up_to(14, &unanimo_migrations::coordinator::POSTGRES).run(&mut raw).await.unwrap();
    sqlx::raw_sql(OLD).execute(&mut raw).await.unwrap();
    let file = run_folder().join(format!("{}.db", Uuid::new_v4()));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    up_to(14, &unanimo_migrations::coordinator::SQLITE).run(&mut raw).await.unwrap();
    sqlx::raw_sql(OLD).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();

    for url in [postgres, format!("sqlite:{}", file.display())] {
        let opening =
            store::connect(&url, &PostgresOptions::default(), Default::default()).await.unwrap();
        if opening.needs_turn() {
            for live in opening.live().await.unwrap() {
                opening.fence(live.incarnation, "by a test").await.unwrap();
            }
        }
        let store = opening.open().await.unwrap();
        is_fenced(store.incarnations().renew(Incarnation(1), LEASE).await, "the old one");
        is_fenced(store.batch_writer(Incarnation(1)).await, "the old one");
        for live in store.incarnations().list().await.unwrap().live {
            store.incarnations().fence(live.incarnation, "by a test").await.unwrap();
        }
        let me = create(&store, "new").await;
        let fixture = Fixture { store, url, me };
        fixture.write([Live::begin(&new_gid()).1]).await;
        fixture.store.incarnations().renew(me, LEASE).await.unwrap();
        let purge = fixture.store.purge();
        let day = std::time::Duration::from_secs(24 * 3600);
        let kept = purge.run(me, Retention { details: day, gids: day }, now()).await.unwrap();
        assert_eq!(kept, Purged::default());
    }
}
