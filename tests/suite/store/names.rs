//! Clients' names by epochs: one gid means one transaction, in whichever epoch it was begun (promise S9).

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use unanimo_coordinator::store::{Key, PostgresOptions, Retention, Store, Write, Written, open};
use unanimo_core::{Gid, PhaseTwoAnswer, PhaseTwoOperation, TxId};
use unanimo_tests::postgres::Server;

use super::damaged::{Disk, damage_index};
use super::{Fixture, a_write, create, execute};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Opens a store whose epochs have so many names.
async fn opened(url: &str, names_of_epoch: u64) -> Arc<dyn Store> {
    open(url, &PostgresOptions { names_of_epoch, ..PostgresOptions::default() }).await.unwrap()
}

/// A store of its own database, with an incarnation.
async fn fixture(names_of_epoch: u64) -> Fixture {
    let url = Server::shared().database().await;
    let store = opened(&url, names_of_epoch).await;
    let me = create(&store, "one").await;
    Fixture { store, url, me }
}

fn begin(gid: &Gid) -> (TxId, Write) {
    let (live, begin) = Live::begin_with(definition(gid), now());
    (live.id(), a_write(begin))
}

/// Begins under some gids, each in a batch of its own.
async fn begun(fixture: &Fixture, gids: &[Gid]) -> Vec<TxId> {
    let (mut ids, mut writer) = (Vec::new(), fixture.writer().await);
    for gid in gids {
        let (id, write) = begin(gid);
        assert_eq!(writer.write(&[write]).await.unwrap(), [Written::Applied]);
        ids.push(id);
    }
    ids
}

/// Asserts that nobody begins another one under this gid, and that it is found.
async fn is_held_by(fixture: &Fixture, gid: &Gid, tx_id: TxId) {
    let (_, write) = begin(gid);
    let written = fixture.writer().await.write(&[write]).await.unwrap();
    let [Written::GidHeld(holder)] = &*written else { panic!("{gid}: {written:?}") };
    assert_eq!(holder.tx_id, tx_id);
    let found = fixture.store.transactions().find(&Key::Gid(gid.clone())).await.unwrap();
    assert_eq!(found.expect("it is found").record.identity.tx_id, tx_id);
}

async fn keep(fixture: &Fixture) {
    fixture.store.transactions().keep_names(fixture.me).await.unwrap();
}

/// Reads the last epoch, and the number of all.
async fn epochs(raw: &mut PgConnection) -> (i32, i64) {
    let query = "SELECT epoch, (SELECT count(*) FROM epochs) FROM cluster";
    sqlx::query_as(query).fetch_one(raw).await.unwrap()
}

fn gids(count: usize) -> Vec<Gid> {
    (0..count).map(|_| new_gid()).collect()
}

#[tokio::test]
async fn s9_a_gid_means_the_same_transaction_in_every_later_epoch() {
    let fixture = fixture(4).await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let (mut names, mut ids) = (Vec::new(), Vec::new());
    for last in 2..5 {
        let new = gids(4);
        ids.extend(begun(&fixture, &new).await);
        names.extend(new);
        keep(&fixture).await;
        assert_eq!(epochs(&mut raw).await, (last, i64::from(last)), "one epoch is closed");
        for (gid, id) in names.iter().zip(&ids) {
            is_held_by(&fixture, gid, *id).await;
        }
    }
    // What nobody has begun is not found, in whatever epoch it is looked for.
    let none = fixture.store.transactions().find(&Key::Gid(new_gid())).await.unwrap();
    assert_eq!(none, None);
    // A process that starts knows no filter, and looks everywhere; and then it has read them.
    let later = opened(&fixture.url, 4).await;
    let me = create(&later, "two").await;
    let later = Fixture { store: later, url: fixture.url.clone(), me };
    for _ in 0..2 {
        for (gid, id) in names.iter().zip(&ids) {
            is_held_by(&later, gid, *id).await;
        }
        keep(&later).await;
    }
}

#[tokio::test]
async fn s9_a_process_that_knows_an_earlier_epoch_inserts_no_name() {
    let one = fixture(4).await;
    let (store, first) = (opened(&one.url, 4).await, new_gid());
    let two = Fixture { me: create(&store, "two").await, store, url: one.url.clone() };
    begun(&one, &gids(1)).await;
    begun(&two, &gids(4)).await;
    keep(&two).await;
    let ids = begun(&two, std::slice::from_ref(&first)).await;

    // It knows the first epoch, and looks everywhere before it says that there is none.
    let found = one.store.transactions().find(&Key::Gid(first.clone())).await.unwrap();
    assert_eq!(found.expect("it is found").record.identity.tx_id, ids[0]);
    let (mut writer, (_, write)) = (one.writer().await, begin(&first));
    let mut raw = PgConnection::connect(&one.url).await.unwrap();
    assert_eq!(epochs(&mut raw).await.0, 2);
    let written = writer.write(std::slice::from_ref(&write)).await.unwrap();
    assert!(matches!(written[..], [Written::GidHeld(_)]), "{written:?}");
    // What nobody holds is applied once the process knows the last epoch.
    let (_, fresh) = begin(&new_gid());
    let mut tries = 0;
    while writer.write(std::slice::from_ref(&fresh)).await.unwrap() != [Written::Applied] {
        tries += 1;
        assert!(tries < 3, "the last epoch is read after the first try");
    }
    is_held_by(&one, &first, ids[0]).await;
    let of_closed = "SELECT count(*) FROM gids WHERE epoch = 1";
    let of_closed: i64 = sqlx::query_scalar(of_closed).fetch_one(&mut raw).await.unwrap();
    assert_eq!(of_closed, 5, "no name is inserted under a closed epoch");
}

#[tokio::test]
async fn s9_an_epoch_is_closed_only_once_no_batch_is_under_way() {
    let fixture = fixture(4).await;
    begun(&fixture, &gids(4)).await;
    let mut batch = PgConnection::connect(&fixture.url).await.unwrap();
    let lock = "BEGIN; SELECT 1 FROM fences WHERE NOT fenced FOR SHARE";
    sqlx::raw_sql(lock).execute(&mut batch).await.unwrap();
    let kept = fixture.store.transactions().keep_names(fixture.me).await;
    kept.expect_err("a batch is under way");
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    assert_eq!(epochs(&mut raw).await, (1, 1));
    begun(&fixture, &gids(1)).await;
    sqlx::raw_sql("COMMIT").execute(&mut batch).await.unwrap();
    keep(&fixture).await;
    assert_eq!(epochs(&mut raw).await, (2, 2));
}

/// One that is created while an epoch is closed is not left behind in it.
#[tokio::test]
async fn s9_an_incarnation_that_is_created_meanwhile_knows_the_last_epoch() {
    let fixture = fixture(4).await;
    begun(&fixture, &gids(4)).await;
    let mut birth = PgConnection::connect(&fixture.url).await.unwrap();
    let create = "BEGIN; UPDATE cluster SET incarnations = incarnations + 1;
        INSERT INTO fences (incarnation, node, nonce, epoch, epoch_nonce)
        SELECT incarnations, 'new', gen_random_uuid(), epoch, epoch_nonce FROM cluster";
    sqlx::raw_sql(create).execute(&mut birth).await.unwrap();
    let (store, me) = (Arc::clone(&fixture.store), fixture.me);
    let keeping = tokio::spawn(async move { store.transactions().keep_names(me).await });
    // It waits for the row that counts births.
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut raw).await.unwrap() {
        assert!(!keeping.is_finished(), "nothing is waited for");
    }
    sqlx::raw_sql("COMMIT").execute(&mut birth).await.unwrap();
    // It may have failed; nobody is left behind.
    let _ = keeping.await.unwrap();
    let behind = "SELECT count(*) FROM fences CROSS JOIN cluster WHERE NOT fenced
        AND (fences.epoch, fences.epoch_nonce) IS DISTINCT FROM (cluster.epoch, cluster.epoch_nonce)";
    let behind: i64 = sqlx::query_scalar(behind).fetch_one(&mut raw).await.unwrap();
    assert_eq!(behind, 0);
    keep(&fixture).await;
    assert_eq!(epochs(&mut raw).await, (2, 2));
}

/// A standby that was behind, or a backup, has another epoch of the same number, with other names.
#[tokio::test]
async fn s9_a_filter_is_not_used_for_an_epoch_of_another_history() {
    let (fixture, gid) = (fixture(4).await, new_gid());
    let id = begun(&fixture, std::slice::from_ref(&gid)).await[0];
    begun(&fixture, &gids(4)).await;
    // The history that this process knows has no such name in that epoch.
    let take_away = "CREATE TABLE away AS SELECT * FROM gids WHERE tx_id = '{id}';
        DELETE FROM gids WHERE tx_id = '{id}'";
    execute(&fixture.url, &take_away.replace("{id}", &id.0.to_string())).await;
    keep(&fixture).await;
    begun(&fixture, &gids(1)).await;
    let other = "INSERT INTO gids SELECT * FROM away; DROP TABLE away;
        UPDATE cluster SET epoch_nonce = gen_random_uuid();
        UPDATE fences SET epoch_nonce = cluster.epoch_nonce FROM cluster;
        UPDATE epochs SET closed_by = epoch_nonce, filter = NULL FROM cluster WHERE epochs.epoch < cluster.epoch";
    execute(&fixture.url, other).await;
    for _ in 0..2 {
        is_held_by(&fixture, &gid, id).await;
        keep(&fixture).await;
    }
}

#[tokio::test]
async fn s9_a_stored_filter_that_is_damaged_is_made_anew() {
    let (fixture, names) = (fixture(4).await, gids(4));
    let ids = begun(&fixture, &names).await;
    keep(&fixture).await;
    let damage = "UPDATE epochs SET filter = set_byte(filter, 30, get_byte(filter, 30) # 255)
        WHERE filter IS NOT NULL";
    execute(&fixture.url, damage).await;
    let store = opened(&fixture.url, 4).await;
    let later = Fixture { me: create(&store, "two").await, store, url: fixture.url.clone() };
    keep(&later).await;
    for (gid, id) in names.iter().zip(ids) {
        is_held_by(&later, gid, id).await;
    }
}

#[tokio::test]
async fn an_epoch_whose_names_are_purged_goes() {
    let fixture = fixture(4).await;
    for _ in 0..4 {
        let (mut live, begin) = Live::begin_with(definition(&new_gid()), LONG_AGO);
        fixture.write([begin, live.commit()]).await;
        let end = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
        fixture.write(end).await;
    }
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    keep(&fixture).await;
    assert_eq!(epochs(&mut raw).await, (2, 2));
    // With the filter in memory, and without.
    let retention = Retention { details: DAY, gids: 2 * DAY };
    let purge = fixture.store.purge();
    assert_eq!(purge.run(fixture.me, retention, now()).await.unwrap().stripped, 4);
    assert_eq!(purge.run(fixture.me, retention, now().after(DAY)).await.unwrap().deleted, 4);
    let store = opened(&fixture.url, 4).await;
    let later = Fixture { me: create(&store, "two").await, store, url: fixture.url.clone() };
    keep(&later).await;
    assert_eq!(epochs(&mut raw).await, (2, 1));
    keep(&fixture).await;
    let (_, write) = begin(&new_gid());
    assert_eq!(fixture.writer().await.write(&[write]).await.unwrap(), [Written::Applied]);
}

/// Names that go by an epoch that the process does not know, are purged as well.
#[tokio::test]
async fn s9_a_name_is_purged_in_whichever_epoch_it_is() {
    let fixture = fixture(1_000).await;
    let (mut live, begin) = Live::begin_with(definition(&new_gid()), LONG_AGO);
    fixture.write([begin, live.commit()]).await;
    let end = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
    fixture.write(end).await;
    let other = "INSERT INTO epochs (epoch, closed_by) VALUES (0, gen_random_uuid()); UPDATE gids SET epoch = 0";
    execute(&fixture.url, other).await;
    let (retention, purge) = (Retention { details: DAY, gids: 2 * DAY }, fixture.store.purge());
    assert_eq!(purge.run(fixture.me, retention, now()).await.unwrap().stripped, 1);
    assert_eq!(purge.run(fixture.me, retention, now().after(DAY)).await.unwrap().deleted, 1);
}

/// A new name is looked for in no closed epoch but where a filter is wrong: once in some hundreds.
#[tokio::test]
async fn a_begin_reads_nothing_of_the_names_of_closed_epochs() {
    const NAMES: usize = 400;
    let fixture = fixture(200).await;
    for _ in 0..3 {
        begun(&fixture, &gids(200)).await;
        keep(&fixture).await;
    }
    let mut writer = fixture.writer().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    assert_eq!(epochs(&mut raw).await, (4, 4));
    let before = scans(&mut raw, "gids_pkey").await.0;
    let batch: Vec<Write> = gids(NAMES).iter().map(|gid| begin(gid).1).collect();
    assert!(writer.write(&batch).await.unwrap().iter().all(|one| *one == Written::Applied));
    drop(writer);
    fixture.store.close().await;
    let looked = scans(&mut raw, "gids_pkey").await.0 - before;
    assert!(looked <= 40, "{looked} looks for {NAMES} names in 3 closed epochs");
}

/// Reads how often an index was looked into, and how many entries were read, once all other sessions have ended.
pub(super) async fn scans(raw: &mut PgConnection, index: &str) -> (i64, i64) {
    const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    const SCANS: &str =
        "SELECT idx_scan, idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = $1";
    for _ in 0..100 {
        let others: i64 = sqlx::query_scalar(OTHERS).fetch_one(&mut *raw).await.unwrap();
        if others == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sqlx::query_as(SCANS).bind(index).fetch_one(raw).await.unwrap()
}

/// Names from before there were epochs mean what they did.
#[tokio::test]
async fn s9_names_of_the_version_before_are_found() {
    let (before, gid) = (fixture(4).await, new_gid());
    let id = begun(&before, std::slice::from_ref(&gid)).await[0];
    before.store.incarnations().fence(before.me, "a test").await.unwrap();
    before.store.close().await;
    let back = "ALTER TABLE gids DROP CONSTRAINT gids_pkey, ADD PRIMARY KEY (key);
        ALTER TABLE gids DROP COLUMN epoch; DROP TABLE epochs;
        ALTER TABLE cluster DROP COLUMN epoch, DROP COLUMN epoch_nonce;
        ALTER TABLE fences DROP COLUMN epoch, DROP COLUMN epoch_nonce;
        ALTER TABLE gids ALTER COLUMN key TYPE bytea USING uuid_send(key);
        DELETE FROM unanimo_migrations WHERE version >= 24";
    execute(&before.url, back).await;
    let store = opened(&before.url, 4).await;
    let fixture = Fixture { me: create(&store, "two").await, store, url: before.url };
    for _ in 0..2 {
        is_held_by(&fixture, &gid, id).await;
        keep(&fixture).await;
    }
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    assert_eq!(epochs(&mut raw).await, (1, 2), "they have an epoch of their own");
}

/// An epoch that somebody has changed by hand is looked at, and hides no name.
#[tokio::test]
async fn s9_a_name_of_an_epoch_that_nothing_has_closed_is_found() {
    let (fixture, gid) = (fixture(4).await, new_gid());
    let id = begun(&fixture, std::slice::from_ref(&gid)).await[0];
    begun(&fixture, &gids(4)).await;
    keep(&fixture).await;
    execute(&fixture.url, "UPDATE epochs SET closed_by = NULL, filter = NULL").await;
    let store = opened(&fixture.url, 1_000).await;
    let later = Fixture { me: create(&store, "two").await, store, url: fixture.url.clone() };
    for _ in 0..2 {
        is_held_by(&later, &gid, id).await;
        keep(&later).await;
    }
}

/// Inserts names under the first epoch, enough of them for several pages of the index.
async fn many_names(url: &str) {
    let insert = "INSERT INTO unanimo.gids (epoch, key, tx_id)
        SELECT 1, md5(n::text)::uuid, gen_random_uuid() FROM generate_series(1, 2000) AS n";
    execute(url, insert).await;
}

/// Returns a gid whose key is among the lowest, or among the highest.
fn gid_at(first: u8) -> Gid {
    let is_there = |gid: &String| Sha256::digest(gid.as_bytes())[0] == first;
    let gid = (0..).map(|number| format!("order-{number}")).find(is_there);
    Gid::new(&gid.unwrap()).unwrap()
}

/// The page with the lowest keys of the first epoch cannot be read.
#[tokio::test]
async fn l3_a_damaged_page_of_names_refuses_its_own_alone() {
    let (disk, url) = Disk::start().await;
    let store = opened(&url, 4).await;
    let fixture = Fixture { me: create(&store, "one").await, store, url: url.clone() };
    many_names(&url).await;
    keep(&fixture).await;
    let mut raw = PgConnection::connect(&url).await.unwrap();
    assert_eq!(epochs(&mut raw).await, (2, 2));
    let (low, high) = (gid_at(0), gid_at(0xff));
    begun(&fixture, std::slice::from_ref(&low)).await;
    begun(&fixture, &gids(4)).await;
    raw.close().await.unwrap();
    damage_index(&disk, &url, "unanimo.gids_pkey").await;

    // Somebody has the gid. Nobody knows who, because there may be one on that page, and no other one waits for that.
    let mut writer = fixture.writer().await;
    let batch = [begin(&low).1, begin(&high).1];
    let written = writer.write(&batch).await.unwrap();
    let [Written::Refused(why), Written::Applied] = &*written else { panic!("{written:?}") };
    assert!(why.contains("cannot read"), "{why}");

    // No filter can be made of that epoch, but of others, and the last one is closed.
    execute(&url, "UPDATE unanimo.epochs SET filter = NULL").await;
    let store = opened(&url, 4).await;
    let later = Fixture { me: create(&store, "two").await, store, url: url.clone() };
    keep(&later).await;
    let mut raw = PgConnection::connect(&url).await.unwrap();
    assert_eq!(epochs(&mut raw).await, (3, 3));
    let filtered = "SELECT epoch FROM unanimo.epochs WHERE filter IS NOT NULL";
    let filtered: Vec<i32> = sqlx::query_scalar(filtered).fetch_all(&mut raw).await.unwrap();
    assert_eq!(filtered, [2]);
}

/// A page of the last epoch cannot be read: new names do not come to it for long.
#[tokio::test]
async fn l3_an_epoch_with_a_damaged_page_is_closed() {
    let (disk, url) = Disk::start().await;
    opened(&url, 1 << 20).await.close().await;
    many_names(&url).await;
    damage_index(&disk, &url, "unanimo.gids_pkey").await;
    let store = opened(&url, 1 << 20).await;
    let fixture = Fixture { me: create(&store, "one").await, store, url: url.clone() };
    keep(&fixture).await;
    let mut raw = PgConnection::connect(&url).await.unwrap();
    assert_eq!(epochs(&mut raw).await, (2, 2));
}

/// A batch that knows an earlier epoch is written whole, and waits for no other one.
#[tokio::test]
async fn s9_a_batch_that_meets_the_turn_of_an_epoch_is_written_whole() {
    let one = fixture(4).await;
    let store = opened(&one.url, 4).await;
    let two = Fixture { me: create(&store, "two").await, store, url: one.url.clone() };
    let mut writer = one.writer().await;
    let (mut live, first) = Live::begin(&new_gid());
    assert_eq!(writer.write(&[a_write(first)]).await.unwrap(), [Written::Applied]);
    let held = gids(4);
    let holders = begun(&two, &held).await;
    keep(&two).await;
    let mut raw = PgConnection::connect(&one.url).await.unwrap();
    assert_eq!(epochs(&mut raw).await, (2, 2));

    let new = gids(2);
    let batch = [a_write(live.commit()), begin(&new[0]).1, begin(&new[1]).1];
    assert_eq!(writer.write(&batch).await.unwrap(), vec![Written::Applied; 3]);
    // Sent again, after a lost answer, all of it is there.
    assert_eq!(writer.write(&batch).await.unwrap(), vec![Written::Applied; 3]);
    let found = one.store.transactions().find(&Key::Tx(live.id())).await.unwrap();
    assert_eq!(found.expect("it is there").record, live.tx.record());
    // One of two meets a name of the epoch that is closed.
    keep(&two).await;
    begun(&two, &gids(4)).await;
    keep(&two).await;
    assert_eq!(epochs(&mut raw).await, (3, 3));
    let fresh = new_gid();
    let written = writer.write(&[begin(&held[0]).1, begin(&fresh).1]).await.unwrap();
    assert_eq!(written[1], Written::Applied);
    assert_ne!(written[0], Written::Applied);
    is_held_by(&one, &held[0], holders[0]).await;
    let of_closed = "SELECT count(*) FROM gids WHERE epoch = 1";
    let of_closed: i64 = sqlx::query_scalar(of_closed).fetch_one(&mut raw).await.unwrap();
    assert_eq!(of_closed, 5, "no name is inserted under a closed epoch");
}
