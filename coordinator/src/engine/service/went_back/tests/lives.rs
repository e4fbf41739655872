//! Calls of transactions that have left memory, and are back.

use super::*;
use crate::engine::waiting::WaitingCall;
use crate::participants::breaker::{Failure, Fault, Past};
use crate::participants::directory::CallKind;
use crate::store::Life;
use crate::store::journal::{Completion, Ended};

/// Opens the breaker of a participant's Prepares, until somebody closes it.
fn open(service: &Service, participant: &ParticipantName, until: Instant) {
    let entry = service.caller.find(participant).expect("it is known");
    for n in 0..5 {
        let (tx_id, failure) = (TxId(uuid::Uuid::from_u128(n)), Failure::Error);
        let fault = Fault { tx_id, failure, past: Past::Good, probe: false, error: "no" };
        entry.breaker(CallKind::Prepare).failed(until, fault);
    }
    assert!(entry.is_failing());
}

/// Adopts a transaction, and returns its life and the version that its calls wait for.
fn adopt(service: &mut Service, tx: &Transaction) -> (Life, Version) {
    service.adopt(tx.record(), Some(0), false);
    let live = &service.live[&tx.tx_id()];
    (live.life, live.tx.version())
}

/// S3, S6: a call that has waited for its participant since a life that is over is none that the next one awaits: its
/// attempts may have the same numbers, and wait until they are stored. Whoever takes the calls of a transaction gets those
/// of its present life, and no others are left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_s6_a_call_of_a_former_life_is_not_sent_in_the_next_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/lives.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let (_engine, mut service, _renewals) = assemble(HOUR, &store, &faults, &mut tasks).await;
    let p = ParticipantName::new("p").expect("a name");
    open(&service, &p, Instant::now() + HOUR);
    let (now, policy) = (SystemEnv.now(), unanimo_core::Policy::default());
    let (tx, _) = Transaction::begin(SystemEnv.tx_id(now), definition("g"), now, &policy);
    let (tx_id, former) = (tx.tx_id(), Life::begin());
    let (life, version) = adopt(&mut service, &tx);
    let (ended, generation, flush) = (Ended::Durable(version), Some(0), None);
    service.completed(Completion { tx_id, life, ended, generation, flush });
    let calls = service.waiting.take_of(tx_id, life);
    let [call] = calls[..] else { panic!("its participant fails: {calls:?}") };
    let (past, is_adopted, is_untried) = (Past::Good, true, false);
    let of = |life| WaitingCall { tx_id, life, call, past, is_adopted, is_untried };
    let live = &service.live[&tx_id];
    assert!(of(life).is_awaited(live));
    assert!(!of(former).is_awaited(live), "S3, S6: it is sent before its attempt is stored");

    let entry = service.caller.find(&p).expect("it is known");
    for life in [former, life] {
        service.waiting.push(&p, &entry, of(life), Instant::now());
    }
    assert_eq!(entry.waiting(CallKind::Prepare), 2);
    assert_eq!(service.waiting.take_of(tx_id, life).len(), 1);
    assert_eq!(entry.waiting(CallKind::Prepare), 0);
}
