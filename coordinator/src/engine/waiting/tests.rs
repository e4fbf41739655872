use unanimo_core::BranchNumber;

use super::*;
use crate::participants::breaker::{Failure, Fault, Pauses};
use crate::participants::directory::{Directory, Options, Registered};

fn directory() -> (Directory, ParticipantName) {
    let pauses = Pauses { base: Duration::from_secs(1), cap: Duration::from_secs(1) };
    let options = Options {
        slots: 2,
        keep_alive_interval: Duration::from_secs(100),
        message_bytes_max: 1 << 20,
        replies_bytes_max: 2 << 20,
        participants_max: 3,
        participants_per_namespace: 0,
        connections_max: 512,
        prepare_pauses: pauses,
        phase_two_pauses: pauses,
    };
    let (directory, bank) = (Directory::new(options), ParticipantName::new("bank"));
    let bank = bank.expect("a name");
    directory.seen(&bank, "http://a:1", Registered::default());
    (directory, bank)
}

fn waiting_call(n: u128, past: Past) -> WaitingCall {
    let number = BranchNumber::from_index(0);
    let call = Call { number, operation: Operation::Prepare, attempt: 1 };
    let (tx_id, life) = (TxId(uuid::Uuid::from_u128(n)), Life::default());
    WaitingCall { tx_id, life, call, past, is_adopted: false, is_untried: false }
}

fn open(entry: &Entry, now: Instant) {
    for n in 0..5 {
        let WaitingCall { tx_id, past, .. } = waiting_call(n, Past::Good);
        let failure = Failure::Error;
        let fault = Fault { tx_id, failure, past, probe: false, error: "no" };
        entry.breaker(CallKind::Prepare).failed(now, fault);
    }
    assert!(entry.is_failing());
}

/// Returns the numbers of the transactions that are due, and whether as probes.
fn due(waiting: &mut Waiting, directory: &Directory, now: Instant) -> Vec<(u128, bool)> {
    let due = waiting.take_due(now, |name| directory.find(name), |_| true);
    due.into_iter().map(|(waiting, probe)| (waiting.tx_id.0.as_u128(), probe)).collect()
}

/// S3: what waits while a server is replaced can be held back.
#[tokio::test]
async fn s3_all_that_waits_is_taken_at_once() {
    let ((directory, bank), now) = (directory(), Instant::now());
    let entry = directory.find(&bank).expect("it registered");
    let (mut waiting, failing) = (Waiting::new(), Past::Failing { since: now });
    open(&entry, now);
    for (n, past) in [(1, failing), (2, Past::Good)] {
        waiting.push(&bank, &entry, waiting_call(n, past), now);
    }
    let mut taken: Vec<_> = waiting.take_all().iter().map(|w| w.tx_id.0.as_u128()).collect();
    taken.sort_unstable();
    assert_eq!(taken, [1, 2]);
    assert_eq!(entry.waiting(CallKind::Prepare), 0);
    assert_eq!(due(&mut waiting, &directory, now + Duration::from_secs(9)), []);
}

#[tokio::test]
async fn l3_probes_are_the_newest_that_does_not_fail_and_the_failing_in_turn() {
    let ((directory, bank), now) = (directory(), Instant::now());
    let entry = directory.find(&bank).expect("it registered");
    let (mut waiting, failing) = (Waiting::new(), Past::Failing { since: now });
    open(&entry, now);
    for (n, past) in [(1, failing), (2, Past::Good), (3, failing), (4, Past::Good)] {
        waiting.push(&bank, &entry, waiting_call(n, past), now);
    }
    assert_eq!(entry.waiting(CallKind::Prepare), 4);
    let after = |secs| now + Duration::from_secs(secs);
    assert_eq!(due(&mut waiting, &directory, now + LOOK_INTERVAL), []);
    assert_eq!(waiting.until_look(now), Some(Duration::from_secs(1)));
    assert_eq!(due(&mut waiting, &directory, after(1)), [(4, true), (1, true)]);
    entry.breaker(CallKind::Prepare).untold(after(1), failing);
    waiting.hurry(after(2));
    assert_eq!(due(&mut waiting, &directory, after(3)), [(3, true)]);
    // With the first answer the others go, and those that fail come last.
    for (n, past) in [(5, failing), (6, Past::Good)] {
        waiting.push(&bank, &entry, waiting_call(n, past), after(3));
    }
    entry.breaker(CallKind::Prepare).answered(after(3));
    let all = [(2, false), (6, false), (5, false)];
    assert_eq!(due(&mut waiting, &directory, after(4)), all);
    assert_eq!(entry.waiting(CallKind::Prepare), 0);
}

/// Calls that wait follow a name that was forgotten and registered anew: the breaker of before is nobody's.
#[tokio::test]
async fn calls_wait_for_the_present_registration_of_a_name() {
    let ((directory, bank), now) = (directory(), Instant::now());
    let entry = directory.find(&bank).expect("it registered");
    let mut waiting = Waiting::new();
    open(&entry, now);
    for n in 1..4 {
        waiting.push(&bank, &entry, waiting_call(n, Past::Good), now);
    }
    directory.forget(&bank);
    directory.seen(&bank, "http://b:1", Registered::default());
    let anew = directory.find(&bank).expect("it registered");
    let soon = now + LOOK_INTERVAL;
    assert_eq!(due(&mut waiting, &directory, soon), [(1, false), (2, false), (3, false)]);
    open(&anew, soon);
    waiting.push(&bank, &entry, waiting_call(4, Past::Good), soon);
    assert_eq!(due(&mut waiting, &directory, soon + LOOK_INTERVAL), []);
    assert_eq!(anew.waiting(CallKind::Prepare), 1, "the present one tells how many wait");
}

/// A participant that answers WORKING gets its repetitions as fast as it asks for them.
#[tokio::test]
async fn l3_only_what_failed_or_was_adopted_is_paced() {
    let ((directory, bank), now) = (directory(), Instant::now());
    let entry = directory.find(&bank).expect("it registered");
    let mut waiting = Waiting::new();
    let mut free = |past, adopted| {
        let mut ask = || waiting.ask(&bank, &entry, CallKind::Prepare, past, adopted, now);
        (0..1000).filter(|_| ask() == Pass::Free).count()
    };
    assert_eq!(free(Past::Good, false), 1000);
    assert_eq!(free(Past::Failing { since: now }, false), 64);
    assert_eq!(free(Past::Good, true), 0, "the same pace");
    assert_eq!(free(Past::Good, false), 1000);
}

/// New work tries a participant that fails once at a time, and only if none waits that does not fail. If it tries
/// nothing, other work may.
#[tokio::test]
async fn l3_new_work_is_let_in_where_only_what_fails_waits() {
    let ((directory, bank), now) = (directory(), Instant::now());
    let entry = directory.find(&bank).expect("it registered");
    let mut waiting = Waiting::new();
    open(&entry, now);
    waiting.push(&bank, &entry, waiting_call(1, Past::Failing { since: now }), now);
    assert!(directory.invite([&bank]).is_err(), "what waits comes first");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let unknown = ParticipantName::new("unknown").expect("a name");
    assert!(directory.invite([&bank, &unknown]).is_err());
    let first = directory.invite([&bank]).expect("another one did not take it");
    assert!(directory.invite([&bank]).is_err(), "one at a time");
    drop(first);
    let adopted = WaitingCall { is_adopted: true, ..waiting_call(2, Past::Good) };
    waiting.push(&bank, &entry, adopted, now);
    let second = directory.invite([&bank]).expect("the first one did nothing");
    drop(second);
    waiting.push(&bank, &entry, waiting_call(3, Past::Good), now);
    assert!(directory.invite([&bank]).is_err(), "that one finds out");
    assert_eq!(waiting.take_of(waiting_call(3, Past::Good).tx_id, Life::default()).len(), 1);
    let third = directory.invite([&bank]).expect("none did anything");
    third.used();
    drop(third);
    assert!(directory.invite([&bank]).is_err());
}

/// L5: all that wait behind those that stay have their turn to leave, so many in one look. One that was woken is tried first.
#[tokio::test]
async fn l5_each_look_for_what_leaves_is_short_and_goes_on_where_the_last_one_ended() {
    let ((directory, bank), now) = (directory(), Instant::now());
    let entry = directory.find(&bank).expect("it registered");
    let (mut waiting, failing) = (Waiting::new(), Past::Failing { since: now });
    open(&entry, now);
    for (n, past) in [(1, Past::Good), (2, Past::Good), (3, failing), (4, failing), (5, failing)] {
        waiting.push(&bank, &entry, waiting_call(n, past), now);
    }
    let looked = std::cell::Cell::new(0);
    let look = |waiting: &mut Waiting| {
        let leaves = waiting.surplus(
            |participants| participants,
            3,
            |_| {
                looked.set(looked.get() + 1);
                true
            },
        );
        leaves.into_iter().map(|tx_id| tx_id.0.as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(look(&mut waiting), [2, 3, 4]);
    assert_eq!(look(&mut waiting), [5, 2, 3]);
    assert_eq!(looked.get(), 6);
    let untried = WaitingCall { is_untried: true, ..waiting_call(6, failing) };
    waiting.push(&bank, &entry, untried, now);
    let due = due(&mut waiting, &directory, now + Duration::from_secs(1));
    assert_eq!(due, [(2, true), (6, true)]);
    assert_eq!((waiting.len(), waiting.calls.len()), (4, 4));
    waiting.sweep(|waiting| waiting.tx_id.0.as_u128() == 3);
    assert_eq!((waiting.len(), waiting.calls.len()), (1, 1));
    assert_eq!(look(&mut waiting), [], "it stays");
}
