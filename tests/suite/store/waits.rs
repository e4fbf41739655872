//! Participants that transactions out of memory wait for.

use std::time::Duration;

use unanimo_coordinator::store::{Claim, Error, Key};
use unanimo_core::{ParticipantName, Start, TxId, Version};

use super::{Fixture, create, on_both_stores};
use crate::fixtures::{Live, definition, new_gid, now};

on_both_stores!(
    those_that_wait_are_woken_by_their_participant_the_oldest_first,
    whoever_is_claimed_waits_no_longer,
    s5_a_fenced_incarnation_notes_and_wakes_nothing,
);

fn name(name: &str) -> ParticipantName {
    ParticipantName::new(name).unwrap()
}

/// Writes a transaction that sleeps, and notes for whom it waits.
async fn sleeper(fixture: &Fixture, participants: &[&str]) -> TxId {
    let mut definition = definition(&new_gid());
    definition.start = Start::At(now().after(Duration::from_secs(5 * 3600)));
    let (live, begin) = Live::begin_with(definition, now());
    let waits = participants.iter().map(|participant| (live.id(), name(participant))).collect();
    fixture.store.waits().note(fixture.me, waits).await.unwrap();
    fixture.write([begin]).await;
    live.id()
}

async fn those_that_wait_are_woken_by_their_participant_the_oldest_first(fixture: Fixture) {
    let waits = fixture.store.waits();
    assert_eq!(waits.all().await.unwrap(), []);
    let mut ids = Vec::new();
    for participants in [&["b"][..], &["a", "b"], &["a"], &["b"]] {
        ids.push(sleeper(&fixture, participants).await);
    }
    ids.sort();
    let (awake, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let twice = vec![(awake.id(), name("c")), (ids[0], name("b")), (ids[0], name("b"))];
    waits.note(fixture.me, twice).await.unwrap();
    let counted = [(name("a"), 2), (name("b"), 3), (name("c"), 1)];
    assert_eq!(waits.all().await.unwrap(), counted);
    assert_eq!(waits.of(&name("c"), None, 10).await.unwrap(), [], "it is awake");
    let of_b = waits.of(&name("b"), None, 10).await.unwrap();
    assert_eq!(of_b.len(), 3);
    assert!(of_b.is_sorted());
    assert_eq!(waits.of(&name("b"), None, 2).await.unwrap(), of_b[..2]);
    assert_eq!(waits.of(&name("b"), Some(of_b[0]), 10).await.unwrap(), of_b[1..]);

    let rival = create(&fixture.store, "two").await;
    assert_eq!(waits.wake(rival, of_b.clone()).await.unwrap(), Default::default(), "it lives");
    let named = [&of_b[..1], &[awake.id()]].concat();
    let woken = waits.wake(fixture.me, named).await.unwrap().records;
    assert_eq!(woken.len(), 1, "one was awake");
    assert_eq!(woken[0].identity.tx_id, of_b[0]);
    assert_eq!((woken[0].version, woken[0].state.wake_at), (Version(2), None));
    let stored = fixture.store.transactions().find(&Key::Tx(of_b[0])).await.unwrap().unwrap();
    assert_eq!(stored.record, woken[0]);
    assert_eq!(waits.wake(fixture.me, of_b[..1].to_vec()).await.unwrap(), Default::default());
    assert_eq!(waits.of(&name("b"), None, 10).await.unwrap(), of_b[1..]);
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    assert_eq!(waits.wake(rival, of_b).await.unwrap().records.len(), 2);
}

async fn whoever_is_claimed_waits_no_longer(fixture: Fixture) {
    let (one, two) = (sleeper(&fixture, &["a", "b"]).await, sleeper(&fixture, &["a"]).await);
    let transactions = fixture.store.transactions();
    let claim = Claim::One(one, fixture.me, Version(1));
    assert_eq!(transactions.claim(fixture.me, claim).await.unwrap().records.len(), 1);
    let waits = fixture.store.waits();
    assert_eq!(waits.all().await.unwrap(), [(name("a"), 1)]);
    assert_eq!(waits.of(&name("a"), None, 10).await.unwrap(), [two]);
    let until = now().after(Duration::from_secs(6 * 3600));
    let claim = Claim::Due { until, limit: 10 };
    assert_eq!(transactions.claim(fixture.me, claim).await.unwrap().records.len(), 1);
    assert_eq!(waits.all().await.unwrap(), []);
}

async fn s5_a_fenced_incarnation_notes_and_wakes_nothing(fixture: Fixture) {
    let id = sleeper(&fixture, &["a"]).await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let waits = fixture.store.waits();
    match waits.note(fixture.me, vec![(id, name("b"))]).await {
        Ok(()) => {}
        Err(error) => assert!(matches!(error, Error::Fenced(_)), "{error:?}"),
    }
    match waits.wake(fixture.me, vec![id]).await {
        Ok(woken) => assert_eq!(woken, Default::default()),
        Err(error) => assert!(matches!(error, Error::Fenced(_)), "{error:?}"),
    }
    assert_eq!(waits.all().await.unwrap(), [(name("a"), 1)]);
    let heir = create(&fixture.store, "heir").await;
    let claimed = fixture.store.transactions().claim(heir, Claim::OfFenced(10)).await.unwrap();
    assert_eq!(claimed.records, [], "it sleeps");
    assert_eq!(waits.wake(heir, vec![id]).await.unwrap().records.len(), 1);
}
