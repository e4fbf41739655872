//! Transactions that are open for longer than some seconds: whoever adopts them reads no history.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use unanimo_coordinator::store::{Claim, Error, Written};
use unanimo_core::{
    HeuristicKind, Incarnation, PhaseTwoAnswer, PhaseTwoOperation, Timestamp, TxId,
};
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::{Fixture, a_write, count, create, execute, on_both_stores};
use crate::fixtures::{Live, definition, new_gid, now};

on_both_stores!(
    l2_what_is_open_is_adopted_whether_it_is_parked_or_not,
    l2_what_is_written_over_the_row_of_a_dead_owner_is_adopted,
    l2_what_begins_by_a_clock_that_is_ahead_is_parked,
    l2_parking_goes_part_by_part_and_past_what_fails,
    l2_where_parking_fell_behind_nobody_looks_through_that_time,
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
    park_again(&other).await;
    let (rest, all) = adopted(&other, heir).await;
    all.unwrap();
    open.extend([later, of_other]);
    assert_eq!(found.len() + rest.len(), open.len(), "each once");
    assert_eq!(found.into_iter().chain(rest).collect::<BTreeSet<_>>(), open);
}

/// Makes the identifier of this time that comes before all others.
fn first_at(at: Timestamp) -> Uuid {
    Uuid::from_u128(u128::from(at.0) << 80)
}

/// Fills a part with rows of what has ended, one in each millisecond after this time.
async fn fill_a_part(fixture: &Fixture, after: Timestamp) {
    let (id, nothing) = match fixture.url.starts_with("sqlite:") {
        true => {
            (format!("unhex(printf('%012x', {} + n) || '00000000000000000000')", after.0), "x''")
        }
        false => {
            (format!("(lpad(to_hex({} + n), 12, '0') || repeat('0', 20))::uuid", after.0), "''")
        }
    };
    let fill = format!(
        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {PART})
         INSERT INTO log (tx_id, follows, version, owner, write_id, kind, body)
         SELECT {id}, 0, 1, {}, {id}, 5, {nothing} FROM number",
        fixture.me.0
    );
    execute(&fixture.url, &fill).await;
}

async fn park_again(fixture: &Fixture) {
    let again = match fixture.url.starts_with("sqlite:") {
        true => "DROP TRIGGER refuse",
        false => "DROP TRIGGER refuse ON parked",
    };
    execute(&fixture.url, again).await;
}

/// A transaction that begins while the marks are behind is parked at once: the range stays as short as it was.
async fn l2_where_parking_fell_behind_nobody_looks_through_that_time(fixture: Fixture) {
    let parked = async || count(&fixture, "parked").await;
    let hour_ago = now().0 - 3_600_000;
    let at = |seconds: u64| Timestamp(hour_ago + seconds * 1_000);
    let mark = |at: Timestamp| literal(&fixture, first_at(at));
    let (before, until) = (mark(at(0)), mark(at(65)));
    let behind = format!(
        "UPDATE fences SET parks_before = {before}, parked_before = {before}, parks_from = {until}"
    );
    execute(&fixture.url, &behind).await;
    let mut open = BTreeSet::new();
    open.insert(begin(&fixture, at(1)).await.id());
    fill_a_part(&fixture, at(2)).await;
    let last = begin(&fixture, at(30)).await.id();
    open.insert(last);
    assert_eq!(parked().await, 0, "they are nowhere but in the log");
    open.insert(begin(&fixture, at(1_800)).await.id());
    open.insert(begin(&fixture, now()).await.id());
    assert_eq!(parked().await, 2);
    let listed = async || {
        let listed = fixture.store.transactions().open_of(fixture.me).await.unwrap();
        listed.into_iter().map(|(tx_id, _)| tx_id).collect::<BTreeSet<_>>()
    };
    refuse_to_park(&fixture, last).await;
    for _ in 0..2 {
        assert_eq!(listed().await, open);
        let noted = format!("fences WHERE parked_before > {}", mark(at(1)));
        assert_eq!(count(&fixture, &noted).await, 1, "the first part is parked");
        let short = format!("fences WHERE parks_before <= {until} AND parks_from = {until}");
        assert_eq!(count(&fixture, &short).await, 1, "nobody looks at what was parked at once");
    }
    park_again(&fixture).await;
    assert_eq!(listed().await, open);
    assert_eq!(parked().await, 4);
    let present = format!(
        "fences WHERE parked_before = parks_before AND parked_before > {} AND parks_from > {}",
        mark(some_time_ago()),
        mark(now())
    );
    assert_eq!(count(&fixture, &present).await, 1, "the marks come to the present at once");
    open.insert(begin(&fixture, now()).await.id());
    assert_eq!(parked().await, 4, "it is young");
    assert_eq!(listed().await, open);
    let heir = create(&fixture.store, "heir").await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let (found, all) = adopted(&fixture, heir).await;
    all.unwrap();
    assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (5, open));
}

/// A run of parking that is cut off, as by the limit of an answer's time, keeps what it has come to.
#[tokio::test]
async fn l1_parking_that_is_cut_off_goes_on_where_it_was() {
    let fixture = Fixture::postgres().await;
    set_marks_back(&fixture).await;
    let start = some_time_ago().0;
    let at = |seconds: u64| Timestamp(start + seconds * 1_000);
    let first = begin(&fixture, at(0)).await.id();
    fill_a_part(&fixture, at(10)).await;
    let last = begin(&fixture, at(30)).await.id();
    let cut_off = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON parked FOR EACH ROW
             WHEN (NEW.tx_id = '{}') EXECUTE FUNCTION refuse()",
        last.0
    );
    execute(&fixture.url, &cut_off).await;
    fixture.store.transactions().open_of(fixture.me).await.unwrap_err();
    let noted = format!("fences WHERE parked_before > '{}'", first.0);
    assert_eq!(count(&fixture, &noted).await, 1, "the first part is not looked at again");
    park_again(&fixture).await;
    let listed = fixture.store.transactions().open_of(fixture.me).await.unwrap();
    let listed: BTreeSet<TxId> = listed.into_iter().map(|(tx_id, _)| tx_id).collect();
    assert_eq!(listed, BTreeSet::from([first, last]));
    assert_eq!(count(&fixture, "parked").await, 2);
}

/// The wait of a commit would hold the fence, which batches lock.
#[tokio::test]
async fn l5_marks_are_raised_without_a_wait_for_the_disk_or_a_standby() {
    let fixture = Fixture::postgres().await;
    set_marks_back(&fixture).await;
    let open = begin(&fixture, some_time_ago()).await.id();
    let note = "CREATE TABLE seen (number bigserial, written text, commits text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO seen (written, commits)
                VALUES (TG_TABLE_NAME, current_setting('synchronous_commit')); RETURN NULL; END $$;
        CREATE TRIGGER note AFTER UPDATE ON fences FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER note AFTER INSERT ON parked FOR EACH ROW EXECUTE FUNCTION note()";
    execute(&fixture.url, note).await;
    let listed = fixture.store.transactions().open_of(fixture.me).await.unwrap();
    assert_eq!(listed.into_iter().map(|(tx_id, _)| tx_id).collect::<Vec<_>>(), [open]);
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let seen: Vec<(String, String)> =
        sqlx::query_as("SELECT written, commits FROM seen ORDER BY number")
            .fetch_all(&mut raw)
            .await
            .unwrap();
    let seen: Vec<_> =
        seen.iter().map(|(written, commits)| (written.as_str(), commits.as_str())).collect();
    assert_eq!(seen, [("fences", "off"), ("parked", "on"), ("fences", "off")]);
}

/// Fences an incarnation with the next part that is parked, so that whatever its process does after that is late.
async fn fence_with_a_part(fixture: &Fixture, incarnation: Incarnation) {
    let fence = format!(
        "CREATE OR REPLACE FUNCTION fence() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE fences SET fenced = true WHERE incarnation = {}; RETURN NULL; END $$;
         CREATE OR REPLACE TRIGGER fence AFTER INSERT ON parked FOR EACH STATEMENT EXECUTE FUNCTION fence()",
        incarnation.0
    );
    execute(&fixture.url, &fence).await;
}

#[tokio::test]
async fn s5_a_fenced_incarnation_parks_nothing() {
    let fixture = Fixture::postgres().await;
    set_marks_back(&fixture).await;
    let start = some_time_ago().0;
    let at = |seconds: u64| Timestamp(start + seconds * 1_000);
    let first = begin(&fixture, at(0)).await.id();
    fill_a_part(&fixture, at(10)).await;
    let last = begin(&fixture, at(30)).await.id();
    let ended = first_at(Timestamp(at(10).0 + 1));
    let park_ended =
        format!("INSERT INTO parked (tx_id, owner) VALUES ('{ended}', {})", fixture.me.0);
    execute(&fixture.url, &park_ended).await;
    fence_with_a_part(&fixture, fixture.me).await;
    fixture.store.transactions().open_of(fixture.me).await.unwrap();
    let is_parked =
        async |id: Uuid| count(&fixture, &format!("parked WHERE tx_id = '{id}'")).await == 1;
    assert!(is_parked(first.0).await, "it had the right to do that");
    assert!(!is_parked(last.0).await, "its statement comes late");
    assert!(is_parked(ended).await, "so does this one");

    let late = create(&fixture.store, "late").await;
    fence_with_a_part(&fixture, late).await;
    fixture.store.transactions().claim(late, Claim::OfFenced(10)).await.unwrap();
    let untouched = format!(
        "fences WHERE incarnation = {} AND parked_before = '{}' AND NOT all_parked",
        fixture.me.0,
        Uuid::nil()
    );
    assert_eq!(count(&fixture, &untouched).await, 1, "it writes nothing of another one either");
    assert!(!is_parked(last.0).await, "nor parks for it");

    execute(&fixture.url, "DROP TRIGGER fence ON parked").await;
    let heir = create(&fixture.store, "heir").await;
    let (found, all) = adopted(&fixture, heir).await;
    all.unwrap();
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([first, last]));
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

/// Beside a snapshot that is held open the server keeps each version of an incarnation's row, which many look at: progress is
/// noted in it now and then, and not for each part.
#[tokio::test]
async fn the_fences_row_is_written_seldom() {
    const PARTS: i64 = 10;
    let fixture = Fixture::postgres().await;
    set_marks_back(&fixture).await;
    let rows = PARTS * PART as i64;
    let history = format!(
        "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, body)
         SELECT (lpad(to_hex({} + n), 12, '0') || repeat('0', 20))::uuid, 0, 1, {}, gen_random_uuid(), 5, 0, 0, ''
         FROM generate_series(1, {rows}) AS n",
        some_time_ago().0 - rows as u64,
        fixture.me.0,
    );
    execute(&fixture.url, &history).await;
    let version = async || {
        let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
        let of_row = "SELECT parked_before::text, n_tup_upd FROM fences, pg_stat_user_tables WHERE relname = 'fences'";
        sqlx::query_as::<_, (String, i64)>(of_row).fetch_one(&mut raw).await.unwrap()
    };
    let before = version().await;
    let started = std::time::Instant::now();
    assert_eq!(fixture.store.transactions().open_of(fixture.me).await.unwrap(), []);
    let took = started.elapsed();
    // Sessions tell what they have written when they end.
    fixture.store.close().await;
    let after = until("the session to end", async || {
        let after = version().await;
        (after.1 > before.1).then_some(after)
    })
    .await;
    assert!(after.0 > before.0, "all of it is parked");
    let seldom = 4 + took.as_secs() as i64;
    assert!(after.1 - before.1 <= seldom, "{} versions in {took:?}", after.1 - before.1);
}
