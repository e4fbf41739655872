//! Places of webhooks, and what their receivers did not take.

use unanimo_coordinator::store::{DeadLetter, WebhookPlace};
use unanimo_core::TxId;
use uuid::Uuid;

use super::{Fixture, on_both_stores};
use crate::fixtures::now;

on_both_stores!(l3_dead_letters_are_sent_again_in_parts);

/// Dead letters: more than one statement has sent again.
const LETTERS: u64 = 1_100;

pub(super) fn letter(revision: u64) -> DeadLetter {
    DeadLetter {
        webhook: "a".to_owned(),
        revision,
        tx_id: TxId(Uuid::from_u128(revision.into())),
        body: vec![1],
        died_at: now(),
        attempts: 3,
        cause: "answered 500".to_owned(),
        is_due: false,
    }
}

/// L3: however many dead letters are sent again, each statement takes a bounded number of them, and none is left out.
async fn l3_dead_letters_are_sent_again_in_parts(fixture: Fixture) {
    let (webhooks, me) = (fixture.store.webhooks(), fixture.me);
    let mut place = WebhookPlace { name: "a".to_owned(), ..WebhookPlace::default() };
    for revision in 1..=LETTERS {
        place.after = revision;
        assert!(webhooks.advance(me, place.clone(), Some(letter(revision))).await.unwrap());
        place.step += 1;
    }
    let all = 0..=u64::MAX;
    let part = webhooks.send_again(me, "a", all.clone()).await.unwrap();
    assert_eq!((part.count, part.last), (1_000, Some(1_000)));
    assert_eq!(webhooks.send_all_again(me, "a", all.clone()).await.unwrap(), LETTERS);
    let due = webhooks.due("a", 2_000).await.unwrap();
    let revisions: Vec<u64> = due.iter().map(|letter| letter.revision).collect();
    assert_eq!(revisions, (1..=LETTERS).collect::<Vec<_>>());
    for (revisions, count) in [(7..=7, 1), (LETTERS + 1..=LETTERS + 1, 0), (1_090..=u64::MAX, 11)] {
        let found = webhooks.send_all_again(me, "a", revisions.clone()).await.unwrap();
        assert_eq!(found, count, "{revisions:?}");
    }
    assert_eq!(webhooks.send_all_again(me, "b", all).await.unwrap(), 0, "it is another webhook");
}
