//! Incarnations, fences and adoption.

use sqlx::Connection;
use unanimo_coordinator::store::{self, Claim, Claimed, Error, Key, PostgresOptions, Written};
use unanimo_core::{ParticipantName, PhaseTwoAnswer, PhaseTwoOperation, Transaction, Version};

use super::{Fixture, LEASE, a_write, create, on_both_stores};
use crate::fixtures::{Live, new_gid, now};

on_both_stores!(
    of_two_births_one_wins,
    a_heartbeat_moves_until_the_fence,
    the_last_incarnations_are_told_and_no_more_than_so_many,
    a_claim_takes_what_a_fenced_incarnation_left_open,
    a_claim_of_one_needs_its_row_as_it_was_seen,
    s5_a_fenced_incarnation_claims_purges_and_registers_nothing,
    registrations_are_kept,
    instances_behind_one_address_are_told_apart,
    a_newer_schema_is_refused,
    a_database_keeps_its_name,
);

async fn of_two_births_one_wins(fixture: Fixture) {
    let created = fixture.store.incarnations().list().await.unwrap().created;
    let (one, two) = tokio::join!(
        fixture.store.incarnations().create("node", created, LEASE),
        fixture.store.incarnations().create("other", created, LEASE)
    );
    let winners: Vec<_> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
    let [winner] = winners[..] else { panic!("one of two: {winners:?}") };
    let list = fixture.store.incarnations().list().await.unwrap();
    assert_eq!(list.created, created + 1);
    assert!(list.live.iter().any(|live| live.incarnation == winner));
    assert!(winner > fixture.me);
}

async fn a_heartbeat_moves_until_the_fence(fixture: Fixture) {
    let counter = async || fixture.store.incarnations().list().await.unwrap().live[0].counter;
    let before = counter().await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    assert_eq!(counter().await, before + 1);
    assert_eq!(fixture.store.incarnations().fenced_by(fixture.me).await.unwrap(), None);

    fixture.store.incarnations().fence(fixture.me, "first").await.unwrap();
    fixture.store.incarnations().fence(fixture.me, "second").await.unwrap();
    assert_eq!(
        fixture.store.incarnations().fenced_by(fixture.me).await.unwrap().as_deref(),
        Some("first")
    );
    assert!(matches!(
        fixture.store.incarnations().renew(fixture.me, LEASE).await,
        Err(Error::Fenced(_))
    ));
    assert_eq!(fixture.store.incarnations().list().await.unwrap().live, []);
}

async fn the_last_incarnations_are_told_and_no_more_than_so_many(fixture: Fixture) {
    let incarnations = fixture.store.incarnations();
    let other = create(&fixture.store, "other").await;
    incarnations.fence(fixture.me, "by a test").await.unwrap();
    let told = incarnations.last(2).await.unwrap();
    let told: Vec<_> =
        told.iter().map(|of| (of.incarnation, of.lease, of.fenced_by.as_deref())).collect();
    let lease = Some(LEASE);
    assert_eq!(told, [(other, lease, None), (fixture.me, lease, Some("by a test"))]);
    let told = incarnations.last(1).await.unwrap();
    assert_eq!(told.iter().map(|of| of.incarnation).collect::<Vec<_>>(), [other]);
}

async fn a_claim_takes_what_a_fenced_incarnation_left_open(fixture: Fixture) {
    let (mut open, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    fixture.write([open.commit()]).await;
    let (mut ended, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    fixture.write([ended.commit()]).await;
    fixture.write(ended.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done)).await;

    let heir = create(&fixture.store, "heir").await;
    let claim = Claim::OfFenced(10);
    assert_eq!(
        fixture.store.transactions().claim(heir, claim).await.unwrap().records,
        [],
        "the owner lives"
    );
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let claimed = fixture.store.transactions().claim(heir, claim).await.unwrap().records;
    let mut expected = open.tx.record();
    expected.version = expected.version.next();
    assert_eq!(claimed, [expected]);
    assert_eq!(
        fixture.store.transactions().claim(heir, claim).await.unwrap().records,
        [],
        "nothing is left"
    );
    assert_eq!(
        fixture.store.transactions().open_of(heir).await.unwrap(),
        [(open.id(), claimed[0].version)]
    );
    assert_eq!(
        fixture.store.transactions().find(&Key::Tx(ended.id())).await.unwrap().unwrap().owner,
        fixture.me
    );

    // The adopter goes on from there.
    let mut live = Live::resume(Transaction::restore(claimed[0].clone()));
    let end = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done).remove(0);
    let mut writer = fixture.store.batch_writer(heir).await.unwrap();
    assert_eq!(writer.write(&[a_write(end)]).await.unwrap(), [Written::Applied]);
}

async fn a_claim_of_one_needs_its_row_as_it_was_seen(fixture: Fixture) {
    let (live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let claim = |owner, version| Claim::One(live.id(), owner, Version(version));
    let heir = create(&fixture.store, "heir").await;
    let living =
        fixture.store.transactions().claim(heir, claim(fixture.me, 1)).await.unwrap().records;
    assert_eq!(living, [], "the owner lives");
    let other =
        fixture.store.transactions().claim(fixture.me, claim(fixture.me, 2)).await.unwrap().records;
    assert_eq!(other, [], "another version");
    let own =
        fixture.store.transactions().claim(fixture.me, claim(fixture.me, 1)).await.unwrap().records;
    assert_eq!(own[0].version, Version(2));
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let taken =
        fixture.store.transactions().claim(heir, claim(fixture.me, 2)).await.unwrap().records;
    assert_eq!(taken[0].version, Version(3));
}

async fn s5_a_fenced_incarnation_claims_purges_and_registers_nothing(fixture: Fixture) {
    let (live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let name = ParticipantName::new("bank").unwrap();
    fixture.store.endpoints().register(fixture.me, &name, "http://a", "life", now()).await.unwrap();
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();

    let one = Claim::One(live.id(), fixture.me, Version(1));
    for claim in [Claim::OfFenced(10), one] {
        match fixture.store.transactions().claim(fixture.me, claim).await {
            Ok(claimed) => assert_eq!(claimed, Claimed::default()),
            Err(error) => assert!(matches!(error, Error::Fenced(_)), "{error:?}"),
        }
    }
    let retention = store::Retention { details: Default::default(), gids: Default::default() };
    let purged = fixture.store.purge().run(fixture.me, retention, now()).await;
    assert!(matches!(purged, Err(Error::Fenced(_))), "{purged:?}");
    assert_eq!(fixture.store.purge().watermark().await.unwrap().0, 0);
    let registered =
        fixture.store.endpoints().register(fixture.me, &name, "http://b", "life", now()).await;
    assert!(matches!(registered, Err(Error::Fenced(_))), "{registered:?}");
    let deregistered =
        fixture.store.endpoints().deregister(fixture.me, &name, "http://a", "life").await;
    assert!(matches!(deregistered, Err(Error::Fenced(_))), "{deregistered:?}");
    let registrations = fixture.store.endpoints().list().await.unwrap();
    assert_eq!(registrations.len(), 1);
    assert_eq!(registrations[0].endpoint.as_deref(), Some("http://a"));
    assert_eq!(
        fixture
            .store
            .transactions()
            .find(&Key::Tx(live.id()))
            .await
            .unwrap()
            .unwrap()
            .record
            .version
            .0,
        1
    );
}

/// S5: a batch that is under way holds the fence, so that whoever fences waits for it.
#[tokio::test]
async fn s5_a_batch_under_way_holds_its_fence() {
    let fixture = Fixture::postgres().await;
    let mut raw = sqlx::PgConnection::connect(&fixture.url).await.unwrap();
    let gid = new_gid();
    let mut rival = sqlx::PgConnection::connect(&fixture.url).await.unwrap();
    let hold = sqlx::AssertSqlSafe(format!("BEGIN; {}", super::rows::begun(&gid)));
    sqlx::raw_sql(hold).execute(&mut rival).await.unwrap();
    let waits = "SELECT min(query_start)::text FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let nobody_else = "SELECT 1 FROM fences WHERE incarnation = $1 FOR NO KEY UPDATE NOWAIT";
    let mut writer = fixture.writer().await;
    let held = loop {
        // It waits for the rival's name until its lock timeout, and is sent again.
        let begin = [a_write(Live::begin(&gid).1)];
        let mut writing = std::pin::pin!(writer.write(&begin));
        let seen = async {
            loop {
                let before: Option<String> =
                    sqlx::query_scalar(waits).fetch_one(&mut raw).await.unwrap();
                let got = sqlx::query(nobody_else).bind(fixture.me.0).execute(&mut raw).await;
                let after: Option<String> =
                    sqlx::query_scalar(waits).fetch_one(&mut raw).await.unwrap();
                if before.is_some() && before == after {
                    break got.is_err();
                }
            }
        };
        tokio::select! {
            held = seen => break held,
            _ = &mut writing => {}
        }
    };
    assert!(held, "whoever fences waits for the batch");
}

async fn registrations_are_kept(fixture: Fixture) {
    let (bank, shop) =
        (ParticipantName::new("bank").unwrap(), ParticipantName::new("shop").unwrap());
    let at = now();
    let me = fixture.me;
    fixture.store.endpoints().register(me, &shop, "http://s", "life", at).await.unwrap();
    fixture.store.endpoints().register(me, &bank, "http://b2", "life", at).await.unwrap();
    fixture.store.endpoints().register(me, &bank, "http://b1", "life", at).await.unwrap();
    let later = at.after(std::time::Duration::from_secs(9));
    fixture.store.endpoints().register(me, &bank, "http://b1", "life", later).await.unwrap();
    fixture.store.endpoints().deregister(me, &shop, "http://s", "life").await.unwrap();
    let found = fixture.store.endpoints().list().await.unwrap();
    let found: Vec<_> =
        found.iter().map(|r| (r.name.as_str(), r.endpoint.as_deref(), r.last_seen)).collect();
    assert_eq!(
        found,
        [
            ("bank", Some("http://b1"), later),
            ("bank", Some("http://b2"), at),
            ("shop", None, unanimo_core::Timestamp(0)),
        ]
    );
}

async fn instances_behind_one_address_are_told_apart(fixture: Fixture) {
    let bank = ParticipantName::new("bank").unwrap();
    let (me, endpoints) = (fixture.me, fixture.store.endpoints());
    for instance in ["one", "two", "one"] {
        endpoints.register(me, &bank, "http://b", instance, now()).await.unwrap();
    }
    let instances = async || {
        let found = endpoints.list().await.unwrap().into_iter();
        found.map(|r| (r.endpoint.unwrap_or_default(), r.instance)).collect::<Vec<_>>()
    };
    let row = |instance: &str| ("http://b".to_owned(), instance.to_owned());
    assert_eq!(instances().await, [row("one"), row("two")]);
    assert!(!endpoints.deregister(me, &bank, "http://b", "one").await.unwrap(), "two is left");
    assert_eq!(instances().await, [row("two")]);
    assert!(!endpoints.deregister(me, &bank, "http://b", "one").await.unwrap());
    assert!(endpoints.deregister(me, &bank, "http://b", "two").await.unwrap(), "it was the last");
    assert_eq!(instances().await, [(String::new(), String::new())], "the name is known");
    endpoints.register(me, &bank, "http://b", "two", now()).await.unwrap();
    endpoints.forget(me, &bank).await.unwrap();
    assert_eq!(instances().await, []);
    fixture.store.incarnations().fence(me, "a test").await.unwrap();
    let forgotten = fixture.store.endpoints().forget(me, &bank).await;
    assert!(matches!(forgotten, Err(Error::Fenced(_))), "{forgotten:?}");
}

async fn a_newer_schema_is_refused(fixture: Fixture) {
    fixture.store.close().await;
    let insert =
        "INSERT INTO unanimo_migrations (version, description, success, checksum, execution_time)
        VALUES (9001, 'of a later version', true, 'x', 0)";
    if fixture.url.starts_with("sqlite") {
        let path = fixture.url.strip_prefix("sqlite:").unwrap();
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query(insert).execute(&mut raw).await.unwrap();
        raw.close().await.unwrap();
    } else {
        let mut raw = sqlx::PgConnection::connect(&fixture.url).await.unwrap();
        sqlx::query(insert).execute(&mut raw).await.unwrap();
    }
    drop(fixture.store);
    let error = store::open(&fixture.url, &PostgresOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NewerSchema { found: 9001, .. }), "{error:?}");
    assert!(error.to_string().contains("start the version of unanimo that wrote it"), "{error}");
}

async fn a_database_keeps_its_name(fixture: Fixture) {
    let name = fixture.store.cluster_id().to_owned();
    assert!((4..=32).contains(&name.len()) && ParticipantName::new(&name).is_ok(), "{name}");
    fixture.store.close().await;
    drop(fixture.store);
    let again = store::open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    assert_eq!(again.cluster_id(), name);
}

/// A database file serves one process; the error of a second one says so.
#[tokio::test]
async fn a_second_opening_of_one_sqlite_file_is_refused() {
    let fixture = Fixture::sqlite().await;
    let error = store::open(&fixture.url, &PostgresOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("another process serves this database file"), "{error}");
}

#[tokio::test]
async fn an_address_of_no_database_is_refused() {
    for url in ["", "mysql://x", "/some/path", "postgres//x"] {
        let error = store::open(url, &PostgresOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Url(_)), "{url}: {error:?}");
    }
}
