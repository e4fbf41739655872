//! An SQLite file on a disk without space.

use unanimo_coordinator::store::{self, BatchError, Key, PostgresOptions, Written};
use unanimo_core::ParticipantName;
use unanimo_tests::small_disk::SmallDisk;

use super::journal::Journal;
use super::{Fixture, LEASE, a_write, count};
use crate::fixtures::{Live, definition, new_gid, now};

async fn open(disk: &SmallDisk) -> Fixture {
    Fixture::open(format!("sqlite:{}", disk.folder().join("x.db").display())).await
}

/// S1, S3: a full disk is a failure that is known: nothing is written, nothing is lost, and with space the same
/// writer goes on.
#[tokio::test]
async fn s3_a_full_disk_is_waited_for() {
    let Some(disk) = SmallDisk::mount(64 << 20) else { return };
    let fixture = open(&disk).await;
    let (store, me) = (&fixture.store, fixture.me);
    let mut writer = fixture.writer().await;
    let (before, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let bank = ParticipantName::new("bank").unwrap();
    for round in 1..=3 {
        disk.fill();
        let (live, begin) = Live::begin(&new_gid());
        let small = [a_write(begin)];
        // It does not fit into SQLite's memory, and fails before its COMMIT.
        let mut large = definition(&new_gid());
        large.branches[0].payload.data = vec![7; 12 << 20].into();
        let (_, begin) = Live::begin_with(large, now());
        for batch in [&small[..], &[a_write(begin)], &small] {
            let error = writer.write(batch).await.unwrap_err();
            let BatchError::Failed(cause) = &error else { panic!("{error:?}") };
            assert!(store::in_full(&**cause).contains("disk is full"), "{error:?}");
            let error = store.incarnations().renew(me, LEASE).await.unwrap_err();
            assert!(error.is_full() && !error.is_lasting(), "{error:?}");
            let registering = store.endpoints().register(me, &bank, "http://bank", "life", now());
            let error = registering.await.unwrap_err();
            assert!(error.is_full(), "{error:?}");
        }
        assert_eq!(store.transactions().find(&Key::Tx(live.id())).await.unwrap(), None);
        store.transactions().find(&Key::Tx(before.id())).await.unwrap().expect("it is there");
        disk.free();
        assert_eq!(writer.write(&small).await.unwrap(), [Written::Applied]);
        store.incarnations().renew(me, LEASE).await.unwrap();
        store.endpoints().register(me, &bank, "http://bank", "life", now()).await.unwrap();
        let stored = store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
        assert_eq!(stored.record, live.tx.record());
        assert_eq!(count(&fixture, "gids").await, 1 + round);
    }
    fixture.store.close().await;
    let Fixture { store, url, .. } = fixture;
    drop((store, writer));
    let again = store::open(&url, &PostgresOptions::default()).await.unwrap();
    again.transactions().find(&Key::Tx(before.id())).await.unwrap().expect("it is there");
}

/// The journal retries, tells why it is held up, and completes what was handed over.
#[tokio::test]
async fn s3_the_journal_tells_why_it_waits() {
    let Some(disk) = SmallDisk::mount(16 << 20) else { return };
    let fixture = open(&disk).await;
    let mut journal = Journal::start(fixture.store.clone(), fixture.me);
    assert_eq!(journal.handle.trouble(), None);
    disk.fill();
    let (live, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    let told = async || journal.handle.trouble();
    let told = unanimo_tests::wait::until("its trouble", told).await;
    assert!(told.contains("disk is full"), "{told}");
    disk.free();
    assert_eq!(journal.completed(&[(live.id(), unanimo_core::Version(1))]).await, []);
    assert_eq!(journal.handle.trouble(), None);
    journal.end().await.unwrap();
    assert_eq!(count(&fixture, "gids").await, 1);
}

/// An opening that finds no space says so, and can be made again.
#[tokio::test]
async fn an_opening_without_space_says_so() {
    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    let url = format!("sqlite:{}", disk.folder().join("x.db").display());
    disk.fill();
    let open = async || store::open(&url, &PostgresOptions::default()).await;
    for _ in 0..3 {
        let error = open().await.unwrap_err();
        assert!(error.is_full(), "{error:?}");
    }
    disk.free();
    let store = open().await.unwrap();
    super::create(&store, "one").await;
    store.close().await;
    drop(store);
    disk.fill();
    let opened = open().await;
    let error = match opened {
        Ok(store) => store.incarnations().create("two", 1, LEASE).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.is_full(), "{error:?}");
}
