//! Transactions that are open for longer than some seconds: whoever adopts them reads no history.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use unanimo_coordinator::store::{Claim, Error, Written};
use unanimo_core::{
    HeuristicKind, Incarnation, PhaseTwoAnswer, PhaseTwoOperation, Timestamp, TxId,
};
use uuid::Uuid;

use super::{Fixture, a_write, count, create, execute, on_both_stores};
use crate::fixtures::{Live, definition, new_gid, now};

on_both_stores!(
    l2_what_is_open_is_adopted_whether_it_is_parked_or_not,
    l2_what_is_written_over_the_row_of_a_dead_owner_is_adopted,
    l2_what_begins_by_a_clock_that_is_ahead_is_parked,
    l2_parking_goes_part_by_part_and_past_what_fails,
    what_ends_is_parked_no_longer,
);

/// Rows that are parked at once.
const PART: usize = 4_096;

/// A time that is older than those before which an incarnation parks.
fn some_time_ago() -> Timestamp {
    Timestamp(now().0 - Duration::from_secs(60).as_millis() as u64)
}

fn literal(fixture: &Fixture, id: Uuid) -> String {
    match fixture.url.starts_with("sqlite:") {
        true => format!("x'{}'", id.simple()),
        false => format!("'{id}'"),
    }
}

/// Sets incarnations' marks back, as if they had been created before all.
async fn set_marks_back(fixture: &Fixture) {
    let nil = literal(fixture, Uuid::nil());
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

/// Returns what an incarnation adopts until there is no more, or the search for it fails.
async fn adopted(fixture: &Fixture, heir: Incarnation) -> (Vec<TxId>, Result<(), Error>) {
    let mut adopted = Vec::new();
    loop {
        match fixture.store.transactions().claim(heir, Claim::OfFenced(1_000)).await {
            Ok(claimed) if claimed.records.is_empty() => return (adopted, Ok(())),
            Ok(claimed) => {
                adopted.extend(claimed.records.iter().map(|record| record.identity.tx_id));
            }
            Err(error) => return (adopted, Err(error)),
        }
    }
}

/// A database that went back has the row of an owner that is fenced; whoever knows better writes over it, and dies.
/// So does the next one.
async fn l2_what_is_written_over_the_row_of_a_dead_owner_is_adopted(mut fixture: Fixture) {
    set_marks_back(&fixture).await;
    let mut live = begin(&fixture, some_time_ago()).await;
    let commit = live.commit();
    let mut again = commit.clone();
    again.version = commit.version.next();
    again.outputs.clear();
    assert_eq!(count(&fixture, "parked").await, 0, "nobody has come to it");
    for transition in [commit, again] {
        let former = fixture.me;
        fixture.store.incarnations().fence(former, "a test").await.unwrap();
        fixture.me = create(&fixture.store, "next").await;
        let mut write = a_write(transition);
        write.former = Some(former);
        let written = fixture.writer().await.write(&[write]).await.unwrap();
        assert_eq!(written, [Written::Applied]);
        let open = fixture.store.transactions().open_of(fixture.me).await.unwrap();
        assert_eq!(open.iter().map(|(tx_id, _)| *tx_id).collect::<Vec<_>>(), [live.id()]);
    }
    let heir = create(&fixture.store, "heir").await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let (found, all) = adopted(&fixture, heir).await;
    all.unwrap();
    assert_eq!(found, [live.id()]);
}

/// Nobody looks at all identifiers of a day, because a clock was a day ahead for a moment.
async fn l2_what_begins_by_a_clock_that_is_ahead_is_parked(fixture: Fixture) {
    let parked = async || count(&fixture, "parked").await;
    let mut open = BTreeSet::new();
    let seconds = |seconds: u64| Timestamp(now().0 + seconds * 1_000);
    open.insert(begin(&fixture, seconds(20)).await.id());
    assert_eq!(parked().await, 0, "clocks differ by some seconds");
    open.insert(begin(&fixture, seconds(86_400)).await.id());
    assert_eq!(parked().await, 1);
    let mut ended = begin(&fixture, seconds(86_400)).await;
    end(&fixture, &mut ended).await;
    // The clock is right again.
    open.insert(begin(&fixture, now()).await.id());
    assert_eq!(parked().await, 1);
    let listed = fixture.store.transactions().open_of(fixture.me).await.unwrap();
    assert_eq!(listed.into_iter().map(|(tx_id, _)| tx_id).collect::<BTreeSet<_>>(), open);
    let heir = create(&fixture.store, "heir").await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let (found, all) = adopted(&fixture, heir).await;
    all.unwrap();
    assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (3, open));
}

/// Makes each row of `parked` fail that has this identifier.
async fn refuse_to_park(fixture: &Fixture, tx_id: TxId) {
    let id = literal(fixture, tx_id.0);
    let refuse = match fixture.url.starts_with("sqlite:") {
        true => format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON parked WHEN NEW.tx_id = {id}
             BEGIN SELECT RAISE(ABORT, 'it is refused'); END"
        ),
        false => format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'it is refused'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON parked FOR EACH ROW
                 WHEN (NEW.tx_id = {id}) EXECUTE FUNCTION refuse()"
        ),
    };
    execute(&fixture.url, &refuse).await;
}

async fn l2_parking_goes_part_by_part_and_past_what_fails(fixture: Fixture) {
    set_marks_back(&fixture).await;
    let mut open = BTreeSet::new();
    let mut writer = fixture.writer().await;
    while open.len() <= PART {
        let begun = (0..1_024).map(|_| {
            let (live, begin) = Live::begin_with(definition(&new_gid()), some_time_ago());
            open.insert(live.id());
            a_write(begin)
        });
        let written = writer.write(&begun.collect::<Vec<_>>()).await.unwrap();
        assert!(written.iter().all(|written| *written == Written::Applied));
    }
    drop(writer);
    let last = *open.last().unwrap();
    refuse_to_park(&fixture, last).await;
    // What is open is found all the same. The range does not grow meanwhile.
    for round in 0..2 {
        let listed = fixture.store.transactions().open_of(fixture.me).await.unwrap();
        assert_eq!(listed.into_iter().map(|(tx_id, _)| tx_id).collect::<BTreeSet<_>>(), open);
        let marks = "fences WHERE parked_before < parks_before";
        assert_eq!(count(&fixture, marks).await, 1, "not all of it is parked");
        if round == 0 {
            execute(&fixture.url, "CREATE TABLE seen AS SELECT parks_before FROM fences").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let raised = "fences WHERE parks_before NOT IN (SELECT parks_before FROM seen)";
        assert_eq!(count(&fixture, raised).await, 0, "the range does not grow");
    }
    let later = begin(&fixture, now()).await.id();
    let other = Fixture { me: create(&fixture.store, "two").await, ..fixture };
    set_marks_back(&other).await;
    let of_other = begin(&other, some_time_ago()).await.id();
    let heir = create(&other.store, "heir").await;
    for dead in [fixture.me, other.me] {
        other.store.incarnations().fence(dead, "a test").await.unwrap();
    }
    let (found, failed) = adopted(&other, heir).await;
    let found: BTreeSet<TxId> = found.into_iter().collect();
    assert_eq!(found.len(), PART + 1, "the first part, and the other one's");
    assert!(found.contains(&of_other) && !found.contains(&last));
    assert!(failed.is_err(), "whoever asks hears of it");
    let nil = literal(&other, Uuid::nil());
    let marks = format!("fences WHERE incarnation = {} AND parked_before > {nil}", fixture.me.0);
    assert_eq!(count(&other, &marks).await, 1, "the first part is not looked at again");
    execute(
        &other.url,
        match other.url.starts_with("sqlite:") {
            true => "DROP TRIGGER refuse",
            false => "DROP TRIGGER refuse ON parked",
        },
    )
    .await;
    let (rest, all) = adopted(&other, heir).await;
    all.unwrap();
    open.extend([later, of_other]);
    assert_eq!(found.len() + rest.len(), open.len(), "each once");
    assert_eq!(found.into_iter().chain(rest).collect::<BTreeSet<_>>(), open);
}

/// A batch holds the fence for as long as its commit takes.
#[tokio::test]
async fn l2_whoever_meets_a_long_batch_finds_what_is_open() {
    let fixture = Fixture::postgres().await;
    set_marks_back(&fixture).await;
    let open = begin(&fixture, some_time_ago()).await.id();
    let mut batch = PgConnection::connect(&fixture.url).await.unwrap();
    batch.execute("BEGIN; SELECT 1 FROM fences FOR SHARE").await.unwrap();
    let listed = async || {
        let listed = fixture.store.transactions().open_of(fixture.me).await.unwrap();
        listed.into_iter().map(|(tx_id, _)| tx_id).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [open]);
    assert_eq!(count(&fixture, "parked").await, 0, "the mark is not raised past the batch");
    batch.execute("ROLLBACK").await.unwrap();
    assert_eq!(listed().await, [open]);
    assert_eq!(count(&fixture, "parked").await, 1);
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
