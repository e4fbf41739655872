//! Rows that an earlier version has written.

use std::borrow::Cow;

use sqlx::Connection;
use sqlx::migrate::Migrator;
use unanimo_coordinator::store::{self, Claim, Filter, Key, PostgresOptions, Written};
use unanimo_core::{Gid, Mode, Record, StepSpec, Timestamp, TxId, Version, Vote};
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::{Fixture, a_write, count, create};
use crate::fixtures::Live;

pub(super) const TX_ID: &str = "019a0000000070008000000000000007";

/// Rows of the first schema: a transaction with one branch and its output. `{x}` stands before a
/// literal of bytes, `{yes}` and `{no}` for truth.
pub(super) fn rows(bytes: impl Fn(&str) -> String, id: &str, no: &str) -> String {
    let (digest, text) = (bytes(&"ab".repeat(32)), bytes("6f"));
    format!(
        "INSERT INTO transactions (tx_id, gid, owner, version, write_id, mode, drive, digest,
             digest_version, created_ms, deadline_ms, phase, decided_ms, ended_ms, stalled, progress)
         VALUES ({id}, 'old', 1, 3, {id}, '2pc', 'declarative', {digest}, 1, 5, 6, 'committed', 7,
             8, {no}, '[{{\"vote\":\"prepared\"}}]');
         INSERT INTO branches (tx_id, number, branch_id, participant, action, enlisted_by, payload)
         VALUES ({id}, 1, 'a', 'bank', 'debit', 'coordinator', {text});
         INSERT INTO outputs (tx_id, number, output) VALUES ({id}, 1, {text});"
    )
}

/// The schema as it was at this version.
pub(crate) fn up_to(version: i64, all: &Migrator) -> Migrator {
    let first = all.iter().filter(|migration| migration.version <= version).cloned().collect();
    Migrator { migrations: Cow::Owned(first), ..Migrator::DEFAULT }
}

#[tokio::test]
async fn rows_of_the_first_schema_are_read() {
    rows_of_an_earlier_schema_are_read(1).await;
}

#[tokio::test]
async fn rows_of_the_second_schema_are_read() {
    rows_of_an_earlier_schema_are_read(2).await;
}

async fn rows_of_an_earlier_schema_are_read(version: i64) {
    let url = Server::shared().database().await;
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    up_to(version, &unanimo_migrations::coordinator::POSTGRES).run(&mut connection).await.unwrap();
    let id = format!("'{TX_ID}'");
    let script = rows(|hex| format!("decode('{hex}', 'hex')"), &id, "false");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    check(&url).await;

    let file = run_folder().join(format!("{}.db", Uuid::new_v4()));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    up_to(version, &unanimo_migrations::coordinator::SQLITE).run(&mut connection).await.unwrap();
    let script = rows(|hex| format!("x'{hex}'"), &format!("x'{TX_ID}'"), "0");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    check(&format!("sqlite:{}", file.display())).await;
}

pub(super) async fn check(url: &str) {
    let store = store::open(url, &PostgresOptions::default()).await.unwrap();
    let key = Key::Tx(TxId(TX_ID.parse().unwrap()));
    let stored = store.transactions().find(&key).await.unwrap().unwrap().record;
    assert_eq!((stored.identity.gid.as_str(), stored.version.0), ("old", 3));
    assert_eq!(stored.identity.digest.version, 1);
    let (_, branch) = &stored.branches[0];
    assert_eq!(branch.mode, Mode::TwoPhaseCommit, "the transaction's");
    assert_eq!((&*branch.payload.data, &*branch.payload.media_type), (&b"o"[..], ""));
    assert_eq!(branch.step, StepSpec::default());
    assert_eq!((stored.identity.start_at, &*stored.identity.locks), (None, &[][..]));
    assert_eq!((stored.identity.parent, stored.state.wake_at), (None, None));
    assert!(
        store
            .transactions()
            .history(stored.identity.tx_id, Default::default())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!((&*stored.outputs[0].1.data, &*stored.outputs[0].1.media_type), (&b"o"[..], ""));
}

/// Statements that make transactions of each kind in the tables of version 15, of an incarnation that is fenced.
fn of_each_kind(bytes: impl Fn(&str) -> String) -> String {
    let mut script = String::from(
        "UPDATE cluster SET incarnations = 1;
         INSERT INTO fences (incarnation, node, fenced) VALUES (1, 'one', true);
         INSERT INTO heartbeats (incarnation) VALUES (1);",
    );
    let kinds = [
        ("active", "phase", "'active'"),
        ("committing", "phase, decided_ms", "'committing', 7"),
        ("held", "phase, decided_ms, ended_ms, heuristic", "'committed', 7, 8, 'mixed'"),
        ("sleeping", "phase, wake_ms", "'scheduled', 99"),
        ("ended", "phase, decided_ms, ended_ms", "'committed', 7, 8"),
        ("stripped", "phase, decided_ms, ended_ms, stripped", "'committed', 7, 8, true"),
        ("aside", "phase, set_aside_by", "'paused', 1"),
    ];
    for (index, (gid, columns, values)) in kinds.iter().enumerate() {
        let (id, digest) = (bytes(&format!("{:031}{index}", 0)), bytes(&"ab".repeat(32)));
        script.push_str(&format!(
            "INSERT INTO transactions (tx_id, gid, owner, version, write_id, mode, drive, digest,
                 digest_version, created_ms, deadline_ms, {columns})
             VALUES ({id}, '{gid}', 1, 3, {id}, 'tcc', 'declarative', {digest}, 1, 5, 6, {values});"
        ));
    }
    let first = bytes(&format!("{:031}0", 0));
    script.push_str(&format!("INSERT INTO locks VALUES ('seat', {first}, {first}, true, true);"));
    let parent = "\"parent\":{\"tx_id\":\"019a0000-0000-7000-8000-000000000007\",\"number\":2,\"root\":\"019a0000-0000-7000-8000-000000000007\"}";
    let text = bytes("6f");
    for index in [1, 2, 3] {
        let id = bytes(&format!("{:031}{index}", 0));
        script.push_str(&format!(
            "UPDATE transactions SET progress = '[{{\"vote\":\"prepared\"}}]', more =
                 '{{\"started_at\":6}}', begun_with = '{{{parent}}}', metadata = '{{\"k\":\"v\"}}'
                 WHERE tx_id = {id};
             INSERT INTO branches (tx_id, number, branch_id, participant, action, enlisted_by, payload,
                 payload_type, mode, step)
             VALUES ({id}, 1, 'a', 'bank', 'debit', 'initiator', {text}, 'text/plain', 'saga', NULL);
             INSERT INTO outputs VALUES ({id}, 1, {text}, 'text/plain');
             INSERT INTO history VALUES ({id}, 2, '\"an entry\"');
             INSERT INTO events VALUES ({id}, 2, 0, 6, 'started', 1, '', false);
             INSERT INTO events VALUES ({id}, 2, 1, 6, 'in_doubt', 1, '', false);
             INSERT INTO events VALUES ({id}, 2, 2, 6, 'retried', 1, 'by hand', true);
             INSERT INTO events VALUES ({id}, 3, 0, 7, 'stalled', 1, 'seen', false);
             INSERT INTO events VALUES ({id}, 3, 1, 8, 'resolved', 1, 'by hand', true);"
        ));
    }
    script
}

/// S4, S9, L1: what is active, decided, held, asleep, ended, stripped or set aside is so in the tables of this
/// version, too.
#[tokio::test]
async fn s4_transactions_of_each_kind_come_to_the_log() {
    let url = Server::shared().database().await;
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    up_to(15, &unanimo_migrations::coordinator::POSTGRES).run(&mut connection).await.unwrap();
    let as_text = |hex: &str| match hex.len() {
        32 => format!("'{hex}'"),
        _ => format!("decode('{hex}', 'hex')"),
    };
    let script = of_each_kind(as_text)
        .replace(&format!("'{:032}'", 0), "'00000000-0000-0000-0000-0000000000ff'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    check_each_kind(url).await;

    let file = run_folder().join(format!("{}.db", Uuid::new_v4()));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    up_to(15, &unanimo_migrations::coordinator::SQLITE).run(&mut connection).await.unwrap();
    let script = of_each_kind(|hex| format!("x'{hex}'"))
        .replace(&format!("x'{:032}'", 0), "x'000000000000000000000000000000ff'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    check_each_kind(format!("sqlite:{}", file.display())).await;
}

/// Everything that belongs to a transaction comes with it.
async fn check_details(fixture: &Fixture, record: Record) {
    let (_, branch) = &record.branches[0];
    assert_eq!((branch.branch_id.as_str(), branch.mode), ("a", Mode::Saga));
    let payload = (&*branch.payload.data, &*branch.payload.media_type);
    assert_eq!(payload, (&b"o"[..], "text/plain"));
    let output = &record.outputs[0].1;
    assert_eq!((&*output.data, &*output.media_type), (&b"o"[..], "text/plain"));
    let parent = record.identity.parent.unwrap();
    assert_eq!((parent.tx_id, parent.number.get()), (TxId(TX_ID.parse().unwrap()), 2));
    assert_eq!(record.identity.metadata["k"], "v");
    assert_eq!(record.state.started_at, Some(Timestamp(6)));
    assert_eq!(record.state.branches[0].vote, Some(Vote::Prepared));
    let tx_id = record.identity.tx_id;
    let transactions = fixture.store.transactions();
    let history = transactions.history(tx_id, Default::default()).await.unwrap();
    assert_eq!(history, ["\"an entry\""]);
    let events = transactions.events(tx_id).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["started", "in_doubt", "retried", "stalled", "resolved"]);
    assert_eq!((events[3].at, &*events[3].detail), (Timestamp(7), "seen"));
}

async fn check_each_kind(url: String) {
    let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "two").await;
    let fixture = Fixture { store, url, me };
    assert_eq!(count(&fixture, "locks").await, 1);
    let transactions = fixture.store.transactions();
    let find = async |gid: &str| {
        transactions.find(&Key::Gid(Gid::new(gid).unwrap())).await.unwrap().unwrap()
    };
    let (ended, stripped) = (find("ended").await, find("stripped").await);
    assert_eq!((ended.stripped, stripped.stripped), (false, true));
    assert_eq!(ended.record.state.phase.ended_at(), Some(Timestamp(8)));
    for gid in ["committing", "held", "sleeping"] {
        check_details(&fixture, find(gid).await.record).await;
    }
    let counted = transactions.attention().await.unwrap();
    assert_eq!((counted.heuristic, counted.unreadable), (1, 1));
    let filter = Filter { limit: 10, ..Filter::default() };
    assert_eq!(transactions.list(&filter).await.unwrap().found.len(), 7);

    let claimed = transactions.claim(me, Claim::OfFenced(10)).await.unwrap();
    let mut gids: Vec<_> =
        claimed.records.iter().map(|record| record.identity.gid.as_str()).collect();
    gids.sort_unstable();
    assert_eq!(gids, ["active", "committing"]);
    assert_eq!(claimed.unreadable.len(), 1);
    let due = Claim::Due { until: Timestamp(100), limit: 10 };
    let due = transactions.claim(me, due).await.unwrap().records;
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].identity.gid.as_str(), "sleeping");
    let (_, again) = Live::begin(&Gid::new("held").unwrap());
    let written = fixture.writer().await.write(&[a_write(again)]).await.unwrap();
    assert!(matches!(&written[..], [Written::GidHeld(_)]), "{written:?}");
}

/// Statements that make this many transactions in the tables of version 15, which both databases understand. Where
/// SQLite has no function of this name, it is put in.
pub(crate) fn many(count: usize, now_ms: u64, payload_bytes: usize, is_sqlite: bool) -> String {
    let (id, bytes) = match is_sqlite {
        true => ("unhex(printf('%032x', n))", "CAST(text AS blob)"),
        false => ("lpad(to_hex(n), 32, '0')::uuid", "convert_to(text, 'UTF8')"),
    };
    let digest = match is_sqlite {
        true => format!("x'{}'", "ab".repeat(32)),
        false => "decode(repeat('ab', 32), 'hex')".to_owned(),
    };
    let padding = "p".repeat(payload_bytes);
    let all = format!(
        "WITH RECURSIVE all_n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM all_n WHERE n < {count})"
    );
    format!(
        "UPDATE cluster SET incarnations = 1;
         INSERT INTO fences (incarnation, node, fenced) VALUES (1, 'one', true);
         INSERT INTO heartbeats (incarnation) VALUES (1);
         INSERT INTO transactions (tx_id, gid, owner, version, write_id, mode, drive, digest,
             digest_version, created_ms, deadline_ms, phase, decided_ms, ended_ms, progress)
         {all} SELECT {id}, 'gid-' || n, 1, 3, {id}, 'tcc', 'declarative', {digest}, 1, {now_ms},
             {now_ms}, 'committed', {now_ms}, {now_ms}, '[{{\"vote\":\"prepared\"}},{{\"vote\":\"prepared\"}}]' FROM all_n;
         INSERT INTO branches (tx_id, number, branch_id, participant, action, enlisted_by, payload)
         {all} SELECT {id}, number, 'b' || number, 'bank', 'debit', 'coordinator', {bytes}
         FROM (SELECT n, number, '{padding}' || n || '/' || number AS text
             FROM all_n CROSS JOIN (SELECT 1 AS number UNION ALL SELECT 2) AS numbers) AS made;
         INSERT INTO outputs (tx_id, number, output)
         {all} SELECT {id}, 2, {bytes} FROM (SELECT n, 'out' || n AS text FROM all_n) AS made;
         INSERT INTO history (tx_id, version, entry)
         {all} SELECT {id}, 3, '\"entry ' || n || '\"' FROM all_n;"
    )
}

/// More than one chunk: each transaction has its own branches, outputs and history, and no other one's.
#[tokio::test]
async fn s4_many_transactions_come_to_the_log_each_with_its_own() {
    const COUNT: usize = 1_250;
    let url = Server::shared().database().await;
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    up_to(15, &unanimo_migrations::coordinator::POSTGRES).run(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let file = run_folder().join(format!("{}.db", Uuid::new_v4()));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    up_to(15, &unanimo_migrations::coordinator::SQLITE).run(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    for url in [url, format!("sqlite:{}", file.display())] {
        let is_sqlite = url.starts_with("sqlite:");
        super::execute(&url, &many(COUNT, 1_000_000_000_000, 0, is_sqlite)).await;
        let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
        for n in 1..=COUNT {
            let tx_id = TxId(Uuid::from_u128(n as u128));
            let stored = store.transactions().find(&Key::Tx(tx_id)).await.unwrap().unwrap();
            let record = stored.record;
            assert_eq!(record.identity.gid.as_str(), format!("gid-{n}"));
            let payloads: Vec<_> =
                record.branches.iter().map(|(_, b)| &b.payload.data[..]).collect();
            assert_eq!(payloads, [1, 2].map(|number| format!("{n}/{number}").into_bytes()));
            assert_eq!(record.outputs.len(), 1);
            assert_eq!(&record.outputs[0].1.data[..], format!("out{n}").as_bytes());
            let history = store.transactions().history(tx_id, Default::default()).await.unwrap();
            assert_eq!(history, [format!("\"entry {n}\"")]);
        }
    }
}

/// Somebody holds one of the tables of an earlier version: the start hears of it before it has worked for minutes.
#[tokio::test]
async fn a_held_table_is_met_before_the_work() {
    let url = Server::shared().database().await;
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    let schema = "CREATE SCHEMA unanimo; SET search_path = unanimo";
    sqlx::raw_sql(schema).execute(&mut raw).await.unwrap();
    let mut migrator = up_to(15, &unanimo_migrations::coordinator::POSTGRES);
    migrator.dangerous_set_table_name("unanimo_migrations");
    migrator.run(&mut raw).await.unwrap();
    let script = sqlx::AssertSqlSafe(many(10, 5, 0, false));
    sqlx::raw_sql(script).execute(&mut raw).await.unwrap();
    // Whoever copies a table, such as a backup.
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM history").execute(&mut raw).await.unwrap();
    let error = store::open(&url, &PostgresOptions::default()).await.unwrap_err();
    assert!(error.is_busy(), "{error:?}");
    let text = store::in_full(&error);
    assert!(text.contains("lock the tables of an earlier version"), "{text}");
    sqlx::raw_sql("COMMIT").execute(&mut raw).await.unwrap();
    store::open(&url, &PostgresOptions::default()).await.unwrap();
}

/// Makes tables of version 15 in a database of each kind, with so many transactions.
async fn both(count: usize) -> [String; 2] {
    let url = Server::shared().database().await;
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    up_to(15, &unanimo_migrations::coordinator::POSTGRES).run(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    super::execute(&url, &many(count, 5, 0, false)).await;
    [url, file(count).await]
}

/// Makes tables of version 15 in an SQLite file, with so many transactions.
async fn file(count: usize) -> String {
    let file = run_folder().join(format!("{}.db", Uuid::new_v4()));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    up_to(15, &unanimo_migrations::coordinator::SQLITE).run(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let url = format!("sqlite:{}", file.display());
    super::execute(&url, &many(count, 5, 0, true)).await;
    url
}

async fn opened(url: String) -> Fixture {
    let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "two").await;
    Fixture { store, url, me }
}

/// L5, S4: a history of 20 MiB comes in rows of which an answer reads a few, and its transaction still sleeps.
#[tokio::test]
async fn l5_a_long_history_comes_to_the_log_in_several_rows() {
    const ENTRIES: usize = 40;
    const BYTES: usize = 512 << 10;
    for url in both(2).await {
        let (id, text) = match url.starts_with("sqlite:") {
            true => {
                ("x'00000000000000000000000000000001'", format!("printf('%.*c', {BYTES}, 'x')"))
            }
            false => {
                ("'00000000-0000-0000-0000-000000000001'::uuid", format!("repeat('x', {BYTES})"))
            }
        };
        let script = format!(
            "UPDATE transactions SET version = 50, phase = 'scheduled', wake_ms = 99, decided_ms = NULL,
                 ended_ms = NULL WHERE tx_id = {id};
             INSERT INTO history (tx_id, version, entry)
             WITH RECURSIVE all_n (n) AS (SELECT 4 UNION ALL SELECT n + 1 FROM all_n WHERE n < {})
             SELECT {id}, n, {text} FROM all_n;",
            3 + ENTRIES
        );
        super::execute(&url, &script).await;
        let fixture = opened(url).await;
        assert_eq!(count(&fixture, "log WHERE length(history) > 1200000").await, 0);
        assert_eq!(count(&fixture, "log WHERE created_ms IS NOT NULL").await, 2);
        let (transactions, tx_id) = (fixture.store.transactions(), TxId(Uuid::from_u128(1)));
        // The first entry has version 3, and each one after it the next.
        let (mut read, mut pages) = (Vec::new(), 0);
        loop {
            let after = Version(2 + i64::try_from(read.len()).unwrap());
            let page = transactions.history(tx_id, after).await.unwrap();
            assert_eq!(page.len(), 1 + ENTRIES - read.len(), "each is counted");
            if page.is_empty() {
                break;
            }
            let full = page.into_iter().take_while(|entry| !entry.is_empty());
            let before = read.len();
            read.extend(full.map(|entry| entry.len()));
            assert!(read.len() > before, "it does not go on");
            pages += 1;
        }
        assert!((5..=7).contains(&pages), "{pages}");
        assert_eq!(read[1..], [BYTES; ENTRIES]);

        let stored = transactions.find(&Key::Tx(tx_id)).await.unwrap().unwrap().record;
        assert_eq!((stored.version, stored.state.wake_at), (Version(50), Some(Timestamp(99))));
        assert_eq!((stored.branches.len(), stored.outputs.len()), (2, 1));
        let due = Claim::Due { until: Timestamp(100), limit: 10 };
        let due = transactions.claim(fixture.me, due).await.unwrap().records;
        assert_eq!(due.iter().map(|record| record.identity.tx_id).collect::<Vec<_>>(), [tx_id]);
    }
}

/// S9: rows whose name is none do not hide those after them, and their gids begin nothing else.
#[tokio::test]
async fn s9_rows_without_a_name_leave_no_other_behind() {
    let url = file(600).await;
    // More than a chunk, before all others.
    let longer = "UPDATE transactions SET tx_id = unhex(hex(tx_id) || '00')
        WHERE tx_id <= unhex(printf('%032x', 550))";
    super::execute(&url, longer).await;
    let fixture = opened(url).await;
    assert_eq!(count(&fixture, "log").await, 50);
    let transactions = fixture.store.transactions();
    let find = async |gid: &str| transactions.find(&Key::Gid(Gid::new(gid).unwrap())).await;
    assert_eq!(find("gid-600").await.unwrap().unwrap().record.branches.len(), 2);
    let error = find("gid-1").await.unwrap_err();
    assert!(matches!(error, store::Error::Unreadable(_)), "{error:?}");
    let (_, again) = Live::begin(&Gid::new("gid-1").unwrap());
    let written = fixture.writer().await.write(&[a_write(again)]).await.unwrap();
    assert!(matches!(written[..], [Written::Refused(_)]), "{written:?}");
    assert_eq!(transactions.attention().await.unwrap().unreadable, 550);
    assert_eq!(count(&fixture, "earlier_transactions").await, 600);
}

/// An event that cannot be read is missing, and is not lost; its transaction is as it was.
#[tokio::test]
async fn an_event_that_cannot_be_read_is_kept() {
    let url = file(2).await;
    let events = "INSERT INTO events VALUES (unhex(printf('%032x', 1)), 2, 0, 6, 'started', 1, '', 0);
        INSERT INTO events VALUES (unhex(printf('%032x', 1)), 2, 1, 6, 'started', 1, CAST(x'ff' AS text), 0)";
    super::execute(&url, events).await;
    let fixture = opened(url).await;
    let (transactions, tx_id) = (fixture.store.transactions(), TxId(Uuid::from_u128(1)));
    let stored = transactions.find(&Key::Tx(tx_id)).await.unwrap().unwrap();
    assert_eq!(stored.record.branches.len(), 2);
    assert_eq!(transactions.events(tx_id).await.unwrap().len(), 1);
    assert_eq!(transactions.attention().await.unwrap().unreadable, 0);
    assert_eq!(count(&fixture, "earlier_transactions").await, 2);
    assert_eq!(count(&fixture, "events WHERE NOT audit").await, 2);
}

/// Makes tables of version 15 on PostgreSQL, of which the steps of branches are read through a function with this
/// body: `n` is the number of the transaction, and `step` what it returns.
async fn read_through(count: usize, body: &str) -> String {
    let url = Server::shared().database().await;
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    let schema = "CREATE SCHEMA unanimo; SET search_path = unanimo";
    sqlx::raw_sql(schema).execute(&mut raw).await.unwrap();
    let mut migrator = up_to(15, &unanimo_migrations::coordinator::POSTGRES);
    migrator.dangerous_set_table_name("unanimo_migrations");
    migrator.run(&mut raw).await.unwrap();
    let script = format!(
        "{}
         CREATE SEQUENCE reads;
         CREATE FUNCTION read_step(n int, step text) RETURNS text STABLE LANGUAGE plpgsql AS
         $$ BEGIN {body} RETURN step; END $$;
         ALTER TABLE branches RENAME TO kept_branches;
         CREATE VIEW branches AS
         SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload, payload_type, mode,
             unanimo.read_step(('x' || right(tx_id::text, 8))::bit(32)::int, step) AS step
         FROM kept_branches",
        many(count, 5, 0, false)
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut raw).await.unwrap();
    url
}

/// L1: the error that the server gave is the one that counts, so that a start waits for space; met while many are
/// read, and while one is.
#[tokio::test]
async fn l1_a_full_disk_in_the_middle_of_the_work_is_told_as_such() {
    for first in ["53100", "XX001"] {
        let body = format!(
            "IF nextval('unanimo.reads') = 1 THEN RAISE 'first' USING ERRCODE = '{first}'; END IF;
             RAISE 'no space left' USING ERRCODE = '53100';"
        );
        let url = read_through(10, &body).await;
        let error = store::open(&url, &PostgresOptions::default()).await.unwrap_err();
        assert!(error.is_full(), "{error:?}");
        // There is space again.
        let back =
            "DROP VIEW unanimo.branches; ALTER TABLE unanimo.kept_branches RENAME TO branches";
        super::execute(&url, back).await;
        let fixture = opened(url).await;
        assert_eq!(count(&fixture, "unanimo.log").await, 10);
        assert_eq!(fixture.store.transactions().attention().await.unwrap().unreadable, 0);
    }
}

/// L5: where one value cannot be read, no more is held at once than elsewhere.
#[tokio::test]
async fn l5_beside_a_damaged_value_few_bytes_are_read_at_once() {
    // What is read, and is not in the log yet, is held.
    let body = "IF n = 1 THEN RAISE 'damaged' USING ERRCODE = 'XX001'; END IF;
        IF n - (SELECT count(*) FROM unanimo.log) > 5 THEN
            RAISE 'too much is held' USING ERRCODE = '54000';
        END IF;";
    let url = read_through(12, body).await;
    let large =
        "UPDATE unanimo.kept_branches SET payload = convert_to(repeat('p', 6291456), 'UTF8')
        WHERE number = 1";
    super::execute(&url, large).await;
    let fixture = opened(url).await;
    assert_eq!(count(&fixture, "unanimo.log").await, 12);
    let transactions = fixture.store.transactions();
    assert_eq!(transactions.attention().await.unwrap().unreadable, 1);
    let key = Key::Gid(Gid::new("gid-12").unwrap());
    let stored = transactions.find(&key).await.unwrap().unwrap().record;
    assert_eq!(stored.branches[0].1.payload.data.len(), 6 << 20);
}
