//! Write-ahead logs beside an SQLite file that is not the one they belong to, and starts that are refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::{Connection, SqliteConnection};
use unanimo_coordinator::store::{self, Error, Key, PostgresOptions, Relocation, Start, Store};

use super::file::{beside, copy_folder, new_folder, open};
use super::{Fixture, LEASE};
use crate::fixtures::{Live, new_gid};

/// Opens a file that was copied, with a word for it or without.
async fn start(database: &Path, told: Option<Relocation>) -> Result<Arc<dyn Store>, Error> {
    let start = Start { node: "one".to_owned(), told };
    let url = format!("sqlite:{}", database.display());
    store::connect(&url, &PostgresOptions::default(), start).await?.open().await
}

async fn raw(database: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn run(database: &Path, sql: String) {
    let mut raw = raw(database).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
}

/// The database and its log, byte for byte.
fn bytes(database: &Path) -> (Vec<u8>, Vec<u8>) {
    (fs::read(database).unwrap(), fs::read(beside(database, "-wal")).unwrap())
}

/// Copies the files of a database in use, without the index.
fn killed(folder: &Path) -> PathBuf {
    let copy = beside(folder, &format!("-{}", uuid::Uuid::new_v4()));
    copy_folder(folder, &copy);
    fs::remove_file(copy.join("x.db-shm")).unwrap();
    assert!(fs::metadata(copy.join("x.db-wal")).unwrap().len() > 0);
    copy.join("x.db")
}

/// A database in use, whose files are copied as a process that is killed leaves them.
struct Used {
    folder: PathBuf,
    fixture: Fixture,
    lives: Vec<Live>,
}

impl Used {
    async fn new() -> Self {
        let folder = new_folder();
        let fixture = open(&folder.join("x.db")).await;
        let mut used = Self { folder, fixture, lives: Vec::new() };
        used.go_on(3).await;
        used
    }

    fn database(&self) -> PathBuf {
        self.folder.join("x.db")
    }

    /// Begins transactions.
    async fn go_on(&mut self, count: usize) {
        for _ in 0..count {
            let (live, begin) = Live::begin(&new_gid());
            self.fixture.write([begin]).await;
            self.lives.push(live);
        }
    }

    async fn renew(&self) {
        self.fixture.store.incarnations().renew(self.fixture.me, LEASE).await.unwrap();
    }

    /// Copies the log into the database file, so that the next commit begins it anew.
    async fn check_point(&self) {
        run(&self.database(), "PRAGMA wal_checkpoint(RESTART)".to_owned()).await;
    }

    /// The files of this moment, in a folder of their own. Returns the database's path.
    fn killed(&self) -> PathBuf {
        killed(&self.folder)
    }

    /// All that was begun is there.
    async fn finds_all(&self, store: &Arc<dyn Store>, what: &str) {
        for live in &self.lives {
            let found = store.transactions().find(&Key::Tx(live.id())).await.unwrap();
            assert!(found.is_some(), "{what}");
        }
    }
}

/// S4, S10: a start that is refused has changed neither the database nor a log beside it.
#[tokio::test]
async fn s4_a_start_that_is_refused_changes_nothing() {
    let used = Used::new().await;
    let refused: [(&str, Option<Relocation>, &str); 3] = [
        ("UPDATE cluster SET cluster_id = cluster_id", None, "not where it was used last"),
        (
            "UPDATE unanimo_migrations SET version = 99999 WHERE version = (SELECT max(version) FROM unanimo_migrations)",
            None,
            "has version 99999",
        ),
        (
            "UPDATE cluster SET place = 'nothing=1'",
            Some(Relocation::Copy(None)),
            "make this database a copy",
        ),
    ];
    for (sql, told, says) in refused {
        for has_index in [false, true] {
            let database = used.killed();
            // The log stays: somebody else has the file open.
            let mut other = raw(&database).await;
            sqlx::raw_sql(sql).execute(&mut other).await.unwrap();
            let killed = beside(&database, ".killed");
            for suffix in ["", "-wal", "-shm"] {
                if suffix != "-shm" || has_index {
                    fs::copy(beside(&database, suffix), beside(&killed, suffix)).unwrap();
                }
            }
            let before = bytes(&killed);
            let error = start(&killed, told.clone()).await.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(bytes(&killed) == before, "{says}: it has changed");
        }
    }
}

/// A backup in the mode that it was made in, with a rollback journal, is not changed either.
#[tokio::test]
async fn s4_a_backup_that_is_refused_stays_what_it_is() {
    let used = Used::new().await;
    let backup = used.folder.join("copy.db");
    run(&used.database(), format!("VACUUM INTO '{}'", backup.display())).await;
    let before = fs::read(&backup).unwrap();
    let error = start(&backup, None).await.unwrap_err();
    assert!(matches!(error, Error::Elsewhere { .. }), "{error}");
    assert!(fs::read(&backup).unwrap() == before, "it has changed");
    let store = start(&backup, Some(Relocation::Moved)).await.unwrap();
    used.finds_all(&store, "a backup").await;
}

/// S3, S10: a backup in the place of the file of a process that was killed, whose log was left there: SQLite would write
/// pages of another time into it. The start is refused, whatever it is told, and has changed nothing.
#[tokio::test]
async fn s3_a_log_that_was_left_beside_a_backup_is_refused() {
    // As the command of the documentation makes it; as `.backup`, which has the same pages; and of a database that has
    // nothing to do: only renewals come after it.
    for (is_vacuum, begins) in [(true, 3), (false, 3), (false, 0)] {
        let mut used = Used::new().await;
        let backup = used.folder.join("copy.db");
        if is_vacuum {
            run(&used.database(), format!("VACUUM INTO '{}'", backup.display())).await;
        } else {
            used.check_point().await;
            fs::copy(used.database(), &backup).unwrap();
        }
        let has = used.lives.len();
        used.renew().await;
        used.go_on(begins).await;
        for _ in 0..2 {
            used.renew().await;
        }
        used.check_point().await;
        used.go_on(begins).await;
        used.renew().await;
        let restored = used.killed();
        fs::copy(&backup, &restored).unwrap();
        let before = bytes(&restored);
        for told in [None, Some(Relocation::Moved)] {
            let error = start(&restored, told).await.unwrap_err();
            assert!(matches!(error, Error::OtherLog { .. }) && error.is_lasting(), "{error:?}");
            assert!(error.to_string().contains("x.db-wal"), "{error}");
            assert!(bytes(&restored) == before, "it has changed");
        }
        // As the refusal says.
        fs::remove_file(beside(&restored, "-wal")).unwrap();
        let store = start(&restored, Some(Relocation::Moved)).await.unwrap();
        used.lives.truncate(has);
        used.finds_all(&store, "a backup").await;
    }
}

/// A log that belongs to its file is never refused, whatever has happened to both.
#[tokio::test]
async fn a_log_of_its_own_is_never_refused() {
    let mut used = Used::new().await;
    let check = async |used: &Used, what: &str| check_at(used, &used.folder, what).await;
    check(&used, "it was just made").await;
    for round in 0..4 {
        used.go_on(2).await;
        used.renew().await;
        check(&used, "under load").await;
        used.check_point().await;
        check(&used, "all of the log is copied").await;
        used.go_on(1).await;
        check(&used, "the log was begun anew, and has no first page").await;
        used.renew().await;
        let mut reader = raw(&used.database()).await;
        sqlx::raw_sql("BEGIN; SELECT count(*) FROM log").execute(&mut reader).await.unwrap();
        used.renew().await;
        used.go_on(round).await;
        run(&used.database(), "PRAGMA wal_checkpoint(PASSIVE)".to_owned()).await;
        check(&used, "a part of the log is copied").await;
        sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    }
    // What does not fit into memory goes to the log before it is committed, and is rolled back.
    let mut other = raw(&used.database()).await;
    let spill = "PRAGMA cache_size = 10; BEGIN IMMEDIATE; PRAGMA user_version = 7;
        CREATE TABLE spilled (x); INSERT INTO spilled
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
        SELECT randomblob(2000) FROM n";
    sqlx::raw_sql(spill).execute(&mut other).await.unwrap();
    check(&used, "somebody was killed before his commit").await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    check(&used, "somebody has rolled back what he wrote").await;
    used.renew().await;
    check(&used, "it is written over").await;
}

/// Nor is what a shell has left that was killed, after it has changed all of the file.
#[tokio::test]
async fn a_log_that_a_shell_has_left_is_never_refused() {
    let mut used = Used::new().await;
    used.renew().await;
    used.go_on(20).await;
    let database = used.killed();
    let folder = database.parent().unwrap();
    let mut shell = raw(&database).await;
    for sql in [
        "VACUUM",
        "PRAGMA wal_checkpoint(PASSIVE); PRAGMA user_version = 9",
        "PRAGMA wal_checkpoint(RESTART); VACUUM",
        "BEGIN; CREATE TABLE users (x); DROP TABLE users; COMMIT; VACUUM",
        "PRAGMA wal_checkpoint(TRUNCATE); CREATE TABLE users (x)",
    ] {
        sqlx::raw_sql(sql).execute(&mut shell).await.unwrap();
        check_at(&used, folder, sql).await;
    }
    shell.close().await.unwrap();
    run(&database, "PRAGMA journal_mode = DELETE; CREATE TABLE other (x)".to_owned()).await;
    let store = start(&database, Some(Relocation::Moved)).await.unwrap();
    used.finds_all(&store, "in another mode meanwhile").await;
}

async fn check_at(used: &Used, folder: &Path, what: &str) {
    let killed = killed(folder);
    let store = start(&killed, Some(Relocation::Moved)).await;
    let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
    used.finds_all(&store, what).await;
    store.close().await;
    drop(store);
    // The next start, after that one has stopped, and the one after a kill.
    let store = start(&killed, None).await;
    store.unwrap_or_else(|error| panic!("{what}, once more: {error}"));
}

/// S10: a file of nothing beside a log is what a copy onto a full disk leaves. SQLite would delete the log, and an empty group
/// would begin.
#[tokio::test]
async fn s10_an_empty_file_beside_a_log_is_refused() {
    let used = Used::new().await;
    let killed = used.killed();
    let (whole, log) = bytes(&killed);
    fs::File::create(&killed).unwrap();
    for told in [None, Some(Relocation::Moved)] {
        let error = start(&killed, told).await.unwrap_err();
        assert!(matches!(error, Error::Emptied { .. }) && error.is_lasting(), "{error:?}");
        assert!(error.to_string().contains("x.db-wal"), "{error}");
        assert!(bytes(&killed) == (Vec::new(), log.clone()), "it has changed");
    }
    fs::write(&killed, whole).unwrap();
    let store = start(&killed, Some(Relocation::Moved)).await.unwrap();
    used.finds_all(&store, "it was put back").await;
    // An empty file alone is as good as none.
    let alone = new_folder().join("x.db");
    fs::File::create(&alone).unwrap();
    fs::File::create(beside(&alone, "-wal")).unwrap();
    start(&alone, None).await.unwrap();
}
