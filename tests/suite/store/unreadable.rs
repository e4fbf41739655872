//! Rows that make no sense: one of them harms its own transaction, and no other.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_coordinator::store::{Claim, Error, Filter, Key, Unreadable, Written};
use unanimo_core::{ParticipantName, Version};

use super::rows::{edit, replace};
use super::{Fixture, a_write, create, execute, on_both_stores};
use crate::fixtures::{Live, new_gid, now};

on_both_stores!(
    l3_each_kind_of_row_that_makes_no_sense_harms_its_own_transaction,
    what_is_set_aside_is_asked_for_by_name_alone,
    l3_a_holder_that_cannot_be_read_stops_no_batch,
    l3_events_and_registrations_that_cannot_be_read_hide_no_others,
);

/// Damage to the bodies of one transaction's rows, and what is said of it.
type Damage = (fn(&mut Vec<u8>), &'static str);

/// Phase COMMITTING in a state, and the word of none.
const COMMITTING: &[u8] = &[2, 4, 1];
const PAUSED: &[u8] = b"\x02\x00\x06paused\x01";

const DAMAGES: &[Damage] = &[
    (|body| replace(body, b"\"prepared\"", b"\"maybe it\""), "transactions.progress"),
    (|body| replace(body, b"[{\"", b"xx\""), "transactions.progress"),
    (|body| replace(body, COMMITTING, PAUSED), "\"paused\""),
    (|body| replace(body, COMMITTING, &[2, 99, 1]), "word 99"),
    (|body| replace(body, COMMITTING, &[2, 5, 1]), "transactions.abort_cause"),
    (|body| body[0] = 99, "form 99"),
    (|body| body.truncate(body.len() - 1), "log.body"),
    (|body| body.push(77), "part 77"),
];

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
    for (damage, problem) in DAMAGES {
        let live = committing(&fixture).await;
        edit(&fixture.url, live.id(), damage).await;
        bad.push((live.id(), problem));
    }
    // A row that is gone.
    let live = committing(&fixture).await;
    let first = "DELETE FROM log WHERE follows = 0 AND tx_id IN (
        SELECT tx_id FROM log ORDER BY tx_id DESC LIMIT 1)";
    execute(&fixture.url, first).await;
    bad.push((live.id(), &"log.follows"));
    // Two adoptions: each tries all of them again.
    for round in 0..2 {
        let heir = create(store, "heir").await;
        store.incarnations().fence(owner, "a test").await.unwrap();
        owner = heir;
        let claimed = store.transactions().claim(heir, Claim::OfFenced(100)).await.unwrap();
        let ids: Vec<_> = claimed.records.iter().map(|record| record.identity.tx_id).collect();
        assert_eq!(ids, [good.id()], "round {round}");
        assert_eq!(claimed.unreadable.len(), bad.len());
        for (tx_id, problem) in &bad {
            let named = claimed.unreadable.iter().find(|unreadable| unreadable.tx_id == *tx_id);
            let Unreadable { problem: told, .. } = named.unwrap_or_else(|| panic!("{problem}"));
            assert!(told.contains(**problem), "{problem}: {told}");
            let error = store.transactions().find(&Key::Tx(*tx_id)).await.unwrap_err();
            assert!(matches!(error, Error::Unreadable(_)), "{problem}: {error:?}");
        }
        let filter = Filter { limit: 100, ..Filter::default() };
        let listed = store.transactions().list(&filter).await.unwrap().found;
        // The one without its first row is in no list, but in that of those that are set aside.
        assert_eq!(listed.len(), bad.len());
        assert!(listed.iter().flatten().any(|found| found.record.identity.tx_id == good.id()));
        let ids: Vec<_> = bad.iter().map(|(tx_id, ..)| *tx_id).collect();
        store.transactions().set_aside(heir, &ids, true).await.unwrap();
    }
}

async fn what_is_set_aside_is_asked_for_by_name_alone(fixture: Fixture) {
    let (store, me) = (&fixture.store, fixture.me);
    let live = committing(&fixture).await;
    edit(&fixture.url, live.id(), |body| replace(body, COMMITTING, PAUSED)).await;
    let attention = Filter { attention: true, limit: 10, ..Filter::default() };
    assert_eq!(store.transactions().list(&attention).await.unwrap().found, []);
    store.transactions().set_aside(me, &[live.id()], true).await.unwrap();
    assert_eq!(store.transactions().attention().await.unwrap().unreadable, 1);
    let listed = store.transactions().list(&attention).await.unwrap().found;
    assert!(matches!(&listed[..], [Err(unreadable)] if unreadable.tx_id == live.id()));
    assert_eq!(store.transactions().open_of(me).await.unwrap(), [], "no scan looks at it again");
    let due = Claim::Due { until: now(), limit: 10 };
    assert_eq!(store.transactions().claim(me, due).await.unwrap(), Default::default());

    edit(&fixture.url, live.id(), |body| replace(body, PAUSED, COMMITTING)).await;
    let claim = Claim::One(live.id(), me, Version(2));
    assert_eq!(store.transactions().claim(me, claim).await.unwrap().records.len(), 1);
    assert_eq!(store.transactions().attention().await.unwrap().unreadable, 0);
    assert_eq!(store.transactions().open_of(me).await.unwrap().len(), 1);
}

async fn l3_a_holder_that_cannot_be_read_stops_no_batch(fixture: Fixture) {
    let holder = committing(&fixture).await;
    edit(&fixture.url, holder.id(), |body| body[0] = 99).await;
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
    // The first of them.
    let kind = all.iter().find(|event| !event.kind.is_audit()).unwrap().kind.as_str();
    // A text has its length in front.
    let prefix = char::from(u8::try_from(kind.len()).unwrap());
    let (kind, wedding) =
        (format!("{prefix}{kind}"), format!("{prefix}{}", "w".repeat(kind.len())));
    let once = std::sync::atomic::AtomicBool::new(false);
    edit(&fixture.url, live.id(), |body| {
        let has = body.windows(kind.len()).any(|window| window == kind.as_bytes());
        if has && !once.swap(true, std::sync::atomic::Ordering::Relaxed) {
            replace(body, kind.as_bytes(), wedding.as_bytes());
        }
    })
    .await;
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
    let heir = create(store, "heir").await;
    store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let none = store.transactions().claim(heir, Claim::OfFenced(0)).await.unwrap();
    assert_eq!(none, Default::default(), "all are parked by now");
    let mut holder = PgConnection::connect(&fixture.url).await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    let hold = format!("SELECT 1 FROM parked WHERE tx_id = '{}' FOR UPDATE", held.id());
    holder.execute(AssertSqlSafe(hold)).await.unwrap();
    let claimed = store.transactions().claim(heir, Claim::OfFenced(100)).await.unwrap().records;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].identity.tx_id, free.id());
    let one = Claim::One(held.id(), fixture.me, Version(2));
    assert_eq!(store.transactions().claim(heir, one).await.unwrap(), Default::default());
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(store.transactions().claim(heir, one).await.unwrap().records.len(), 1);
}
