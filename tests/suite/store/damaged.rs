//! Values that the database itself cannot read back, and gids whose transactions are gone: each harms its own
//! transaction, and no other.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use sqlx::Connection;
use unanimo_coordinator::store::journal::Ended;
use unanimo_coordinator::store::{
    Claim, Earlier, Error, Filter, Key, Life, PostgresOptions, Purged, Retention, Write, Written,
};
use unanimo_core::{Gid, Identity, PhaseTwoAnswer, PhaseTwoOperation, Timestamp, TxId, Version};
use unanimo_tests::postgres::Server;
use uuid::Uuid;

use super::journal::Journal;
use super::migration::up_to;
use super::rows::{edit, replace};
use super::{Fixture, a_write, count, create, execute, on_both_stores};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now};

on_both_stores!(s9_a_gid_without_its_transaction_is_refused, s9_the_purge_leaves_no_gid_alone,);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(super) const RETENTION: Retention =
    Retention { details: DAY, gids: Duration::from_secs(2 * 24 * 3600) };

/// Text that no database makes smaller, too large for a page.
fn noise() -> String {
    (0..500).map(|_| Uuid::new_v4().simple().to_string()).collect()
}

/// A server of its own, which keeps large values in a file beside the table.
pub(super) struct Disk(Server);

impl Disk {
    pub(super) async fn start() -> (Self, String) {
        let server = Server::start();
        let url = server.database().await;
        (Self(server), url)
    }

    /// Damages the large values of a table. Nobody is connected.
    async fn damage(&self, url: &str, table: &str) {
        let Self(server) = self;
        let toast = format!(
            "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class
             WHERE oid = '{table}'::regclass"
        );
        let mut raw = sqlx::PgConnection::connect(url).await.unwrap();
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(toast));
        let path: String = query.fetch_one(&mut raw).await.unwrap();
        raw.close().await.unwrap();
        let path = server.socket().with_file_name("data").join(path);
        execute(url, "CHECKPOINT").await;
        server.kill();
        assert!(std::fs::metadata(&path).unwrap().len() > 0, "they are stored apart");
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        server.launch();
    }
}

/// Overwrites the page on which a transaction's last row is. Nobody is connected.
async fn damage_page_of(disk: &Disk, url: &str, tx_id: TxId) {
    damage_pages_of(disk, url, &[tx_id]).await;
}

/// Overwrites the pages on which the last rows of transactions are. Nobody is connected.
pub(super) async fn damage_pages_of(Disk(server): &Disk, url: &str, tx_ids: &[TxId]) {
    let mut raw = sqlx::PgConnection::connect(url).await.unwrap();
    let place = sqlx::query_as(
        "SELECT DISTINCT ON (tx_id) pg_relation_filepath('unanimo.log'), ((ctid::text::point)[0])::int8
         FROM unanimo.log WHERE tx_id = ANY($1) ORDER BY tx_id, follows DESC",
    );
    let ids: Vec<Uuid> = tx_ids.iter().map(|tx_id| tx_id.0).collect();
    let places: Vec<(String, i64)> = place.bind(ids).fetch_all(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    execute(url, "CHECKPOINT").await;
    server.kill();
    for (path, page) in places {
        let path = server.socket().with_file_name("data").join(path);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff; 8192], u64::try_from(page).unwrap() * 8192).unwrap();
    }
    server.launch();
}

/// Overwrites the first page of an index that has entries. Nobody is connected.
pub(super) async fn damage_index(Disk(server): &Disk, url: &str, index: &str) {
    let mut raw = sqlx::PgConnection::connect(url).await.unwrap();
    let path = sqlx::query_scalar("SELECT pg_relation_filepath($1::text::regclass)");
    let path: String = path.bind(index).fetch_one(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    execute(url, "CHECKPOINT").await;
    server.kill();
    let path = server.socket().with_file_name("data").join(path);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 8192], 8192).unwrap();
    server.launch();
}

/// A transaction; with an initiator whose name is this, if it is to be damaged.
async fn write(fixture: &Fixture, initiator: &str, ended: bool) -> Live {
    write_at(fixture, initiator, if ended { LONG_AGO } else { now() }, ended).await
}

/// A transaction of this time.
pub(super) async fn write_at(
    fixture: &Fixture,
    initiator: &str,
    at: Timestamp,
    ended: bool,
) -> Live {
    let mut definition = definition(&new_gid());
    initiator.clone_into(&mut definition.initiator);
    let (mut live, begin) = Live::begin_with(definition, at);
    fixture.write([begin]).await;
    fixture.write([live.commit()]).await;
    if ended {
        fixture.write(live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done)).await;
    }
    live
}

/// Begins transactions under these gids in one batch, until none is left for later.
async fn begin(fixture: &Fixture, gids: &[Gid]) -> Vec<(Gid, Written)> {
    let mut writer = fixture.writer().await;
    let mut left: Vec<Write> = gids.iter().map(|gid| a_write(Live::begin(gid).1)).collect();
    let mut told = Vec::new();
    for _ in 0..3 {
        let written = writer.write(&left).await.unwrap();
        let batch = std::mem::take(&mut left);
        for (write, written) in batch.into_iter().zip(written) {
            let gid = write.transition.begins.as_ref().unwrap().gid.clone();
            match written {
                Written::Busy => left.push(write),
                written => told.push((gid, written)),
            }
        }
        if left.is_empty() {
            return told;
        }
    }
    panic!("{} begins wait for ever", left.len());
}

/// Checks that these are set aside, and shown to a person.
async fn check_aside(fixture: &Fixture, ids: &[TxId]) {
    let transactions = fixture.store.transactions();
    let aside = transactions.all_set_aside(None, 100).await.unwrap();
    let sorted = |mut ids: Vec<TxId>| {
        ids.sort_unstable_by_key(|tx_id| tx_id.0);
        ids
    };
    assert_eq!(sorted(aside), sorted(ids.to_vec()));
    assert_eq!(usize::try_from(transactions.attention().await.unwrap().unreadable), Ok(ids.len()));
    let filter = Filter { attention: true, limit: 100, ..Filter::default() };
    let listed = transactions.list(&filter).await.unwrap().found;
    let listed = listed.into_iter().map(|found| found.unwrap_err().tx_id).collect();
    assert_eq!(sorted(listed), sorted(ids.to_vec()));
}

fn identity(live: &Live) -> &Identity {
    live.tx.identity()
}

/// L3, S9: values on which the database gives up.
#[tokio::test]
async fn l3_what_postgres_cannot_read_back_harms_itself_alone() {
    let (disk, url) = Disk::start().await;
    let values = [noise(), noise(), noise()];
    let fixture = Fixture::open(url.clone()).await;
    let stripped = [write(&fixture, &values[0], true).await, write(&fixture, "", true).await];
    let purged = fixture.store.purge().run(fixture.me, RETENTION, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 2, deleted: 0 });
    let ended = [write(&fixture, &values[1], true).await, write(&fixture, "", true).await];
    let open = [write(&fixture, &values[2], false).await, write(&fixture, "", false).await];
    fixture.store.close().await;
    drop(fixture);
    disk.damage(&url, "unanimo.log").await;

    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "two").await;
    let listed = store.incarnations().list().await.unwrap().live;
    for live in listed.iter().filter(|live| live.incarnation != me) {
        store.incarnations().fence(live.incarnation, "a test").await.unwrap();
    }
    let fixture = Fixture { store, url, me };
    let transactions = fixture.store.transactions();
    let claimed = transactions.claim(me, Claim::OfFenced(100)).await.unwrap();
    let ids: Vec<_> = claimed.records.iter().map(|record| record.identity.tx_id).collect();
    assert_eq!(ids, [open[1].id()]);
    let ids: Vec<_> = claimed.unreadable.iter().map(|unreadable| unreadable.tx_id).collect();
    assert_eq!(ids, [open[0].id()]);
    transactions.set_aside(me, &ids, true).await.unwrap();

    let filter = Filter { limit: 100, ..Filter::default() };
    let listed = transactions.list(&filter).await.unwrap().found;
    assert_eq!((listed.len(), listed.iter().flatten().count()), (6, 3));

    // A batch under gids of damaged ones, of others, and of none.
    let new = new_gid();
    let bad = [&open[0], &ended[0], &stripped[0]].map(|live| identity(live).gid.clone());
    let held = identity(&ended[1]).gid.clone();
    let gids: Vec<Gid> = bad.iter().chain([&held, &new]).cloned().collect();
    for (gid, written) in begin(&fixture, &gids).await {
        match written {
            Written::Applied => assert_eq!(gid, new),
            Written::GidHeld(holder) => {
                assert_eq!((gid, holder.tx_id), (held.clone(), ended[1].id()));
            }
            Written::Refused(_) => assert!(bad.contains(&gid)),
            written => panic!("{gid}: {written:?}"),
        }
    }
    let key = Key::Gid(bad[1].clone());
    let error = transactions.find(&key).await.unwrap_err();
    let Error::Unreadable(unreadable) = error else { panic!("{error:?}") };
    assert_eq!(unreadable.tx_id, ended[0].id());

    // The purge goes on, and leaves what is damaged with its gid.
    let later = now().after(DAY);
    let purge = fixture.store.purge();
    let gids = count(&fixture, "gids").await;
    let purged = purge.run(me, RETENTION, later).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 1 });
    assert_eq!(purge.run(me, RETENTION, later).await.unwrap(), Purged::default());
    assert_eq!(count(&fixture, "gids").await, gids - 1);
    check_aside(&fixture, &[open[0].id(), ended[0].id(), stripped[0].id()]).await;
}

/// L3: a page of rows that the batch's own statement meets. What is on it is refused, and others go on.
#[tokio::test]
async fn l3_a_batch_that_meets_a_damaged_page_goes_on_with_others() {
    let (disk, url) = Disk::start().await;
    let fixture = Fixture::open(url.clone()).await;
    let mut bad = write(&fixture, "", false).await;
    for _ in 0..40 {
        write(&fixture, "", false).await;
    }
    let mut good = write(&fixture, "", false).await;
    fixture.store.close().await;
    damage_page_of(&disk, &url, bad.id()).await;
    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "two").await;
    store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let mut journal = Journal::start(store, me);
    let from = Earlier { row: Some((fixture.me, Version(2))), ..Earlier::default() };
    for live in [&mut bad, &mut good] {
        let end = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done).remove(0);
        journal.handle.submit_again(end, Uuid::new_v4(), Life::begin(), &from);
    }
    let version = Version(3);
    let wanted = [(bad.id(), version), (good.id(), version)];
    let completed = tokio::time::timeout(Duration::from_secs(60), journal.completed(&wanted));
    let others = completed.await.expect("each is told");
    let [refused] = &others[..] else { panic!("{others:?}") };
    assert_eq!(refused.tx_id, bad.id());
    assert!(
        matches!(&refused.ended, Ended::Refused(why) if why.contains("invalid page")),
        "{refused:?}"
    );
    let new = Live::begin(&new_gid());
    journal.submit(new.1);
    assert_eq!(journal.completed(&[(new.0.id(), Version(1))]).await, []);
    journal.end().await.unwrap();
}

/// L2, L4: a page of rows that cannot be read. Whoever looks for what an owner has open finds all others, and hears the
/// names of those on the page as far as they are parked.
#[tokio::test]
async fn l2_what_is_open_beside_a_damaged_page_is_found() {
    let (disk, url) = Disk::start().await;
    let fixture = Fixture::open(url.clone()).await;
    let mut parked = Vec::new();
    for _ in 0..20 {
        parked.push(write(&fixture, "", false).await.id());
    }
    let park = "INSERT INTO unanimo.parked (tx_id, owner)
        SELECT DISTINCT tx_id, owner FROM unanimo.log ON CONFLICT DO NOTHING";
    execute(&url, park).await;
    let mut young = Vec::new();
    for _ in 0..20 {
        young.push(write(&fixture, "", false).await.id());
    }
    let owner = fixture.me;
    fixture.store.close().await;
    damage_page_of(&disk, &url, parked[0]).await;
    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    let open = store.transactions().open_of(owner).await.unwrap();
    let version_of = |id: &TxId| open.iter().find(|(open, _)| open == id).map(|(_, at)| *at);
    assert_eq!(version_of(&parked[0]), Some(Version(0)));
    for id in &parked {
        let found = store.transactions().find(&Key::Tx(*id)).await;
        // Of one that cannot be read the last row may be on another page.
        let version = version_of(id);
        assert!(version == Some(Version(2)) || found.is_err() && version.is_some(), "{found:?}");
    }
    let last = young.last().unwrap();
    assert_eq!(version_of(last), Some(Version(2)));
    // It is in the way of nobody who claims another one, and whoever claims it hears why that cannot be.
    let me = create(&store, "two").await;
    let claim = Claim::One(parked[0], owner, Version(0));
    let error = store.transactions().claim(me, claim).await.unwrap_err();
    assert!(error.is_of_rows(), "{error:?}");
}

/// L3, S9: values on which the database gives up, with nobody but the purge to meet them.
#[tokio::test]
async fn l3_the_purge_goes_on_beside_what_cannot_be_read_back() {
    let (disk, url) = Disk::start().await;
    let values = [noise(), noise()];
    let fixture = Fixture::open(url.clone()).await;
    let stripped = [write(&fixture, &values[0], true).await, write(&fixture, "", true).await];
    fixture.store.purge().run(fixture.me, RETENTION, now()).await.unwrap();
    let ended = [write(&fixture, &values[1], true).await, write(&fixture, "", true).await];
    fixture.store.close().await;
    drop(fixture);
    disk.damage(&url, "unanimo.log").await;
    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "two").await;
    let fixture = Fixture { store, url, me };
    let purged = fixture.store.purge().run(me, RETENTION, now().after(DAY)).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 1 });
    check_aside(&fixture, &[stripped[0].id(), ended[0].id()]).await;
}

/// S9: tables of an earlier version of which one value is damaged. Its transaction keeps its name and its digest, the
/// others come over whole, and nothing is dropped.
#[tokio::test]
async fn s9_what_an_earlier_version_left_damaged_keeps_its_name() {
    let (disk, url) = Disk::start().await;
    let mut script = String::new();
    for (n, gid, metadata) in [(1_u128, "bad", noise()), (2, "good", "v".to_owned())] {
        let id = Uuid::from_u128(n);
        script.push_str(&format!(
            "INSERT INTO transactions (tx_id, gid, owner, version, write_id, mode, drive, digest,
                 digest_version, created_ms, deadline_ms, phase, decided_ms, ended_ms, metadata)
             VALUES ('{id}', '{gid}', 1, 3, '{id}', 'tcc', 'declarative',
                 decode(repeat('ab', 32), 'hex'), 1, 5, 6, 'committed', 7, 8,
                 '{{\"k\":\"{metadata}\"}}');"
        ));
    }
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    up_to(15, &unanimo_migrations::coordinator::POSTGRES).run(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    execute(&url, &script).await;
    disk.damage(&url, "transactions").await;

    let store = super::store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "two").await;
    let fixture = Fixture { store, url, me };
    let find = async |gid: &str| {
        fixture.store.transactions().find(&Key::Gid(Gid::new(gid).unwrap())).await
    };
    assert_eq!(find("good").await.unwrap().unwrap().record.identity.metadata["k"], "v");
    let error = find("bad").await.unwrap_err();
    assert!(matches!(error, Error::Unreadable(_)), "{error:?}");
    let told = begin(&fixture, &[Gid::new("bad").unwrap()]).await;
    let [(_, Written::GidHeld(holder))] = &told[..] else { panic!("{told:?}") };
    assert_eq!((holder.tx_id.0.as_u128(), holder.digest.hash), (1, [0xab; 32]));
    check_aside(&fixture, &[TxId(Uuid::from_u128(1))]).await;
    // It is due, and is not purged.
    let purged = fixture.store.purge().run(me, RETENTION, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 1, deleted: 0 });
    assert_eq!(count(&fixture, "earlier_transactions").await, 2);
}

/// S9: whatever has become of the transaction, it may have run: nothing else begins under its gid, and whoever tries is
/// answered.
async fn s9_a_gid_without_its_transaction_is_refused(fixture: Fixture) {
    let live = write(&fixture, "", false).await;
    execute(&fixture.url, "DELETE FROM log").await;
    let (gid, new) = (identity(&live).gid.clone(), new_gid());
    let mut told = begin(&fixture, &[gid.clone(), new.clone()]).await;
    told.sort_by_key(|(told, _)| *told != gid);
    let [(_, Written::Refused(why)), (_, Written::Applied)] = &told[..] else { panic!("{told:?}") };
    assert!(why.contains(&live.id().to_string()), "{why}");
    check_aside(&fixture, &[live.id()]).await;
    let error = fixture.store.transactions().find(&Key::Gid(gid)).await.unwrap_err();
    let Error::Unreadable(unreadable) = error else { panic!("{error:?}") };
    assert_eq!(unreadable.tx_id, live.id());
    assert_eq!(fixture.store.transactions().find(&Key::Gid(new_gid())).await.unwrap(), None);
}

/// S9: what is left of a stripped transaction does not tell its gid any more. It stays, and its gid with it.
async fn s9_the_purge_leaves_no_gid_alone(fixture: Fixture) {
    let [damaged, whole] = [write(&fixture, "", true).await, write(&fixture, "", true).await];
    let purge = fixture.store.purge();
    let purged = purge.run(fixture.me, RETENTION, now()).await.unwrap();
    assert_eq!(purged, Purged { stripped: 2, deleted: 0 });
    let gid = identity(&damaged).gid.clone();
    let other = "x".repeat(gid.as_str().len());
    edit(&fixture.url, damaged.id(), |body| {
        replace(body, gid.as_str().as_bytes(), other.as_bytes());
    })
    .await;
    let later = now().after(DAY);
    let purged = purge.run(fixture.me, RETENTION, later).await.unwrap();
    assert_eq!(purged, Purged { stripped: 0, deleted: 1 });
    assert_eq!(purge.run(fixture.me, RETENTION, later).await.unwrap(), Purged::default());
    assert_eq!((count(&fixture, "gids").await, count(&fixture, "log").await), (1, 1));
    let aside = fixture.store.transactions().all_set_aside(None, 9).await.unwrap();
    assert_eq!(aside, [damaged.id()]);
    let told = begin(&fixture, &[gid, identity(&whole).gid.clone()]).await;
    let held = |told: &&(Gid, Written)| matches!(&told.1, Written::GidHeld(_));
    let applied = |told: &&(Gid, Written)| told.1 == Written::Applied;
    assert_eq!((told.iter().filter(held).count(), told.iter().filter(applied).count()), (1, 1));
}
