//! Rows that make no sense: one of them harms its own transaction, and no other.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_coordinator::store::{Claim, Error, Filter, Key, Unreadable, Written};
use unanimo_core::{ParticipantName, TxId, Version};

use super::{Fixture, a_write, create, execute, on_both_stores};
use crate::fixtures::{Live, new_gid, now};

on_both_stores!(
    l3_each_kind_of_row_that_makes_no_sense_harms_its_own_transaction,
    what_is_set_aside_is_asked_for_by_name_alone,
    l3_a_holder_that_cannot_be_read_stops_no_batch,
    l3_events_and_registrations_that_cannot_be_read_hide_no_others,
);

/// Damage to one transaction, and what is said of it.
const DAMAGES: &[(&str, &str)] = &[
    ("UPDATE transactions SET progress = '[{\"vote\": \"maybe\"}]'", "transactions.progress"),
    ("UPDATE transactions SET progress = 'garbage'", "transactions.progress"),
    ("UPDATE transactions SET progress = '[]'", "2 are stored, and not 0"),
    ("UPDATE transactions SET phase = 'paused'", "\"paused\""),
    (
        "UPDATE transactions SET phase = 'aborting', abort_cause = 'mood', decided_ms = 1",
        "\"mood\"",
    ),
    ("UPDATE transactions SET phase = 'committing', decided_ms = NULL", "transactions.decided_ms"),
    ("UPDATE transactions SET heuristic = 'perhaps'", "transactions.heuristic"),
    ("UPDATE transactions SET mode = 'ballet'", "transactions.mode"),
    ("UPDATE transactions SET drive = 'parked'", "transactions.drive"),
    ("UPDATE transactions SET digest = $digest", "transactions.digest"),
    ("UPDATE transactions SET metadata = '['", "transactions.metadata"),
    ("UPDATE transactions SET trace = '7'", "transactions.trace"),
    ("UPDATE transactions SET begun_with = '{\"locks\": 7}'", "transactions.begun_with"),
    ("UPDATE transactions SET more = 'x'", "transactions.more"),
    ("UPDATE transactions SET gid = 'a b'", "transactions.gid"),
    ("UPDATE branches SET mode = 'ballet'", "branches.mode"),
    ("UPDATE branches SET step = '{'", "branches.step"),
    ("UPDATE branches SET enlisted_by = 'fate'", "branches.enlisted_by"),
    ("UPDATE branches SET participant = 'a b'", "branches.participant"),
    ("DELETE FROM branches", "0 are stored, and not 2"),
    ("UPDATE outputs SET number = -1", "outputs.number"),
];

async fn damage(fixture: &Fixture, of: TxId, statement: &str) {
    let hex = of.to_string().replace('-', "");
    let (id, digest) = match fixture.url.starts_with("sqlite") {
        true => (format!("x'{hex}'"), "x'00'"),
        false => (format!("'{of}'"), "'\\x00'"),
    };
    let mut sql = statement.replace("$digest", digest);
    if statement.contains("outputs") {
        sql.push_str(&format!(" WHERE tx_id = {id} AND number = 1"));
    } else {
        sql.push_str(&format!(" WHERE tx_id = {id}"));
    }
    execute(&fixture.url, &sql).await;
}

/// A transaction that is committing, and has outputs.
async fn committing(fixture: &Fixture) -> Live {
    let (mut live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    fixture.write([live.commit()]).await;
    live
}

async fn l3_each_kind_of_row_that_makes_no_sense_harms_its_own_transaction(fixture: Fixture) {
    let (store, mut owner) = (&fixture.store, fixture.me);
    let good = committing(&fixture).await;
    let mut bad = Vec::new();
    for (statement, problem) in DAMAGES {
        let live = committing(&fixture).await;
        damage(&fixture, live.id(), statement).await;
        bad.push((live.id(), statement, problem));
    }
    // Two adoptions: each tries all of them again.
    for round in 0..2 {
        let heir = create(store, "heir").await;
        store.incarnations().fence(owner, "a test").await.unwrap();
        owner = heir;
        let claimed = store.transactions().claim(heir, Claim::OfFenced(100)).await.unwrap();
        let ids: Vec<_> = claimed.records.iter().map(|record| record.identity.tx_id).collect();
        assert_eq!(ids, [good.id()], "round {round}");
        assert_eq!(claimed.unreadable.len(), bad.len());
        for (tx_id, statement, problem) in &bad {
            let named = claimed.unreadable.iter().find(|unreadable| unreadable.tx_id == *tx_id);
            let Unreadable { problem: told, .. } = named.unwrap_or_else(|| panic!("{statement}"));
            assert!(told.contains(*problem), "{statement}: {told}");
            let error = store.transactions().find(&Key::Tx(*tx_id)).await.unwrap_err();
            assert!(matches!(error, Error::Unreadable(_)), "{statement}: {error:?}");
        }
        let filter = Filter { limit: 100, ..Filter::default() };
        let listed = store.transactions().list(&filter).await.unwrap();
        assert_eq!(listed.len(), bad.len() + 1);
        assert!(listed.iter().flatten().any(|found| found.record.identity.tx_id == good.id()));
        let ids: Vec<_> = bad.iter().map(|(tx_id, ..)| *tx_id).collect();
        store.transactions().set_aside(heir, &ids, true).await.unwrap();
    }
}

async fn what_is_set_aside_is_asked_for_by_name_alone(fixture: Fixture) {
    let (store, me) = (&fixture.store, fixture.me);
    let live = committing(&fixture).await;
    let name = "UPDATE transactions SET phase = 'paused'";
    damage(&fixture, live.id(), name).await;
    let attention = Filter { attention: true, limit: 10, ..Filter::default() };
    assert_eq!(store.transactions().list(&attention).await.unwrap(), []);
    store.transactions().set_aside(me, &[live.id()], true).await.unwrap();
    assert_eq!(store.transactions().attention().await.unwrap().unreadable, 1);
    let listed = store.transactions().list(&attention).await.unwrap();
    assert!(matches!(&listed[..], [Err(unreadable)] if unreadable.tx_id == live.id()));
    assert_eq!(store.transactions().open_of(me).await.unwrap(), [], "no scan looks at it again");
    let due = Claim::Due { until: now(), limit: 10 };
    assert_eq!(store.transactions().claim(me, due).await.unwrap(), Default::default());

    damage(&fixture, live.id(), "UPDATE transactions SET phase = 'committing'").await;
    let claim = Claim::One(live.id(), me, Version(2));
    assert_eq!(store.transactions().claim(me, claim).await.unwrap().records.len(), 1);
    assert_eq!(store.transactions().attention().await.unwrap().unreadable, 0);
    assert_eq!(store.transactions().open_of(me).await.unwrap().len(), 1);
}

async fn l3_a_holder_that_cannot_be_read_stops_no_batch(fixture: Fixture) {
    let holder = committing(&fixture).await;
    damage(&fixture, holder.id(), "UPDATE transactions SET digest = $digest").await;
    let gid = holder.tx.identity().gid.clone();
    let (_, again) = Live::begin(&gid);
    let (_, other) = Live::begin(&new_gid());
    let mut batch = vec![a_write(again), a_write(other)];
    let mut writer = fixture.writer().await;
    let mut written = writer.write(&batch).await.unwrap();
    if written == [Written::Busy, Written::Applied] {
        // Left for later beside a new one.
        batch.truncate(1);
        written = writer.write(&batch).await.unwrap();
        written.push(Written::Applied);
    }
    let [Written::Refused(why), Written::Applied] = &written[..] else { panic!("{written:?}") };
    assert!(why.contains(&holder.id().to_string()), "{why}");
}

async fn l3_events_and_registrations_that_cannot_be_read_hide_no_others(fixture: Fixture) {
    use unanimo_core::{HeuristicKind, PhaseTwoAnswer, PhaseTwoOperation};
    let mut live = committing(&fixture).await;
    let hazard = PhaseTwoAnswer::Heuristic { kind: HeuristicKind::Hazard, note: "who".into() };
    fixture.write(live.phase_two(PhaseTwoOperation::Commit, &hazard)).await;
    let all = fixture.store.transactions().events(live.id()).await.unwrap();
    assert!(all.len() > 1, "{all:?}");
    let one = "UPDATE events SET kind = 'wedding' WHERE branch = 1";
    execute(&fixture.url, one).await;
    let left = fixture.store.transactions().events(live.id()).await.unwrap();
    assert_eq!(left.len(), all.len() - 1);

    let (endpoints, me) = (fixture.store.endpoints(), fixture.me);
    for name in ["bank", "shop"] {
        let name = ParticipantName::new(name).unwrap();
        endpoints.register(me, &name, "http://a", "life", now()).await.unwrap();
    }
    execute(&fixture.url, "UPDATE participants SET name = 'a b' WHERE name = 'bank'").await;
    let listed = endpoints.list().await.unwrap();
    let names: Vec<_> = listed.iter().map(|listed| listed.name.as_str()).collect();
    assert_eq!(names, ["shop"]);
}

/// L3: a row that somebody holds is left alone, by whoever adopts all and by whoever wants it.
#[tokio::test]
async fn l3_a_locked_row_is_left_out_of_an_adoption() {
    let fixture = Fixture::postgres().await;
    let store = &fixture.store;
    let (held, free) = (committing(&fixture).await, committing(&fixture).await);
    let mut holder = PgConnection::connect(&fixture.url).await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    let hold = format!("SELECT 1 FROM transactions WHERE tx_id = '{}' FOR UPDATE", held.id());
    holder.execute(AssertSqlSafe(hold)).await.unwrap();
    let heir = create(store, "heir").await;
    store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let claimed = store.transactions().claim(heir, Claim::OfFenced(100)).await.unwrap().records;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].identity.tx_id, free.id());
    let one = Claim::One(held.id(), fixture.me, Version(2));
    assert_eq!(store.transactions().claim(heir, one).await.unwrap(), Default::default());
    let both = [held.id(), free.id()];
    store.transactions().set_aside(heir, &both, true).await.unwrap();
    assert_eq!(store.transactions().attention().await.unwrap().unreadable, 1);
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(store.transactions().claim(heir, one).await.unwrap().records.len(), 1);
}
