//! Transactions that are open for longer than some seconds: whoever adopts them reads no history.

use std::time::Duration;

use unanimo_coordinator::store::Claim;
use unanimo_core::{HeuristicKind, PhaseTwoAnswer, PhaseTwoOperation, Timestamp, TxId};
use uuid::Uuid;

use super::{Fixture, count, create, execute, on_both_stores};
use crate::fixtures::{Live, definition, new_gid, now};

on_both_stores!(
    l2_what_is_open_is_adopted_whether_it_is_parked_or_not,
    what_ends_is_parked_no_longer,
);

/// A time that is older than those before which an incarnation parks.
fn some_time_ago() -> Timestamp {
    Timestamp(now().0 - Duration::from_secs(60).as_millis() as u64)
}

/// Sets an incarnation's marks back, as if it had been created before all.
async fn set_marks_back(fixture: &Fixture) {
    let nil = match fixture.url.starts_with("sqlite:") {
        true => format!("x'{}'", Uuid::nil().simple()),
        false => format!("'{}'", Uuid::nil()),
    };
    let back = format!("UPDATE fences SET parks_before = {nil}, parked_before = {nil}");
    execute(&fixture.url, &back).await;
}

async fn begin(fixture: &Fixture, at: Timestamp) -> Live {
    let (live, begin) = Live::begin_with(definition(&new_gid()), at);
    fixture.write([begin]).await;
    live
}

/// Ends one.
async fn end(fixture: &Fixture, live: &mut Live) {
    let rollback = live.rollback();
    fixture.write([rollback]).await;
    fixture.write(live.phase_two(PhaseTwoOperation::Cancel, &PhaseTwoAnswer::Done)).await;
}

async fn l2_what_is_open_is_adopted_whether_it_is_parked_or_not(fixture: Fixture) {
    let parked = async || count(&fixture, "parked").await;
    set_marks_back(&fixture).await;
    // Its mark comes by when the incarnation looks at what it has open.
    let mut open = vec![begin(&fixture, some_time_ago()).await.id()];
    let mut ended = begin(&fixture, some_time_ago()).await;
    end(&fixture, &mut ended).await;
    assert_eq!(parked().await, 0);
    let listed = fixture.store.transactions().open_of(fixture.me).await.unwrap();
    assert_eq!((listed.len(), parked().await), (1, 1));
    // Under an identifier from before the mark.
    open.push(begin(&fixture, some_time_ago()).await.id());
    assert_eq!(parked().await, 2);
    // Young ones are nowhere but in the log.
    open.push(begin(&fixture, now()).await.id());
    let mut ended = begin(&fixture, now()).await;
    end(&fixture, &mut ended).await;
    assert_eq!(parked().await, 2);
    let listed = fixture.store.transactions().open_of(fixture.me).await.unwrap();
    let mut listed: Vec<TxId> = listed.into_iter().map(|(tx_id, _)| tx_id).collect();
    listed.sort();
    open.sort();
    assert_eq!(listed, open);

    let heir = create(&fixture.store, "heir").await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let claimed = fixture.store.transactions().claim(heir, Claim::OfFenced(10)).await.unwrap();
    let mut claimed: Vec<TxId> =
        claimed.records.iter().map(|record| record.identity.tx_id).collect();
    claimed.sort();
    assert_eq!(claimed, open);
    assert_eq!(parked().await, 3, "an heir parks what it adopts");
    let again = fixture.store.transactions().claim(heir, Claim::OfFenced(10)).await.unwrap();
    assert_eq!(again, Default::default());
}

async fn what_ends_is_parked_no_longer(fixture: Fixture) {
    let mut live = begin(&fixture, some_time_ago()).await;
    assert_eq!(count(&fixture, "parked").await, 1);
    end(&fixture, &mut live).await;
    assert_eq!(count(&fixture, "parked").await, 0);
    let mut live = begin(&fixture, some_time_ago()).await;
    let rollback = live.rollback();
    fixture.write([rollback]).await;
    let hazard = PhaseTwoAnswer::Heuristic { kind: HeuristicKind::Hazard, note: "who".into() };
    fixture.write(live.phase_two(PhaseTwoOperation::Cancel, &hazard)).await;
    assert_eq!(count(&fixture, "parked WHERE reasons <> 0").await, 1, "it needs a person");
}
