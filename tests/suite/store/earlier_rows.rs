//! Rows of the log as an earlier version wrote them: the branches' progress was JSON.

use std::time::Duration;

use unanimo_coordinator::store::{Claim, Filter, Key, PhaseName, Retention, Stored};
use unanimo_core::{
    AbortCause, Decision, Heuristic, PhaseTwo, PhaseTwoAnswer, PhaseTwoOperation, Timestamp,
    Transaction, TxId, Version, Vote,
};
use uuid::Uuid;

use super::{Fixture, create, execute, on_both_stores};
use crate::fixtures::{Live, now};

on_both_stores!(
    rows_of_an_earlier_version_are_read_listed_and_purged,
    s4_a_transaction_whose_first_rows_are_of_an_earlier_version_goes_on,
);

/// Rows of a transaction that one of two participants has refused: follows, version, kind, times of begin and end,
/// body and data.
const ROWS: &str = include_str!("rows_with_json.txt");

const TX_ID: TxId = TxId(Uuid::from_u128(0x01a2_1db9_be71_775c_a4e0_348d_10f2_ac9a));

async fn insert(fixture: &Fixture, count: usize) {
    let is_sqlite = fixture.url.starts_with("sqlite:");
    let bytes = |hex: &str| match (hex, is_sqlite) {
        ("-", _) => "NULL".to_owned(),
        (hex, true) => format!("x'{hex}'"),
        (hex, false) => format!("'\\x{hex}'"),
    };
    let id = TX_ID.0.simple().to_string();
    let id = if is_sqlite { bytes(&id) } else { format!("'{id}'") };
    let mut script = format!("INSERT INTO parked (tx_id, owner) VALUES ({id}, {});", fixture.me.0);
    for row in ROWS.lines().take(count) {
        let fields: Vec<&str> = row.split(' ').collect();
        let [follows, version, kind, created, ended, body, data] = fields[..] else {
            panic!("{row}")
        };
        let time = |ms: &str| if ms == "-" { "NULL".to_owned() } else { ms.to_owned() };
        script.push_str(&format!(
            "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, body, data)
             VALUES ({id}, {follows}, {version}, {}, {id}, {kind}, {}, {}, {}, {});",
            fixture.me.0,
            time(created),
            time(ended),
            bytes(body),
            bytes(data),
        ));
    }
    execute(&fixture.url, &script).await;
}

fn check_refused(stored: &Stored) {
    let [refused, other] = &stored.record.state.branches[..] else { panic!("{stored:?}") };
    assert_eq!(
        (refused.vote, refused.voted_at),
        (Some(Vote::Refused), Some(Timestamp(1_795_795_041_921)))
    );
    let refusal = refused.refusal.as_ref().unwrap();
    assert_eq!(
        (&*refusal.reason, &*refusal.message),
        ("INSUFFICIENT_FUNDS", "alice has too little")
    );
    assert!(other.unanswered);
    let decision = stored.record.state.phase.decision();
    assert!(matches!(decision, Some(Decision::Abort(AbortCause::Refused(_)))), "{decision:?}");
}

async fn rows_of_an_earlier_version_are_read_listed_and_purged(fixture: Fixture) {
    insert(&fixture, 3).await;
    let transactions = fixture.store.transactions();
    let stored = transactions.find(&Key::Tx(TX_ID)).await.unwrap().unwrap();
    check_refused(&stored);
    let [refused, other] = &stored.record.state.branches[..] else { unreachable!() };
    assert_eq!((&refused.phase_two, &other.phase_two), (&PhaseTwo::NotOwed, &PhaseTwo::Done));
    assert_eq!((refused.prepare_attempts.count, other.phase_two_attempts.count), (1, 1));
    assert_eq!(other.database_id, "c65b35067053c4126803eca48075a213");
    assert_eq!(stored.record.branches[1].1.participant.as_str(), "bank-b");
    let filter = Filter { phases: vec![PhaseName::Aborted], limit: 10, ..Filter::default() };
    let listed = transactions.list(&filter).await.unwrap().found;
    let [Ok(listed)] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(listed.record.state, stored.record.state);
    let retention = Retention { details: Duration::from_secs(1), gids: Duration::from_secs(9) };
    let later = stored.record.state.phase.ended_at().unwrap().after(Duration::from_secs(3600));
    assert_eq!(fixture.store.purge().strip(fixture.me, retention, later).await.unwrap(), 1);
    let stripped = transactions.find(&Key::Tx(TX_ID)).await.unwrap().unwrap();
    assert!(stripped.stripped);
    assert_eq!(stripped.record.identity.digest, stored.record.identity.digest);
    assert_eq!(stripped.record.state.phase, stored.record.state.phase);
}

async fn s4_a_transaction_whose_first_rows_are_of_an_earlier_version_goes_on(fixture: Fixture) {
    insert(&fixture, 2).await;
    let heir = create(&fixture.store, "heir").await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let transactions = fixture.store.transactions();
    let claimed = transactions.claim(heir, Claim::OfFenced(10)).await.unwrap();
    assert_eq!(claimed.unreadable, []);
    let [record] = &claimed.records[..] else { panic!("{claimed:?}") };
    let mut live = Live::resume(Transaction::restore(record.clone()));
    live.now = now();
    let fixture = Fixture { me: heir, ..fixture };
    fixture.write(live.phase_two(PhaseTwoOperation::Cancel, &PhaseTwoAnswer::Done)).await;
    let transactions = fixture.store.transactions();
    let stored = transactions.find(&Key::Tx(TX_ID)).await.unwrap().unwrap();
    check_refused(&stored);
    assert_eq!(stored.record, live.tx.record());
    assert_eq!((stored.record.version, stored.owner), (Version(4), heir));
    assert_eq!(stored.record.state.heuristic, Heuristic::None);
    assert!(stored.record.state.phase.ended_at().is_some());
}
