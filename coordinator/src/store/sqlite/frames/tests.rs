//! Logs that are made here, and those that SQLite makes.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{AssertSqlSafe, Connection};

use super::*;

const PAGE: usize = 512;

/// A log that is made here.
struct Log {
    bytes: Vec<u8>,
    sum: Sum,
}

impl Log {
    fn new(is_big: bool) -> Self {
        let mut bytes = Vec::new();
        let magic = LOG_MAGIC | u32::from(is_big);
        for word in
            [magic, LOG_VERSION, u32::try_from(PAGE).expect("it is small"), 7, 0x1111, 0x2222]
        {
            bytes.extend(word.to_be_bytes());
        }
        let mut log = Self { sum: Sum { is_big, sums: (0, 0) }, bytes };
        log.sum.add(&log.bytes.clone());
        log.seal();
        log
    }

    fn seal(&mut self) {
        let (first, second) = self.sum.sums;
        self.bytes.extend(first.to_be_bytes());
        self.bytes.extend(second.to_be_bytes());
    }

    /// Adds a frame: page 1 with a counter, or another page; the end of a transaction, or not.
    fn with(mut self, counter: Option<u32>, ends: bool) -> Self {
        let mut head = Vec::new();
        let pages = if ends { 9_u32 } else { 0 };
        head.extend(counter.map_or(2_u32, |_| 1).to_be_bytes());
        head.extend(pages.to_be_bytes());
        let mut page = vec![3; PAGE];
        page[COUNTER..COUNTER + 4].copy_from_slice(&counter.unwrap_or(77).to_be_bytes());
        self.sum.add(&head);
        self.sum.add(&page);
        self.bytes.extend(head);
        self.bytes.extend([0_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat());
        let salts = self.bytes[16..24].to_vec();
        let at = self.bytes.len() - 8;
        self.bytes[at..].copy_from_slice(&salts);
        self.seal();
        self.bytes.extend(page);
        self
    }
}

/// Head of a database file at a change.
fn head(counter: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..16].copy_from_slice(MAGIC);
    head[16..18].copy_from_slice(&u16::try_from(PAGE).expect("it is small").to_be_bytes());
    head[18..20].copy_from_slice(&[2, 2]);
    head[COUNTER..COUNTER + 4].copy_from_slice(&counter.to_be_bytes());
    head
}

fn is_foreign(counter: u32, log: &[u8]) -> bool {
    foreign(&head(counter), log).expect("it is there").is_some()
}

#[test]
fn a_file_is_at_a_change_of_its_own_log_or_the_one_before() {
    for is_big in [false, true] {
        let log = Log::new(is_big).with(Some(10), true).with(None, true).with(Some(12), true).bytes;
        for (counter, expected) in
            [(0, true), (8, true), (9, false), (10, false), (11, false), (12, false), (13, true)]
        {
            assert_eq!(is_foreign(counter, &log), expected, "{counter}");
        }
    }
    // The counter begins again.
    let log = Log::new(false).with(Some(u32::MAX), true).with(Some(1), true).bytes;
    for (counter, expected) in [
        (u32::MAX - 2, true),
        (u32::MAX - 1, false),
        (u32::MAX, false),
        (0, false),
        (1, false),
        (2, true),
    ] {
        assert_eq!(is_foreign(counter, &log), expected, "{counter}");
    }
}

#[test]
fn what_is_not_committed_says_nothing() {
    let none = [
        Log::new(false).bytes,
        Log::new(false).with(Some(10), false).bytes,
        Log::new(false).with(None, true).bytes,
        // The change is in a transaction without an end.
        Log::new(false).with(None, true).with(Some(10), false).bytes,
        Vec::new(),
        vec![0; 31],
        b"what somebody else has written here, and is long enough".to_vec(),
    ];
    for log in none {
        assert!(!is_foreign(99, &log), "{} bytes", log.len());
    }
    // The last change that counts is the committed one.
    let log = Log::new(false).with(Some(10), true).with(Some(11), false).bytes;
    assert!(!is_foreign(10, &log) && is_foreign(11, &log));
}

#[test]
fn a_log_is_read_as_far_as_it_is_whole() {
    let whole = Log::new(false).with(Some(10), true).with(Some(11), true).bytes;
    assert!(is_foreign(12, &whole) && !is_foreign(11, &whole));
    let second = LOG_HEAD_BYTES + FRAME_HEAD_BYTES + PAGE;
    // Another salt, another checksum, another byte of the page; and one that ends too early.
    for at in [second + 8, second + 16, second + FRAME_HEAD_BYTES + 30] {
        let mut torn = whole.clone();
        torn[at] ^= 1;
        assert!(is_foreign(11, &torn) && !is_foreign(10, &torn), "{at}");
    }
    let cut = &whole[..whole.len() - 1];
    assert!(is_foreign(11, cut) && !is_foreign(10, cut));
    for at in 0..LOG_HEAD_BYTES {
        let mut torn = whole.clone();
        torn[at] ^= 1;
        assert!(!is_foreign(99, &torn), "no log: {at}");
    }
}

#[test]
fn another_size_of_pages_and_another_mode_are_foreign() {
    let log = Log::new(false).with(None, true).bytes;
    let mut other = head(10);
    assert_eq!(foreign(&other, &*log).expect("it is there"), None);
    other[16..18].copy_from_slice(&1_u16.to_be_bytes());
    assert!(foreign(&other, &*log).expect("it is read").expect("it is foreign").contains("65536"));
    let mut other = head(10);
    other[18..20].copy_from_slice(&[1, 1]);
    assert!(foreign(&other, &*log).expect("it is there").is_some());
    assert_eq!(
        foreign(&other, &*Log::new(false).bytes).expect("it is there"),
        None,
        "nothing is in that log"
    );
    // Not a database.
    assert_eq!(foreign(&[0; HEAD_BYTES], &*log).expect("it is there"), None);
}

async fn run(connection: &mut SqliteConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect("it runs");
}

fn read(database: &Path) -> (u32, Committed) {
    let bytes = std::fs::read(database).expect("it is there");
    let log = std::fs::read(database.with_extension("db-wal")).expect("it is there");
    let head: &[u8; HEAD_BYTES] = bytes[..HEAD_BYTES].try_into().expect("it has so many");
    assert_eq!(foreign(head, &*log).expect("it is there"), None);
    (word(head, COUNTER), committed(&*log).expect("it is read").expect("it has a commit"))
}

#[tokio::test]
async fn logs_of_sqlite_are_read() {
    let folder = tempfile::tempdir().expect("it is there");
    let database = folder.path().join("x.db");
    let options = SqliteConnectOptions::new().filename(&database).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).page_size(1024);
    let mut one = SqliteConnection::connect_with(&options).await.expect("it is there");
    let mut two = SqliteConnection::connect_with(&options).await.expect("it is there");
    run(&mut one, "CREATE TABLE t (x)").await;
    let (at, Committed { page_bytes, counters }) = read(&database);
    assert_eq!((page_bytes, counters), (1024, Some((at + 1, at + 1))));
    for _ in 0..3 {
        for connection in [&mut one, &mut two] {
            run(connection, "PRAGMA user_version = 1").await;
        }
    }
    let counters = read(&database).1.counters;
    assert_eq!(counters, Some((at + 1, at + 6)), "the first of one was the second of the other");
    run(&mut two, "PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (1)").await;
    let (now, Committed { counters, .. }) = read(&database);
    assert_eq!((now, counters), (at + 6, None));
}
