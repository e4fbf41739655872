//! Calls of transactions that have left memory, and are back.

use super::*;
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
    service.adopt(tx.record(), Some(0));
    let live = &service.live[&tx.tx_id()];
    (live.life, live.tx.version())
}

/// S3, S6: a call that has waited for its participant since a life that is over is not sent in the next one, whose
/// attempt has the same number and is not stored yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_s6_a_call_of_a_former_life_is_not_sent_in_the_next_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/lives.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let (_engine, mut service, _renewals) = assemble(HOUR, &store, &faults, &mut tasks).await;
    let (p, later) = (ParticipantName::new("p").expect("a name"), Instant::now() + HOUR);
    open(&service, &p, later);
    let (now, policy) = (SystemEnv.now(), unanimo_core::Policy::default());
    let (tx, _) = Transaction::begin(SystemEnv.tx_id(now), definition("g"), now, &policy);
    let tx_id = tx.tx_id();
    let durable = |(life, version)| {
        let ended = Ended::Durable(version);
        Completion { tx_id, life, ended, generation: Some(0), flush: None }
    };

    let former = adopt(&mut service, &tx);
    service.completed(durable(former));
    assert!(service.waiting.has(tx_id, former.0), "its participant fails");
    service.remove(tx_id);
    let present = adopt(&mut service, &tx);
    assert_eq!(present.1, former.1, "the attempt is the same");
    assert!(!service.waiting.has(tx_id, present.0), "it waits for its write");

    let entry = service.caller.find(&p).expect("it is known");
    entry.breaker(CallKind::Prepare).answered(later);
    service.waiting.hurry(Instant::now());
    tokio::time::sleep(Duration::from_millis(50)).await;
    service.send_waiting();
    assert!(service.calls.is_empty(), "S3, S6: it is sent before its attempt is stored");
    service.completed(durable(present));
    let goes = service.calls.len() == 1 || service.waiting.has(tx_id, present.0);
    assert!(goes, "and then it is");
}

/// S3: whoever takes the calls of a transaction that wait gets those of its present life, and no others are left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_the_calls_of_a_former_life_are_taken_for_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/taken.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let (_engine, mut service, _renewals) = assemble(HOUR, &store, &faults, &mut tasks).await;
    let p = ParticipantName::new("p").expect("a name");
    open(&service, &p, Instant::now() + HOUR);
    let (now, policy) = (SystemEnv.now(), unanimo_core::Policy::default());
    let (tx, _) = Transaction::begin(SystemEnv.tx_id(now), definition("g"), now, &policy);
    let tx_id = tx.tx_id();
    let mut lives = Vec::new();
    for _ in 0..2 {
        let (life, version) = adopt(&mut service, &tx);
        let ended = Ended::Durable(version);
        let flush = None;
        service.completed(Completion { tx_id, life, ended, generation: Some(0), flush });
        assert!(service.waiting.has(tx_id, life), "its participant fails");
        lives.push(life);
        if lives.len() == 1 {
            service.remove(tx_id);
        }
    }
    let entry = service.caller.find(&p).expect("it is known");
    assert_eq!(entry.waiting(CallKind::Prepare), 2);
    assert_eq!(service.waiting.take_of(tx_id, lives[1]).len(), 1);
    assert_eq!(entry.waiting(CallKind::Prepare), 0);
}
