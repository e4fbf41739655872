//! Numbers of rows and commits that transactions cost: they say the same on every machine.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use unanimo_coordinator::store::{
    Claim, FeedCursor, Filter, Key, LockTake, LockTaken, NewsOf, PhaseName, PostgresOptions,
    Retention, Written, open,
};
use unanimo_core::{
    HeuristicKind, LockMode, LockName, PhaseTwoAnswer, PhaseTwoOperation, Timestamp, Version,
};

use super::{Fixture, a_write, create, execute, on_both_stores};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now};

on_both_stores!(a_count_of_many_is_whole_or_says_so);

/// Transactions in a batch.
const BATCH: i64 = 1_024;

/// Bytes of a transaction's bodies, and of its rows with their indexes.
const BODIES_MAX: i64 = 600;
const ALL_MAX: i64 = 1_400;

/// Counts of a table since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
struct Counts {
    /// Rows that were looked at, whether they were wanted or not.
    read: i64,
    inserted: i64,
    updated: i64,
    deleted: i64,
    /// Pages of long values that were looked at.
    long: i64,
}

/// Reads the counts once every other session has ended: that is when it tells what it did.
async fn counts(raw: &mut PgConnection, table: &str) -> Counts {
    const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    const COUNTS: &str = "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) AS read,
            n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_del AS deleted,
            coalesce(toast_blks_read, 0) + coalesce(toast_blks_hit, 0) AS long
        FROM pg_stat_user_tables JOIN pg_statio_user_tables USING (relid)
        WHERE pg_stat_user_tables.relname = $1";
    loop {
        let others: i64 = sqlx::query_scalar(OTHERS).fetch_one(&mut *raw).await.unwrap();
        if others == 0 {
            return sqlx::query_as(COUNTS).bind(table).fetch_one(raw).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes the begins, decisions and ends of as many transactions, each in a batch.
async fn finished(fixture: &Fixture, count: i64, at: Timestamp, answer: &PhaseTwoAnswer) {
    let mut writer = fixture.writer().await;
    let (mut begins, mut decisions, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let (mut live, begin) = Live::begin_with(definition(&new_gid()), at);
        begins.push(a_write(begin));
        decisions.push(a_write(live.commit()));
        let mut done = live.phase_two(PhaseTwoOperation::Commit, answer);
        let mut end = done.remove(0);
        done.into_iter().for_each(|transition| end.fold(transition));
        let mut end = a_write(end);
        end.base = decisions.last().unwrap().transition.version;
        ends.push(end);
    }
    for batch in [begins, decisions, ends] {
        let written = writer.write(&batch).await.unwrap();
        assert!(written.iter().all(|written| *written == Written::Applied));
    }
}

/// A TCC of two branches costs a name and three rows, and nothing is ever updated; a batch costs one commit.
#[tokio::test]
async fn a_transaction_is_four_rows_that_are_inserted() {
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    finished(&fixture, BATCH, now(), &PhaseTwoAnswer::Done).await;
    fixture.store.close().await;
    let nothing = Counts { read: 0, inserted: 0, updated: 0, deleted: 0, long: 0 };
    for (table, rows) in [
        ("log", 3 * BATCH),
        ("gids", BATCH),
        ("parked", 0),
        ("events", 0),
        ("locks", 0),
        ("aside", 0),
    ] {
        let found = counts(&mut raw, table).await;
        let written = Counts { read: 0, long: 0, ..found };
        assert_eq!(written, Counts { inserted: rows, ..nothing }, "{table}");
        // A move looks for the row before it, and no more. Of an empty table nothing can be read.
        assert!(rows == 0 || found.read <= 2 * BATCH, "{table}: {found:?}");
    }
    let commits: i64 = sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM log")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    assert_eq!(commits, 3, "one for each batch");
    let sizes = "SELECT (SELECT sum(length(body)) FROM log)::int8,
        (pg_total_relation_size('log') + pg_total_relation_size('gids'))::int8";
    let (bodies, all): (i64, i64) = sqlx::query_as(sizes).fetch_one(&mut raw).await.unwrap();
    // Most of a body is what its begin was asked for; with indexes it is about twice that.
    assert!(bodies / BATCH < BODIES_MAX, "{} bytes of bodies", bodies / BATCH);
    assert!(all / BATCH < ALL_MAX, "{} bytes of tables and indexes", all / BATCH);
}

/// A batch costs the same, however much others have parked.
#[tokio::test]
async fn a_batch_reads_nothing_of_what_others_have_parked() {
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let park = "INSERT INTO parked (tx_id, owner)
        SELECT gen_random_uuid(), 1000 FROM generate_series(1, 20000); ANALYZE parked";
    execute(&fixture.url, park).await;
    finished(&fixture, 8, now(), &PhaseTwoAnswer::Done).await;
    fixture.store.close().await;
    let found = counts(&mut raw, "parked").await;
    assert!(found.read <= 100, "{found:?}");
}

/// Pages of a table and its indexes that were looked at since it was made, once every other session has ended.
async fn pages(raw: &mut PgConnection, table: &str) -> i64 {
    counts(raw, table).await;
    const PAGES: &str = "SELECT heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit
        FROM pg_statio_user_tables WHERE relname = $1";
    sqlx::query_scalar(PAGES).bind(table).fetch_one(raw).await.unwrap()
}

/// Reads by gid and pages of lists cost the same behind a purge whose dead rows no vacuum has cleaned yet: they lie
/// at the end of an index that the planner looks at where it plans a merge join, or a bound that it sees.
#[tokio::test]
async fn what_is_read_passes_over_nothing_that_was_purged() {
    const READS: i64 = 20;
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let (live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let written = "ALTER TABLE log SET (autovacuum_enabled = off);
        INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, body)
        SELECT (lpad(to_hex(1000000 + n / 3), 12, '0') || repeat('0', 20))::uuid, n % 3, 1 + n % 3, 1, gen_random_uuid(), 5,
            CASE WHEN n % 3 = 0 THEN 1 END, CASE WHEN n % 3 = 2 THEN 1 END, decode(repeat('00', 200), 'hex')
        FROM generate_series(0, 89999) AS n;
        INSERT INTO gids (epoch, key, tx_id)
        SELECT epoch, gen_random_uuid(), tx_id FROM cluster CROSS JOIN log WHERE follows = 0 AND owner = 1;
        ANALYZE log; ANALYZE gids";
    execute(&fixture.url, written).await;
    fixture.store.close().await;
    let gid = Key::Gid(live.tx.identity().gid.clone());
    let filter = Filter { limit: 10, ..Filter::default() };
    let purge =
        "DELETE FROM log WHERE tx_id < (lpad(to_hex(1020000), 12, '0') || repeat('0', 20))::uuid;
        DELETE FROM gids WHERE tx_id < (lpad(to_hex(1020000), 12, '0') || repeat('0', 20))::uuid";
    let mut each = Vec::new();
    for purged in ["", purge] {
        execute(&fixture.url, purged).await;
        for by_gid in [true, false] {
            let before = pages(&mut raw, "log").await;
            let store = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
            for _ in 0..READS {
                match by_gid {
                    true => assert!(store.transactions().find(&gid).await.unwrap().is_some()),
                    false => drop(store.transactions().list(&filter).await.unwrap()),
                }
            }
            store.close().await;
            each.push((pages(&mut raw, "log").await - before) / READS);
        }
    }
    let [gid_before, page_before, gid_after, page_after] = each[..] else { unreachable!() };
    let is_flat = |before: i64, after: i64| after <= before + 20;
    assert!(is_flat(gid_before, gid_after), "by gid: {gid_before}, then {gid_after} pages");
    assert!(is_flat(page_before, page_after), "a page: {page_before}, then {page_after} pages");
}

/// A search for what fenced incarnations left reads no row of what others have open, nor of what has ended and waits for a
/// person.
#[tokio::test]
async fn a_claim_reads_nothing_of_what_others_have_parked() {
    const CLAIMS: i64 = 5;
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let silent = create(&fixture.store, "another").await;
    let hazard =
        PhaseTwoAnswer::Heuristic { kind: HeuristicKind::Hazard, note: "a test".to_owned() };
    finished(&fixture, 200, now(), &hazard).await;
    let needs = fixture.store.transactions().attention().await.unwrap();
    assert_eq!(needs.heuristic, 200);
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    // Many fences of earlier processes, of which the planner knows nothing.
    let others = format!(
        "INSERT INTO fences (incarnation, node, nonce, fenced) SELECT 1000 + n, 'n', gen_random_uuid(), true
         FROM generate_series(1, 50) AS n;
         INSERT INTO parked (tx_id, owner) SELECT gen_random_uuid(), {silent} FROM generate_series(1, 5000);
         INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, body)
         SELECT tx_id, 0, 1, owner, gen_random_uuid(), 1, 1, '' FROM parked WHERE owner = {silent};
         ANALYZE log; ANALYZE parked",
        silent = silent.0
    );
    execute(&fixture.url, &others).await;
    let heir = create(&fixture.store, "heir").await;
    // What is parked for the first time is looked through once.
    let none = fixture.store.transactions().claim(heir, Claim::OfFenced(100)).await.unwrap();
    assert_eq!(none.records.len(), 0);
    fixture.store.close().await;
    let before = (pages(&mut raw, "log").await, counts(&mut raw, "parked").await);
    let store = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    // The right of one is known to the process that made it.
    let heir = create(&store, "another heir").await;
    for _ in 0..CLAIMS {
        let none = store.transactions().claim(heir, Claim::OfFenced(100)).await.unwrap();
        assert_eq!(none.records.len(), 0);
    }
    store.close().await;
    let after = (pages(&mut raw, "log").await, counts(&mut raw, "parked").await);
    let (pages, rows) = ((after.0 - before.0) / CLAIMS, (after.1.read - before.1.read) / CLAIMS);
    assert!(
        pages <= 40 && rows <= 10,
        "{pages} pages of the log and {rows} rows of what is parked"
    );
}

/// A look for news reads what is new, however much has ended before.
#[tokio::test]
async fn a_look_for_news_reads_nothing_of_what_ended_before() {
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    finished(&fixture, 2_000, now(), &PhaseTwoAnswer::Done).await;
    fixture.store.close().await;
    sqlx::query("ANALYZE").execute(&mut raw).await.unwrap();
    let before = counts(&mut raw, "log").await;
    let store = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let cursor = FeedCursor::of(fixture.me, false);
    for of in [NewsOf::Range(cursor.next, cursor.end()), NewsOf::Writes(vec![cursor.next; 100])] {
        let found = store.feed().news(of, 256).await.unwrap();
        assert!(found.news.is_empty(), "they have other names");
    }
    store.close().await;
    let after = counts(&mut raw, "log").await;
    assert!(after.read - before.read <= 10, "{} rows were read", after.read - before.read);
}

/// Counts grow with what is open, and with what has ended in the time that is asked for.
#[tokio::test]
async fn a_count_reads_nothing_of_what_ended_before() {
    const OLD: i64 = 2_000;
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    finished(&fixture, OLD, LONG_AGO, &PhaseTwoAnswer::Done).await;
    finished(&fixture, 2, now(), &PhaseTwoAnswer::Done).await;
    for _ in 0..3 {
        let begin = Live::begin(&new_gid()).1;
        fixture.write([begin]).await;
    }
    let day = Duration::from_secs(86_400);
    let retention = Retention { details: day, gids: day * 2 };
    let stripped = fixture.store.purge().strip(fixture.me, retention, now()).await.unwrap();
    assert!(stripped > 0, "some of them have no details");
    fixture.store.close().await;
    sqlx::query("ANALYZE").execute(&mut raw).await.unwrap();
    let before = counts(&mut raw, "log").await;
    let store = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let from = Timestamp(now().0 - 3_600_000);
    let counted = store.transactions().count(from).await.unwrap();
    let of = |phase| counted.iter().find(|count| count.phase == phase).unwrap().count;
    assert_eq!((of(PhaseName::Committed), of(PhaseName::Active)), (2, 3));
    store.close().await;
    let after = counts(&mut raw, "log").await;
    assert!(after.read - before.read <= 100, "{} rows were read", after.read - before.read);
    // All of them count if all are asked for.
    let store = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let counted = store.transactions().count(LONG_AGO).await.unwrap();
    let committed = counted.iter().find(|count| count.phase == PhaseName::Committed).unwrap();
    assert_eq!(committed.count, OLD + 2);
    store.close().await;
}

/// Numbers for people are counted in parts for a fraction of a second, however many there are; and are whole, or say that
/// they are not.
async fn a_count_of_many_is_whole_or_says_so(fixture: Fixture) {
    const MANY: usize = 12_000;
    let mut writer = fixture.writer().await;
    // Most of them within a moment, and others long before it.
    let at = |number: usize| match number % 10 {
        0 => Timestamp(LONG_AGO.0 + number as u64 * 60_000),
        _ => Timestamp(now().0 - number as u64 / 100),
    };
    let all: Vec<_> =
        (0..MANY).map(|number| a_write(Live::tombstone(&new_gid(), at(number)).1)).collect();
    for batch in all.chunks(1_000) {
        let written = writer.write(batch).await.unwrap();
        assert!(written.iter().all(|written| *written == Written::Applied), "{written:?}");
    }
    drop(writer);
    let mut is_whole = false;
    for _ in 0..20 {
        let counted = fixture.store.transactions().count(Timestamp(0)).await.unwrap();
        let aborted = counted.iter().find(|count| count.phase == PhaseName::Aborted).unwrap();
        let all = i64::try_from(MANY).unwrap();
        assert!(aborted.count == all || (aborted.at_least && aborted.count < all), "{aborted:?}");
        assert!(aborted.count > 0, "some of them are counted, whatever the time");
        is_whole |= !aborted.at_least;
    }
    assert!(
        is_whole,
        "so many are counted in that time, if the machine is not too busy for each of twenty"
    );
}

/// Recorded history may be longer than all the rest: only who asks for it reads it.
#[tokio::test]
async fn history_is_read_by_its_readers_alone() {
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let (live, begin) = Live::begin(&new_gid());
    let (_, other) = Live::begin(&new_gid());
    let other_id = other.tx_id;
    fixture.write([begin, other]).await;
    let name = LockName::new("account-1").unwrap();
    let lock = |tx_id| {
        let locks = vec![(name.clone(), LockMode::Exclusive)];
        LockTake { tx_id, family: tx_id, locks }
    };
    fixture.store.locks().take(fixture.me, &lock(live.id())).await.unwrap();
    // As incompressible as a history of many words.
    execute(
        &fixture.url,
        "UPDATE log SET history = (
            SELECT '\\x0102'::bytea || string_agg(sha256(i::text::bytea), '') FROM generate_series(1, 10000) AS i)",
    )
    .await;
    fixture.store.close().await;
    let before = counts(&mut raw, "log").await;
    let store = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "reader").await;
    store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    let gid = live.tx.identity().gid.clone();
    store.transactions().find(&Key::Gid(gid)).await.unwrap().unwrap();
    store.transactions().events(live.id()).await.unwrap();
    let filter = Filter { limit: 10, ..Filter::default() };
    assert_eq!(store.transactions().list(&filter).await.unwrap().found.len(), 2);
    store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let claimed = store.transactions().claim(me, Claim::OfFenced(10)).await.unwrap();
    assert_eq!(claimed.records.len(), 2);
    let held = store.locks().take(me, &lock(other_id)).await.unwrap();
    assert!(matches!(held, LockTaken::Held { .. }), "{held:?}");
    store.close().await;
    let after = counts(&mut raw, "log").await;
    assert_eq!(after.long, before.long, "pages of long values were read");
    let store = open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    store.transactions().history(live.id(), Version(0)).await.unwrap_err();
    store.close().await;
    assert!(counts(&mut raw, "log").await.long > after.long, "its readers do");
}
