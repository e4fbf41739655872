//! Rows that make no sense: one of them harms its own transaction, and no other.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_coordinator::store::{Claim, Error, Filter, Key, Unreadable, Written};
use unanimo_core::{ParticipantName, TxId, Version};

use super::rows::{edit, edit_data, replace, replace_identity, respell};
use super::{Fixture, a_write, create, execute, on_both_stores};
use crate::fixtures::{Live, new_gid, now};

on_both_stores!(
    l3_each_kind_of_row_that_makes_no_sense_harms_its_own_transaction,
    what_is_set_aside_is_asked_for_by_name_alone,
    l3_a_holder_that_cannot_be_read_stops_no_batch,
    l3_events_and_registrations_that_cannot_be_read_hide_no_others,
);

/// Damage to one transaction's rows.
enum Damage {
    Body(fn(&mut Vec<u8>)),
    Data(fn(&mut Vec<u8>)),
    Both(fn(&mut Vec<u8>), fn(&mut Vec<u8>)),
    /// Its first row is gone.
    Torn,
}

use Damage::{Body, Both, Data, Torn};

impl Damage {
    async fn make(&self, fixture: &Fixture, of: TxId) {
        let url = &fixture.url;
        match self {
            Body(change) => edit(url, of, change).await,
            Data(change) => edit_data(url, of, change).await,
            Both(body, data) => {
                edit(url, of, body).await;
                edit_data(url, of, data).await;
            }
            Torn => {
                let id = match url.starts_with("sqlite:") {
                    true => format!("x'{}'", of.0.simple()),
                    false => format!("'{of}'"),
                };
                execute(url, &format!("DELETE FROM log WHERE follows = 0 AND tx_id = {id}")).await;
            }
        }
    }
}

/// Phase COMMITTING in a state, and the word of none.
const COMMITTING: &[u8] = &[6, 4, 1];
const PAUSED: &[u8] = b"\x06\x00\x06paused\x01";
/// Phase COMMITTING since a time, which has six bytes.
const SINCE: &[u8] = &[6, 4, 1, 0, 1];
/// Bytes before the branches' progress, behind the begin of the state: times, heuristic outcome and flags.
const BEFORE_PROGRESS: usize = 14;
/// A branch behind its participant: action, who enlisted it, mode, step.
const BRANCH: &[u8] = b"\x05debit\x01\x03\x00";

/// Replaces so many bytes behind the time of the decision.
fn behind_decision(body: &mut Vec<u8>, from: usize, len: usize, to: &[u8]) {
    let found = body.windows(SINCE.len()).position(|window| window == SINCE);
    let Some(place) = found.map(|place| place + from) else { return };
    body.splice(place..place + len, to.iter().copied());
}

/// Replaces the branches' progress by one of no branches, and what is behind it.
fn without_progress(body: &mut Vec<u8>, to: &[u8]) {
    let found = body.windows(SINCE.len()).position(|window| window == SINCE);
    let Some(place) = found.map(|place| place + BEFORE_PROGRESS) else { return };
    let end = place + 1 + usize::from(body[place]);
    body.splice(place..=end, [1, 1].iter().chain(to).copied());
}

/// Replaces the digest by one that is too short.
fn cut_digest(body: &mut Vec<u8>) {
    replace_identity(body, 2, 33, &[1, 0]);
}

/// Damage, and what is said of it.
const DAMAGES: &[(Damage, &str)] = &[
    (Body(|body| behind_decision(body, BEFORE_PROGRESS + 2, 1, &[99])), "transactions.progress"),
    (Body(|body| behind_decision(body, BEFORE_PROGRESS + 1, 1, &[9])), "\"form 9\""),
    (Body(|body| without_progress(body, &[1])), "2 are stored, and not 0"),
    (Body(|body| replace(body, COMMITTING, PAUSED)), "\"paused\""),
    (Body(|body| replace(body, COMMITTING, &[6, 99, 1])), "word 99"),
    (Body(|body| replace(body, COMMITTING, b"\x06\x05\x00\x04mood")), "\"mood\""),
    (Body(|body| replace(body, COMMITTING, &[6, 5, 1])), "transactions.abort_cause"),
    (Body(|body| behind_decision(body, 4, 7, &[0])), "transactions.decided_ms"),
    (Body(|body| behind_decision(body, 12, 1, b"\x00\x07perhaps")), "transactions.heuristic"),
    (Body(|body| behind_decision(body, BEFORE_PROGRESS - 1, 1, &[4])), "flags 4"),
    (Body(|body| replace_identity(body, 0, 1, b"\x00\x06ballet")), "transactions.mode"),
    (Body(|body| replace_identity(body, 1, 1, b"\x00\x06parked")), "transactions.drive"),
    (Body(cut_digest), "transactions.digest"),
    (Body(|body| respell(body, b"{\"tenant", Some("["), &[])), "transactions.metadata"),
    (Body(|body| respell(body, b"{\"traceparent", Some("7"), &[])), "transactions.trace"),
    (
        Body(|body| respell(body, b"{\"traceparent", None, b"\x00\x0c{\"locks\": 7}")),
        "transactions.begun_with",
    ),
    (Body(|body| without_progress(body, b"\x00\x01x")), "transactions.more"),
    (
        Body(|body| {
            let len = usize::from(body[2]);
            if body[1] == 1 {
                body.splice(2..3 + len, *b"\x03a b");
            }
        }),
        "transactions.gid",
    ),
    (Body(|body| replace(body, BRANCH, b"\x05debit\x01\x00\x06ballet\x00")), "branches.mode"),
    (Body(|body| replace(body, BRANCH, b"\x05debit\x01\x03\x01{")), "branches.step"),
    (Body(|body| replace(body, BRANCH, b"\x05debit\x00\x04fate\x03\x00")), "branches.enlisted_by"),
    (Body(|body| replace(body, b"\x04bank", b"\x03a b")), "branches.participant"),
    (
        Both(
            |body| {
                replace(body, b"\x03\x02\x01a\x04bank\x05debit\x01\x03\x00", b"");
                replace(body, b"\x03\x04\x01b\x04bank\x05debit\x01\x03\x00", b"");
            },
            |data| data.truncate(if data[1] == 1 { 1 } else { data.len() }),
        ),
        "0 are stored, and not 2",
    ),
    (Data(|data| replace(data, b"\x02\x02\x06text/a", b"\x02\x01\x06text/a")), "outputs.number"),
    (Body(|body| body[0] = 99), "form 99"),
    (Body(|body| body.truncate(body.len() - 1)), "log.body"),
    (Body(|body| body.push(77)), "part 77"),
    (Data(|data| data[0] = 99), "form 99"),
    (Data(|data| data.truncate(data.len() - 1)), "log.data"),
    (Data(|data| data.push(77)), "part 77"),
    (Data(|data| replace(data, &[1, 1, 2], &[1, 1, 18])), "a payload of branch 9"),
    (Torn, "log.follows"),
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
        damage.make(&fixture, live.id()).await;
        bad.push((live.id(), problem));
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
    for damage in [Body(|body| body[0] = 99), Body(cut_digest)] {
        let holder = committing(&fixture).await;
        damage.make(&fixture, holder.id()).await;
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
    // Setting it aside waits for nobody.
    let both = [held.id(), free.id()];
    store.transactions().set_aside(heir, &both, true).await.unwrap();
    assert_eq!(store.transactions().attention().await.unwrap().unreadable, 2);
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(store.transactions().claim(heir, one).await.unwrap().records.len(), 1);
    assert_eq!(store.transactions().attention().await.unwrap().unreadable, 1, "it is back");
}

/// L3: SQLite keeps bytes of any length in a column. Names that are none hide no others.
#[tokio::test]
async fn l3_names_that_are_none_hide_no_others() {
    let fixture = Fixture::sqlite().await;
    let (store, me) = (&fixture.store, fixture.me);
    let (good, aside) = (committing(&fixture).await, committing(&fixture).await);
    let transactions = store.transactions();
    edit(&fixture.url, aside.id(), |body| replace(body, COMMITTING, PAUSED)).await;
    transactions.set_aside(me, &[aside.id()], true).await.unwrap();
    // Of the same millisecond, and cut.
    let short = &good.id().0.simple().to_string()[..28];
    for row in [
        "INTO log SELECT x'SHORT', follows, version, owner, randomblob(16), kind, created_ms, ended_ms, stripped_ms, body, \
         data, history FROM log WHERE tx_id = x'GOOD'",
        "INTO aside VALUES (x'SHORT', 1)",
        "INTO parked (tx_id, owner, reasons) VALUES (x'SHORT', OWNER, 1)",
    ] {
        let row = row.replace("SHORT", short).replace("OWNER", &me.0.to_string());
        let row = row.replace("GOOD", &good.id().0.simple().to_string());
        execute(&fixture.url, &format!("INSERT {row}")).await;
    }
    let is_open = async |owner| {
        let open = transactions.open_of(owner).await.unwrap();
        open.iter().any(|(tx_id, _)| *tx_id == good.id())
    };
    assert!(is_open(me).await);
    assert_eq!(transactions.all_set_aside(None, 9).await.unwrap(), [aside.id()]);
    let all = || Filter { limit: 100, ..Filter::default() };
    let phases = vec![unanimo_coordinator::store::PhaseName::Committing];
    for filter in [all(), Filter { phases, ..all() }] {
        let listed = transactions.list(&filter).await.unwrap().found;
        assert!(listed.iter().flatten().any(|one| one.record.identity.tx_id == good.id()));
    }
    let attention = Filter { attention: true, ..all() };
    let listed = transactions.list(&attention).await.unwrap().found;
    assert!(matches!(&listed[..], [Err(unreadable)] if unreadable.tx_id == aside.id()));
    let heir = create(store, "heir").await;
    store.incarnations().fence(me, "a test").await.unwrap();
    let claimed = transactions.claim(heir, Claim::OfFenced(100)).await.unwrap();
    assert!(claimed.records.iter().any(|record| record.identity.tx_id == good.id()));
    assert!(is_open(heir).await);
}
