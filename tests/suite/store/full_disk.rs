//! An SQLite file on a disk without space.

use sqlx::Connection;
use unanimo_coordinator::store::{self, BatchError, Key, PostgresOptions, Written};
use unanimo_core::ParticipantName;
use unanimo_tests::small_disk::SmallDisk;

use super::journal::Journal;
use super::{Fixture, LEASE, a_write, count};
use crate::fixtures::{Live, definition, new_gid, now};
use crate::participant::registration::Lines;

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

/// L1: a log that a reader kept has filled the disk. Once the reader has ended the log is used anew, though no commit has
/// succeeded meanwhile, and nothing else has made space.
#[tokio::test]
async fn l1_a_disk_that_a_long_log_has_filled_is_used_again() {
    for is_journal in [false, true] {
        let Some(disk) = SmallDisk::mount(6 << 20) else { return };
        let fixture = open(&disk).await;
        let mut writer = fixture.writer().await;
        let renew = async || fixture.store.incarnations().renew(fixture.me, LEASE).await;
        let database = disk.folder().join("x.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
        let mut reader = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        // Of the file's own pages none is new.
        let begin = "PRAGMA wal_checkpoint(PASSIVE); BEGIN; SELECT count(*) FROM log";
        sqlx::raw_sql(begin).execute(&mut reader).await.unwrap();
        let full = loop {
            if let Err(error) = renew().await {
                break error;
            }
        };
        assert!(full.is_full(), "{full:?}");
        // Nothing can be copied, and nothing is told wrongly.
        assert!(renew().await.unwrap_err().is_full());
        sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.unwrap();
        unanimo_tests::wait::until("a write to succeed", async || match is_journal {
            true => writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.ok().map(drop),
            false => renew().await.ok(),
        })
        .await;
    }
}

/// A log that cannot be copied into the database file is told of.
#[tokio::test]
async fn a_log_that_cannot_be_copied_is_told_of() {
    let Some(disk) = SmallDisk::mount(16 << 20) else { return };
    let (lines, _listening) = Lines::listen();
    let fixture = open(&disk).await;
    let mut writer = fixture.writer().await;
    // The file has to grow for it.
    let mut large = definition(&new_gid());
    large.branches[0].payload.data = vec![7; 2 << 20].into();
    let (_, begin) = Live::begin_with(large, now());
    assert_eq!(writer.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
    disk.fill();
    for _ in 0..3 {
        writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err();
        fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap_err();
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    let told = lines.of("failed to copy the write-ahead log into the database file");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("WARN") && told[0].contains("disk is full"), "{told:?}");
}

/// No file can be made, though there is space: a start after a clean stop says so, and is waited for.
#[tokio::test]
async fn an_opening_that_can_make_no_file_says_so() {
    let Some(disk) = SmallDisk::mount_with("size=4194304,nr_inodes=20") else { return };
    let fixture = open(&disk).await;
    fixture.store.close().await;
    let Fixture { store, url, .. } = fixture;
    drop(store);
    let open = async || store::open(&url, &PostgresOptions::default()).await;
    for spare in [0, 1] {
        let files = disk.fill_names();
        for file in &files[..spare] {
            std::fs::remove_file(file).unwrap();
        }
        for _ in 0..2 {
            let error = open().await.unwrap_err();
            assert!(error.is_full(), "{error:?}");
            assert!(store::in_full(&error).contains("No space left"), "{error:?}");
        }
        files[spare..].iter().for_each(|file| std::fs::remove_file(file).unwrap());
        let store = open().await.unwrap();
        store.close().await;
    }
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
