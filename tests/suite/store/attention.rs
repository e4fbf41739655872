//! Counts of transactions that need a person, by their reasons.

use unanimo_coordinator::store::AttentionCount;
use unanimo_core::{
    Heuristic, PhaseTwoAnswer, PhaseTwoOperation, State, Timestamp, Transition, Version,
};

use super::{Fixture, on_both_stores};
use crate::fixtures::{Live, definition, new_gid, now};

on_both_stores!(what_needs_a_person_is_counted_by_its_reason);

/// Stage that a transaction has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Active,
    Decided,
    Ended,
}

/// Writes a transaction that has come so far, with a change of its state.
async fn write(fixture: &Fixture, until: Until, change: impl FnOnce(&mut State)) {
    let (mut live, begin) = Live::begin_with(definition(&new_gid()), now());
    let mut last = begin.clone();
    fixture.write([begin]).await;
    if until != Until::Active {
        last = live.commit();
        fixture.write([last.clone()]).await;
    }
    if until == Until::Ended {
        for transition in live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done) {
            last = transition;
            fixture.write([last.clone()]).await;
        }
    }
    let mut state = last.state.clone();
    change(&mut state);
    let version = Version(last.version.0 + 1);
    let changed = Transition {
        version,
        state,
        begins: None,
        enlisted: Vec::new(),
        outputs: Vec::new(),
        events: Vec::new(),
        history: Vec::new(),
        ..last
    };
    fixture.write([changed]).await;
}

async fn what_needs_a_person_is_counted_by_its_reason(fixture: Fixture) {
    let count = async || fixture.store.transactions().attention().await.unwrap();
    let mut expected = AttentionCount::default();
    for until in [Until::Active, Until::Decided, Until::Ended] {
        write(&fixture, until, |_| ()).await;
        assert_eq!(count().await, expected, "{until:?}");
    }
    // Before the decision only a pivot holds one up.
    write(&fixture, Until::Active, |state| state.stalled = true).await;
    (expected.stalled, expected.unanswered) = (1, 1);
    assert_eq!(count().await, expected);
    write(&fixture, Until::Decided, |state| state.stalled = true).await;
    expected.stalled = 2;
    assert_eq!(count().await, expected);
    write(&fixture, Until::Decided, |state| state.branches[0].refused_after_commit = true).await;
    (expected.stalled, expected.refused) = (3, 1);
    assert_eq!(count().await, expected);
    write(&fixture, Until::Decided, |state| state.branches[1].output_too_large = true).await;
    (expected.stalled, expected.too_large) = (4, 1);
    assert_eq!(count().await, expected);
    // Two reasons at once are one transaction.
    write(&fixture, Until::Decided, |state| {
        state.stalled = true;
        state.branches[0].refused_after_commit = true;
        state.branches[1].refused_after_commit = true;
        state.branches[1].output_too_large = true;
    })
    .await;
    expected = AttentionCount { stalled: 5, refused: 2, too_large: 2, ..expected };
    assert_eq!(count().await, expected);
    // A text that names an alarm is none.
    write(&fixture, Until::Decided, |state| {
        state.stalled = true;
        let error = "\"refused_after_commit\": \"output_too_large\"".to_owned();
        state.branches[0].phase_two_attempts.last_at = Timestamp(1);
        state.branches[0].phase_two_attempts.count = 1;
        state.branches[0].phase_two_attempts.last_error = Some(error);
    })
    .await;
    expected.stalled = 6;
    assert_eq!(count().await, expected);
    write(&fixture, Until::Ended, |state| state.heuristic = Heuristic::Hazard).await;
    expected.heuristic = 1;
    assert_eq!(count().await, expected);
    // An operator has cleared its alarm.
    write(&fixture, Until::Ended, |state| {
        state.heuristic = Heuristic::Mixed;
        state.forgotten = true;
    })
    .await;
    assert_eq!(count().await, expected);
}
