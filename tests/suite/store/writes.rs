//! Single batches: transitions that are written, and those that are rejected.

use unanimo_coordinator::store::{BatchError, Earlier, GidHolder, Key, Written};
use unanimo_core::{Digest, HeuristicKind, Input, PhaseTwoAnswer, PhaseTwoOperation};

use super::{Fixture, a_write, create, on_both_stores, rows};
use crate::fixtures::{Live, new_gid, now};

on_both_stores!(
    what_is_written_is_read_back,
    a_gid_is_taken_once,
    a_write_needs_its_row_as_it_left_it,
    a_write_that_is_sent_again_is_applied_once,
    s5_a_fenced_incarnation_writes_nothing,
    a_refused_row_leaves_nothing_of_the_batch,
    two_owners_send_one_gid_at_once,
    s9_a_tombstone_is_read_back_and_holds_its_gid,
    s9_a_tombstone_and_a_request_race_for_one_gid,
);

async fn what_is_written_is_read_back(fixture: Fixture) {
    let (mut live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let commit = live.commit();
    fixture.write([commit]).await;
    let hazard =
        PhaseTwoAnswer::Heuristic { kind: HeuristicKind::Hazard, note: "who knows".into() };
    let end = live.phase_two(PhaseTwoOperation::Commit, &hazard);
    fixture.write(end.clone()).await;

    let gid = live.tx.identity().gid.clone();
    for key in [Key::Tx(live.id()), Key::Gid(gid)] {
        let stored = fixture.store.transactions().find(&key).await.unwrap().unwrap();
        assert_eq!(stored.record, live.tx.record());
        assert_eq!(stored.owner, fixture.me);
        assert!(!stored.stripped);
    }
    let events: Vec<_> = end.into_iter().flat_map(|transition| transition.events).collect();
    assert_eq!(events.len(), 2);
    assert_eq!(fixture.store.transactions().events(live.id()).await.unwrap(), events);

    let (mut aborted, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    fixture.write([aborted.rollback()]).await;
    let stored = fixture.store.transactions().find(&Key::Tx(aborted.id())).await.unwrap().unwrap();
    assert_eq!(stored.record, aborted.tx.record());
    assert_eq!(fixture.store.transactions().find(&Key::Gid(new_gid())).await.unwrap(), None);
}

async fn a_gid_is_taken_once(fixture: Fixture) {
    let gid = new_gid();
    let (first, begin) = Live::begin(&gid);
    fixture.write([begin]).await;
    let (_, again) = Live::begin(&gid);
    let written = fixture.writer().await.write(&[a_write(again)]).await.unwrap();
    let taken = GidHolder { tx_id: first.id(), digest: first.tx.identity().digest };
    assert_eq!(written, [Written::GidHeld(taken)]);
}

async fn a_write_needs_its_row_as_it_left_it(fixture: Fixture) {
    let (mut live, begin) = Live::begin(&new_gid());
    let mut writer = fixture.writer().await;
    let commit = live.commit();
    let early = writer.write(&[a_write(commit.clone())]).await.unwrap();
    assert_eq!(early, [Written::WentBack(Earlier::default())], "there is no row");
    writer.write(&[a_write(begin)]).await.unwrap();
    assert_eq!(writer.write(&[a_write(commit.clone())]).await.unwrap(), [Written::Applied]);
    let again = writer.write(&[a_write(commit)]).await.unwrap();
    assert_eq!(again, [Written::Lost], "same version, another write");

    let stranger = create(&fixture.store, "two").await;
    let mut writer = fixture.store.batch_writer(stranger).await.unwrap();
    let end = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done).remove(0);
    assert_eq!(writer.write(&[a_write(end)]).await.unwrap(), [Written::Lost], "another's row");
}

async fn a_write_that_is_sent_again_is_applied_once(fixture: Fixture) {
    let (mut live, begin) = Live::begin(&new_gid());
    let begin = a_write(begin);
    for _ in 0..2 {
        let written = fixture.writer().await.write(std::slice::from_ref(&begin)).await.unwrap();
        assert_eq!(written, [Written::Applied]);
    }
    let commit = a_write(live.commit());
    for _ in 0..2 {
        let written = fixture.writer().await.write(std::slice::from_ref(&commit)).await.unwrap();
        assert_eq!(written, [Written::Applied]);
    }
    let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(stored.record, live.tx.record());
}

async fn s5_a_fenced_incarnation_writes_nothing(fixture: Fixture) {
    let (mut live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let before = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();

    let mut writer = fixture.writer().await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let (_, another) = Live::begin(&new_gid());
    let batch = [a_write(another.clone()), a_write(live.commit())];
    let error = writer.write(&batch).await.unwrap_err();
    assert!(matches!(error, BatchError::Fenced(me) if me == fixture.me), "{error:?}");
    assert!(fixture.store.batch_writer(fixture.me).await.is_err(), "a new connection");

    let after = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(before, after);
    assert_eq!(fixture.store.transactions().find(&Key::Tx(another.tx_id)).await.unwrap(), None);
}

async fn a_refused_row_leaves_nothing_of_the_batch(fixture: Fixture) {
    let (good, good_begin) = Live::begin(&new_gid());
    let (bad, mut bad_begin) = Live::begin(&new_gid());
    rows::refuse_marked(&fixture.url).await;
    rows::mark(&mut bad_begin);
    let mut writer = fixture.writer().await;
    let error = writer.write(&[a_write(good_begin.clone()), a_write(bad_begin)]).await.unwrap_err();
    assert!(matches!(error, BatchError::Refused(_)), "{error:?}");
    for id in [good.id(), bad.id()] {
        assert_eq!(fixture.store.transactions().find(&Key::Tx(id)).await.unwrap(), None);
    }
    let again = writer.write(&[a_write(good_begin)]).await.unwrap();
    assert_eq!(again, [Written::Applied], "the connection is good for more");
}

async fn two_owners_send_one_gid_at_once(fixture: Fixture) {
    let rival = create(&fixture.store, "two").await;
    let mut mine = fixture.writer().await;
    let mut its = fixture.store.batch_writer(rival).await.unwrap();
    for round in 0..50 {
        let gid = new_gid();
        let (one, begin_one) = Live::begin(&gid);
        let (two, begin_two) = Live::begin(&gid);
        let batches = ([a_write(begin_one)], [a_write(begin_two)]);
        let (first, second) = tokio::join!(mine.write(&batches.0), its.write(&batches.1));
        let (first, second) = (first.unwrap().remove(0), second.unwrap().remove(0));
        let winner = match (&first, &second) {
            (Written::Applied, Written::GidHeld(taken)) if taken.tx_id == one.id() => one,
            (Written::GidHeld(taken), Written::Applied) if taken.tx_id == two.id() => two,
            other => panic!("round {round}: {other:?}"),
        };
        let mut stored = fixture.store.transactions().find(&Key::Gid(gid)).await.unwrap().unwrap();
        stored.record.state.branches.clear();
        let mut expected = winner.tx.record();
        expected.state.branches.clear();
        assert_eq!(stored.record, expected, "the loser left nothing");
    }
}

async fn s9_a_tombstone_is_read_back_and_holds_its_gid(fixture: Fixture) {
    let gid = new_gid();
    let (tombstone, begin) = Live::tombstone(&gid, now());
    fixture.write([begin]).await;
    for key in [Key::Tx(tombstone.id()), Key::Gid(gid.clone())] {
        let stored = fixture.store.transactions().find(&key).await.unwrap().unwrap();
        assert_eq!(stored.record, tombstone.tx.record());
    }
    let holder = GidHolder { tx_id: tombstone.id(), digest: Digest::TOMBSTONE };
    for (_, later) in [Live::begin(&gid), Live::tombstone(&gid, now())] {
        let written = fixture.writer().await.write(&[a_write(later)]).await.unwrap();
        assert_eq!(written, [Written::GidHeld(holder.clone())]);
    }
}

/// Two incarnations: one rolls back a gid that it has never seen, the other one begins under it.
async fn s9_a_tombstone_and_a_request_race_for_one_gid(fixture: Fixture) {
    let rival = create(&fixture.store, "two").await;
    let mut mine = fixture.writer().await;
    let mut its = fixture.store.batch_writer(rival).await.unwrap();
    for round in 0..50 {
        let gid = new_gid();
        let (tombstone, buried) = Live::tombstone(&gid, now());
        let (request, begun) = Live::begin(&gid);
        let batches = ([a_write(buried)], [a_write(begun)]);
        let (first, second) = tokio::join!(mine.write(&batches.0), its.write(&batches.1));
        let (first, second) = (first.unwrap().remove(0), second.unwrap().remove(0));
        let winner = match (&first, &second) {
            (Written::Applied, Written::GidHeld(holder)) if holder.tx_id == tombstone.id() => {
                assert_eq!(holder.digest, Digest::TOMBSTONE);
                tombstone
            }
            (Written::GidHeld(holder), Written::Applied) if holder.tx_id == request.id() => request,
            other => panic!("round {round}: {other:?}"),
        };
        let stored = fixture.store.transactions().find(&Key::Gid(gid)).await.unwrap().unwrap();
        assert_eq!(stored.record, winner.tx.record(), "the loser left nothing");
    }
}

/// Branches of an interactive transaction are written one by one.
#[tokio::test]
async fn branches_that_come_later_are_read_back() {
    for fixture in [Fixture::postgres().await, Fixture::sqlite().await] {
        let mut definition = crate::fixtures::definition(&new_gid());
        definition.drive = unanimo_core::Drive::Interactive;
        definition.branches.clear();
        let (mut live, begin) = Live::begin_with(definition, crate::fixtures::now());
        fixture.write([begin]).await;
        for (id, enlistment) in [
            ("x", unanimo_core::Enlistment::Coordinator),
            ("y", unanimo_core::Enlistment::Initiator),
        ] {
            let spec = crate::fixtures::spec(id);
            let effects = live.apply(Input::Enlist { branch: spec.into(), enlistment });
            fixture.write([effects.transition.unwrap()]).await;
        }
        let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
        assert_eq!(stored.record, live.tx.record());
    }
}
