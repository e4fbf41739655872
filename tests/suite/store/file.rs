//! Files of an SQLite database that somebody deletes, replaces or moves while they are open.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use unanimo_coordinator::store::{
    self, BatchError, Claim, Error, Key, PostgresOptions, Relocation, Start, Written,
};
use unanimo_core::ParticipantName;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::small_disk::SmallDisk;
use uuid::Uuid;

use super::{Fixture, LEASE, a_write};
use crate::fixtures::{Live, definition, new_gid, now};

/// Returns a new folder of its own, which may be moved.
pub(super) fn new_folder() -> PathBuf {
    let folder = run_folder().join(format!("folder-{}", Uuid::new_v4()));
    fs::create_dir(&folder).unwrap();
    folder
}

pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

pub(super) async fn open(database: &Path) -> Fixture {
    Fixture::open(format!("sqlite:{}", database.display())).await
}

/// Replaces a file by a copy of it.
fn replace(file: &Path) {
    let copy = beside(file, ".copy");
    fs::copy(file, &copy).unwrap();
    fs::rename(copy, file).unwrap();
}

/// Copies a folder with its files.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Every request of a store whose files are not in their places is refused.
async fn refuses(fixture: &Fixture, what: &str) {
    let elsewhere = |error: Error| {
        let text = store::in_full(&error);
        assert!(error.is_elsewhere() && error.is_lasting(), "{what}: {text}");
        text
    };
    let (store, me) = (&fixture.store, fixture.me);
    elsewhere(store.incarnations().renew(me, LEASE).await.unwrap_err());
    let bank = ParticipantName::new("bank").unwrap();
    let registering = store.endpoints().register(me, &bank, "http://bank", "life", now());
    elsewhere(registering.await.unwrap_err());
    elsewhere(store.transactions().claim(me, Claim::OfFenced(1)).await.unwrap_err());
    elsewhere(store.transactions().find(&Key::Gid(new_gid())).await.unwrap_err());
    elsewhere(store.batch_writer(me).await.unwrap_err());
}

/// Opens a database in a folder of its own, by `path` within it, disturbs it, and looks that nothing is
/// answered any more.
async fn check(what: &str, path: &str, prepare: impl Fn(&Path), disturb: impl Fn(&Path)) {
    let folder = new_folder();
    prepare(&folder);
    let fixture = open(&folder.join(path)).await;
    let mut writer = fixture.writer().await;
    let written = writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap();
    assert_eq!(written, [Written::Applied]);
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    disturb(&folder);
    let error = writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err();
    assert!(matches!(error, BatchError::Elsewhere(_)), "{what}: {error:?}");
    refuses(&fixture, what).await;
}

/// S1, S3: what a process writes into a file that nobody will read is no answer.
#[tokio::test]
async fn s1_nothing_is_answered_once_a_file_is_not_the_one_that_was_opened() {
    type Disturb = (&'static str, fn(&Path));
    let cases: [Disturb; 19] = [
        ("deleted", |f| fs::remove_file(f.join("x.db")).unwrap()),
        ("renamed", |f| fs::rename(f.join("x.db"), f.join("y.db")).unwrap()),
        ("replaced by a copy", |f| replace(&f.join("x.db"))),
        ("emptied", |f| drop(fs::File::create(f.join("x.db")).unwrap())),
        ("cut", |f| {
            let file = fs::File::options().write(true).open(f.join("x.db")).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
        ("replaced by a folder", |f| {
            fs::remove_file(f.join("x.db")).unwrap();
            fs::create_dir(f.join("x.db")).unwrap();
        }),
        ("replaced by a link to a copy", |f| {
            fs::copy(f.join("x.db"), f.join("y.db")).unwrap();
            fs::remove_file(f.join("x.db")).unwrap();
            std::os::unix::fs::symlink(f.join("y.db"), f.join("x.db")).unwrap();
        }),
        ("log deleted", |f| fs::remove_file(f.join("x.db-wal")).unwrap()),
        ("log replaced", |f| replace(&f.join("x.db-wal"))),
        ("log emptied", |f| drop(fs::File::create(f.join("x.db-wal")).unwrap())),
        ("log cut", |f| _ = cut(&f.join("x.db-wal"))),
        ("index deleted", |f| fs::remove_file(f.join("x.db-shm")).unwrap()),
        ("log and index deleted", |f| {
            fs::remove_file(f.join("x.db-wal")).unwrap();
            fs::remove_file(f.join("x.db-shm")).unwrap();
        }),
        ("lock deleted", |f| fs::remove_file(f.join("x.db.lock")).unwrap()),
        ("lock replaced", |f| replace(&f.join("x.db.lock"))),
        ("folder renamed", |f| fs::rename(f, beside(f, ".moved")).unwrap()),
        ("folder deleted", |f| fs::remove_dir_all(f).unwrap()),
        ("folder replaced by a copy", |f| {
            fs::rename(f, beside(f, ".moved")).unwrap();
            copy_folder(&beside(f, ".moved"), f);
        }),
        ("all renamed", |f| {
            for suffix in ["", "-wal", "-shm", ".lock"] {
                let to = beside(&f.join("y.db"), suffix);
                fs::rename(beside(&f.join("x.db"), suffix), to).unwrap();
            }
        }),
    ];
    for (what, disturb) in cases {
        check(what, "x.db", |_| {}, disturb).await;
    }
}

/// Takes the last third of a file away. Returns its length before.
fn cut(file: &Path) -> u64 {
    let file = fs::File::options().write(true).open(file).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes - bytes / 3).unwrap();
    bytes
}

/// S1: what a cut file had is not there again once the file has its length again. Nothing is copied from a log with holes.
#[tokio::test]
async fn s1_a_file_that_was_cut_and_grows_again_is_still_cut() {
    for suffix in ["", "-wal"] {
        let database = new_folder().join("x.db");
        let fixture = open(&database).await;
        let mut writer = fixture.writer().await;
        let mut write = async || writer.write(&[a_write(Live::begin(&new_gid()).1)]).await;
        assert_eq!(write().await.unwrap(), [Written::Applied]);
        let file = beside(&database, suffix);
        let bytes = cut(&file);
        let error = write().await.unwrap_err();
        assert!(matches!(error, BatchError::Elsewhere(_)), "{suffix}: {error:?}");
        let before = fs::read(&database).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_len(bytes + 4120).unwrap();
        let error = write().await.unwrap_err();
        let BatchError::Elsewhere(cause) = &error else { panic!("{suffix}: {error:?}") };
        assert!(store::in_full(&**cause).contains("became shorter"), "{suffix}: {error:?}");
        refuses(&fixture, "cut").await;
        if suffix == "-wal" {
            assert!(fs::read(&database).unwrap() == before, "holes were copied");
        }
    }
}

/// The same where the path leads through symbolic links.
#[tokio::test]
async fn s1_a_link_that_is_switched_is_noticed() {
    use std::os::unix::fs::symlink;
    let switch = |link: &Path, to: &Path| {
        symlink(to, beside(link, ".new")).unwrap();
        fs::rename(beside(link, ".new"), link).unwrap();
    };
    let folders = |f: &Path| {
        fs::create_dir(f.join("one")).unwrap();
        symlink("one", f.join("now")).unwrap();
    };
    check("link of the folder switched to a copy", "now/x.db", folders, |f| {
        copy_folder(&f.join("one"), &f.join("two"));
        switch(&f.join("now"), Path::new("two"));
    })
    .await;
    let file = |f: &Path| symlink(f.join("real.db"), f.join("x.db")).unwrap();
    check("link of the file switched to a copy", "x.db", file, |f| {
        fs::copy(f.join("real.db"), f.join("copy.db")).unwrap();
        switch(&f.join("x.db"), &f.join("copy.db"));
    })
    .await;
    // The same file, whose log SQLite would look for under the new name.
    check("file renamed, and its link switched to it", "x.db", file, |f| {
        fs::rename(f.join("real.db"), f.join("new.db")).unwrap();
        switch(&f.join("x.db"), &f.join("new.db"));
    })
    .await;
}

/// Another file system over the folder hides the files, and so would it be for the next process.
#[tokio::test]
async fn s1_a_folder_that_is_mounted_over_is_noticed() {
    let folder = new_folder();
    let fixture = open(&folder.join("x.db")).await;
    let mut writer = fixture.writer().await;
    let Some(disk) = SmallDisk::mount_over(&folder, 1 << 20) else { return };
    let error = writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err();
    assert!(matches!(error, BatchError::Elsewhere(_)), "{error:?}");
    refuses(&fixture, "mounted over").await;
    drop(disk);
    // Where it was: the process that has ended meanwhile would find it so.
    fixture.write([Live::begin(&new_gid()).1]).await;
}

/// A change that harms nothing ends nothing.
#[tokio::test]
async fn a_second_name_or_a_new_time_is_no_other_file() {
    let folder = new_folder();
    let fixture = open(&folder.join("x.db")).await;
    fs::hard_link(folder.join("x.db"), folder.join("snapshot.db")).unwrap();
    fs::File::create(folder.join("other")).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    fs::File::open(folder.join("x.db.lock")).unwrap().set_modified(long_ago).unwrap();
    fs::rename(folder.join("x.db"), folder.join("y.db")).unwrap();
    fs::rename(folder.join("y.db"), folder.join("x.db")).unwrap();
    fixture.write([Live::begin(&new_gid()).1]).await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
}

/// Somebody else's write lock, at which a write of this process waits after its first look at the files.
pub(super) async fn held(database: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let mut raw = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut raw).await.unwrap();
    raw
}

/// The file goes between the first look and the commit: it is committed, and nobody is told so.
#[tokio::test]
async fn s1_a_commit_into_a_file_that_went_meanwhile_is_not_answered() {
    let disturbs: [fn(&Path); 3] = [
        |f| fs::remove_file(f.join("x.db")).unwrap(),
        |f| fs::rename(f, beside(f, ".moved")).unwrap(),
        |f| fs::remove_file(f.join("x.db.lock")).unwrap(),
    ];
    for disturb in disturbs {
        let folder = new_folder();
        let fixture = open(&folder.join("x.db")).await;
        let mut writer = fixture.writer().await;
        let mut raw = held(&folder.join("x.db")).await;
        let writing = tokio::spawn(async move {
            writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err()
        });
        let (store, me) = (fixture.store.clone(), fixture.me);
        let bank = ParticipantName::new("bank").unwrap();
        let registering = tokio::spawn(async move {
            let endpoints = store.endpoints();
            endpoints.register(me, &bank, "http://bank", "life", now()).await.unwrap_err()
        });
        let store = fixture.store.clone();
        let renewing =
            tokio::spawn(async move { store.incarnations().renew(me, LEASE).await.unwrap_err() });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!writing.is_finished() && !registering.is_finished() && !renewing.is_finished());
        disturb(&folder);
        sqlx::raw_sql("ROLLBACK").execute(&mut raw).await.unwrap();
        let error = writing.await.unwrap();
        assert!(matches!(error, BatchError::Elsewhere(_)), "{error:?}");
        let error = registering.await.unwrap();
        assert!(error.is_elsewhere(), "{error:?}");
        let error = renewing.await.unwrap();
        assert!(error.is_elsewhere(), "{error:?}");
    }
}

/// S3: what was answered before the log was deleted is in the log alone. The process that has it open saves
/// it.
#[tokio::test]
async fn s3_what_a_deleted_log_held_is_saved() {
    let folder = new_folder();
    let database = folder.join("x.db");
    let fixture = open(&database).await;
    let mut lives = Vec::new();
    for _ in 0..20 {
        let (live, begin) = Live::begin(&new_gid());
        fixture.write([begin]).await;
        lives.push(live);
    }
    fs::remove_file(folder.join("x.db-wal")).unwrap();
    let error = fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap_err();
    assert!(store::in_full(&error).contains("the write-ahead log"), "{error}");
    // As the next process will find it, after this one was killed.
    let copy = folder.join("copy.db");
    fs::copy(&database, &copy).unwrap();
    let start = Start { told: Some(Relocation::Moved), ..Start::default() };
    let url = format!("sqlite:{}", copy.display());
    let opening = store::connect(&url, &PostgresOptions::default(), start).await.unwrap();
    let found = opening.open().await.unwrap();
    for live in &lives {
        let stored = found.transactions().find(&Key::Tx(live.id())).await.unwrap();
        assert_eq!(stored.expect("it is there").record, live.tx.record());
    }
}

/// S3: somebody reads what is not written into the database file yet, and for longer than SQLite waits for that.
#[tokio::test]
async fn s3_what_a_deleted_log_held_is_saved_beside_a_reader() {
    let folder = new_folder();
    let database = folder.join("x.db");
    let fixture = open(&database).await;
    fixture.write([Live::begin(&new_gid()).1]).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&database);
    let mut reader = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM log").execute(&mut reader).await.unwrap();
    let (live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    fs::remove_file(folder.join("x.db-wal")).unwrap();
    let renewing = async {
        // It may give up before that is saved, and is tried again.
        loop {
            let error = fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap_err();
            if store::in_full(&error).contains("the write-ahead log") {
                return;
            }
        }
    };
    let reading = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    };
    let renewing = tokio::time::timeout(Duration::from_secs(40), renewing);
    let (told, ()) = tokio::join!(renewing, reading);
    told.expect("it is told in the end");
    let copy = folder.join("copy.db");
    fs::copy(&database, &copy).unwrap();
    let start = Start { told: Some(Relocation::Moved), ..Start::default() };
    let url = format!("sqlite:{}", copy.display());
    let opening = store::connect(&url, &PostgresOptions::default(), start).await.unwrap();
    let found = opening.open().await.unwrap().transactions().find(&Key::Tx(live.id())).await;
    assert!(found.unwrap().is_some(), "it was answered before the log was deleted");
}

/// One file has one lock, whichever way leads to it.
#[tokio::test]
async fn s5_another_name_of_a_file_is_no_way_around_its_lock() {
    let folder = new_folder();
    let fixture = open(&folder.join("x.db")).await;
    std::os::unix::fs::symlink("x.db", folder.join("link.db")).unwrap();
    std::os::unix::fs::symlink(&folder, beside(&folder, ".link")).unwrap();
    fs::hard_link(folder.join("x.db"), folder.join("hard.db")).unwrap();
    let refused = async |path: PathBuf| {
        let url = format!("sqlite:{}", path.display());
        store::open(&url, &PostgresOptions::default()).await.unwrap_err()
    };
    for path in [folder.join("link.db"), beside(&folder, ".link").join("x.db")] {
        let error = refused(path).await;
        assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    }
    let error = refused(folder.join("hard.db")).await;
    assert!(matches!(error, Error::SeveralNames { count: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("hard links"), "{error}");
    fixture.write([Live::begin(&new_gid()).1]).await;
}

/// S5: a file that is mounted by itself, as containers can have it, has another log and another lock there.
#[tokio::test]
async fn s5_a_file_that_is_mounted_by_itself_is_refused() {
    let folder = new_folder();
    let fixture = open(&folder.join("x.db")).await;
    fixture.write([Live::begin(&new_gid()).1]).await;
    let elsewhere = new_folder().join("x.db");
    fs::write(&elsewhere, b"").unwrap();
    let Some(mount) = SmallDisk::bind(&folder.join("x.db"), &elsewhere) else { return };
    let url = format!("sqlite:{}", elsewhere.display());
    let error = store::open(&url, &PostgresOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::MountedAlone { .. }) && error.is_lasting(), "{error:?}");
    assert!(error.to_string().contains("mount the folder"), "{error}");
    // Where it is from it goes on.
    fixture.write([Live::begin(&new_gid()).1]).await;
    drop(mount);
    let folder = new_folder();
    let mount = SmallDisk::mount_over(&folder, 4 << 20).expect("as above");
    let mounted = open(&folder.join("x.db")).await;
    mounted.write([Live::begin(&new_gid()).1]).await;
    drop((mounted, mount));
}

/// The lock alone was deleted: a second process gets a new one. It does not take itself for alone, and the first
/// one answers nothing more.
#[tokio::test]
async fn s5_a_lock_that_was_deleted_is_noticed_by_both() {
    let folder = new_folder();
    let first = open(&folder.join("x.db")).await;
    assert!(first.store.incarnations().is_alone());
    let mut writer = first.writer().await;
    fs::remove_file(folder.join("x.db.lock")).unwrap();
    let second = store::open(&first.url, &PostgresOptions::default()).await.unwrap();
    assert!(!second.incarnations().is_alone(), "the first one may still write");
    let live = second.incarnations().list().await.unwrap().live;
    assert_eq!(live.len(), 1, "so it is watched");
    let error = writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err();
    assert!(matches!(error, BatchError::Elsewhere(_)), "{error:?}");
    refuses(&first, "lock deleted").await;
    let error = store::open(&first.url, &PostgresOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
}

/// S5: the second process was killed before it was anybody, and the first one may live: neither does the third take itself for
/// alone. Once an incarnation was created under a lock file, the next one is alone with it.
#[tokio::test]
async fn s5_a_lock_under_which_nobody_was_created_says_nothing() {
    let folder = new_folder();
    let first = open(&folder.join("x.db")).await;
    fs::remove_file(folder.join("x.db.lock")).unwrap();
    for _ in 0..2 {
        let second = store::open(&first.url, &PostgresOptions::default()).await.unwrap();
        assert!(!second.incarnations().is_alone(), "the first one may still write");
        second.close().await;
    }
    for is_alone in [false, true] {
        let third = open(&folder.join("x.db")).await;
        assert_eq!(third.store.incarnations().is_alone(), is_alone);
        third.store.close().await;
    }
}

/// A log whose database is not there is kept: it has the last writes of a file that was moved away.
#[tokio::test]
async fn a_log_that_was_left_behind_is_kept() {
    let folder = new_folder();
    let log = folder.join("x.db-wal");
    fs::write(&log, b"the last writes").unwrap();
    let fixture = open(&folder.join("x.db")).await;
    fixture.write([Live::begin(&new_gid()).1]).await;
    assert_eq!(fs::read(folder.join("x.db-wal.left")).unwrap(), b"the last writes");
    // Another time, and the first one is there still.
    drop(fixture);
    let folder = new_folder();
    fs::write(folder.join("x.db-wal.left"), b"the first").unwrap();
    fs::write(folder.join("x.db-wal.left.1"), b"the second").unwrap();
    fs::write(folder.join("x.db-wal"), b"the third").unwrap();
    open(&folder.join("x.db")).await;
    for (suffix, content) in [("", "the first"), (".1", "the second"), (".2", "the third")] {
        let kept = fs::read_to_string(folder.join(format!("x.db-wal.left{suffix}"))).unwrap();
        assert_eq!(kept, content);
    }
}

/// A reader that stays holds the log. Writes go on, and once it has ended the log is cut.
#[tokio::test]
async fn a_long_reader_makes_the_log_grow_and_not_for_ever() {
    const LONG: u64 = 64 << 20;
    let folder = new_folder();
    let fixture = open(&folder.join("x.db")).await;
    let mut writer = fixture.writer().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("x.db"));
    let mut reader = SqliteConnection::connect_with(&options).await.unwrap();
    let begin = "BEGIN; SELECT count(*) FROM log";
    sqlx::raw_sql(begin).execute(&mut reader).await.unwrap();
    let mut large = definition(&new_gid());
    large.branches[0].payload.data = vec![7; 4 << 20].into();
    let bytes = || fixture.store.log_bytes().unwrap();
    let mut write = async || {
        large.gid = new_gid();
        let (_, begin) = Live::begin_with(large.clone(), now());
        let started = std::time::Instant::now();
        assert_eq!(writer.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
        started.elapsed()
    };
    while bytes() <= LONG + (16 << 20) {
        write().await;
        fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.unwrap();
    // The next try is a second later; the write after it begins the log anew.
    unanimo_tests::wait::until("the log to be cut", async || {
        write().await;
        (bytes() <= LONG).then_some(())
    })
    .await;
}

/// Other accounts of the machine read no payloads.
#[tokio::test]
async fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let database = new_folder().join("x.db");
    let fixture = open(&database).await;
    fixture.write([Live::begin(&new_gid()).1]).await;
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mode = fs::metadata(beside(&database, suffix)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "x.db{suffix} has the mode {mode:o}");
    }
}
