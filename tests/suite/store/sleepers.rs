//! Transactions that sleep until a time: left alone by adoption, brought by a claim of what is due.

use std::time::Duration;

use unanimo_coordinator::store::{ASLEEP_PAGE_MAX, AsleepOf, Claim, Error, Key, Written};
use unanimo_core::{Phase, Sleeper, Start, State, Timestamp, TxId, Version};
use uuid::Uuid;

use super::{Fixture, a_write, create, execute, on_both_stores};
use crate::fixtures::{Live, definition, new_gid, now};

on_both_stores!(
    those_that_sleep_are_claimed_when_due_the_soonest_first,
    adoption_leaves_those_that_sleep_alone,
    one_that_sleeps_is_claimed_by_its_name,
    s5_a_fenced_incarnation_claims_none_that_sleeps,
    what_sleeps_is_counted_by_whose_it_is,
    what_sleeps_is_counted_page_by_page,
);

const MINUTE: Duration = Duration::from_secs(60);

/// Writes a transaction that starts so many minutes after `at`, and sleeps until then.
async fn sleeper(fixture: &Fixture, at: Timestamp, minutes: u32) -> Live {
    let mut definition = definition(&new_gid());
    definition.start = Start::At(at.after(MINUTE * minutes));
    let (live, begin) = Live::begin_with(definition, at);
    assert_eq!(begin.state.phase, Phase::Scheduled);
    assert_eq!(begin.state.wake_at, Some(at.after(MINUTE * minutes)));
    fixture.write([begin]).await;
    live
}

async fn those_that_sleep_are_claimed_when_due_the_soonest_first(fixture: Fixture) {
    let (at, mut ids) = (now(), Vec::new());
    for minutes in [30, 10, 50, 20, 90] {
        ids.push(sleeper(&fixture, at, minutes).await.id());
    }
    let rival = create(&fixture.store, "two").await;
    let transactions = fixture.store.transactions();
    let due = async |me, minutes, limit| -> Vec<TxId> {
        let claim = Claim::Due { until: at.after(MINUTE * minutes), limit };
        let mut claimed = transactions.claim(me, claim).await.unwrap().records;
        claimed.sort_by_key(|record| record.identity.start_at);
        for record in &claimed {
            assert_eq!((record.version, record.state.wake_at), (Version(2), None));
            assert_eq!(record.state.phase, Phase::Scheduled);
            let stored = transactions.find(&Key::Tx(record.identity.tx_id)).await.unwrap().unwrap();
            assert_eq!((&stored.record, stored.owner), (record, me));
        }
        claimed.into_iter().map(|record| record.identity.tx_id).collect()
    };
    assert_eq!(due(fixture.me, 9, 10).await, []);
    assert_eq!(due(rival, 60, 10).await, [], "the owner lives");
    assert_eq!(due(fixture.me, 60, 2).await, [ids[1], ids[3]]);
    assert_eq!(due(fixture.me, 60, 1).await, [ids[0]], "who was claimed sleeps no longer");
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    assert_eq!(due(rival, 60, 10).await, [ids[2]]);
    assert_eq!(due(rival, 60, 10).await, []);
    assert_eq!(due(rival, 90, 10).await, [ids[4]], "the time itself is due");
}

async fn adoption_leaves_those_that_sleep_alone(fixture: Fixture) {
    let asleep = sleeper(&fixture, now(), 90).await;
    let woken = sleeper(&fixture, now(), 90).await;
    let (awake, begin) = Live::begin(&new_gid());
    fixture.write([begin.clone()]).await;
    // A later transition says that it does not sleep.
    let state = State { wake_at: None, ..woken.tx.state() };
    let (version, enlisted) = (Version(2), Vec::new());
    let next = unanimo_core::Transition {
        tx_id: woken.id(),
        version,
        begins: None,
        state,
        enlisted,
        ..begin
    };
    fixture.write([next]).await;
    let mut open = fixture.store.transactions().open_of(fixture.me).await.unwrap();
    let mut expected = vec![(woken.id(), Version(2)), (awake.id(), Version(1))];
    open.sort();
    expected.sort();
    assert_eq!(open, expected);

    let heir = create(&fixture.store, "heir").await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let claimed =
        fixture.store.transactions().claim(heir, Claim::OfFenced(10)).await.unwrap().records;
    assert_eq!(claimed.len(), 2);
    assert!(claimed.iter().all(|record| record.identity.tx_id != asleep.id()));
    assert_eq!(fixture.store.transactions().attention().await.unwrap(), Default::default());
}

async fn one_that_sleeps_is_claimed_by_its_name(fixture: Fixture) {
    let live = sleeper(&fixture, now(), 90).await;
    let one = Claim::One(live.id(), fixture.me, Version(1));
    let claimed = fixture.store.transactions().claim(fixture.me, one).await.unwrap().records;
    assert_eq!((claimed[0].version, claimed[0].state.wake_at), (Version(2), None));
    let open = fixture.store.transactions().open_of(fixture.me).await.unwrap();
    assert_eq!(open, [(live.id(), Version(2))], "a crash now leaves it to adoption");
}

async fn s5_a_fenced_incarnation_claims_none_that_sleeps(fixture: Fixture) {
    let live = sleeper(&fixture, now(), 1).await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let claim = Claim::Due { until: now().after(MINUTE * 60), limit: 10 };
    match fixture.store.transactions().claim(fixture.me, claim).await {
        Ok(claimed) => assert_eq!(claimed, Default::default()),
        Err(error) => assert!(matches!(error, Error::Fenced(_)), "{error:?}"),
    }
    let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(stored.record, live.tx.record());
    let heir = create(&fixture.store, "heir").await;
    assert_eq!(fixture.store.transactions().claim(heir, claim).await.unwrap().records.len(), 1);
    let mut writer = fixture.store.batch_writer(heir).await.unwrap();
    let mut late = Live::resume(live.tx.clone());
    let written = writer.write(&[a_write(late.rollback())]).await.unwrap();
    assert_eq!(written, [Written::Lost], "the claim has a version of its own");
}

/// Only while it sleeps, whoever owns it by then; one whose row says nothing is left out.
async fn what_sleeps_is_counted_by_whose_it_is(fixture: Fixture) {
    let mut ids = Vec::new();
    for (initiator, bytes) in [("web", 7), ("", 1), ("web", 30), ("batch", 0)] {
        let mut definition = definition(&new_gid());
        definition.start = Start::At(now().after(MINUTE * 90));
        let (live, mut begin) = Live::begin_with(definition, now());
        begin.sleeper = Some(Sleeper { initiator: initiator.to_owned(), bytes });
        fixture.write([begin]).await;
        ids.push(live.id());
    }
    sleeper(&fixture, now(), 90).await;
    let count = async || {
        let counted = fixture.store.transactions().asleep(TxId(Uuid::nil())).await.unwrap();
        assert_eq!(counted.last, None, "few rows are one page");
        let mut counted = counted.counted;
        counted.sort_by(|a, b| a.initiator.cmp(&b.initiator));
        counted
    };
    let of = |initiator: &str, transactions, bytes| AsleepOf {
        initiator: initiator.to_owned(),
        transactions,
        bytes,
    };
    assert_eq!(count().await, [of("", 1, 1), of("batch", 1, 0), of("web", 2, 37)]);
    let one = Claim::One(ids[0], fixture.me, Version(1));
    fixture.store.transactions().claim(fixture.me, one).await.unwrap();
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    assert_eq!(count().await, [of("", 1, 1), of("batch", 1, 0), of("web", 1, 30)]);
}

/// L5: no statement counts more rows than a page has, however many there are, and none is counted twice or left out. Of
/// five rows one is parked and does not sleep.
async fn what_sleeps_is_counted_page_by_page(fixture: Fixture) {
    let rows = 2 * ASLEEP_PAGE_MAX + 5;
    let insert = match fixture.url.starts_with("sqlite:") {
        true => format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
             INSERT INTO parked (tx_id, owner, wake_ms, initiator, bytes)
             SELECT randomblob(16), 1, CASE WHEN n % 5 > 0 THEN 1 END, CASE WHEN n % 2 = 0 THEN 'web' ELSE '' END, 3 FROM n"
        ),
        false => format!(
            "INSERT INTO unanimo.parked (tx_id, owner, wake_ms, initiator, bytes)
             SELECT gen_random_uuid(), 1, CASE WHEN n % 5 > 0 THEN 1 END, CASE WHEN n % 2 = 0 THEN 'web' ELSE '' END, 3
             FROM generate_series(1, {rows}) AS n"
        ),
    };
    execute(&fixture.url, &insert).await;
    let (mut after, mut pages) = (TxId(Uuid::nil()), Vec::new());
    loop {
        let page = fixture.store.transactions().asleep(after).await.unwrap();
        let of_page: i64 = page.counted.iter().map(|of| of.transactions).sum();
        assert!(of_page <= ASLEEP_PAGE_MAX, "{page:?}");
        let last = page.last;
        pages.push(page);
        match last {
            Some(last) => after = last,
            None => break,
        }
    }
    assert_eq!(pages.len(), 3);
    let sum = |initiator: &str| -> (i64, i64) {
        let of = pages.iter().flat_map(|page| &page.counted);
        let of: Vec<_> = of.filter(|of| of.initiator == initiator).collect();
        (of.iter().map(|of| of.transactions).sum(), of.iter().map(|of| of.bytes).sum())
    };
    // Of the numbers up to 40,005 those that 5 does not divide.
    assert_eq!(sum("web"), (16_002, 3 * 16_002));
    assert_eq!(sum(""), (16_002, 3 * 16_002));
}
