//! Rows of an earlier time, as a failover leaves them: they are told from those that somebody else has written,
//! and are written again from memory.

use std::sync::Arc;

use unanimo_coordinator::store::journal::Ended;
use unanimo_coordinator::store::{Earlier, Key, Life, Written};
use unanimo_core::{
    Incarnation, PhaseTwoAnswer, PhaseTwoOperation, Timestamp, Transaction, Transition, Version,
};
use uuid::Uuid;

use super::journal::Journal;
use super::{Fixture, a_write, count, create, execute, on_both_stores, rows};
use crate::fixtures::{Live, new_gid};

on_both_stores!(
    s4_a_row_that_went_back_is_written_again_from_memory,
    s4_a_row_that_went_back_beyond_its_adoption_is_written_again,
    s1_a_row_that_is_claimed_before_it_is_written_again_went_back,
    s5_a_row_of_another_owner_is_never_taken_for_an_earlier_one,
    s4_an_end_without_its_details_is_stored_as_stripped,
);

/// Sets a transaction back to its first row, and to nothing.
const TO_BEGIN: &str = "DELETE FROM log WHERE follows > 0";
const TO_NOTHING: &str = "DELETE FROM log; DELETE FROM gids; DELETE FROM parked";

/// Branches and outputs that the first row has, and what a transaction is set back to.
const SET_BACK: [(usize, usize, &str); 4] =
    [(2, 2, TO_BEGIN), (2, 1, TO_BEGIN), (1, 0, TO_BEGIN), (0, 0, TO_NOTHING)];

/// Writes a committed transaction, and has the journal find that its row went back.
async fn found(
    fixture: &Fixture,
    journal: &mut Journal,
    (branches, outputs, set_back): (usize, usize, &str),
) -> (Live, Life, Earlier) {
    let (mut live, mut begin) = Live::begin(&new_gid());
    let mut commit = live.commit();
    commit.enlisted = begin.enlisted.split_off(branches);
    begin.outputs.extend(commit.outputs.drain(..outputs));
    fixture.write([begin, commit]).await;
    execute(&fixture.url, set_back).await;
    let life = Life::begin();
    let done = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
    for transition in done {
        journal.handle.submit(transition, Uuid::new_v4(), life);
    }
    let told = journal.results.recv().await.unwrap();
    let Ended::WentBack(earlier) = &told[0].ended else { panic!("{told:?}") };
    (live, life, earlier.clone())
}

/// Writes it again, and compares what is stored with what is in memory.
async fn write_again(fixture: &Fixture, journal: &mut Journal, live: &mut Live, from: &Earlier) {
    let is_stored = from.row.is_some();
    let again = live.tx.written_again(is_stored, from.branches, &from.outputs);
    let version = again.version;
    journal.handle.submit_again(again, Uuid::new_v4(), Life::begin(), from);
    let told = journal.results.recv().await.unwrap();
    assert_eq!(told[0].ended, Ended::Durable(version));
    let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!((stored.record, stored.owner), (live.tx.record(), fixture.me));
}

async fn s4_a_row_that_went_back_is_written_again_from_memory(fixture: Fixture) {
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    for set_back in SET_BACK {
        let (mut live, life, earlier) = found(&fixture, &mut journal, set_back).await;
        let (branches, outputs, _) = set_back;
        let row = (branches > 0).then_some((fixture.me, Version(1)));
        let outputs = live.numbers()[..outputs].to_vec();
        assert_eq!(earlier, Earlier { row, branches, outputs }, "{set_back:?}");
        journal.handle.forget(live.id(), life);
        write_again(&fixture, &mut journal, &mut live, &earlier).await;
        execute(&fixture.url, TO_NOTHING).await;
    }
    journal.end().await.unwrap();
}

/// The failover has lost the adoption as well: the owner is the one before, which is fenced.
/// The incarnation's own search for open transactions finds the row first, and claims it: it knows no better than
/// the row, so what is in memory is written over that.
async fn s1_a_row_that_is_claimed_before_it_is_written_again_went_back(fixture: Fixture) {
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (mut live, life, earlier) = found(&fixture, &mut journal, SET_BACK[0]).await;
    journal.handle.forget(live.id(), life);
    rows::next(&fixture.url, live.id()).await;
    let life = Life::begin();
    let again = live.tx.written_again(true, earlier.branches, &earlier.outputs);
    journal.handle.submit_again(again, Uuid::new_v4(), life, &earlier);
    let told = journal.results.recv().await.unwrap();
    let Ended::WentBack(claimed) = told[0].ended.clone() else { panic!("{told:?}") };
    assert_eq!(claimed.row, Some((fixture.me, Version(2))));
    journal.handle.forget(live.id(), life);
    write_again(&fixture, &mut journal, &mut live, &claimed).await;
}

async fn s4_a_row_that_went_back_beyond_its_adoption_is_written_again(mut fixture: Fixture) {
    let former = fixture.me;
    fixture.store.incarnations().fence(former, "a test").await.unwrap();
    fixture.me = create(&fixture.store, "two").await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let set_back = format!("{TO_BEGIN}; UPDATE log SET owner = {}", former.0);
    let (mut live, life, earlier) = found(&fixture, &mut journal, (2, 0, &set_back)).await;
    assert_eq!(earlier.row, Some((former, Version(1))));
    journal.handle.forget(live.id(), life);
    write_again(&fixture, &mut journal, &mut live, &earlier).await;
    journal.end().await.unwrap();
}

/// The row says that the details are gone: otherwise it would be read as a transaction that never had branches.
async fn s4_an_end_without_its_details_is_stored_as_stripped(fixture: Fixture) {
    let (mut live, _) = Live::begin(&new_gid());
    live.commit();
    live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
    let mut record = live.tx.record();
    (record.branches, record.outputs, record.state.branches) = Default::default();
    let mut tx = Transaction::restore(record);
    for is_stored in [false, true] {
        tx.next_version();
        let again = tx.written_again(is_stored, 0, &[]);
        let stripped_at = Some(Timestamp(1));
        fixture.write([Transition { stripped_at, ..again }]).await;
        let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
        assert!(stored.stripped, "{is_stored}");
        assert_eq!((stored.record.version, stored.record.state.phase), (tx.version(), tx.phase()));
    }
}

/// One that is not fenced may be writing it.
async fn s5_a_row_of_another_owner_is_never_taken_for_an_earlier_one(fixture: Fixture) {
    let mut writer = fixture.writer().await;
    let (mut live, begin) = Live::begin(&new_gid());
    fixture.write([begin, live.commit()]).await;
    let other = Incarnation(fixture.me.0 + 1);
    let set_back = format!("{TO_BEGIN}; UPDATE log SET owner = {}", other.0);
    execute(&fixture.url, &set_back).await;
    let done = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done).remove(0);
    assert_eq!(writer.write(&[a_write(done)]).await.unwrap(), [Written::Lost]);
    // Nor is one that is later than it was left.
    let later = format!("UPDATE log SET version = 9, owner = {}", fixture.me.0);
    execute(&fixture.url, &later).await;
    let done = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
    assert_eq!(done, []);
    let mut again = a_write(live.tx.written_again(true, 2, &live.numbers()));
    again.base = Version(3);
    assert_eq!(writer.write(&[again]).await.unwrap(), [Written::Lost]);
    assert_eq!(count(&fixture, "log WHERE version = 9").await, 1);
}
