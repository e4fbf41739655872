//! Participants that transactions out of memory wait for.

use std::time::Duration;

use unanimo_coordinator::store::{Asleep, Claim, Error, Key, Wait};
use unanimo_core::{ParticipantName, Start, Timestamp, TxId, Version};

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

/// A wait that is due at this time.
fn wait(tx_id: TxId, participant: &str, due_at: u64) -> Wait {
    Wait { tx_id, participant: name(participant), due_at: Timestamp(due_at) }
}

/// The participants that are waited for, with the numbers of waits.
async fn counted(fixture: &Fixture) -> Vec<(ParticipantName, usize)> {
    let (waits, mut counted) = (fixture.store.waits(), Vec::new());
    for name in waits.names().await.unwrap() {
        let count = waits.count(&name).await.unwrap();
        counted.push((name, count));
    }
    counted
}

/// The transactions of `me` that wait for a participant, from the one after this on.
async fn of(fixture: &Fixture, participant: &str, after: Option<TxId>, limit: u32) -> Vec<TxId> {
    let (waits, asleep) = (fixture.store.waits(), Asleep::After(after));
    waits.of(fixture.me, &name(participant), asleep, limit).await.unwrap()
}

/// Writes a transaction that sleeps, and notes for whom it waits.
async fn sleeper(fixture: &Fixture, participants: &[&str]) -> TxId {
    let mut definition = definition(&new_gid());
    definition.start = Start::At(now().after(Duration::from_secs(5 * 3600)));
    let (live, begin) = Live::begin_with(definition, now());
    let waits =
        participants.iter().map(|participant| wait(live.id(), participant, 1_000)).collect();
    fixture.store.waits().note(fixture.me, waits).await.unwrap();
    fixture.write([begin]).await;
    live.id()
}

async fn those_that_wait_are_woken_by_their_participant_the_oldest_first(fixture: Fixture) {
    let waits = fixture.store.waits();
    assert_eq!(counted(&fixture).await, []);
    let mut ids = Vec::new();
    for participants in [&["b"][..], &["a", "b"], &["a"], &["b"]] {
        ids.push(sleeper(&fixture, participants).await);
    }
    ids.sort();
    let (awake, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let twice = [(awake.id(), "c"), (ids[0], "b"), (ids[0], "b")];
    let twice = twice.map(|(tx_id, name)| wait(tx_id, name, 2_000)).into();
    waits.note(fixture.me, twice).await.unwrap();
    let all = [(name("a"), 2), (name("b"), 3), (name("c"), 1)];
    assert_eq!(counted(&fixture).await, all);
    assert_eq!(of(&fixture, "c", None, 10).await, [], "it is awake");
    let of_b = of(&fixture, "b", None, 10).await;
    assert_eq!(of_b.len(), 3);
    assert!(of_b.is_sorted());
    assert_eq!(of(&fixture, "b", None, 2).await, of_b[..2]);
    assert_eq!(of(&fixture, "b", Some(of_b[0]), 10).await, of_b[1..]);

    // The first of them is due later by now.
    for (due_at, due) in [(999, &of_b[..0]), (1_000, &of_b[1..]), (2_000, &of_b[..])] {
        let asleep = Asleep::Due(Timestamp(due_at));
        let mut found = waits.of(fixture.me, &name("b"), asleep, 10).await.unwrap();
        found.sort();
        assert_eq!(found, due);
    }
    let forgotten = vec![awake.id(), ids[0]];
    waits.forget(fixture.me, forgotten).await.unwrap();
    assert_eq!(counted(&fixture).await, all[..2], "who sleeps is not forgotten");

    let rival = create(&fixture.store, "two").await;
    let of_rival = waits.of(rival, &name("b"), Asleep::After(None), 10).await.unwrap();
    assert_eq!(of_rival, [], "what others have that live is theirs");
    assert_eq!(waits.wake(rival, of_b.clone()).await.unwrap(), Default::default(), "it lives");
    let named = [&of_b[..1], &[awake.id()]].concat();
    let woken = waits.wake(fixture.me, named).await.unwrap().records;
    assert_eq!(woken.len(), 1, "one was awake");
    assert_eq!(woken[0].identity.tx_id, of_b[0]);
    assert_eq!((woken[0].version, woken[0].state.wake_at), (Version(2), None));
    let stored = fixture.store.transactions().find(&Key::Tx(of_b[0])).await.unwrap().unwrap();
    assert_eq!(stored.record, woken[0]);
    assert_eq!(waits.wake(fixture.me, of_b[..1].to_vec()).await.unwrap(), Default::default());
    assert_eq!(of(&fixture, "b", None, 10).await, of_b[1..]);
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    assert_eq!(waits.wake(rival, of_b).await.unwrap().records.len(), 2);
}

async fn whoever_is_claimed_waits_no_longer(fixture: Fixture) {
    let (one, two) = (sleeper(&fixture, &["a", "b"]).await, sleeper(&fixture, &["a"]).await);
    let transactions = fixture.store.transactions();
    let claim = Claim::One(one, fixture.me, Version(1));
    assert_eq!(transactions.claim(fixture.me, claim).await.unwrap().records.len(), 1);
    assert_eq!(counted(&fixture).await, [(name("a"), 1)]);
    assert_eq!(of(&fixture, "a", None, 10).await, [two]);
    // Its time alone does not wake it, or all would come to memory at the start after a long stop.
    let until = now().after(Duration::from_secs(6 * 3600));
    let claim = Claim::Due { until, limit: 10 };
    assert_eq!(transactions.claim(fixture.me, claim).await.unwrap().records.len(), 0);
    let claim = Claim::One(two, fixture.me, Version(1));
    assert_eq!(transactions.claim(fixture.me, claim).await.unwrap().records.len(), 1);
    assert_eq!(counted(&fixture).await, []);
}

async fn s5_a_fenced_incarnation_notes_and_wakes_nothing(fixture: Fixture) {
    let id = sleeper(&fixture, &["a"]).await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let waits = fixture.store.waits();
    match waits.note(fixture.me, vec![wait(id, "b", 1)]).await {
        Ok(()) => {}
        Err(error) => assert!(matches!(error, Error::Fenced(_)), "{error:?}"),
    }
    match waits.wake(fixture.me, vec![id]).await {
        Ok(woken) => assert_eq!(woken, Default::default()),
        Err(error) => assert!(matches!(error, Error::Fenced(_)), "{error:?}"),
    }
    assert_eq!(counted(&fixture).await, [(name("a"), 1)]);
    let heir = create(&fixture.store, "heir").await;
    let claimed = fixture.store.transactions().claim(heir, Claim::OfFenced(10)).await.unwrap();
    assert_eq!(claimed.records, [], "it sleeps");
    assert_eq!(waits.wake(heir, vec![id]).await.unwrap().records.len(), 1);
}
